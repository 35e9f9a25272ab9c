//! Peers that stop answering, hear nothing, lose much, move, or cannot be called: what is reported
//! about them, and how soon.

use std::time::Duration;

use super::*;
use crate::{PeerError, PeerState};

const SECOND: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(100);
/// How soon a failure must be reported, and how soon its report must end once it is over.
const SAID: Duration = Duration::from_secs(6);
const GONE: Duration = Duration::from_secs(2);

/// Two hosts whose containers exchange requests and answers.
fn talking() -> World {
    let mut world = World::connected(2);
    talk(&mut world, SECOND * 3);
    assert_eq!(errors(&world), [None, None]);
    world
}

/// Lets host 0 send ten requests a second, and host 1 answer those that arrive.
fn talk(world: &mut World, time: Duration) {
    talk_every(world, TICK, time);
}

fn talk_every(world: &mut World, tick: Duration, time: Duration) {
    let end = world.now + time;
    while world.now < end {
        world.say(0, 1, 7);
        world.run(tick / 2);
        for _ in world.numbers(1) {
            world.say(1, 0, 8);
        }
        world.run(tick / 2);
    }
}

/// Exchanges packets until `said` holds, and returns how long that took.
fn until(world: &mut World, said: impl Fn(&World) -> bool) -> Duration {
    let begin = world.now;
    while !said(world) {
        talk(world, TICK);
        assert!(world.now - begin < SECOND * 60, "{:?}", errors(world));
    }
    world.now - begin
}

fn errors(world: &World) -> [Option<PeerError>; 2] {
    [0, 1].map(|host| world.status(host).error)
}

fn is_silent(world: &World, host: usize) -> bool {
    let status = world.status(host);
    status.state == PeerState::Unreachable && matches!(status.error, Some(PeerError::Silent { .. }))
}

fn is_deaf(world: &World, host: usize) -> bool {
    let status = world.status(host);
    status.state == PeerState::Unreachable && status.error == Some(PeerError::NotHeard)
}

fn is_up(world: &World, host: usize) -> bool {
    let status = world.status(host);
    status.state == PeerState::Established && status.error.is_none()
}

fn all_up(world: &World) -> bool {
    is_up(world, 0) && is_up(world, 1)
}

#[test]
fn a_peer_that_is_cut_off_is_silent_within_seconds_and_up_again_at_once() {
    for outage in [10, 45, 100, 170, 400] {
        let mut world = talking();
        world.blocked.extend([(0, 1), (1, 0)]);

        let said = until(&mut world, |world| is_silent(world, 0));
        assert!(said <= SAID, "after {said:?}");
        talk(&mut world, SECOND * outage);
        assert!(is_silent(&world, 0));

        world.blocked.clear();
        let gone = until(&mut world, |world| is_up(world, 0));
        assert!(gone <= GONE + SECOND, "an outage of {outage} s is over after {gone:?}");
        world.assert_accounted();
    }
}

#[test]
fn a_peer_that_never_answered_is_silent_as_soon() {
    let mut world = World::connected(2);
    world.blocked.insert((0, 1));

    assert!(until(&mut world, |world| is_silent(world, 0)) <= SAID);

    world.blocked.clear();
    assert!(until(&mut world, |world| is_up(world, 0)) <= GONE);
}

#[test]
fn each_side_says_which_direction_is_blocked() {
    for deaf in [0, 1] {
        let heard = 1 - deaf;
        let mut world = talking();
        // Packets from the peer that is heard arrive; packets to it do not.
        world.blocked.insert((heard, deaf));

        let said = until(&mut world, |world| is_silent(world, deaf) && is_deaf(world, heard));
        assert!(said <= SAID + SECOND, "after {said:?}");
        // The same when no session is left.
        talk(&mut world, SECOND * 200);
        assert!(is_silent(&world, 0) || is_deaf(&world, 0), "{:?}", errors(&world));

        world.blocked.clear();
        let gone = until(&mut world, all_up);
        assert!(gone <= GONE + SECOND * 3, "after {gone:?}");
        talk(&mut world, SECOND * 30);
        assert!(all_up(&world), "{:?}", errors(&world));
        world.assert_accounted();
    }
}

/// A stream that nobody answers: who hears nothing has nothing to send.
#[test]
fn each_side_says_it_of_a_stream_in_one_direction_too() {
    let mut world = talking();
    let stream = |world: &mut World, time: Duration| {
        let end = world.now + time;
        while world.now < end {
            world.say(0, 1, 7);
            world.run(TICK);
        }
    };
    stream(&mut world, SECOND * 20);
    let asked = world.counters(1).control_sent;
    stream(&mut world, SECOND * 20);
    assert!(all_up(&world), "{:?}", errors(&world));
    assert!(world.counters(1).control_sent <= asked + 20, "the answers to the sender's reports");

    world.blocked.insert((0, 1));
    stream(&mut world, SECOND * 7);

    assert!(is_silent(&world, 1) && is_deaf(&world, 0), "{:?}", errors(&world));
    world.blocked.clear();
    let gone = until(&mut world, all_up);
    assert!(gone <= GONE + SECOND, "after {gone:?}");
    world.assert_accounted();
}

#[test]
fn a_stall_of_three_seconds_is_no_trouble() {
    let mut world = talking();
    world.blocked.extend([(0, 1), (1, 0)]);
    for _ in 0..30 {
        talk(&mut world, TICK);
        assert!(all_up(&world), "{:?}", errors(&world));
    }
    world.blocked.clear();
    for _ in 0..100 {
        talk(&mut world, TICK);
        assert!(all_up(&world), "{:?}", errors(&world));
    }
}

#[test]
fn an_idle_tunnel_is_silent_and_nobody_minds() {
    let mut world = talking();
    // The library renews a session once more than it is needed.
    world.run(SECOND * 400);
    let sent = [0, 1].map(|host| world.counters(host).control_sent);

    world.run(SECOND * 600);

    assert_eq!([0, 1].map(|host| world.counters(host).control_sent), sent);
    assert_eq!(errors(&world), [None, None]);
}

#[test]
fn what_nobody_wants_any_more_is_given_up() {
    let mut world = talking();
    world.blocked.extend([(0, 1), (1, 0)]);
    until(&mut world, |world| is_silent(world, 0));

    world.run(SECOND * 400);
    let sent = world.counters(0).control_sent;
    world.run(SECOND * 600);

    assert_eq!(world.status(0).state, PeerState::Idle);
    assert_eq!(world.status(0).error, None);
    assert_eq!(world.counters(0).control_sent, sent);
}

#[test]
fn knowing_costs_a_sender_that_nobody_answers_one_message_in_two_seconds() {
    let mut world = World::connected(2);
    world.say(0, 1, 1);
    world.run(SECOND * 5);
    let before = world.counters(0).control_sent;

    for number in 0..600 {
        world.say(0, 1, number);
        world.run(TICK);
    }

    assert!(
        world.counters(0).control_sent - before <= 45,
        "{}",
        world.counters(0).control_sent - before
    );
    assert!(all_up(&world));
}

#[test]
fn a_lossy_direction_is_measured_on_both_sides_and_forgotten_soon() {
    let mut world = talking();
    let high = |world: &World, host: usize| {
        let status = world.status(host);
        [status.incoming_loss, status.outgoing_loss]
            .map(|loss| loss.is_some_and(|loss| loss.is_high))
    };
    let until = |world: &mut World, expected: [[bool; 2]; 2]| {
        let begin = world.now;
        while [high(world, 0), high(world, 1)] != expected {
            talk_every(world, TICK / 50, TICK);
            assert!(world.now - begin < SECOND * 60, "{:?}", world.status(0));
        }
        world.now - begin
    };
    world.faults.loss_percent = 10;

    let said = until(&mut world, [[true; 2]; 2]);
    assert!(said <= SECOND * 8, "after {said:?}");
    let loss = world.status(0).outgoing_loss.expect("a loss").permille;
    assert!((70..=130).contains(&loss), "{loss}");

    world.faults.loss_percent = 0;
    let gone = until(&mut world, [[false; 2]; 2]);
    assert!(gone <= SECOND * 4, "after {gone:?}");
    assert!(world.status(0).round_trip.is_some_and(|trip| trip == Duration::from_millis(2)));
}

#[test]
fn a_sound_path_loses_nothing_whatever_its_order() {
    let mut world = talking();
    world.faults = Faults {
        delay: Duration::from_millis(30),
        jitter: Duration::from_millis(20),
        ..Faults::NONE
    };
    for _ in 0..20 {
        for _ in 0..500 {
            world.say(0, 1, 1);
            world.run(Duration::from_millis(1));
        }
        for host in [0, 1] {
            let status = world.status(host);
            let losses = [status.incoming_loss, status.outgoing_loss].into_iter().flatten();
            assert!(
                losses.into_iter().all(|loss| !loss.is_high && loss.permille <= 60),
                "{status:?}"
            );
            assert_eq!(status.error, None);
        }
    }
    assert!(world.status(1).incoming_loss.is_some());
}

#[test]
fn a_receiver_that_moves_says_so_at_once() {
    let mut world = talking();
    let mut silence = Duration::ZERO;
    for (address, by) in [(7, 1), (8, 0), (9, 1)] {
        world.hosts[by].addr = underlay(address);
        world.hosts[by].engine.announce(world.now);
        world.collect();
        world.numbers(1);
        let moved = world.now;
        while world.numbers(1).is_empty() && world.now - moved < SECOND * 5 {
            world.say(0, 1, 1);
            world.run(Duration::from_millis(5));
        }
        silence = silence.max(world.now - moved);
    }
    assert!(silence <= TICK, "{silence:?}");
    talk(&mut world, SECOND * 20);
    assert!(all_up(&world));
}

#[test]
fn both_ends_may_move_at_once() {
    let mut world = talking();
    for host in [0, 1] {
        world.hosts[host].addr = underlay(host + 20);
        world.hosts[host].engine.announce(world.now);
    }
    world.collect();
    talk(&mut world, TICK);

    // Then control tells both hosts.
    let moved = world.now;
    for host in [0, 1] {
        let mut table = table(NET, host, &[0, 1]);
        first_peer(&mut table).lanes[0].candidates = vec![Candidate::host(underlay(21 - host), 0)];
        world.publish(host, table);
    }
    world.numbers(1);
    while world.numbers(1).is_empty() && world.now - moved < SECOND * 5 {
        world.say(0, 1, 1);
        world.run(Duration::from_millis(10));
    }

    assert!(world.now - moved <= TICK * 3, "{:?}", world.now - moved);
}

/// Three hosts, some of which are behind translations.
fn behind(translated: &[usize]) -> World {
    let mut world = World::new(3);
    for host in translated {
        let public = SocketAddr::from(([198, 51, 100, u8::try_from(*host).expect("small")], 4_000));
        world.translations.insert(*host, Translation { public, called: BTreeMap::new() });
    }
    for host in 0..3 {
        world.know_own(host);
        world.publish(host, table(NET, host, &[0, 1, 2]));
        let now = world.now;
        world.hosts[host].engine.greet(now);
        world.collect();
    }
    world.run(SECOND);
    world
}

#[test]
fn a_node_behind_a_translation_is_reached_whenever_it_is_called() {
    let mut world = behind(&[1]);
    let seen = |world: &World| {
        world.hosts[1].engine.status(world.now).iter().filter_map(|peer| peer.seen_at).count()
    };
    assert!(seen(&world) >= 1, "it was told");

    for pause in [0, 40, 200, 4_000] {
        world.run(SECOND * pause);
        for host in [0, 2] {
            world.say(host, 1, 5);
            world.run(TICK);
            assert_eq!(world.numbers(1), [5], "a call by host {host} after {pause} s");
        }
    }
    assert!(world.hosts[0].engine.status(world.now).iter().any(|peer| peer.is_translated));
    world.assert_accounted();
}

#[test]
fn a_node_behind_a_translation_is_found_again_by_those_that_begin_anew() {
    let mut world = behind(&[1]);
    world.run(SECOND * 60);

    world.restart(0, 0);
    world.run(SECOND * 30);
    world.say(0, 1, 6);
    world.run(SECOND);

    assert_eq!(world.numbers(1), [6]);
}

#[test]
fn two_nodes_behind_translations_are_silent_to_each_other_and_to_nobody_else() {
    let mut world = behind(&[0, 1]);
    for _ in 0..10 {
        world.say(0, 1, 1);
        world.run(SECOND);
    }

    let status = world.hosts[0].engine.status(world.now);
    assert_eq!(status[0].state, PeerState::Unreachable);
    assert_eq!(status[0].heard, None);
    assert_eq!(status[1].state, PeerState::Established);
    assert_eq!(status[1].seen_at.map(|addr| addr.ip()), Some(world.translations[&0].public.ip()));
}
