//! Malicious packets in large numbers, from strangers and from a member with a session. At full
//! size these tests take minutes, so the number is small unless `OVERLAY_PACKETS` is set;
//! `OVERLAY_SEED` sets the seed.

use std::time::Duration;

use rand::rngs::SmallRng;

use super::raw_peer::RawPeer;
use super::sound::assert_sound;
use super::*;

/// How many packets a test sends by default.
const FEW: u64 = 100_000;
/// One live packet is sent after this many others.
const LIVE: u64 = 50_000;
/// The longest batch, in bytes.
const LONGEST: usize = 4_096;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn dice() -> SmallRng {
    SmallRng::seed_from_u64(number("OVERLAY_SEED", 1))
}

/// Changes a bit, a byte, a run of bytes, or the length.
fn mutate(bytes: &mut Vec<u8>, dice: &mut SmallRng) {
    for _ in 0..dice.random_range(0..4) {
        if bytes.is_empty() {
            return;
        }
        let at = dice.random_range(0..bytes.len());
        match dice.random_range(0..6) {
            0 => bytes[at] ^= 1 << dice.random_range(0..8),
            1 => bytes[at] = dice.random(),
            2 => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF][dice.random_range(0..5)],
            3 => bytes.truncate(at),
            4 => bytes.resize(dice.random_range(0..1_600), dice.random()),
            _ => {
                let end = bytes.len().min(at + dice.random_range(1..16));
                dice.fill(&mut bytes[at..end]);
            }
        }
    }
}

/// Every kind of message that an eavesdropper may have seen: handshakes, cookies, and data of
/// current and past sessions.
fn seen(world: &mut World) -> Vec<Vec<u8>> {
    world.tap = Some(Vec::new());
    for number in 0..20 {
        world.say(0, 1, number);
        world.say(1, 0, number);
        world.run(Duration::from_secs(20));
    }
    let mut seen: Vec<_> =
        world.tap.take().expect("a tap").into_iter().map(|datagram| datagram.bytes).collect();
    let mut cookie = vec![0; 64];
    cookie[0] = 3;
    seen.push(cookie);
    world.numbers(0);
    world.numbers(1);
    seen
}

#[test]
fn nothing_that_strangers_send_gets_through_or_stops_the_engine() {
    let mut world = World::connected(2);
    let seen = seen(&mut world);
    let (mut dice, packets) = (dice(), number("OVERLAY_PACKETS", FEW));
    let mut batch = Vec::with_capacity(LONGEST);
    let (mut given, mut live, mut next) = (0, 0_u32, 0);

    while given < packets {
        batch.clear();
        let mut first = seen[dice.random_range(0..seen.len())].clone();
        mutate(&mut first, &mut dice);
        let segment =
            if dice.random_range(0..8) == 0 { dice.random_range(0..200) } else { first.len() };
        batch.extend_from_slice(&first);
        given += 1;
        while !first.is_empty()
            && batch.len() + first.len() <= LONGEST
            && dice.random_range(0..4) != 0
        {
            mutate(&mut first, &mut dice);
            batch.extend_from_slice(&first);
            given += 1;
        }
        let from = SocketAddr::from((Ipv4Addr::from_bits(dice.random()), dice.random()));
        // Whole messages count, not the pieces that odd segment sizes make of them.
        world.hosts[1].engine.handle_udp(from, &batch, segment, world.now);
        if given >= next {
            next += LIVE;
            world.now += Duration::from_millis(10);
            world.say(0, 1, live);
            world.run(Duration::from_millis(10));
            assert_eq!(world.numbers(1), [live], "after {given} packets");
            assert_eq!(world.status(1).underlay, Some(underlay(0)), "after {given} packets");
            live += 1;
        }
    }
    world.collect();
    assert_eq!(world.numbers(1), Vec::<u32>::new());
    world.assert_accounted();
}

/// Packets that a member may send in the hope that they are accepted.
fn templates() -> Vec<Vec<u8>> {
    let (near, far) = (inner(2), inner(0));
    let mut tcp = packet(near, far, 60);
    tcp[9] = 6;
    tcp[32] = 0xA0;
    tcp[33] = 2;
    tcp[40..44].copy_from_slice(&[2, 4, 0x05, 0xB4]);
    let mut fragment = packet(near, far, 600);
    fragment[6] = 0x20;
    let mut icmp = packet(near, far, 84);
    icmp[9] = 1;

    vec![
        packet(near, far, 100),
        packet(inner6(2), inner6(0), 100),
        tcp,
        fragment,
        icmp,
        vec![0; 100],
        vec![1; 40],
    ]
}

#[test]
fn nothing_that_a_member_sends_gets_through_unless_it_is_its_own_and_whole() {
    let mut world = World::connected(3);
    let mut raw_peer = RawPeer::new(&mut world);
    // Answers are discarded.
    world.faults.loss_percent = 100;
    let (mut dice, packets, templates) = (dice(), number("OVERLAY_PACKETS", FEW) / 10, templates());
    let mut arrived = 0;

    for _ in 0..packets {
        let mut bytes = templates[dice.random_range(0..templates.len())].clone();
        mutate(&mut bytes, &mut dice);
        // An empty payload would be a keepalive.
        bytes.resize(bytes.len().max(1), 0);
        world.now += Duration::from_micros(1);
        raw_peer.tell(&mut world, &bytes);
        for (id, packet) in world.hosts[0].received.drain(..) {
            assert_eq!(id, network(NET));
            assert_sound(&packet, 2, 0);
            arrived += 1;
        }
        world.hosts[0].events.clear();
    }
    assert!(arrived > packets / 100, "some are sound");
    world.assert_accounted();
}
