//! An engine that continues in another process, at any moment.

use std::time::Duration;

use super::*;
use crate::PeerState;

impl World {
    /// Replaces a host's engine by a new one that continues where it stopped.
    fn hand_over(&mut self, host: usize) {
        let unix_time = EPOCH + (self.now - start());
        let fresh = self.engine(unix_time);
        let host = &mut self.hosts[host];
        let mut old = std::mem::replace(&mut host.engine, fresh);
        host.engine.publish(&host.tables, self.now);
        assert_eq!(
            host.engine.resume(old.freeze().state(), self.now),
            0,
            "every session is taken over"
        );
        self.collect();
    }

    /// Stops a host's engine and lets it continue, as if no other process took over.
    fn freeze_and_thaw(&mut self, host: usize) {
        let frozen = self.hosts[host].engine.freeze();
        drop(frozen.state());
        assert!(frozen.thaw().poll_timeout().is_some());
    }
}

#[test]
fn nothing_is_lost_repeated_or_reordered_by_twenty_hand_overs_on_both_sides() {
    let mut world = World::connected(2);
    world.say(0, 1, 0);
    world.run(Duration::from_millis(10));

    for number in 1..2_000 {
        world.say(0, 1, number);
        world.say(1, 0, number);
        if number % 100 == 0 {
            world.hand_over(usize::try_from(number / 100 % 2).expect("small"));
        }
        world.run(Duration::from_micros(700));
    }
    world.run(Duration::from_secs(1));

    assert_eq!(world.numbers(1), (0..2_000).collect::<Vec<_>>());
    assert_eq!(world.numbers(0), (1..2_000).collect::<Vec<_>>());
    for host in 0..2 {
        assert_eq!(
            world.counters(host).drops().map(|(_, count)| count).sum::<u64>(),
            0,
            "host {host}"
        );
    }
    world.assert_accounted();
}

#[test]
fn sessions_go_on_for_as_long_as_they_would_have() {
    let mut world = World::connected(2);
    world.tap = Some(Vec::new());

    for number in 0..1_200 {
        world.say(0, 1, number);
        world.say(1, 0, number);
        world.run(Duration::from_millis(500));
        if number % 20 == 0 {
            world.hand_over(0);
        }
        if number % 30 == 0 {
            world.hand_over(1);
        }
    }

    assert_eq!(world.numbers(0), (0..1_200).collect::<Vec<_>>());
    assert_eq!(world.numbers(1), (0..1_200).collect::<Vec<_>>());
    let initiations =
        world.tap.take().expect("a tap").iter().filter(|datagram| datagram.bytes[0] == 1).count();
    assert!((5..=12).contains(&initiations), "{initiations} in ten minutes");
    world.assert_accounted();
}

#[test]
fn packets_that_wait_for_a_session_wait_on() {
    let mut world = World::connected(2);
    (0..10).for_each(|number| world.say(0, 1, number));

    world.hand_over(0);
    world.run(Duration::from_millis(100));

    assert_eq!(world.numbers(1), (0..10).collect::<Vec<_>>());
    world.assert_accounted();
}

#[test]
fn handed_over_at_any_moment_of_a_handshake_packets_arrive_soon() {
    for micros in (0..4_000).step_by(250) {
        for host in 0..2 {
            let mut world = World::connected(2);
            world.say(0, 1, 1);
            world.run(Duration::from_micros(micros));
            world.hand_over(host);
            world.say(0, 1, 2);
            world.run(Duration::from_millis(50));

            assert_eq!(world.numbers(1), [1, 2], "host {host} after {micros} µs");
            world.assert_accounted();
        }
    }
}

#[test]
fn what_was_accepted_is_refused_by_the_next_process() {
    let mut world = World::connected(2);
    world.tap = Some(Vec::new());
    (0..10).for_each(|number| world.say(0, 1, number));
    world.run(Duration::from_millis(100));
    assert_eq!(world.numbers(1).len(), 10);

    world.hand_over(1);
    for datagram in world.tap.take().expect("a tap") {
        world.inject(datagram);
    }
    world.run(Duration::from_millis(100));

    assert_eq!(world.numbers(1), [0; 0]);
    assert!(world.dropped(1, DropReason::CounterRefused) >= 10);
    assert_eq!(world.dropped(1, DropReason::HandshakeReplayed), 1);
}

#[test]
fn who_was_reached_where_and_how_large_packets_may_be_is_known_at_once() {
    let mut world = World::connected(2);
    world.narrow.insert((0, 1), 1_300);
    world.say(0, 1, 0);
    world.run(Duration::from_secs(2));
    let before = world.status(0);
    assert!(before.mtu < MTU);

    world.hand_over(0);

    let after = world.status(0);
    assert_eq!((after.mtu, after.mtu_source), (before.mtu, before.mtu_source));
    assert_eq!((after.underlay, after.state), (before.underlay, PeerState::Established));
    assert_eq!((after.tx_bytes, after.last_handshake), (before.tx_bytes, before.last_handshake));
    assert!(world.hosts[0].events.iter().any(|event| matches!(event, Event::Established { .. })));
}

#[test]
fn networks_with_other_keys_and_members_that_are_gone_are_not_taken_over() {
    let mut world = World::connected(3);
    (1..3).for_each(|peer| world.say(0, peer, 1));
    world.run(Duration::from_millis(100));
    let mut old = std::mem::replace(&mut world.hosts[0].engine, Engine::new(config(world.now)));
    let mut tables = Tables::default();
    tables.networks.insert(network(NET), Arc::new(table(NET, 0, &[0, 1])));
    world.hosts[0].engine.publish(&tables, world.now);

    world.hosts[0].engine.resume(old.freeze().state(), world.now);

    let peers = world.hosts[0].engine.status(world.now);
    assert_eq!(peers.iter().map(|peer| peer.node).collect::<Vec<_>>(), [node(1)]);

    let mut foreign = Engine::new(config(world.now));
    let mut other = table(NET, 0, &[0, 1]);
    other.private_key = key(9, 9);
    tables.networks.insert(network(NET), Arc::new(other));
    foreign.publish(&tables, world.now);
    foreign.resume(old.freeze().state(), world.now);
    assert!(foreign.status(world.now).iter().all(|peer| peer.state == PeerState::Idle));
}

#[test]
fn an_engine_that_nobody_took_over_goes_on() {
    let mut world = World::connected(2);

    for number in 0..200 {
        world.say(0, 1, number);
        if number % 10 == 0 {
            world.freeze_and_thaw(0);
        }
        world.run(Duration::from_millis(1));
    }
    world.run(Duration::from_millis(100));

    assert_eq!(world.numbers(1), (0..200).collect::<Vec<_>>());
    world.assert_accounted();
}

fn config(now: Instant) -> EngineConfig {
    EngineConfig { lane: LaneId(0), lanes: 1, seed: [5; 32], now, unix_time: EPOCH }
}
