//! Malicious peers, strangers and eavesdroppers.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::raw_peer::RawPeer;
use super::*;
use crate::PeerState;
use crate::noise;

/// A world in which host 2 may send from any address, as far as its own engine is concerned.
fn with_liar() -> World {
    let mut world = World::connected(3);
    let everything = ["0.0.0.0/0", "::/0"].map(|prefix| prefix.parse().expect("valid")).to_vec();
    world.publish(2, NetworkTable { local: everything, ..table(NET, 2, &[0, 1]) });
    world
}

/// Invariant 4.
#[test]
fn a_member_cannot_speak_for_another() {
    let mut world = with_liar();
    world.say(2, 0, 0);
    world.run(Duration::from_secs(1));
    assert_eq!(world.numbers(0), [0], "the liar's own address is its own");

    for number in 0..100_000 {
        let source = if number % 2 == 0 { inner(1) } else { "203.0.113.5".parse().expect("valid") };
        world.hosts[2].engine.handle_tun(
            network(NET),
            [&numbered(source, inner(0), number)[..]],
            world.now,
        );
        if number % 64 == 0 {
            world.run(Duration::from_millis(1));
            world.collect();
        }
    }
    world.collect();
    world.run(Duration::from_secs(1));

    assert_eq!(world.numbers(0), Vec::<u32>::new());
    assert_eq!(world.dropped(0, DropReason::InnerSourceForged), 100_000);
    assert_eq!(world.counters(0).delivered, 1);
    world.assert_accounted();
}

#[test]
fn sources_that_cannot_be_routed_and_foreign_destinations_are_refused() {
    let mut world = with_liar();
    // Host 0 is told that host 2 holds everything, which must not cover such addresses.
    let mut trusting = table(NET, 0, &[0, 2]);
    first_peer(&mut trusting).allowed_ips =
        vec!["0.0.0.0/0".parse().expect("valid"), "::/0".parse().expect("valid")];
    world.publish(0, trusting);
    world.say(2, 0, 0);
    world.run(Duration::from_secs(1));

    world.hosts[2].engine.publish(&Tables::default(), world.now);
    let mut raw_peer = RawPeer::new(&mut world);
    for source in ["224.0.0.1", "127.0.0.1", "169.254.0.1", "0.0.0.0", "255.255.255.255"] {
        raw_peer.tell(&mut world, &numbered(source.parse().expect("valid"), inner(0), 1));
    }
    raw_peer.tell(&mut world, &numbered("fe80::1".parse().expect("valid"), inner6(0), 1));
    raw_peer.tell(&mut world, &numbered(inner(2), "10.42.77.1".parse().expect("valid"), 1));
    raw_peer.tell(&mut world, &numbered(inner(2), inner(0), 9));

    assert_eq!(world.numbers(0), [0, 9]);
    assert_eq!(world.dropped(0, DropReason::InnerSourceNotUnicast), 6);
    assert_eq!(world.dropped(0, DropReason::InnerNotLocal), 1);
    world.assert_accounted();
}

#[test]
fn malformed_packets_from_a_member_go_nowhere() {
    let mut world = World::connected(3);
    let mut raw_peer = RawPeer::new(&mut world);
    let good = numbered(inner(2), inner(0), 5);
    let broken = |change: fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };

    for bytes in [
        broken(|b| b[0] = 0x40),
        broken(|b| b[0] = 0x44),
        broken(|b| b[0] = 0x75),
        broken(|b| b[2..4].fill(0)),
        broken(|b| b[3] = 3),
        broken(|b| b[2] = 0xFF),
        broken(|b| b.truncate(10)),
        vec![0x60; 39],
    ] {
        raw_peer.tell(&mut world, &bytes);
    }
    raw_peer.tell(&mut world, &good);

    assert_eq!(world.numbers(0), [5]);
    assert_eq!(world.dropped(0, DropReason::InnerMalformed), 8);
    assert_eq!(world.hosts[0].received.len(), 0);
    world.assert_accounted();
}

/// Invariant 2.
#[test]
fn a_node_that_is_no_member_can_neither_send_nor_shake_hands() {
    let mut world = World::connected(3);
    // Host 2 has keys of its own and knows all members, but no member was told about it.
    world.publish(0, table(NET, 0, &[0, 1]));
    world.publish(1, table(NET, 1, &[0, 1]));

    for number in 0..2000 {
        world.say(2, 0, number);
        world.run(Duration::from_millis(50));
    }

    assert_eq!(world.numbers(0), Vec::<u32>::new());
    assert_eq!(world.counters(0).delivered, 0);
    assert_eq!(world.dropped(0, DropReason::UnknownPeer), world.counters(0).udp_datagrams);
    assert_eq!(world.counters(0).control_sent, 0, "a stranger gets no answer");
    world.assert_accounted();
}

#[test]
fn a_node_that_was_taken_out_cannot_send_with_the_session_it_has() {
    let mut world = World::connected(3);
    world.say(2, 0, 0);
    world.run(Duration::from_secs(1));
    assert_eq!(world.numbers(0), [0]);
    let delivered = world.counters(0).delivered;
    world.publish(0, table(NET, 0, &[0, 1]));

    for number in 1..=100_000 {
        world.say(2, 0, number);
        world.run(Duration::from_millis(1));
    }

    assert_eq!(world.numbers(0), Vec::<u32>::new());
    assert_eq!(world.counters(0).delivered, delivered);
    // The session lasts as long as it may; unanswered handshakes end it after 90 seconds.
    assert!(world.dropped(0, DropReason::UnknownIndex) >= 90_000, "the session was in use");
    world.assert_accounted();
}

#[test]
fn a_member_of_another_network_cannot_send_into_this_one() {
    let mut world = World::new(2);
    world.publish(0, table(1, 0, &[0]));
    world.publish(0, table(2, 0, &[0, 1]));
    world.publish(1, table(2, 1, &[0, 1]));
    // It also tries network 1, with its key of network 2 and a public key that it should not know.
    let mut stolen = table(2, 1, &[]);
    stolen.id = network(1);
    stolen.peers = Arc::new(vec![Arc::new(peer(1, 0))]);
    world.publish(1, stolen);

    world.send(1, 2, &numbered(inner(1), inner(0), 2));
    world.send(1, 1, &numbered(inner(1), inner(0), 1));
    world.run(Duration::from_secs(5));

    assert_eq!(world.hosts[0].received.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [network(2)]);
    assert!(world.dropped(0, DropReason::UnknownPeer) >= 2);
    world.assert_accounted();
}

#[test]
fn nothing_recorded_is_accepted_again() {
    let mut world = World::connected(2);
    world.tap = Some(Vec::new());
    for number in 0..50 {
        world.say(0, 1, number);
        world.say(1, 0, number);
        world.run(Duration::from_secs(5));
    }
    let recorded = world.tap.take().expect("a tap");
    let before = [world.counters(0).clone(), world.counters(1).clone()];
    world.numbers(0);
    world.numbers(1);

    let thief: SocketAddr = "203.0.113.66:666".parse().expect("valid");
    for datagram in &recorded {
        world.inject(Datagram { from: thief, ..datagram.clone() });
    }
    world.run(Duration::ZERO);

    for (host, before) in before.iter().enumerate() {
        assert_eq!(world.counters(host).delivered, before.delivered);
        assert_eq!(world.counters(host).control, before.control);
        assert_eq!(world.status(host).underlay, Some(underlay(1 - host)), "followed the thief");
    }
    world.assert_accounted();
}

#[test]
fn the_first_initiation_of_a_peer_is_not_answered_twice() {
    let mut world = World::connected(2);
    world.tap = Some(Vec::new());
    world.say(1, 0, 1);
    world.run(Duration::from_secs(1));
    let initiation = world.tap.take().expect("a tap").swap_remove(0);

    world.inject(initiation);
    world.run(Duration::from_secs(1));

    assert_eq!(world.dropped(0, DropReason::HandshakeReplayed), 1);
    world.assert_accounted();
}

#[test]
fn an_old_initiation_does_not_move_a_peer_that_forgot_it() {
    let mut world = World::connected(2);
    world.tap = Some(Vec::new());
    world.say(1, 0, 1);
    world.run(Duration::from_secs(1));
    let recorded = world.tap.take().expect("a tap");
    world.restart(0, 0);

    let thief: SocketAddr = "203.0.113.66:666".parse().expect("valid");
    for datagram in &recorded {
        world.inject(Datagram { from: thief, ..datagram.clone() });
    }
    world.run(Duration::from_secs(1));

    assert_ne!(world.status(0).underlay, Some(thief));
    assert_eq!(world.status(0).state, PeerState::Idle, "an answer is no proof");
    world.numbers(1);
    world.say(0, 1, 2);
    world.run(Duration::from_secs(1));
    assert_eq!(world.numbers(1), [2]);
    world.assert_accounted();
}

#[test]
fn flipped_bits_and_counters_at_the_end_of_the_world_are_refused() {
    let mut world = World::connected(2);
    world.say(0, 1, 1);
    world.run(Duration::from_secs(1));
    world.tap = Some(Vec::new());
    world.faults.loss_percent = 100;
    world.say(0, 1, 2);
    let datagram = world.tap.take().expect("a tap").pop().expect("a data message");
    world.faults.loss_percent = 0;
    let change = |world: &mut World, change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = datagram.clone();
        change(&mut changed.bytes);
        world.inject(changed);
        world.run(Duration::ZERO);
    };

    for counter in [u64::MAX, u64::MAX - 6, u64::MAX - (1 << 13)] {
        change(&mut world, &|bytes| bytes[8..16].copy_from_slice(&counter.to_le_bytes()));
    }
    assert_eq!(world.dropped(1, DropReason::CounterRefused), 3);

    let bits = datagram.bytes.len() * 8;
    for bit in 0..bits {
        change(&mut world, &|bytes| bytes[bit / 8] ^= 1 << (bit % 8));
    }
    assert_eq!(world.numbers(1), [1]);
    assert_eq!(world.counters(1).dropped_in(Direction::Inbound), 3 + bits as u64);

    change(&mut world, &|_| {});
    assert_eq!(world.numbers(1), [2], "unchanged it is fine");
    world.assert_accounted();
}

#[test]
fn a_flood_of_handshakes_does_not_lock_out_a_member() {
    let mut world = World::connected(2);
    let mut flooder = noise::Interface::new(
        &key(9, 9),
        zeroize::Zeroizing::new([9; 32]),
        world.now,
        Duration::from_secs(1),
    );
    let mut tunnel = flooder.new_tunnel(&pub_key(NET, 0), world.now).expect("a tunnel");
    let mut flood = |world: &mut World, count: u32| {
        for round in 0..count {
            let initiation = tunnel.initiate_again(world.now).expect("an initiation");
            let from = SocketAddr::from((Ipv4Addr::from_bits(0x0A00_0000 + round), 1234));
            world.inject(Datagram { from, to: underlay(0), bytes: initiation.to_vec() });
        }
        world.run(Duration::from_millis(100));
    };

    flood(&mut world, 300);
    world.say(1, 0, 1);
    for _ in 0..50 {
        flood(&mut world, 30);
    }

    assert_eq!(world.numbers(0), [1], "the member proved its address by a cookie");
    assert!(
        world.dropped(0, DropReason::UnknownPeer) >= 100,
        "what was let through under the limit"
    );
    assert!(world.counters(0).control_sent > 200, "cookies");
    world.assert_accounted();
}

#[test]
fn in_a_larger_flood_strangers_are_turned_away_unread_and_members_are_not() {
    let mut world = World::connected(2);
    let mut flooder = noise::Interface::new(
        &key(9, 9),
        zeroize::Zeroizing::new([9; 32]),
        world.now,
        Duration::from_secs(1),
    );
    let mut tunnel = flooder.new_tunnel(&pub_key(NET, 0), world.now).expect("a tunnel");
    let initiation = tunnel.initiate_again(world.now).expect("an initiation").to_vec();
    let flood = |world: &mut World| {
        for round in 0..10_000_u32 {
            let from = SocketAddr::from((Ipv4Addr::from_bits(0x0A00_0000 + round), 1234));
            world.inject(Datagram { from, to: underlay(0), bytes: initiation.clone() });
        }
        world.run(Duration::from_millis(100));
    };

    flood(&mut world);
    world.say(1, 0, 1);
    for _ in 0..20 {
        flood(&mut world);
    }

    assert_eq!(world.numbers(0), [1], "the member is known by its address");
    assert!(world.dropped(0, DropReason::RateLimited) >= 200_000);
    assert!(world.counters(0).control_sent < 3 * 2_100, "few cookies for strangers in each of 3 s");
    world.assert_accounted();
}

#[test]
fn a_key_no_session_can_be_made_with_is_said_so() {
    let mut world = World::connected(2);
    let mut low_order = table(NET, 0, &[0, 1]);
    first_peer(&mut low_order).lanes[0].public_key = PublicKey::from([0; 32]);
    world.publish(0, low_order);

    world.say(0, 1, 1);
    world.say(0, 1, 1);
    world.wake(0);

    assert_eq!(world.dropped(0, DropReason::InvalidKey), 2);
    assert_eq!(world.status(0).error, Some(crate::PeerError::InvalidKey));
    assert_eq!(world.counters(0).control_sent, 0);
}

#[test]
fn what_a_container_must_not_send_does_not_leave() {
    let mut world = World::connected(2);
    let send = |world: &mut World, source: &str, destination: IpAddr| {
        world.send(0, NET, &numbered(source.parse().expect("valid"), destination, 1));
    };

    send(&mut world, "10.42.1.9", inner(1));
    send(&mut world, "192.0.2.1", inner(1));
    send(&mut world, "169.254.1.1", inner(1));
    // Duplicate address detection, and a router solicitation.
    send(&mut world, "::", "ff02::1:ff00:2".parse().expect("valid"));
    send(&mut world, "fe80::1", "ff02::2".parse().expect("valid"));
    send(&mut world, "10.42.0.2", "8.8.8.8".parse().expect("valid"));
    world.send(0, NET, &[]);
    world.send(0, NET, &[0x45; 30]);
    world.run(Duration::from_secs(1));

    assert_eq!(world.dropped(0, DropReason::SourceNotLocal), 2);
    assert_eq!(world.dropped(0, DropReason::SourceNotUnicast), 1);
    assert_eq!(world.dropped(0, DropReason::LinkScope), 2);
    assert_eq!(world.dropped(0, DropReason::NoRoute), 1);
    assert_eq!(world.dropped(0, DropReason::Malformed), 2);
    assert_eq!(world.counters(1).udp_datagrams, 0);
    world.assert_accounted();
}

#[test]
fn an_empty_datagram_is_counted_too() {
    let mut world = World::connected(2);

    world.hosts[0].engine.handle_udp(underlay(1), &[], 0, world.now);

    assert_eq!(world.dropped(0, DropReason::NotWireguard), 1);
    world.assert_accounted();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_from_anywhere_stop_the_engine(
        datagrams in proptest::collection::vec((0..6_u8, proptest::collection::vec(any::<u8>(), 0..200)), 1..20),
        segment in 0..200_usize,
    ) {
        let mut world = World::connected(2);
        world.say(0, 1, 1);
        world.run(Duration::from_secs(1));

        for (kind, mut bytes) in datagrams {
            if bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
            }
            match kind { 1 => bytes.resize(148, 7), 2 => bytes.resize(92, 7), 3 => bytes.resize(64, 7), _ => {} }
            world.hosts[1].engine.handle_udp(underlay(0), &bytes, segment, world.now);
            world.hosts[1].engine.handle_tun(network(NET), [&bytes[..]], world.now);
        }
        world.run(Duration::from_secs(1));

        world.assert_accounted();
        world.say(0, 1, 2);
        world.run(Duration::from_secs(1));
        prop_assert_eq!(world.numbers(1), vec![1, 2]);
    }
}
