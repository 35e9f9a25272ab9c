//! Honest peers on a bad underlay.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::PeerState;

const BAD: Faults = Faults {
    loss_percent: 30,
    twice_percent: 20,
    delay: Duration::from_millis(20),
    jitter: Duration::from_millis(80),
};

#[test]
fn a_bad_underlay_loses_packets_but_invents_and_doubles_none() {
    let mut world = World::connected(3);
    world.faults = BAD;

    for number in 0..4000 {
        world.say(0, 1, number);
        world.say(1, 2, number);
        world.say(2, 0, number);
        world.run(Duration::from_millis(100));
    }
    world.run(Duration::from_secs(5));

    for host in 0..3 {
        let numbers = world.numbers(host);
        let distinct: BTreeSet<_> = numbers.iter().copied().collect();
        assert_eq!(distinct.len(), numbers.len(), "a packet was delivered twice");
        assert!(distinct.iter().all(|number| *number < 4000), "a packet out of nowhere");
        assert!(numbers.len() > 2400, "only {} of 4000 arrived on host {host}", numbers.len());
        assert!(
            world.dropped(host, DropReason::CounterRefused) > 300,
            "doubles are refused by their counter"
        );
    }
    world.assert_accounted();
}

#[test]
fn a_session_is_found_soon_although_most_is_lost() {
    let mut world = World::connected(2);
    world.faults = Faults { loss_percent: 60, ..BAD };

    world.say(0, 1, 1);
    world.run(Duration::from_secs(60));

    assert_eq!(world.status(0).state, PeerState::Established);
    world.assert_accounted();
}

#[test]
fn an_outage_is_survived() {
    let mut world = World::connected(2);
    world.say(0, 1, 1);
    world.run(Duration::from_secs(10));

    world.faults.loss_percent = 100;
    for number in 2..300 {
        world.say(0, 1, number);
        world.run(Duration::from_secs(1));
    }
    world.faults.loss_percent = 0;
    for number in 300..310 {
        world.say(0, 1, number);
        world.run(Duration::from_secs(1));
    }

    assert_eq!(world.numbers(1).last(), Some(&309));
    world.assert_accounted();
}
