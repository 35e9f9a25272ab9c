//! Engines that know everything there is to know, there and back.

use std::sync::Arc;

use overlay_core::{Candidate, PrivateKey};
use overlay_dataplane::{
    Engine, EngineConfig, LaneId, NetworkTable, PeerLane, PeerTable, Tables, public_key,
};

use super::*;

const UNIX: Duration = Duration::from_secs(1_800_000_000);

fn private(number: u8) -> PrivateKey {
    PrivateKey::from([number; 32])
}

fn engine(own: u8, other: u8, now: Instant) -> Engine {
    let seed = [own; 32];
    let mut engine =
        Engine::new(EngineConfig { lane: LaneId(0), lanes: 1, seed, now, unix_time: UNIX });
    let prefix = |number: u8| format!("10.0.{number}.0/24").parse().expect("a prefix");
    let lane = PeerLane {
        public_key: public_key(&private(other)),
        candidates: vec![Candidate::host(underlay(other), 0)],
    };
    let peer = PeerTable {
        node: NodeId::from_random(other.into()),
        lanes: vec![lane],
        allowed_ips: vec![prefix(other)],
    };
    let table = NetworkTable {
        id: NetworkId::FIRST,
        private_key: private(own),
        peers: Arc::new(vec![Arc::new(peer)]),
        local: vec![prefix(own)],
        links: Arc::default(),
        mtu: 1408,
    };
    engine.publish(
        &Tables { networks: [(NetworkId::FIRST, Arc::new(table))].into(), ..Tables::default() },
        now,
    );

    engine
}

fn underlay(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 51820))
}

fn packet(from: u8, to: u8) -> Vec<u8> {
    let mut packet = vec![0; 40];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 40]);
    packet[8..10].copy_from_slice(&[64, 17]);
    packet[12..16].copy_from_slice(&[10, 0, from, 2]);
    packet[16..20].copy_from_slice(&[10, 0, to, 2]);
    packet
}

/// Gives an engine what another sends; tells whether there was anything.
fn give(from: &mut Engine, to: &mut Engine, address: SocketAddr, now: Instant) -> bool {
    let mut has_given = false;
    while let Some(sent) = from.poll_transmit() {
        has_given = true;
        to.handle_udp(address, sent.bytes, sent.segment, now);
    }
    while to.poll_tun().is_some() {}

    has_given
}

/// Carries datagrams to and fro until nobody has any.
fn carry(one: &mut Engine, other: &mut Engine, now: Instant) {
    while give(one, other, underlay(1), now) | give(other, one, underlay(2), now) {}
}

#[test]
fn what_an_engine_knows_is_the_same_in_the_next_process() {
    let now = Instant::now();
    let (mut one, mut other) = (engine(1, 2, now), engine(2, 1, now));
    let packets = [packet(1, 2), packet(1, 2)];
    one.handle_tun(NetworkId::FIRST, packets.iter().map(Vec::as_slice), now);
    carry(&mut one, &mut other, now);
    assert_eq!(other.counters().delivered, 2);
    let moments = Moments::now().expect("a clock");

    let bytes = encode(vec![one.freeze().state(), other.freeze().state()], &moments);
    let mut states = decode(&bytes, &moments).expect("whole").into_iter();
    let (mut one, mut other) = (engine(1, 2, now), engine(2, 1, now));
    assert_eq!(one.resume(states.next().expect("two"), now), 0);
    assert_eq!(other.resume(states.next().expect("two"), now), 0);

    assert_eq!(one.status(now)[0].state, PeerState::Established);
    let packet = packet(2, 1);
    other.handle_tun(NetworkId::FIRST, [packet.as_slice()], now);
    let first = other.poll_transmit().map(|sent| sent.bytes.first().copied());
    assert_eq!(first, Some(Some(4)), "a data message: the session goes on");
}

#[test]
fn every_field_comes_back() {
    let moments = Moments::now().expect("a clock");
    let at = |nanos: u64| {
        moments.instant(moments.nanos(Instant::now()) - 1_000_000_000 + nanos).expect("a moment")
    };
    let session = |number: u8| SessionState {
        is_initiator: true,
        index: 7 << 8 | u32::from(number),
        receiver: [number; 4],
        since: at(1),
        sealing: SecretBytes::new(vec![number; 32]),
        opening: SecretBytes::new(vec![number + 1; 32]),
        next: u64::MAX,
        window_next: 1 << 60,
        window_seen: (0..128).collect(),
        is_confirmed: true,
        has_sent: true,
        has_received: true,
    };
    let tunnel = TunnelState {
        id: 7,
        handshakes: 255,
        peer: PublicKey::from([9; 32]),
        shared: SecretBytes::new(vec![8; 32]),
        current: Some(session(1)),
        others: vec![session(3), session(5)],
        timers: TimersState {
            handshake: at(2),
            trying: Some(at(3)),
            scheduled: Some(at(4)),
            unanswered: Some(at(5)),
            unacknowledged: Some(at(6)),
            retry: Duration::from_nanos(7),
        },
        told: [1; 12],
        heard: [2; 12],
    };
    let link = PeerLinkState {
        node: NodeId::FIRST,
        public_key: PublicKey::from([9; 32]),
        tunnel: Some(tunnel),
        last_initiation: [3; 12],
        path: PathState {
            confirmed: Some("[2001:db8::1]:7".parse().expect("an address")),
            attempts: 4,
            trying_since: Some(at(8)),
            mtu: Some(1280),
            mtu_source: MtuSource::Probed,
            answers_probes: true,
            is_probing: true,
        },
        life: Some(LivenessState {
            born: at(9),
            speaks: Some(false),
            sent: 1,
            received: 2,
            heard: Some(at(10)),
            unanswered: Some(at(11)),
            wanted: Some(at(12)),
            check: Some((at(13), 3)),
            silent: Some(at(14)),
            keep_open: Some(at(15)),
            told: (at(16), 4),
            trip: Some(Duration::ZERO),
            seen_at: Some(underlay(5)),
        }),
        tx_bytes: 5,
        rx_bytes: 6,
        last_use: at(17),
        waiting: vec![vec![1], vec![2, 3]],
        last_handshake: Some(at(18)),
        state: PeerState::Unreachable,
        since: at(19),
    };
    let network = NetworkState {
        id: NetworkId::LAST,
        public_key: PublicKey::from([1; 32]),
        next_fragment: 6,
        links: vec![link],
    };
    let state = EngineState { networks: vec![network], translated: Some(underlay(6)) };

    let first = encode(vec![state], &moments);
    let second = encode(decode(&first, &moments).expect("whole"), &moments);

    assert_eq!(*first, *second);
    let message = v1::HandOverEngines::decode(first.as_slice()).expect("a message");
    let link = &message.engines[0].networks[0].links[0];
    let life = link.life.as_ref().expect("there");
    assert!(
        [link.trying_since, link.last_use, link.last_handshake, link.since, life.heard]
            .iter()
            .all(|at| *at != 0)
    );
    assert_eq!((life.speaks, life.checks, life.trip, link.state, link.mtu_source), (2, 3, 1, 3, 2));
}

#[test]
fn what_no_engine_knows_is_refused() {
    let moments = Moments::now().expect("a clock");
    let with = |network: v1::EngineNetwork| {
        let engine = v1::EngineState { networks: vec![network], ..v1::EngineState::default() };
        decode(&v1::HandOverEngines { engines: vec![engine] }.encode_to_vec(), &moments).err()
    };
    let network =
        v1::EngineNetwork { id: 1, public_key: vec![1; 32], ..v1::EngineNetwork::default() };

    assert_eq!(with(network.clone()), None);
    assert!(with(v1::EngineNetwork { id: 0, ..network.clone() }).is_some());
    assert!(with(v1::EngineNetwork { public_key: vec![1; 31], ..network.clone() }).is_some());
    let link =
        v1::EngineLink { node: 1, public_key: vec![1; 32], state: 9, ..v1::EngineLink::default() };
    assert!(with(v1::EngineNetwork { links: vec![link], ..network }).is_some());
    assert!(decode(b"\xff\xff", &moments).is_err());
}
