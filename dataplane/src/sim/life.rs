//! The life of a session between honest peers on an honest underlay.

use std::time::Duration;

use super::*;
use crate::{PeerError, PeerState};

#[test]
fn packets_arrive_in_both_directions_and_both_families() {
    let mut world = World::connected(2);

    world.say(0, 1, 1);
    world.run(Duration::from_millis(100));
    world.say(1, 0, 2);
    world.send(0, NET, &numbered(inner6(0), inner6(1), 3));
    world.run(Duration::from_millis(100));

    assert_eq!(world.numbers(1), [1, 3]);
    assert_eq!(world.numbers(0), [2]);
    assert_eq!(world.status(0).state, PeerState::Established);
    assert_eq!(world.status(1).state, PeerState::Established);
    world.assert_accounted();
}

#[test]
fn packets_that_wait_for_the_session_arrive_in_order_and_before_later_ones() {
    let mut world = World::connected(2);

    (0..10).for_each(|number| world.say(0, 1, number));
    world.run(Duration::from_millis(100));
    (10..20).for_each(|number| world.say(0, 1, number));
    world.run(Duration::from_millis(100));

    assert_eq!(world.numbers(1), (0..20).collect::<Vec<_>>());
    world.assert_accounted();
}

#[test]
fn both_sides_may_begin_at_the_same_moment() {
    let mut world = World::connected(2);

    for number in 0..20 {
        world.say(0, 1, number);
        world.say(1, 0, number);
        world.run(Duration::from_micros(300));
    }
    world.run(Duration::from_secs(30));

    assert_eq!(world.numbers(0), (0..20).collect::<Vec<_>>());
    assert_eq!(world.numbers(1), (0..20).collect::<Vec<_>>());
    world.assert_accounted();
}

#[test]
fn batches_come_out_whole_and_in_order() {
    let mut world = World::connected(2);
    world.say(0, 1, 0);
    world.run(Duration::from_millis(10));
    world.numbers(1);
    let packets: Vec<_> = (0..200).map(|number| numbered(inner(0), inner(1), number)).collect();

    world.hosts[0].engine.handle_tun(network(NET), packets.iter().map(Vec::as_slice), start());
    let mut batches = Vec::new();
    while let Some(batch) = world.hosts[0].engine.poll_transmit() {
        batches.push((batch.bytes.to_vec(), batch.segment));
    }
    for (bytes, segment) in &batches {
        world.hosts[1].engine.handle_udp(underlay(0), bytes, *segment, start());
    }
    world.collect();
    world.run(Duration::from_millis(10));

    assert_eq!(batches.len(), 200_usize.div_ceil(64));
    assert_eq!(world.numbers(1), (0..200).collect::<Vec<_>>());
    world.assert_accounted();
}

#[test]
fn sessions_are_renewed_without_a_lost_packet() {
    let mut world = World::connected(2);

    for number in 0..600 {
        world.say(0, 1, number);
        world.say(1, 0, number);
        world.run(Duration::from_secs(1));
        assert!(world.status(0).last_handshake.expect("a handshake") < Duration::from_secs(180));
    }

    assert_eq!(world.numbers(0), (0..600).collect::<Vec<_>>());
    assert_eq!(world.numbers(1), (0..600).collect::<Vec<_>>());
    assert!(world.counters(0).control_sent >= 8, "no rekey in ten minutes");
    world.assert_accounted();
}

#[test]
fn a_talker_that_is_only_listened_to_is_renewed_too() {
    let mut world = World::connected(2);

    for number in 0..600 {
        world.say(0, 1, number);
        world.run(Duration::from_secs(1));
    }

    assert_eq!(world.numbers(1), (0..600).collect::<Vec<_>>());
    world.assert_accounted();
}

#[test]
fn a_session_forgotten_for_want_of_traffic_comes_back_on_demand() {
    let mut world = World::connected(2);
    world.tap = Some(Vec::new());
    world.say(0, 1, 1);
    world.run(Duration::from_secs(310));
    assert_eq!(world.status(0).state, PeerState::Idle, "the session is over");
    world.run(Duration::from_secs(3400));
    assert_eq!(world.hosts[0].engine.poll_timeout(), None, "an idle lane sleeps");
    for datagram in world.tap.take().expect("a tap") {
        world.inject(datagram);
    }
    world.run(Duration::ZERO);
    assert_eq!(world.dropped(0, DropReason::NoSession), 0, "the tunnel's index is forgotten, too");
    assert_eq!(world.dropped(1, DropReason::NoSession), 0);

    world.say(1, 0, 2);
    world.run(Duration::from_millis(50));
    world.say(0, 1, 3);
    world.run(Duration::from_millis(50));

    assert_eq!(world.numbers(0), [2]);
    assert_eq!(world.numbers(1), [1, 3]);
    let established = |event: &&Event| matches!(event, Event::Established { .. });
    assert_eq!(world.hosts[0].events.len(), 2, "{:?}", world.hosts[0].events);
    assert_eq!(world.hosts[0].events.iter().filter(established).count(), 2);
    assert!(world.status(0).since < Duration::from_secs(1));
    world.assert_accounted();
}

#[test]
fn a_restarted_peer_that_wakes_its_peers_is_back_within_a_second() {
    let mut world = World::connected(2);
    world.say(0, 1, 1);
    world.run(Duration::from_secs(10));

    world.restart(1, 0);
    world.wake(1);
    let mut numbers = 100..;
    let restarted = world.now;
    world.numbers(1);
    while world.numbers(1).is_empty() {
        world.say(0, 1, numbers.next().expect("endless"));
        world.run(Duration::from_millis(5));
        assert!(world.now - restarted < Duration::from_secs(1), "no traffic within a second");
    }

    assert!(world.dropped(1, DropReason::UnknownIndex) <= 2, "packets for the old session");
    world.assert_accounted();
}

#[test]
fn a_restarted_peer_calls_back_who_still_uses_an_old_session() {
    let mut world = World::connected(3);
    world.say(0, 1, 1);
    world.run(Duration::from_secs(10));

    world.restart(1, 0);
    world.numbers(1);
    world.say(0, 1, 3);
    world.run(Duration::from_millis(50));
    world.say(0, 1, 4);
    world.run(Duration::from_millis(50));

    assert_eq!(world.numbers(1), [4], "the first told that nobody knows the session");
    let states: Vec<_> =
        world.hosts[1].engine.status(world.now).iter().map(|peer| peer.state).collect();
    assert_eq!(states, [PeerState::Established, PeerState::Idle], "nobody else was called");
    world.assert_accounted();
}

#[test]
fn strangers_and_late_callers_are_not_called_back() {
    let mut world = World::connected(2);
    world.restart(1, 0);
    let message = [[4, 0, 0, 0].as_slice(), &[7; 60]].concat();

    world.hosts[1].engine.handle_udp(
        "203.0.113.5:1".parse().expect("valid"),
        &message,
        message.len(),
        world.now,
    );
    assert!(world.hosts[1].engine.poll_transmit().is_none(), "no member");
    let member = world.hosts[0].addr;
    let late = world.now + Duration::from_secs(180);
    world.hosts[1].engine.handle_udp(member, &message, message.len(), late);

    assert!(world.hosts[1].engine.poll_transmit().is_none(), "no session is so old");
}

#[test]
fn a_flood_under_a_members_address_calls_it_once() {
    let mut world = World::connected(2);
    world.restart(1, 0);
    let (member, now) = (world.hosts[0].addr, world.now);
    let message = [[4, 0, 0, 0].as_slice(), &[7; 60]].concat();

    for _ in 0..1_000 {
        world.hosts[1].engine.handle_udp(member, &message, message.len(), now);
    }

    assert!(
        world.hosts[1].engine.poll_transmit().is_some_and(|transmit| transmit.bytes.len() == 148)
    );
    assert!(world.hosts[1].engine.poll_transmit().is_none());
}

#[test]
fn waking_does_not_disturb_sessions() {
    let mut world = World::connected(2);
    world.say(0, 1, 1);
    world.run(Duration::from_secs(1));
    let before = world.counters(0).control_sent;

    world.wake(0);

    assert_eq!(world.counters(0).control_sent, before);
}

#[test]
fn a_peer_whose_clock_went_back_is_refused_until_we_call_it() {
    let mut world = World::connected(2);
    world.say(1, 0, 1);
    world.run(Duration::from_secs(310));

    world.restart(1, -3600);
    world.wake(1);
    world.run(Duration::from_secs(3));

    assert!(world.dropped(0, DropReason::HandshakeReplayed) >= 1);
    assert_eq!(world.status(0).error, Some(PeerError::ClockWentBack));
    world.numbers(1);
    world.say(0, 1, 2);
    world.run(Duration::from_secs(1));
    assert_eq!(world.numbers(1), [2]);
    assert_eq!(world.status(0).error, None);
    world.assert_accounted();
}

#[test]
fn a_peer_that_moves_is_followed_once_it_proves_itself() {
    let mut world = World::connected(2);
    world.say(0, 1, 1);
    world.run(Duration::from_secs(1));
    let moved: SocketAddr = "198.51.100.9:4500".parse().expect("valid");

    world.hosts[1].addr = moved;
    world.say(1, 0, 2);
    world.run(Duration::from_millis(10));
    world.say(0, 1, 3);
    world.run(Duration::from_millis(10));

    assert_eq!(world.numbers(1), [1, 3]);
    assert_eq!(world.status(0).underlay, Some(moved));
    let roamed = Event::Roamed {
        network: network(NET),
        node: node(1),
        lane: LaneId(0),
        from: underlay(1),
        to: moved,
    };
    assert!(world.hosts[0].events.contains(&roamed));
}

#[test]
fn candidates_are_tried_until_one_answers() {
    let mut world = World::connected(2);
    let mut wrong_first = table(NET, 0, &[0, 1]);
    first_peer(&mut wrong_first).lanes[0].candidates = vec![
        Candidate::host(underlay(7), 0),
        Candidate::host(underlay(8), 0),
        Candidate::host(underlay(1), 0),
    ];
    world.publish(0, wrong_first);

    world.say(0, 1, 1);
    world.run(Duration::from_secs(5));

    assert_eq!(world.numbers(1), [1]);
    assert_eq!(world.status(0).underlay, Some(underlay(1)));
}

#[test]
fn a_new_published_address_is_tried_at_once() {
    let mut world = World::connected(2);
    world.say(0, 1, 1);
    world.run(Duration::from_secs(1));
    world.hosts[1].addr = underlay(9);
    let mut moved = table(NET, 0, &[0, 1]);
    first_peer(&mut moved).lanes[0].candidates = vec![Candidate::host(underlay(9), 0)];

    world.publish(0, moved);
    world.run(Duration::from_millis(10));
    world.say(0, 1, 2);
    world.run(Duration::from_millis(10));

    assert_eq!(world.numbers(1), [1, 2]);
}

#[test]
fn a_peer_that_never_answers_is_reported_and_its_packets_are_counted() {
    let mut world = World::connected(2);
    world.tap = Some(Vec::new());
    world.hosts[1].addr = underlay(9);

    (0..200).for_each(|number| world.say(0, 1, number));
    assert_eq!(world.counters(0).waiting, 128);
    assert_eq!(world.dropped(0, DropReason::QueueOverflow), 72);
    world.run(Duration::from_secs(4));
    let status = world.status(0);
    assert_eq!(status.state, PeerState::Connecting);
    assert!(matches!(status.error, Some(PeerError::NoAnswer { attempts: 3.. })), "{status:?}");
    world.run(Duration::from_secs(116));
    let status = world.status(0);
    assert!(matches!(status.error, Some(PeerError::Silent { attempts: 60.. })), "{status:?}");

    assert_eq!(world.dropped(0, DropReason::HandshakeTimeout), 128);
    assert_eq!(world.status(0).state, PeerState::Unreachable);
    assert!(matches!(world.hosts[0].events[..], [Event::Unreachable { .. }]));
    let index = world.tap.take().expect("a tap")[0].bytes[4..8].to_vec();
    let bytes = [&[4, 0, 0, 0], &index[..], &[0; 40]].concat();
    world.inject(Datagram { from: underlay(1), to: underlay(0), bytes });
    world.run(Duration::ZERO);
    assert_eq!(
        world.dropped(0, DropReason::UnknownIndex),
        1,
        "the tunnel's index is forgotten, too"
    );
    world.assert_accounted();

    world.hosts[1].addr = underlay(1);
    world.say(0, 1, 7);
    world.run(Duration::from_secs(3));
    assert_eq!(world.numbers(1), [7], "tried again on demand");
    assert_eq!(world.status(0).state, PeerState::Established);
}

#[test]
fn a_peer_without_any_address_is_said_so_but_may_call_us() {
    let mut world = World::connected(2);
    let mut nowhere = table(NET, 0, &[0, 1]);
    first_peer(&mut nowhere).lanes[0].candidates.clear();
    world.publish(0, nowhere);

    world.say(0, 1, 1);
    assert_eq!(world.dropped(0, DropReason::NoUnderlayAddr), 1);
    assert_eq!(world.status(0).error, Some(PeerError::NoUnderlayAddr));

    world.say(1, 0, 2);
    world.run(Duration::from_millis(10));
    world.say(0, 1, 3);
    world.run(Duration::from_millis(10));
    assert_eq!(world.numbers(1), [3]);
    assert_eq!(world.status(0).error, None);
    world.assert_accounted();
}

#[test]
fn what_waits_uses_the_session_that_the_other_side_makes() {
    let mut world = World::connected(2);
    let mut astray = table(NET, 1, &[0, 1]);
    first_peer(&mut astray).lanes[0].candidates = vec![Candidate::host(underlay(9), 0)];
    world.publish(1, astray);

    world.say(1, 0, 1);
    world.run(Duration::from_secs(2));
    assert_eq!(world.counters(1).waiting, 1);
    world.say(0, 1, 2);
    world.run(Duration::from_millis(10));

    assert_eq!(world.numbers(0), [1]);
    assert_eq!(world.counters(1).waiting, 0);
    world.assert_accounted();
}

#[test]
fn the_clock_of_the_driver_may_stumble() {
    let mut world = World::connected(2);
    world.run(Duration::from_secs(10));
    world.say(0, 1, 1);
    world.run(Duration::from_secs(130));

    // A new link to the same peer, whose initiation must not be older than its last.
    world.publish(0, table(NET, 0, &[0]));
    world.publish(0, table(NET, 0, &[0, 1]));

    let earlier = world.now - Duration::from_secs(140);
    world.hosts[0].engine.handle_timeout(earlier);
    world.hosts[0].engine.handle_tun(network(NET), [&numbered(inner(0), inner(1), 2)[..]], earlier);
    world.collect();
    world.run(Duration::from_millis(500));

    assert_eq!(world.numbers(1), [1, 2]);
    assert_eq!(world.dropped(1, DropReason::HandshakeReplayed), 0);
}
