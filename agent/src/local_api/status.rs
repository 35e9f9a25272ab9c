//! Turns the status of this node into messages, and does nothing else.

use overlay_dataplane::{MtuSource, PeerState};
use overlay_proto::v1;

use crate::backend::{Counter, SocketReport};
use crate::membership::connection::ConnectionStatus;
use crate::path::CounterKind;
use crate::problem::Problem;
use crate::status::{
    ControlStatus, JoinedStatus, NetworkStatus, NodeStatus, PeerLaneStatus, PhaseStatus, Status,
};

impl From<Status> for v1::StatusResponse {
    fn from(status: Status) -> Self {
        let response = Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: status.pid,
            started_unix: status.started,
            state_dir: status.state_dir.display().to_string(),
            problems: all(status.problems),
            ..Self::default()
        };
        match status.phase {
            PhaseStatus::Unjoined => Self { phase: v1::NodePhase::Unjoined.into(), ..response },
            PhaseStatus::Joining => Self { phase: v1::NodePhase::Joining.into(), ..response },
            PhaseStatus::Joined(joined) => with_joined(*joined, response),
            PhaseStatus::Expelled(node) => {
                with_node(node, Self { phase: v1::NodePhase::Expelled.into(), ..response })
            }
        }
    }
}

fn with_joined(joined: JoinedStatus, response: v1::StatusResponse) -> v1::StatusResponse {
    let response = v1::StatusResponse {
        phase: v1::NodePhase::Joined.into(),
        control: Some(joined.control.into()),
        lanes: all(joined.sockets),
        networks: all(joined.networks),
        counters: all(joined.counters),
        ..response
    };

    with_node(joined.node, response)
}

fn with_node(node: NodeStatus, response: v1::StatusResponse) -> v1::StatusResponse {
    v1::StatusResponse {
        cluster: node.cluster.to_string(),
        node: node.node.to_string(),
        node_name: node.name.to_string(),
        role: v1::Role::from(node.role).into(),
        certificate_expires_unix: node.certificate_expires.unwrap_or_default(),
        revision: node.revision.0,
        ..response
    }
}

impl From<Problem> for v1::Problem {
    fn from(problem: Problem) -> Self {
        let Problem { key: _, code, text, since } = problem;

        Self { code: code.as_str().to_owned(), text, since_unix: since }
    }
}

impl From<ControlStatus> for v1::ControlStatus {
    fn from(control: ControlStatus) -> Self {
        let unpublished = count(control.unpublished);
        match control.connection {
            ConnectionStatus::Connected { since, address } => Self {
                connected: true,
                address,
                since_unix: since,
                reason: String::new(),
                unpublished,
            },
            ConnectionStatus::Away { since, reason } => Self {
                connected: false,
                address: String::new(),
                since_unix: since,
                reason,
                unpublished,
            },
        }
    }
}

impl From<SocketReport> for v1::LaneStatus {
    fn from(socket: SocketReport) -> Self {
        // UDP sockets take batches where they can, and every kernel joins what arrives.
        let words = [
            (socket.interfaces.tcp, "tso"),
            (socket.interfaces.tcp && socket.interfaces.udp, "uso"),
            (socket.segments, "gso"),
            (true, "gro"),
        ];
        let granted = words.into_iter().filter(|(is_granted, _)| *is_granted);

        Self {
            lane: socket.key.0.into(),
            port: socket.port.into(),
            offload: granted.map(|(_, word)| word).collect::<Vec<_>>().join("+"),
        }
    }
}

impl From<NetworkStatus> for v1::NetworkStatus {
    fn from(network: NetworkStatus) -> Self {
        Self {
            name: network.name.to_string(),
            id: network.id.to_string(),
            prefix: network.prefix.to_string(),
            prefix6: text(network.prefix6),
            node_address: text(network.node_address),
            blocks: network.blocks.iter().map(ToString::to_string).collect(),
            endpoints: count(network.endpoints),
            addresses_free: count(network.addresses_free),
            mtu: network.mtu,
            drift_healed: network.drift_healed,
        }
    }
}

impl From<Counter> for v1::Counter {
    fn from(counter: Counter) -> Self {
        let kind = match counter.kind {
            CounterKind::Traffic => v1::CounterKind::Traffic,
            CounterKind::Noise => v1::CounterKind::Noise,
            CounterKind::Refusal => v1::CounterKind::Refusal,
        };

        Self { name: counter.name.to_owned(), value: counter.value, kind: kind.into() }
    }
}

/// Turns how every peer is doing into an answer.
pub(super) fn peers_response(peers: Vec<PeerLaneStatus>) -> v1::PeersResponse {
    v1::PeersResponse { peers: all(peers) }
}

impl From<PeerLaneStatus> for v1::PeerStatus {
    fn from(peer: PeerLaneStatus) -> Self {
        let path = peer.path;

        Self {
            node: path.node.to_string(),
            node_name: text(peer.node_name),
            network: text(peer.network_name),
            lane: path.lane.0.into(),
            local_lane: peer.local_lane.0.into(),
            underlay_addr: text(path.underlay),
            state: peer_state(path.state).into(),
            reason: peer.reason,
            since_unix: peer.since,
            handshake_age_seconds: path.last_handshake.map(|age| age.as_secs()).unwrap_or_default(),
            rx_bytes: path.rx_bytes,
            tx_bytes: path.tx_bytes,
            mtu: path.mtu.into(),
            mtu_source: mtu_source(path.mtu_source).into(),
            backend: peer.backend.as_str().to_owned(),
            public_key: path.public_key.to_string(),
            heard_seconds: path.heard.map(|age| age.as_secs()),
            loss_in_permille: path.incoming_loss.map(|loss| loss.permille.into()),
            loss_out_permille: path.outgoing_loss.map(|loss| loss.permille.into()),
            rtt_micros: path
                .round_trip
                .map(|trip| u64::try_from(trip.as_micros()).unwrap_or(u64::MAX)),
            nat: path.is_translated,
            seen_at: text(path.seen_at),
        }
    }
}

fn peer_state(state: PeerState) -> v1::PeerState {
    match state {
        PeerState::Idle => v1::PeerState::Idle,
        PeerState::Connecting => v1::PeerState::Handshaking,
        PeerState::Established => v1::PeerState::Up,
        PeerState::Unreachable => v1::PeerState::Unreachable,
    }
}

fn mtu_source(source: MtuSource) -> v1::MtuSource {
    match source {
        MtuSource::Unprobed => v1::MtuSource::Unprobed,
        MtuSource::Link => v1::MtuSource::Link,
        MtuSource::Probed => v1::MtuSource::Probed,
        MtuSource::Assumed => v1::MtuSource::Assumed,
    }
}

fn all<T, U: From<T>>(items: Vec<T>) -> Vec<U> {
    items.into_iter().map(U::from).collect()
}

/// Writes what there is; empty where there is nothing.
fn text(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use overlay_dataplane::LaneId;

    use super::*;
    use crate::path::Offload;
    use crate::problem_code::ProblemCode;
    use crate::problem_key::ProblemKey;

    fn offload(interfaces: Offload, segments: bool) -> String {
        let socket = SocketReport { key: LaneId(0), port: 51820, interfaces, segments };

        v1::LaneStatus::from(socket).offload
    }

    #[test]
    fn a_lane_whose_device_refuses_batches_does_not_claim_to_send_them() {
        let whole = Offload { tcp: true, udp: true };

        let [sound, refusing] = [true, false].map(|segments| offload(whole, segments));

        assert_eq!((sound.as_str(), refusing.as_str()), ("tso+uso+gso+gro", "tso+uso+gro"));
    }

    #[test]
    fn a_kernel_that_takes_no_tcp_super_packets_takes_none() {
        let offload = |tcp, udp| offload(Offload { tcp, udp }, true);

        assert_eq!(offload(true, false), "tso+gso+gro");
        assert_eq!(offload(false, true), "gso+gro");
        assert_eq!(offload(false, false), "gso+gro");
    }

    #[test]
    fn changes_that_wait_for_control_are_counted_whether_it_is_there_or_away() {
        let told = |connection| -> v1::ControlStatus {
            ControlStatus { connection, unpublished: 3 }.into()
        };

        let there =
            told(ConnectionStatus::Connected { since: 7, address: "192.0.2.1:7443".to_owned() });
        let away = told(ConnectionStatus::Away { since: 8, reason: "refused".to_owned() });

        assert_eq!((there.connected, there.since_unix, there.unpublished), (true, 7, 3));
        assert_eq!(there.address, "192.0.2.1:7443");
        assert_eq!((away.connected, away.since_unix, away.unpublished), (false, 8, 3));
        assert_eq!(away.reason, "refused");
    }

    #[test]
    fn a_host_that_joined_nothing_tells_its_phase_and_its_problems() {
        let problem = Problem {
            key: ProblemKey::Plugin,
            code: ProblemCode::Docker,
            text: "no socket".to_owned(),
            since: 9,
        };

        let told = v1::StatusResponse::from(Status {
            pid: 4,
            started: 5,
            state_dir: PathBuf::from("/var/lib/overlay"),
            phase: PhaseStatus::Unjoined,
            problems: vec![problem],
        });

        assert_eq!(told.phase(), v1::NodePhase::Unjoined);
        assert_eq!((told.pid, told.started_unix), (4, 5));
        assert_eq!(
            told.problems,
            [v1::Problem { code: "docker".into(), text: "no socket".into(), since_unix: 9 }]
        );
        assert_eq!((told.control, told.lanes.len()), (None, 0));
    }
}
