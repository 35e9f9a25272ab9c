//! More than one network, more than one lane, and tables that change.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::PeerState;

#[test]
fn networks_with_the_same_prefix_on_the_same_sockets_stay_apart() {
    let mut world = World::new(2);
    for host in 0..2 {
        world.publish(host, table(1, host, &[0, 1]));
        world.publish(host, table(2, host, &[0, 1]));
    }

    for number in 0..100 {
        world.send(0, 1, &numbered(inner(0), inner(1), 1_000 + number));
        world.send(0, 2, &numbered(inner(0), inner(1), 2_000 + number));
        world.run(Duration::from_millis(1));
    }
    world.run(Duration::from_secs(1));

    let received = std::mem::take(&mut world.hosts[1].received);
    assert_eq!(received.len(), 200);
    for (id, packet) in received {
        assert_eq!(network(u64::from(number_of(&packet) / 1000)), id);
    }
    assert_eq!(world.counters(1).dropped_in(Direction::Inbound), 0);
    world.assert_accounted();
}

#[test]
fn a_table_that_stays_costs_no_session() {
    let mut world = World::connected(3);
    world.say(0, 1, 1);
    world.run(Duration::from_secs(1));
    let before = world.counters(0).control_sent;

    // Host 2 leaves; host 1 becomes another row of the table.
    world.publish(0, table(NET, 0, &[0, 1]));
    world.publish(0, table(NET, 0, &[2, 0, 1]));
    world.say(0, 1, 2);
    world.run(Duration::from_secs(1));
    world.say(1, 0, 3);
    world.run(Duration::from_secs(1));

    assert_eq!(world.numbers(1), [1, 2]);
    assert_eq!(world.numbers(0), [3]);
    assert_eq!(world.counters(0).control_sent, before, "no new handshake");
}

#[test]
fn timers_still_run_after_the_table_changed() {
    let mut world = World::connected(3);
    world.say(0, 1, 1);
    world.run(Duration::from_secs(1));

    for round in 0..300_u32 {
        let members: &[usize] = if round.is_multiple_of(2) { &[0, 1] } else { &[0, 2, 1] };
        world.publish(0, table(NET, 0, members));
        world.say(0, 1, round);
        world.run(Duration::from_secs(1));
    }

    assert_eq!(world.numbers(1).len(), 301);
    world.assert_accounted();
}

#[test]
fn a_removed_peer_is_refused_at_once() {
    let mut world = World::connected(2);
    world.say(1, 0, 1);
    world.run(Duration::from_secs(1));
    world.numbers(0);

    world.publish(0, table(NET, 0, &[0]));
    for number in 0..30 {
        world.say(1, 0, number);
        world.run(Duration::from_secs(1));
    }
    world.say(0, 1, 99);

    assert_eq!(world.numbers(0), Vec::<u32>::new());
    assert!(
        world.dropped(0, DropReason::UnknownIndex) >= 30,
        "data of the old session, and requests"
    );
    assert!(world.dropped(0, DropReason::UnknownPeer) >= 1, "new handshakes");
    assert_eq!(world.dropped(0, DropReason::NoRoute), 1);
    world.assert_accounted();
}

#[test]
fn packets_that_wait_for_a_removed_peer_are_counted() {
    let mut world = World::connected(2);
    world.hosts[1].addr = underlay(9);
    world.say(0, 1, 1);
    world.send(0, NET, &numbered(inner6(0), inner6(1), 2));

    world.publish(0, table(NET, 0, &[0]));
    assert_eq!(world.dropped(0, DropReason::PeerRemoved), 2);

    world.publish(0, table(NET, 0, &[0, 1]));
    world.say(0, 1, 1);
    world.withdraw(0, NET);
    assert_eq!(world.dropped(0, DropReason::PeerRemoved), 3);
    world.say(0, 1, 1);
    assert_eq!(world.dropped(0, DropReason::UnknownNetwork), 1);
    world.assert_accounted();
}

#[test]
fn a_new_key_of_ours_starts_the_network_anew() {
    let mut world = World::connected(2);
    world.say(0, 1, 1);
    world.run(Duration::from_secs(1));

    let rekeyed = NetworkTable { private_key: key(NET, 5), ..table(NET, 0, &[0, 1]) };
    world.publish(0, rekeyed);
    assert_eq!(world.status(0).state, PeerState::Idle);
    let mut other = table(NET, 1, &[0, 1]);
    first_peer(&mut other).lanes[0].public_key = pub_key(NET, 5);
    world.publish(1, other);
    world.say(0, 1, 2);
    world.run(Duration::from_secs(1));

    assert_eq!(world.numbers(1), [1, 2]);
    world.assert_accounted();
}

#[test]
fn a_key_that_moves_to_another_node_takes_no_session_along() {
    let mut world = World::connected(2);
    world.say(1, 0, 1);
    world.run(Duration::from_secs(1));

    let mut moved = table(NET, 0, &[0, 1]);
    first_peer(&mut moved).node = node(7);
    world.publish(0, moved);
    world.say(1, 0, 2);
    world.run(Duration::from_secs(1));

    assert_eq!(world.numbers(0), [1]);
    assert_eq!(world.dropped(0, DropReason::UnknownIndex), 1);
}

/// Two engines stand for two lanes of one node (hosts 0 and 1), a third one for a node with one
/// lane (host 2).
fn lanes() -> World {
    let mut world = World::new(3);
    let lane = |host| PeerLane {
        public_key: pub_key(NET, host),
        candidates: vec![Candidate::host(underlay(host), 0)],
    };
    let two_lanes =
        PeerTable { node: node(0), lanes: vec![lane(0), lane(1)], allowed_ips: prefixes(0) };
    for (host, id) in [(0, 0), (1, 1)] {
        let now = world.now;
        world.hosts[host].engine = Engine::new(EngineConfig {
            lane: LaneId(id),
            lanes: 2,
            seed: [id.to_le_bytes()[0] + 50; 32],
            now,
            unix_time: Duration::from_secs(1),
        });
        world.publish(host, NetworkTable { local: prefixes(0), ..table(NET, host, &[2]) });
    }
    world.publish(
        2,
        NetworkTable { peers: Arc::new(vec![Arc::new(two_lanes)]), ..table(NET, 2, &[]) },
    );
    world
}

#[test]
fn every_lane_of_a_peer_may_speak_for_it() {
    let mut world = lanes();

    world.send(0, NET, &numbered(inner(0), inner(2), 1));
    world.send(1, NET, &numbered(inner(0), inner(2), 2));
    world.run(Duration::from_secs(1));
    world.send(2, NET, &numbered(inner(2), inner(0), 3));
    world.run(Duration::from_secs(1));

    let mut numbers = world.numbers(2);
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2]);
    assert_eq!(
        (world.numbers(0), world.numbers(1)),
        (vec![3], vec![]),
        "our lane 0 sends to their lane 0"
    );
    world.assert_accounted();
}

#[test]
fn waking_reaches_every_lane_that_sends_to_us() {
    let mut world = lanes();

    world.wake(2);
    world.run(Duration::from_secs(1));

    let states: Vec<_> =
        world.hosts[2].engine.status(world.now).iter().map(|peer| peer.state).collect();
    assert_eq!(states, [PeerState::Established, PeerState::Established]);
}

#[test]
fn oversized_packets_are_answered_in_the_name_of_their_destination() {
    let mut world = World::connected(2);

    world.send(0, NET, &packet(inner(0), inner(1), usize::from(MTU)));
    world.send(0, NET, &packet(inner(0), inner(1), usize::from(MTU) + 1));
    world.send(0, NET, &packet(inner6(0), inner6(1), usize::from(MTU) + 1));
    world.run(Duration::from_secs(1));

    assert_eq!(world.hosts[1].received.len(), 1);
    assert_eq!(world.hosts[1].received[0].1.len(), usize::from(MTU));
    let errors: Vec<_> = world.hosts[0]
        .received
        .iter()
        .map(|(_, error)| crate::ip::parse(error).expect("sound"))
        .collect();
    assert_eq!(errors.iter().map(|error| error.source).collect::<Vec<_>>(), [inner(1), inner6(1)]);
    assert_eq!(
        errors.iter().map(|error| error.destination).collect::<Vec<_>>(),
        [inner(0), inner6(0)]
    );
    assert_eq!(world.dropped(0, DropReason::TooBig), 2);
    assert_eq!(world.counters(0).icmp_sent, 2);
    world.assert_accounted();
}

#[test]
fn oversized_packets_in_numbers_are_not_all_answered() {
    let mut world = World::connected(2);

    for _ in 0..1000 {
        world.send(0, NET, &packet(inner(0), inner(1), 1500));
    }

    assert_eq!(world.dropped(0, DropReason::TooBig), 1000);
    assert_eq!(world.counters(0).icmp_sent, 50);
}
