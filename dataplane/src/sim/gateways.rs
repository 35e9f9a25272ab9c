//! Hosts that reach another network through peers that are in both.

use ipnet::IpNet;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(20);
/// How soon another gateway is used.
const FAIL_OVER: Duration = Duration::from_millis(1_300);

/// The prefixes of the linked network.
fn beyond() -> [IpNet; 2] {
    ["10.43.0.0/16", "fd43::/64"].map(|prefix| prefix.parse().expect("a prefix"))
}

/// An address there.
fn far() -> IpAddr {
    Ipv4Addr::new(10, 43, 0, 9).into()
}

/// Host 0 is in one network alone; hosts 1 and 2 are gateways to another one, host 3 is neither.
fn linked() -> World {
    let mut world = World::connected(4);
    for host in 0..4 {
        publish(&mut world, host, &[1, 2]);
    }
    world
}

fn publish(world: &mut World, host: usize, gateways: &[usize]) {
    let mut table = table(NET, host, &[0, 1, 2, 3]);
    if gateways.contains(&host) {
        table.local.extend(beyond());
    }
    let gateways = gateways.iter().map(|gateway| node(*gateway)).collect();
    table.links = Arc::new(vec![LinkTable { prefixes: beyond().to_vec(), gateways }]);
    world.publish(host, table);
}

/// Has host 0 send to the other network every 20 ms, and each gateway answer what it gets. Returns
/// the longest pause between two answers, and who gave the last one.
fn talk(world: &mut World, time: Duration) -> (Duration, Option<usize>) {
    let (mut last, mut longest, mut by) = (world.now, Duration::ZERO, None);
    let end = world.now + time;
    while world.now < end {
        world.send(0, NET, &numbered(inner(0), far(), 1));
        world.run(TICK);
        for gateway in [1, 2] {
            for _ in world.numbers(gateway) {
                world.send(gateway, NET, &numbered(far(), inner(0), 2));
                by = Some(gateway);
            }
        }
        world.run(TICK);
        if !world.numbers(0).is_empty() {
            longest = longest.max(world.now - last);
            last = world.now;
        }
    }

    (longest.max(world.now - last), by)
}

fn cut(world: &mut World, host: usize) {
    for other in (0..4).filter(|other| *other != host) {
        world.blocked.extend([(host, other), (other, host)]);
    }
}

#[test]
fn a_gateway_that_is_gone_gives_way_to_the_next_and_is_used_again_once_it_is_heard() {
    let mut world = linked();
    assert_eq!(talk(&mut world, SECOND * 3).1, Some(1));

    cut(&mut world, 1);
    let (gap, by) = talk(&mut world, SECOND * 5);
    assert_eq!(by, Some(2));
    assert!(gap <= FAIL_OVER, "{gap:?}");
    let (gap, by) = talk(&mut world, SECOND * 600);
    assert_eq!(by, Some(2));
    assert!(gap < SECOND, "the lost one is not tried with packets: {gap:?}");

    world.blocked.clear();
    world.wake(1);
    let (gap, by) = talk(&mut world, SECOND * 5);
    assert_eq!(by, Some(1));
    assert!(gap < SECOND, "{gap:?}");
    world.assert_accounted();
}

/// Whoever answers has nothing to send when the gateway is lost.
#[test]
fn who_only_answers_knows_as_soon() {
    let mut world = linked();
    talk(&mut world, SECOND * 3);
    // Host 0 has sent last a moment ago, and every packet was answered.
    world.run(SECOND);
    cut(&mut world, 1);
    world.run(FAIL_OVER);

    let (gap, by) = talk(&mut world, SECOND);

    assert_eq!(by, Some(2));
    assert!(gap < TICK * 3, "{gap:?}");
}

/// What is not in use is not asked about.
#[test]
fn a_gateway_that_rests_is_left_alone() {
    let mut world = linked();
    talk(&mut world, SECOND);
    world.run(SECOND * 30);
    world.tap = Some(Vec::new());
    world.run(SECOND * 5);

    assert_eq!(world.tap.map(|tap| tap.len()), Some(0));
}

#[test]
fn a_gateway_that_never_answered_gives_way_too() {
    let mut world = linked();
    cut(&mut world, 1);

    let (gap, by) = talk(&mut world, SECOND * 3);

    assert_eq!(by, Some(2));
    assert!(gap <= FAIL_OVER, "{gap:?}");
}

#[test]
fn without_any_gateway_packets_are_refused_and_where_all_are_gone_they_wait_for_the_first() {
    let mut world = linked();
    cut(&mut world, 1);
    cut(&mut world, 2);
    talk(&mut world, SECOND * 5);
    world.blocked.clear();
    assert!(talk(&mut world, SECOND * 3).1.is_some());

    publish(&mut world, 0, &[]);
    let before = world.dropped(0, DropReason::NoRoute);
    world.send(0, NET, &numbered(inner(0), far(), 1));
    assert_eq!(world.dropped(0, DropReason::NoRoute), before + 1);
    world.assert_accounted();
}

/// Invariant 4.
#[test]
fn addresses_of_a_linked_network_come_from_its_gateways_and_from_nobody_else() {
    let mut world = linked();
    // Host 3 believes that it is a gateway as well, and so sends what it likes.
    let mut forger = table(NET, 3, &[0, 1, 2, 3]);
    forger.local.extend(beyond());
    world.publish(3, forger);

    for (sender, arrives) in [(1, true), (2, true), (3, false)] {
        world.send(sender, NET, &numbered(far(), inner(0), 7));
        world.run(SECOND);
        assert_eq!(!world.numbers(0).is_empty(), arrives, "host {sender}");
    }
    assert_eq!(world.dropped(0, DropReason::InnerSourceForged), 1);

    // Nor does a gateway speak for other members, or for a third network.
    for source in [inner(3), Ipv4Addr::new(10, 44, 0, 9).into()] {
        let mut forger = table(NET, 1, &[0, 1, 2, 3]);
        forger.local.push(IpNet::from(source));
        world.publish(1, forger);
        world.send(1, NET, &numbered(source, inner(0), 7));
        world.run(SECOND);
        assert!(world.numbers(0).is_empty(), "{source}");
    }

    // From the moment that it is none any more.
    publish(&mut world, 0, &[2]);
    publish(&mut world, 1, &[1]);
    world.send(1, NET, &numbered(far(), inner(0), 7));
    world.run(SECOND);
    assert!(world.numbers(0).is_empty());
    // A host that is no gateway takes nothing for the other network.
    let before = world.dropped(3, DropReason::InnerNotLocal);
    publish(&mut world, 3, &[1, 2]);
    publish(&mut world, 0, &[3]);
    world.send(0, NET, &numbered(inner(0), far(), 7));
    world.run(SECOND);
    assert_eq!(world.dropped(3, DropReason::InnerNotLocal), before + 1);
    world.assert_accounted();
}
