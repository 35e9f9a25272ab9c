//! Notices from node to node: whoever can be reached from one that knows is told, within seconds,
//! and what a node does not believe goes no further.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::Notices;

const SECOND: Duration = Duration::from_secs(1);
/// How long the agents of these tests take to verify a notice.
const AGENT: Duration = Duration::from_millis(20);
/// How soon everyone must know who can be reached.
const SAID: Duration = Duration::from_secs(3);
/// What agents believe.
const NEWS: &[u8] = b"news";

/// Has a host know a notice besides those that it knows.
fn learn(world: &mut World, host: usize, message: &[u8]) {
    let now = world.now;
    let host = &mut world.hosts[host];
    let mut messages = host.tables.notices.messages.clone();
    messages.insert(0, message.into());
    let digest = messages.len() as u64;
    host.tables.notices = Arc::new(Notices { digest, messages });
    host.engine.publish(&host.tables, now);
    world.collect();
}

fn knows(world: &World, host: usize) -> bool {
    world.hosts[host].tables.notices.messages.iter().any(|known| known[..] == *NEWS)
}

/// Lets time pass; agents learn what they hear and believe.
fn gossip(world: &mut World, time: Duration) {
    let end = world.now + time;
    while world.now < end {
        world.run(AGENT);
        for host in 0..world.hosts.len() {
            let heard = std::mem::take(&mut world.hosts[host].events);
            let is_news = |event: &Event| matches!(event, Event::Notice { message, .. } if message[..] == *NEWS);
            if !knows(world, host) && heard.iter().any(is_news) {
                learn(world, host, NEWS);
            }
        }
    }
}

fn heard(world: &World, host: usize) -> usize {
    let events = world.hosts[host].events.iter();

    events.filter(|event| matches!(event, Event::Notice { .. })).count()
}

fn talk(world: &mut World, pairs: impl IntoIterator<Item = (usize, usize)>) {
    for (from, to) in pairs {
        world.say(from, to, 1);
    }
    world.run(SECOND);
}

/// Lists the hosts that can be reached from the first, by paths that pass in both directions.
fn reachable(hosts: usize, blocked: &BTreeSet<(usize, usize)>) -> BTreeSet<usize> {
    let mut known = BTreeSet::from([0]);
    for _ in 0..hosts {
        let passes = |from: usize, to: usize| {
            !blocked.contains(&(from, to)) && !blocked.contains(&(to, from))
        };
        let more: Vec<_> =
            (0..hosts).filter(|to| known.iter().any(|from| passes(*from, *to))).collect();
        known.extend(more);
    }
    known
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whoever_can_be_reached_from_one_that_knows_is_told(
        hosts in 2..7_usize,
        cuts in proptest::collection::vec((0..7_usize, 0..7_usize), 0..16),
        talks in proptest::collection::vec((0..7_usize, 0..7_usize), 0..6),
    ) {
        let mut world = World::connected(hosts);
        let within = |pair: &(usize, usize)| pair.0 < hosts && pair.1 < hosts && pair.0 != pair.1;
        talk(&mut world, talks.into_iter().filter(within));
        for (a, b) in cuts.into_iter().filter(within) {
            world.blocked.extend([(a, b), (b, a)]);
        }

        learn(&mut world, 0, NEWS);
        gossip(&mut world, SAID);

        let expected = reachable(hosts, &world.blocked);
        let told: BTreeSet<_> = (0..hosts).filter(|host| knows(&world, *host)).collect();
        prop_assert_eq!(told, expected);
        world.assert_accounted();
    }
}

#[test]
fn a_lossy_path_delays_news_and_does_not_keep_them() {
    let mut world = World::connected(4);
    talk(&mut world, [(0, 1), (1, 2), (2, 3), (3, 0)]);
    world.faults.loss_percent = 30;

    learn(&mut world, 0, NEWS);
    gossip(&mut world, SECOND * 10);

    assert!((0..4).all(|host| knows(&world, host)));
}

#[test]
fn a_peer_that_comes_up_later_is_told_with_its_first_session() {
    let mut world = World::connected(3);
    world.blocked.extend([(0, 2), (2, 0), (1, 2), (2, 1)]);
    learn(&mut world, 0, NEWS);
    gossip(&mut world, SECOND * 200);
    assert!(!knows(&world, 2));

    world.blocked.clear();
    world.say(2, 1, 1);
    gossip(&mut world, SAID);

    assert!(knows(&world, 2));
}

#[test]
fn a_node_that_is_taken_out_is_told_first() {
    let mut world = World::connected(2);
    talk(&mut world, [(0, 1)]);
    world.numbers(1);

    let without = Arc::new(table(NET, 0, &[0]));
    world.hosts[0].tables.networks.insert(network(NET), without);
    learn(&mut world, 0, NEWS);
    world.run(AGENT);

    assert_eq!(heard(&world, 1), 1);
    world.say(1, 0, 2);
    world.run(SECOND);
    assert_eq!(world.numbers(0), []);
    world.assert_accounted();
}

#[test]
fn what_is_not_believed_goes_no_further_and_ends() {
    let mut world = World::connected(3);
    talk(&mut world, [(0, 1), (1, 2)]);
    learn(&mut world, 0, b"a lie");

    gossip(&mut world, SECOND * 2);
    world.run(SECOND * 20);
    let sent = world.counters(0).control_sent;
    world.run(SECOND * 60);

    assert!(heard(&world, 1) + heard(&world, 2) == 0, "they were told it only at first");
    assert!((1..3).all(|host| world.hosts[host].tables.notices.messages.is_empty()));
    assert!(world.counters(0).control_sent - sent <= 4, "and not for ever");
}

#[test]
fn nodes_at_rest_that_know_the_same_say_nothing() {
    let mut world = World::connected(2);
    learn(&mut world, 0, NEWS);
    gossip(&mut world, SAID);
    world.run(SECOND * 10);
    let sent = world.counters(0).control_sent + world.counters(1).control_sent;

    world.run(SECOND * 20);

    let later = world.counters(0).control_sent + world.counters(1).control_sent;
    assert!(later - sent <= 2, "{} messages at rest", later - sent);
}

#[test]
fn a_flood_of_notices_is_refused_and_counted() {
    let mut world = World::connected(2);
    talk(&mut world, [(0, 1)]);

    for round in 0..20_u8 {
        let now = world.now;
        let messages = (0..50_u8).map(|n| Arc::from([round, n].as_slice())).collect();
        let host = &mut world.hosts[0];
        host.tables.notices = Arc::new(Notices { digest: u64::from(round) + 1, messages });
        host.engine.publish(&host.tables, now);
        world.collect();
        world.run(Duration::from_millis(5));
    }

    assert!(heard(&world, 1) < 80, "{} were taken", heard(&world, 1));
    assert!(world.dropped(1, DropReason::RateLimited) > 900);
    world.assert_accounted();
}
