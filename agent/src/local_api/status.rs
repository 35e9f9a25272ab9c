//! What works and what does not, for people: the node, its networks, its peers.

use std::collections::BTreeMap;
use std::time::Duration;

use overlay_core::ipam::Pool;
use overlay_core::{Member, Network};
use overlay_dataplane::{DropKind, MtuSource, PeerState, PeerStatus};
use overlay_proto::{Code, identity, v1};
use tokio::time::{Instant, timeout};

use crate::health::{self, Facts};
use crate::joined_node::JoinedNode;
use crate::membership::admission::Admission;
use crate::membership::prefix_clash;
use crate::node_handle::{NodeHandle, Phase};
use crate::path::{CounterKind, LaneReport, Offload};
use crate::problem::{Problem, unix_now};
use crate::problem_code::ProblemCode;
use crate::problem_key::ProblemKey;

/// How long somebody who asks right after a join waits until the host has been looked at.
const FIRST_LOOK: Duration = Duration::from_millis(500);

/// Says how this node is doing.
pub(super) async fn status(handle: &NodeHandle) -> v1::StatusResponse {
    let phase = handle.phase();
    if let Phase::Joined(joined) = &phase {
        let mut prefixes = joined.host.prefixes();
        // Every host has its loopback's.
        let _ = timeout(FIRST_LOOK, prefixes.wait_for(|prefixes| !prefixes.links.is_empty())).await;
        prefix_clash::check(&joined.view(), &prefixes.borrow(), &handle.problems);
    }
    let mut status = v1::StatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        phase: wire_phase(&phase).into(),
        pid: std::process::id(),
        started_unix: handle.started,
        state_dir: handle.config.state.display().to_string(),
        problems: handle.problems.list().into_iter().map(problem).collect(),
        ..v1::StatusResponse::default()
    };
    match &phase {
        Phase::Unjoined | Phase::Joining => {}
        Phase::Joined(joined) => joined_status(joined, &mut status).await,
        Phase::Expelled(joined, reason) => {
            who(joined, &mut status);
            status.problems.push(problem(Problem {
                key: ProblemKey::Node,
                code: ProblemCode::Expelled,
                text: format!(
                    "{reason}; all tunnels of this node are shut; `overlayctl leave` cleans up"
                ),
                since: handle.started,
            }));
            status.problems.dedup_by(|later, earlier| later.code == earlier.code);
        }
    }

    status
}

fn wire_phase(phase: &Phase) -> v1::NodePhase {
    match phase {
        Phase::Unjoined => v1::NodePhase::Unjoined,
        Phase::Joining => v1::NodePhase::Joining,
        Phase::Joined(_) => v1::NodePhase::Joined,
        Phase::Expelled(..) => v1::NodePhase::Expelled,
    }
}

fn problem(problem: Problem) -> v1::Problem {
    v1::Problem {
        code: problem.code.as_str().to_owned(),
        text: problem.text,
        since_unix: problem.since,
    }
}

fn who(joined: &JoinedNode, status: &mut v1::StatusResponse) {
    let who = joined.identity();
    status.cluster = who.cluster.to_string();
    status.node = who.node.to_string();
    status.node_name = who.name.to_string();
    status.role = v1::Role::from(who.role).into();
    status.certificate_expires_unix =
        identity::validity(&who.certificate).map(|(_, until)| until).unwrap_or_default();
    status.revision = joined.membership.borrow().view.revision.0;
}

async fn joined_status(joined: &JoinedNode, status: &mut v1::StatusResponse) {
    who(joined, status);
    let mut control =
        joined.control.connection.status(joined.endpoints.publisher.unpublished().len());
    let displaced = || {
        health::displaced(
            &joined.control.addresses.known(),
            joined.node,
            &joined.host.own().borrow(),
        )
    };
    let displaced = (!control.connected).then(displaced).flatten();
    if let Some(displaced) = &displaced {
        control.reason = format!("{}; {displaced}", control.reason);
    }
    status.control = Some(control);
    // A node that was turned away says why.
    let is_turned_away = joined.admission.current() == Admission::TurnedAway;
    let trouble = joined.control.connection.trouble(Instant::now(), unix_now());
    if let Some((text, since)) = trouble.filter(|_| !is_turned_away) {
        let text =
            displaced.into_iter().fold(text, |text, displaced| format!("{text}; {displaced}"));
        let (key, code) = (ProblemKey::ControlConnection, Code::ControlAway.into());
        status.problems.push(problem(Problem { key, code, text, since }));
    }
    let reports = joined.lanes.report().await;
    status.problems.extend(peer_problems(joined, &reports));
    status.lanes = reports.iter().map(|report| lane(report, offload(joined))).collect();
    status.counters = counters(&reports);
    status.networks = networks(joined);
}

/// Names what the TUNs take, all of which have the same kernel, and what UDP sockets do where they
/// can.
fn offload(joined: &JoinedNode) -> &'static str {
    let granted = joined.endpoints.reports.borrow().values().next().map(|report| report.offload);
    match granted {
        Some(Offload { tcp: true, udp: true }) => "tso+uso+gso+gro",
        Some(Offload { tcp: true, udp: false }) => "tso+gso+gro",
        Some(Offload { tcp: false, .. }) | None => "gso+gro",
    }
}

fn lane(report: &LaneReport, offload: &str) -> v1::LaneStatus {
    let sends_batches = |kind: &&str| *kind != "gso" || report.segments;
    let offload: Vec<_> = offload.split('+').filter(sends_batches).collect();

    v1::LaneStatus {
        lane: report.lane.0.into(),
        port: report.port.into(),
        offload: offload.join("+"),
    }
}

fn peer_problems(joined: &JoinedNode, reports: &[LaneReport]) -> Vec<v1::Problem> {
    let peers: Vec<_> = reports.iter().flat_map(|report| &report.peers).collect();

    health::problems(&Facts {
        view: &joined.membership.borrow().view,
        peers: &peers,
        ports: joined.lanes.ports(),
        own: &joined.host.own().borrow(),
        refused: reports.iter().filter_map(|report| report.refused).min(),
        now: unix_now(),
    })
    .into_iter()
    .map(problem)
    .collect()
}

/// Adds up all lanes. A drop is counted under its reason.
fn counters(reports: &[LaneReport]) -> Vec<v1::Counter> {
    use CounterKind::{Noise, Refusal, Traffic};

    let mut sums: BTreeMap<&'static str, (CounterKind, u64)> = BTreeMap::new();
    for report in reports {
        let engine = &report.engine;
        let engine_counts = [
            ("tun_packets", engine.tun_packets),
            ("udp_datagrams", engine.udp_datagrams),
            ("forwarded", engine.forwarded),
            ("forwarded_bytes", engine.forwarded_bytes),
            ("delivered", engine.delivered),
            ("delivered_bytes", engine.delivered_bytes),
            ("control", engine.control),
            ("control_sent", engine.control_sent),
            ("icmp_sent", engine.icmp_sent),
            ("fragments", engine.fragments),
            ("mss_clamped", engine.mss_clamped),
            ("waiting", engine.waiting),
        ];
        let engine_counts = engine_counts.into_iter().map(|(name, count)| (name, Traffic, count));
        let drops = engine.drops().map(|(reason, count)| match reason.kind() {
            DropKind::Refusal => (reason.as_str(), Refusal, count),
            DropKind::Noise => (reason.as_str(), Noise, count),
        });
        for (name, kind, value) in engine_counts.chain(drops).chain(report.io.iter()) {
            sums.entry(name).or_insert((kind, 0)).1 += value;
        }
    }

    let counter = |(name, (kind, value)): (&str, _)| v1::Counter {
        name: name.to_owned(),
        value,
        kind: wire_counter_kind(kind).into(),
    };
    sums.into_iter().map(counter).collect()
}

fn wire_counter_kind(kind: CounterKind) -> v1::CounterKind {
    match kind {
        CounterKind::Traffic => v1::CounterKind::Traffic,
        CounterKind::Noise => v1::CounterKind::Noise,
        CounterKind::Refusal => v1::CounterKind::Refusal,
    }
}

fn networks(joined: &JoinedNode) -> Vec<v1::NetworkStatus> {
    let view = joined.endpoints.memberships.local_view();
    let of =
        |member: &Member| Some(network(joined, &view, member, view.networks.get(&member.network)?));

    view.memberships_of(joined.node).filter_map(of).collect()
}

fn network(
    joined: &JoinedNode,
    view: &overlay_core::View,
    member: &Member,
    network: &Network,
) -> v1::NetworkStatus {
    let pool = Pool::new(network, member);
    let used = joined
        .endpoints
        .memberships
        .in_use(network, view)
        .into_iter()
        .filter(|address| pool.contains(*address))
        .count();
    let endpoints = joined
        .endpoints
        .journal
        .entries()
        .values()
        .filter(|e| e.endpoint.network == network.id)
        .count();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);

    v1::NetworkStatus {
        name: network.name.to_string(),
        id: network.id.to_string(),
        prefix: network.prefix.to_string(),
        prefix6: network.prefix6.map(|prefix| prefix.to_string()).unwrap_or_default(),
        node_address: member
            .node_address(network)
            .map(|address| address.to_string())
            .unwrap_or_default(),
        blocks: member.blocks.iter().map(|block| block.prefix.to_string()).collect(),
        endpoints: count(endpoints),
        addresses_free: count(pool.capacity().saturating_sub(used)),
        mtu: joined.host.mtu(),
        drift_healed: joined
            .endpoints
            .reports
            .borrow()
            .get(&network.id)
            .map_or(0, |report| report.drift_healed),
    }
}

/// Says how every peer is doing, on every lane that talks to it.
pub(super) async fn peers(joined: &JoinedNode) -> v1::PeersResponse {
    let view = joined.view();
    let now = unix_now();
    let own = joined.host.own().borrow().clone();
    let of = |peer: PeerStatus| v1::PeerStatus {
        node: peer.node.to_string(),
        node_name: view.nodes.get(&peer.node).map(|node| node.name.to_string()).unwrap_or_default(),
        network: view
            .networks
            .get(&peer.network)
            .map(|network| network.name.to_string())
            .unwrap_or_default(),
        lane: peer.lane.0.into(),
        underlay_addr: peer.underlay.map(|address| address.to_string()).unwrap_or_default(),
        state: wire_state(peer.state).into(),
        reason: health::reason(&peer, &own),
        since_unix: now.saturating_sub(peer.since.as_secs()),
        handshake_age_seconds: peer.last_handshake.map(|age| age.as_secs()).unwrap_or_default(),
        rx_bytes: peer.rx_bytes,
        tx_bytes: peer.tx_bytes,
        mtu: peer.mtu.into(),
        mtu_source: wire_mtu_source(peer.mtu_source).into(),
        backend: "userspace".to_owned(),
        public_key: peer.public_key.to_string(),
        heard_seconds: peer.heard.map(|age| age.as_secs()),
        loss_in_permille: peer.incoming_loss.map(|loss| loss.permille.into()),
        loss_out_permille: peer.outgoing_loss.map(|loss| loss.permille.into()),
        rtt_micros: peer.round_trip.map(|trip| u64::try_from(trip.as_micros()).unwrap_or(u64::MAX)),
        nat: peer.is_translated,
        seen_at: peer.seen_at.map(|address| address.to_string()).unwrap_or_default(),
        ..v1::PeerStatus::default()
    };
    let reports = joined.lanes.report().await;

    let peers = reports.into_iter().flat_map(|report| {
        let local_lane = report.lane.0.into();
        report.peers.into_iter().map(move |peer| (local_lane, peer))
    });

    v1::PeersResponse {
        peers: peers.map(|(local_lane, peer)| v1::PeerStatus { local_lane, ..of(peer) }).collect(),
    }
}

fn wire_state(state: PeerState) -> v1::PeerState {
    match state {
        PeerState::Idle => v1::PeerState::Idle,
        PeerState::Connecting => v1::PeerState::Handshaking,
        PeerState::Established => v1::PeerState::Up,
        PeerState::Unreachable => v1::PeerState::Unreachable,
    }
}

fn wire_mtu_source(source: MtuSource) -> v1::MtuSource {
    match source {
        MtuSource::Unprobed => v1::MtuSource::Unprobed,
        MtuSource::Link => v1::MtuSource::Link,
        MtuSource::Probed => v1::MtuSource::Probed,
        MtuSource::Assumed => v1::MtuSource::Assumed,
    }
}

#[cfg(test)]
mod tests {
    use overlay_dataplane::LaneId;

    use super::*;
    use crate::path::LaneCounters;

    #[test]
    fn a_lane_whose_device_refuses_batches_does_not_claim_to_send_them() {
        let report = |segments| LaneReport {
            lane: LaneId(0),
            port: 51820,
            engine: overlay_dataplane::Counters::default(),
            io: LaneCounters::default(),
            segments,
            refused: None,
            peers: Vec::new(),
        };

        let [sound, refusing] =
            [true, false].map(|segments| lane(&report(segments), "tso+uso+gso+gro").offload);

        assert_eq!((sound.as_str(), refusing.as_str()), ("tso+uso+gso+gro", "tso+uso+gro"));
    }
}
