//! What an agent lists that has seen much: long names, both families, what is hidden, and what does
//! not work.

use std::time::{SystemTime, UNIX_EPOCH};

use overlay_proto::v1;

use super::Crowd;

/// Returns the instant so many seconds ago.
pub(crate) fn ago(seconds: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() - seconds
}

const LONG: &str = "a-name-of-63-characters-that-somebody-found-to-be-a-good-idea-x";
const IPV6: &str = "2001:db8:1234:5678:9abc:def0:1234:5678";

fn network(name: &str, prefix6: &str) -> v1::Network {
    v1::Network {
        id: "0123456789ab".into(),
        name: name.into(),
        prefix: "10.200.128.0/17".into(),
        prefix6: prefix6.into(),
        mode: v1::NetworkMode::L3.into(),
        labels: [("team".to_owned(), "store".to_owned())].into(),
        settings: None,
        creator: None,
        links: Vec::new(),
    }
}

fn networks() -> v1::ListNetworksResponse {
    let members = (1..=12).rev().map(|n| format!("host-{n:02}")).collect();
    let settings = v1::NetworkSettings {
        gateway: "10.200.128.254".into(),
        range: "10.200.192.0/18".into(),
        internal: true,
        options: [("driver.mtu".to_owned(), "1300".to_owned())].into(),
        nodes: "role in (db,web),!old".into(),
        ..v1::NetworkSettings::default()
    };
    let web = v1::Network {
        settings: Some(settings),
        creator: Some(v1::Creator { node: "0123456789ac".into(), node_name: "host-01".into() }),
        links: vec![v1::NetworkLink {
            network: "0123456789ad".into(),
            name: "back".into(),
            prefix: "10.9.0.0/16".into(),
            prefix6: String::new(),
            access: v1::LinkAccess::PolicyOnly.into(),
            gateways: vec!["0123456789ac".into()],
        }],
        ..network("web", "fd00:1234:5678:9abc::/64")
    };
    let difference =
        v1::HostDifference { node: "host-02".into(), reason: "it has another prefix there".into() };

    v1::ListNetworksResponse {
        networks: vec![
            v1::NetworkState {
                network: Some(web),
                members,
                endpoints: 312,
                ..v1::NetworkState::default()
            },
            v1::NetworkState {
                network: Some(network(LONG, "")),
                members: vec!["host-01".into()],
                differences: vec![difference],
                ..v1::NetworkState::default()
            },
            v1::NetworkState {
                network: Some(network("secret", "")),
                hidden: true,
                ..v1::NetworkState::default()
            },
        ],
    }
}

fn endpoints() -> v1::ListEndpointsResponse {
    let endpoint = |id: &str, name: &str, network: &str, addresses: &[&str]| v1::EndpointState {
        endpoint: Some(v1::Endpoint {
            id: id.into(),
            network: "0123456789ab".into(),
            node: "0a0a0a0a0a0a".into(),
            name: name.into(),
            aliases: vec!["www".into(), "front".into(), "shop".into()],
            addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
            labels: [("com.docker.compose.project".to_owned(), "shop".to_owned())].into(),
            runtime: v1::Runtime::Docker.into(),
            ..v1::Endpoint::default()
        }),
        network_name: network.into(),
        node_name: "host-01".into(),
        problem: String::new(),
    };

    v1::ListEndpointsResponse {
        endpoints: vec![
            endpoint("5d3c0f8a2b11", "service2", "web", &["10.200.128.2", IPV6]),
            endpoint("5d3c0f8a2b12", "service2", "db", &["10.200.0.2"]),
            endpoint("5d3c0f8a2b13", LONG, LONG, &[IPV6]),
        ],
    }
}

fn nodes() -> v1::ListNodesResponse {
    let node = |name: &str, role: v1::Role| v1::Node {
        id: "0a0a0a0a0a0a".into(),
        name: name.into(),
        role: role.into(),
        labels: [("rack".to_owned(), "7".to_owned())].into(),
        underlay: vec!["192.0.2.10".into(), IPV6.into()],
        lane_ports: vec![51820, 51821],
    };
    let networks = vec!["web".to_owned(), "db".to_owned(), LONG.to_owned()];

    v1::ListNodesResponse {
        nodes: vec![
            v1::NodeState {
                node: Some(node(LONG, v1::Role::Node)),
                seen_unix: ago(3_665),
                version: "0.1.0".into(),
                ..v1::NodeState::default()
            },
            v1::NodeState {
                node: Some(node("host-01", v1::Role::Admin)),
                online: true,
                seen_unix: ago(0),
                revision: 42,
                version: "0.1.0".into(),
                networks,
            },
        ],
    }
}

fn peers() -> v1::PeersResponse {
    let lane = |lane, node: &str, underlay: &str, state: v1::PeerState| v1::PeerStatus {
        node: "0b0b0b0b0b0b".into(),
        node_name: node.into(),
        network: "web".into(),
        local_lane: 1,
        lane,
        underlay_addr: underlay.into(),
        state: state.into(),
        since_unix: ago(3_665),
        handshake_age_seconds: 7,
        rx_bytes: 123_456_789,
        tx_bytes: 987_654_321,
        mtu: 1408,
        mtu_source: v1::MtuSource::Link.into(),
        backend: "userspace".into(),
        public_key: "kOEJ0Pt4VJ1a6gmF6d1XJ9S2pTpxHtQm0wGZl3D3Nn0=".into(),
        ..v1::PeerStatus::default()
    };
    let long = format!("[{IPV6}]:51820");
    let lost = v1::PeerStatus {
        node: "0c0c0c0c0c0c".into(),
        reason: "5 handshakes went unanswered: open UDP 51820 on host-03, or look at its agent"
            .into(),
        ..lane(0, "host-03", "192.0.2.30:51820", v1::PeerState::Unreachable)
    };

    v1::PeersResponse {
        peers: vec![
            lane(0, "host-02", &long, v1::PeerState::Up),
            lane(1, "host-02", &long, v1::PeerState::Idle),
            lost,
        ],
    }
}

fn status() -> v1::StatusResponse {
    let network = |name: &str, prefix6: &str| v1::NetworkStatus {
        name: name.into(),
        id: "0123456789ab".into(),
        prefix: "10.200.128.0/17".into(),
        prefix6: prefix6.into(),
        node_address: "10.200.128.1".into(),
        blocks: vec!["10.200.128.0/26".into(), "10.200.128.64/26".into()],
        endpoints: 70,
        addresses_free: 54,
        mtu: 1408,
        drift_healed: 0,
    };
    let problem = |code: &str, text: &str| v1::Problem {
        code: code.into(),
        text: text.into(),
        since_unix: ago(3_665),
    };

    v1::StatusResponse {
        version: "0.1.0".into(),
        phase: v1::NodePhase::Joined.into(),
        cluster: "c0ffeec0ffee".into(),
        node: "0a0a0a0a0a0a".into(),
        node_name: "host-01".into(),
        role: v1::Role::Admin.into(),
        pid: 4242,
        started_unix: ago(90_005),
        state_dir: "/var/lib/overlay/agent".into(),
        control: Some(v1::ControlStatus {
            address: "192.0.2.1:7443".into(),
            since_unix: ago(3_665),
            reason: "192.0.2.1:7443: connection refused".into(),
            unpublished: 2,
            ..v1::ControlStatus::default()
        }),
        lanes: vec![
            v1::LaneStatus { lane: 0, port: 51820, offload: "tso+uso+gso+gro".into() },
            v1::LaneStatus { lane: 1, port: 51821, offload: "tso+uso+gso+gro".into() },
        ],
        networks: vec![network("web", "fd00:1234:5678:9abc::/64"), network(LONG, "")],
        counters: vec![
            v1::Counter {
                name: "forwarded".into(),
                value: 9,
                kind: v1::CounterKind::Traffic.into(),
            },
            v1::Counter {
                name: "no_route".into(),
                value: 3,
                kind: v1::CounterKind::Refusal.into(),
            },
        ],
        problems: vec![
            problem(
                "control-away",
                "control is away: 192.0.2.1:7443: connection refused; traffic goes on, changes wait",
            ),
            problem("docker", "the engine's socket cannot be read: permission denied"),
        ],
        certificate_expires_unix: ago(0) + 86_430,
        revision: 42,
    }
}

/// Makes everything that an agent lists.
fn policies() -> Vec<v1::AppliedPolicy> {
    let policy = |revision, mode: v1::PolicyMode, rolled_back_to| v1::AppliedPolicy {
        revision,
        applied_unix: ago(3_600 * (42 - 10 * revision)),
        by: Some(v1::Creator { node: "0123456789ac".into(), node_name: "host-01".into() }),
        mode: mode.into(),
        rolled_back_to,
        bytes: 1_536,
        live: revision == 4,
    };

    vec![
        policy(4, v1::PolicyMode::Enforced, Some(1)),
        policy(3, v1::PolicyMode::Unspecified, Some(0)),
        v1::AppliedPolicy { by: None, ..policy(2, v1::PolicyMode::Shadow, None) },
        policy(1, v1::PolicyMode::Enforced, None),
    ]
}

pub(crate) fn crowd() -> Crowd {
    let token = |id: &str, uses| v1::Token {
        id: id.into(),
        expires_unix: ago(0) + 3_630,
        uses,
        used: 1,
        role: v1::Role::Node.into(),
        labels: [("rack".to_owned(), "7".to_owned()), ("purpose".to_owned(), LONG.to_owned())]
            .into(),
        fenced: false,
    };
    let event = |kind: v1::EventKind, name: &str, network: &str, text: &str| v1::Event {
        unix_ms: 1_700_000_000_000,
        kind: kind.into(),
        name: name.into(),
        network: network.into(),
        node: if network.is_empty() { String::new() } else { "host-02".into() },
        text: text.into(),
    };

    let control = |address: &str, source: &str, in_use| v1::ControlAddress {
        address: address.into(),
        source: source.into(),
        in_use,
    };
    let addresses = vec![
        control("control.example:7443", "set", true),
        control(&format!("[{IPV6}]:7443"), "announced", false),
        control("192.0.2.1:7443", "join-line", false),
    ];

    Crowd {
        control: v1::ListControlResponse { addresses },
        status: status(),
        peers: peers(),
        networks: networks(),
        endpoints: endpoints(),
        nodes: nodes(),
        tokens: v1::ListTokensResponse {
            tokens: vec![token("0123456789abcdef", 10), token("fedcba9876543210", 1)],
        },
        policies: v1::ListPoliciesResponse { policies: policies() },
        events: vec![
            event(v1::EventKind::EndpointAttached, "service2", "web", "10.200.128.2"),
            event(v1::EventKind::ProblemRaised, "control-away", "", "control is away"),
        ],
    }
}
