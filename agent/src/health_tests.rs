use overlay_core::{Change, Node, Revision, Role};
use overlay_dataplane::{LaneId, MtuSource};

use super::*;

const PORTS: [u16; 2] = [51820, 51821];

fn id(host: u8) -> NodeId {
    NodeId::from_random(host.into())
}

fn address(host: u8, lane: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], 51820 + lane))
}

/// A peer that is well.
fn peer(host: u8) -> PeerStatus {
    PeerStatus {
        network: overlay_core::NetworkId::FIRST,
        node: id(host),
        lane: LaneId(0),
        public_key: [host; 32].into(),
        underlay: Some(address(host, 0)),
        last_handshake: Some(Duration::from_secs(9)),
        tx_bytes: 1,
        rx_bytes: 1,
        state: PeerState::Established,
        since: Duration::from_secs(60),
        error: None,
        heard: Some(Duration::from_secs(1)),
        wanted: Some(Duration::ZERO),
        seen_at: Some(address(1, 0)),
        is_translated: false,
        incoming_loss: None,
        outgoing_loss: None,
        round_trip: None,
        mtu: 1408,
        mtu_source: MtuSource::Link,
    }
}

fn failing(host: u8, error: PeerError, heard: Option<u64>) -> PeerStatus {
    PeerStatus {
        state: PeerState::Unreachable,
        error: Some(error),
        since: Duration::from_secs(30),
        heard: heard.map(Duration::from_secs),
        ..peer(host)
    }
}

fn silent(host: u8) -> PeerStatus {
    failing(host, PeerError::Silent { attempts: 3 }, Some(35))
}

fn told(peers: &[PeerStatus]) -> Vec<(&'static str, String)> {
    told_with(peers, None)
}

fn told_with(peers: &[PeerStatus], refused: Option<Duration>) -> Vec<(&'static str, String)> {
    let node = |host: u8| {
        Change::Node(Node {
            id: id(host),
            name: format!("h{host}").parse().expect("a name"),
            role: Role::Node,
            labels: BTreeMap::new(),
            underlay: vec![address(host, 0).ip()],
            lane_ports: PORTS.into(),
        })
    };
    let view = View::from_rows(Revision(1), (1..=120).map(node));
    let own = [address(1, 0).ip()].into();
    let peers: Vec<_> = peers.iter().collect();
    let facts = Facts { view: &view, peers: &peers, ports: &PORTS, own: &own, refused, now: 1_000 };

    problems(&facts).into_iter().map(|problem| (problem.code.as_str(), problem.text)).collect()
}

fn one(peers: &[PeerStatus]) -> (&'static str, String) {
    let told = told(peers);
    let [problem] = told.as_slice() else { panic!("one problem: {told:?}") };
    problem.clone()
}

#[test]
fn peers_that_are_well_or_not_wanted_are_no_problem() {
    let idle = PeerStatus { state: PeerState::Idle, heard: None, seen_at: None, ..peer(4) };
    let first = PeerStatus { error: Some(PeerError::NoAnswer { attempts: 3 }), ..idle.clone() };
    let lossy =
        PeerStatus { incoming_loss: Some(Loss { permille: 90, is_high: false }), ..peer(5) };

    assert_eq!(told(&[peer(2), peer(3), idle, first, lossy]), []);
}

#[test]
fn a_silent_peer_is_named_with_the_port_to_open() {
    let (code, text) = one(&[silent(2), peer(3)]);

    assert_eq!(code, "peer-silent");
    assert_eq!(
        text,
        "nothing arrives from h2 (192.0.2.2:51820): the agent or host is down, or a firewall drops the datagrams: \
         open UDP 51820 there and UDP 51820-51821 here"
    );
}

#[test]
fn the_lanes_of_a_peer_are_one_problem() {
    let second = PeerStatus { lane: LaneId(1), underlay: Some(address(2, 1)), ..silent(2) };

    let (_, text) = one(&[silent(2), second, peer(3)]);

    assert!(text.contains("h2 (192.0.2.2:51820, 192.0.2.2:51821)"), "{text}");
    assert!(text.contains("open UDP 51820, 51821 there"), "{text}");
}

#[test]
fn a_peer_that_hears_nothing_is_told_with_the_direction() {
    let (code, text) = one(&[failing(2, PeerError::NotHeard, Some(0)), peer(3)]);

    assert_eq!(code, "peer-not-reached");
    assert!(
        text.starts_with("h2 (192.0.2.2:51820) is heard but does not hear this host"),
        "{text}"
    );
    assert!(text.contains("open UDP 51820 there, or check this host's outgoing rules"), "{text}");
}

#[test]
fn a_host_that_hears_nobody_looks_at_itself() {
    let (code, text) = one(&[silent(2), silent(3)]);

    assert_eq!(code, "port-unreachable");
    assert!(text.contains("nobody reaches UDP 51820-51821 of this host"), "{text}");
    let idle =
        PeerStatus { state: PeerState::Idle, heard: Some(Duration::from_secs(600)), ..peer(4) };
    assert_eq!(one(&[silent(2), silent(3), idle]).0, "port-unreachable");
    assert_eq!(one(&[silent(2), silent(3), peer(4)]).0, "peer-silent", "somebody reaches it");
}

#[test]
fn a_hundred_dead_peers_are_one_line_that_says_since_when() {
    let peers: Vec<_> = (2..=101).map(silent).chain([peer(110)]).collect();

    let (_, text) = one(&peers);

    assert!(
        text.contains("h2 (192.0.2.2:51820), h3 ") && text.contains(" and 95 more: "),
        "{text}"
    );
    assert!(text.len() < 400, "{text}");
}

#[test]
fn translations_are_named_where_they_are_in_the_way() {
    let never = failing(2, PeerError::Silent { attempts: 9 }, None);
    let seen_elsewhere =
        PeerStatus { seen_at: Some("198.51.100.7:4000".parse().expect("an address")), ..peer(3) };

    let (_, neither) = one(&[never.clone(), peer(3)]);
    assert!(neither.contains("or it is behind NAT and must call first"), "{neither}");
    let (_, here) = one(&[never, seen_elsewhere]);
    assert!(here.contains("this host is behind NAT (seen at 198.51.100.7:4000)"), "{here}");
    let (_, there) = one(&[PeerStatus { is_translated: true, ..silent(2) }, peer(3)]);
    assert!(there.contains("it is behind NAT, and down or cut off"), "{there}");
}

#[test]
fn a_high_loss_is_told_with_its_direction() {
    let loss = |permille| Some(Loss { permille, is_high: true });
    let from = PeerStatus { incoming_loss: loss(104), ..peer(2) };
    let to = PeerStatus { outgoing_loss: loss(98), ..peer(3) };

    let (code, text) = one(&[from, to]);

    assert_eq!(code, "peer-loss");
    assert!(text.contains("10 % from h2, 10 % to h3"), "{text}");
}

#[test]
fn the_hosts_own_firewall_is_named() {
    let refused = |secs| told_with(&[peer(2)], Some(Duration::from_secs(secs)));

    assert_eq!(refused(1)[0].0, "udp-refused");
    assert_eq!(refused(60), []);
}

#[test]
fn control_of_this_host_whose_address_is_away_is_told_with_it() {
    let control = |announced: &[&str], nodes: &[NodeId]| KnownControl {
        announced: announced.iter().map(ToString::to_string).collect(),
        nodes: nodes.to_vec(),
        ..KnownControl::default()
    };
    let own = BTreeSet::from([IpAddr::from([192, 0, 2, 9])]);
    let (here, away) =
        (control(&["192.0.2.9:7443"], &[id(1)]), control(&["192.0.2.1:7443"], &[id(1)]));

    let told = displaced(&away, id(1), &own).expect("it is away");

    assert_eq!(
        told,
        "control runs on this host and was found at 192.0.2.1, which this host does not have at the moment"
    );
    assert_eq!(displaced(&here, id(1), &own), None);
    assert_eq!(displaced(&away, id(2), &own), None, "control is elsewhere");
    assert_eq!(displaced(&away, id(1), &BTreeSet::new()), None, "nothing is known of the host yet");
    assert_eq!(displaced(&control(&["control.example:7443"], &[id(1)]), id(1), &own), None);
}

#[test]
fn an_address_of_this_host_that_a_peer_announces_is_named() {
    let told = |own: &[&str], announced: &[&str]| -> Vec<(&'static str, String)> {
        let addresses = |texts: &[&str]| {
            texts.iter().map(|text| text.parse().expect("an address")).collect::<Vec<_>>()
        };
        let node = Node {
            id: id(2),
            name: "h2".parse().expect("a name"),
            role: Role::Node,
            labels: BTreeMap::new(),
            underlay: addresses(announced),
            lane_ports: PORTS.into(),
        };
        let view = View::from_rows(Revision(1), [Change::Node(node)]);
        let (peer, own) = (peer(2), addresses(own).into_iter().collect());
        let facts = Facts {
            view: &view,
            peers: &[&peer],
            ports: &PORTS,
            own: &own,
            refused: None,
            now: 1_000,
        };

        problems(&facts).into_iter().map(|problem| (problem.code.as_str(), problem.text)).collect()
    };
    let own = ["192.0.2.1", "10.0.2.15"];

    let shared = told(&own, &["192.0.2.1", "198.51.100.2"]);

    assert_eq!(shared.len(), 1);
    assert_eq!(shared[0].0, "address-shared");
    assert!(
        shared[0].1.starts_with("192.0.2.1 of this host is also announced by h2, and not tried"),
        "{}",
        shared[0].1
    );
    assert_eq!(told(&own, &["198.51.100.2"]), []);
    assert_eq!(
        told(&own, &["198.51.100.2", "10.0.2.15"]),
        [],
        "every guest of a hypervisor has it"
    );
    assert_eq!(told(&own, &["10.0.2.15"]).len(), 1, "it is all that the peer has");
}
