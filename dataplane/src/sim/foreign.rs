//! Another implementation as the peer: `boringtun`, in both directions.
//!
//! Its clock is moved with ours, but its timers are not run: it is told when to renew a session.
//! That it does so by itself, and that cookies and preshared keys work, is tested in
//! `overlay-wireguard`.

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use mock_instant::MockClock;

use super::*;
use crate::PeerState;

/// `boringtun` as host 1, with an engine as host 0.
struct Foreign {
    tunn: Tunn,
    received: Vec<Vec<u8>>,
}

impl Foreign {
    fn new() -> Self {
        let secret = x25519::StaticSecret::from(*key(NET, 1).expose());
        let peer = x25519::PublicKey::from(*pub_key(NET, 0).as_bytes());

        Self { tunn: Tunn::new(secret, peer, None, None, 7, None), received: Vec::new() }
    }

    fn say(&mut self, world: &mut World, packet: &[u8]) {
        let mut buffer = vec![0; 2048];
        if let TunnResult::WriteToNetwork(bytes) = self.tunn.encapsulate(packet, &mut buffer) {
            let bytes = bytes.to_vec();
            to_engine(world, &bytes);
        }
        self.settle(world);
    }

    fn rekey(&mut self, world: &mut World) {
        let mut buffer = vec![0; 2048];
        let TunnResult::WriteToNetwork(bytes) =
            self.tunn.format_handshake_initiation(&mut buffer, true)
        else {
            panic!("no initiation")
        };
        let bytes = bytes.to_vec();
        to_engine(world, &bytes);
        self.settle(world);
    }

    /// Carries datagrams in both directions until there are none left.
    fn settle(&mut self, world: &mut World) {
        for _ in 0..1000 {
            let Some(batch) = world.hosts[0].engine.poll_transmit() else { break };
            assert_eq!(batch.to, underlay(1));
            let datagrams: Vec<_> = batch.bytes.chunks(batch.segment).map(<[u8]>::to_vec).collect();
            for datagram in datagrams {
                self.take(world, &datagram);
            }
        }
        world.collect();
    }

    fn take(&mut self, world: &mut World, datagram: &[u8]) {
        let mut buffer = vec![0; 2048];
        let mut datagram = datagram;
        loop {
            match self.tunn.decapsulate(None, datagram, &mut buffer) {
                TunnResult::WriteToNetwork(bytes) => {
                    let bytes = bytes.to_vec();
                    to_engine(world, &bytes);
                    datagram = &[];
                }
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    return self.received.push(packet.to_vec());
                }
                // This is what probes are to it.
                TunnResult::Done | TunnResult::Err(WireGuardError::InvalidPacket) => return,
                TunnResult::Err(error) => panic!("{error:?}"),
            }
        }
    }
}

fn to_engine(world: &mut World, datagram: &[u8]) {
    world.hosts[0].engine.handle_udp(underlay(1), datagram, datagram.len(), world.now);
}

fn world() -> (World, Foreign) {
    let mut world = World::new(1);
    world.publish(0, table(NET, 0, &[0, 1]));
    (world, Foreign::new())
}

fn ours(world: &mut World, number: u32) {
    world.hosts[0].engine.handle_tun(
        network(NET),
        [&numbered(inner(0), inner(1), number)[..]],
        world.now,
    );
}

#[test]
fn we_call_and_packets_flow_both_ways() {
    let (mut world, mut foreign) = world();

    ours(&mut world, 1);
    foreign.settle(&mut world);
    foreign.say(&mut world, &numbered(inner(1), inner(0), 2));

    assert_eq!(foreign.received.iter().map(|packet| number_of(packet)).collect::<Vec<_>>(), [1]);
    assert_eq!(world.numbers(0), [2]);
    assert_eq!(world.status(0).state, PeerState::Established);
    world.assert_accounted();
}

#[test]
fn it_calls_and_packets_flow_both_ways() {
    let (mut world, mut foreign) = world();

    foreign.say(&mut world, &numbered(inner(1), inner(0), 1));
    ours(&mut world, 2);
    foreign.settle(&mut world);

    assert_eq!(world.numbers(0), [1]);
    assert_eq!(foreign.received.iter().map(|packet| number_of(packet)).collect::<Vec<_>>(), [2]);
    world.assert_accounted();
}

#[test]
fn both_sides_renew_the_session() {
    let (mut world, mut foreign) = world();
    ours(&mut world, 0);
    foreign.settle(&mut world);

    for number in 1..=400 {
        world.now += Duration::from_secs(1);
        MockClock::advance(Duration::from_secs(1));
        world.hosts[0].engine.handle_timeout(world.now);
        foreign.settle(&mut world);
        ours(&mut world, number);
        foreign.settle(&mut world);
        foreign.say(&mut world, &numbered(inner(1), inner(0), number));
        if number == 200 {
            foreign.rekey(&mut world);
        }
        assert!(world.status(0).last_handshake.expect("a handshake") < Duration::from_secs(180));
    }

    assert_eq!(
        foreign.received.iter().map(|packet| number_of(packet)).collect::<Vec<_>>(),
        (0..=400).collect::<Vec<_>>()
    );
    assert_eq!(world.numbers(0), (1..=400).collect::<Vec<_>>());
    world.assert_accounted();
}

#[test]
fn sizes_around_the_padding_survive() {
    let (mut world, mut foreign) = world();
    ours(&mut world, 0);
    foreign.settle(&mut world);

    for len in (28..100).chain(1390..=1408) {
        let out = packet(inner(0), inner(1), len);
        world.hosts[0].engine.handle_tun(network(NET), [&out[..]], world.now);
        foreign.settle(&mut world);
        assert_eq!(foreign.received.pop(), Some(out));

        let back = packet(inner(1), inner(0), len);
        foreign.say(&mut world, &back);
        assert_eq!(world.hosts[0].received.pop(), Some((network(NET), back)));
    }
}

#[test]
fn its_forged_and_malformed_packets_are_refused() {
    let (mut world, mut foreign) = world();
    foreign.say(&mut world, &numbered(inner(1), inner(0), 1));

    foreign.say(&mut world, &numbered("10.42.9.9".parse().expect("valid"), inner(0), 2));
    let mut lying = numbered(inner(1), inner(0), 3);
    lying[2..4].copy_from_slice(&[0, 3]);
    foreign.say(&mut world, &lying);

    assert_eq!(world.numbers(0), [1]);
    assert_eq!(world.dropped(0, DropReason::InnerSourceForged), 1);
    assert_eq!(world.dropped(0, DropReason::InnerMalformed), 1);
    world.assert_accounted();
}
