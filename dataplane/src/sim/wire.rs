//! What a wire can do to datagrams: lose, duplicate, reorder and alter them, and replay recorded
//! ones. At full size these tests take minutes, so the number of datagrams is small unless
//! `OVERLAY_DATAGRAMS` is set.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::seq::SliceRandom as _;

use super::*;

/// How many datagrams a test sends by default.
const FEW: usize = 8_000;
/// How far datagrams are reordered: within the replay window ([`crate::noise`]; rule D4 of the
/// threat model).
const DISORDER: usize = 8_000;
/// One live packet is sent after this many others.
const LIVE: usize = 1_000;
/// The first number of live packets.
const LIVE_FROM: u32 = 1 << 31;

fn datagrams() -> usize {
    std::env::var("OVERLAY_DATAGRAMS").ok().and_then(|text| text.parse().ok()).unwrap_or(FEW)
}

/// A packet in which every byte follows from its number.
fn telling(number: u32) -> Vec<u8> {
    let mut bytes = packet(inner(0), inner(1), 400);
    let mut dice = StdRng::seed_from_u64(u64::from(number));
    dice.fill(&mut bytes[28..]);
    bytes[60..64].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// Two hosts with a session, and the datagrams by which one sends `count` packets to the other,
/// which has not received them.
fn sent(count: usize) -> (World, Vec<Datagram>) {
    let mut world = World::connected(2);
    world.say(0, 1, 0);
    world.run(Duration::from_secs(1));
    assert_eq!(world.numbers(1), [0]);
    world.tap = Some(Vec::new());
    world.faults.loss_percent = 100;
    for number in 0..count {
        world.send(0, NET, &telling(u32::try_from(number).expect("a number")));
    }
    world.faults = Faults::NONE;
    let recorded = world.tap.take().expect("a tap");
    assert_eq!(recorded.len(), count);
    (world, recorded)
}

fn give(world: &mut World, host: usize, datagram: &Datagram) {
    world.hosts[host].engine.handle_udp(
        datagram.from,
        &datagram.bytes,
        datagram.bytes.len(),
        world.now,
    );
}

#[test]
fn disorder_within_the_window_loses_nothing_and_doubles_nothing() {
    let mut doubled = 0;
    for _ in 0..datagrams().div_ceil(DISORDER) {
        let (mut world, recorded) = sent(DISORDER);
        let mut arriving: Vec<&Datagram> =
            recorded.iter().chain(recorded.iter().step_by(5)).collect();
        arriving.shuffle(&mut world.dice);
        let refused = world.dropped(1, DropReason::CounterRefused);

        arriving.iter().for_each(|datagram| give(&mut world, 1, datagram));
        world.collect();

        let packets: Vec<_> = world.hosts[1].received.drain(..).map(|(_, packet)| packet).collect();
        let numbers: BTreeSet<_> = packets.iter().map(|packet| number_of(packet)).collect();
        assert_eq!((packets.len(), numbers.len()), (DISORDER, DISORDER), "each exactly once");
        assert!(packets.iter().all(|packet| *packet == telling(number_of(packet))), "unaltered");
        assert_eq!(world.dropped(1, DropReason::CounterRefused) - refused, (DISORDER / 5) as u64);
        doubled += DISORDER / 5;
        world.assert_accounted();
    }
    assert!(doubled > 0);
}

#[test]
fn of_altered_datagrams_none_arrives() {
    let (mut world, recorded) = sent(datagrams().min(200_000));
    let mut dice = StdRng::seed_from_u64(3);
    let mut altered = 0_u64;
    let delivered = world.counters(1).delivered;

    for datagram in &recorded {
        let mut changed = datagram.clone();
        for _ in 0..dice.random_range(1..4) {
            let bit = dice.random_range(0..changed.bytes.len() * 8);
            changed.bytes[bit / 8] ^= 1 << (bit % 8);
        }
        if dice.random_range(0..10) == 0 {
            changed.bytes.truncate(dice.random_range(0..changed.bytes.len()));
        }
        if changed.bytes != datagram.bytes {
            altered += 1;
            give(&mut world, 1, &changed);
        }
    }
    world.collect();
    assert_eq!(world.counters(1).delivered, delivered, "of {altered} altered datagrams");
    assert_eq!(world.numbers(1), Vec::<u32>::new());

    // The session still works: all datagrams that are within the window arrive unaltered.
    let last = recorded.len() - recorded.len().min(DISORDER);
    recorded[last..].iter().for_each(|datagram| give(&mut world, 1, datagram));
    world.collect();
    let arrived = std::mem::take(&mut world.hosts[1].received);
    assert_eq!(arrived.len(), recorded.len() - last);
    assert!(arrived.iter().all(|(_, packet)| *packet == telling(number_of(packet))));
    world.assert_accounted();
}

#[test]
fn whatever_is_lost_and_doubled_the_rest_arrives_once_and_unaltered() {
    for loss_percent in [1, 5, 10, 20, 30] {
        let mut world = World::connected(2);
        world.say(0, 1, 0);
        world.run(Duration::from_secs(1));
        world.numbers(1);
        world.faults = Faults {
            loss_percent,
            twice_percent: 20,
            jitter: Duration::from_millis(70),
            ..Faults::NONE
        };

        let count = u32::try_from(datagrams() / 5).expect("a number");
        for number in 0..count {
            world.send(0, NET, &telling(number));
            // 100,000 packets a second: 7,000 are on their way at a time.
            world.run(Duration::from_micros(10));
        }
        world.run(Duration::from_secs(1));

        let packets: Vec<_> = world.hosts[1].received.drain(..).map(|(_, packet)| packet).collect();
        let numbers: BTreeSet<_> = packets.iter().map(|packet| number_of(packet)).collect();
        assert_eq!(packets.len(), numbers.len(), "{loss_percent} % loss: none twice");
        assert!(
            packets.iter().all(|packet| *packet == telling(number_of(packet))),
            "{loss_percent} % loss: unaltered"
        );
        let lost = f64::from(count) - packets.len() as f64;
        // Both copies of a duplicate are lost or arrive together, so what is missing is what was
        // lost.
        let expected = f64::from(count * loss_percent) / 100.0;
        assert!(
            (lost - expected).abs() < 5.0 * expected.sqrt() + 5.0,
            "{loss_percent} % loss: {lost} of {count} missing"
        );
        world.assert_accounted();
    }
}

#[test]
fn nothing_recorded_is_accepted_from_anywhere_at_any_time() {
    let mut world = World::connected(2);
    world.say(0, 1, LIVE_FROM);
    world.run(Duration::from_secs(1));
    world.numbers(1);
    world.tap = Some(Vec::new());
    let count = datagrams();
    // Over three session lifetimes, in both directions.
    let pause = Duration::from_secs(400) / u32::try_from(count).expect("a number");
    for number in (0..u32::try_from(count).expect("a number")).step_by(2) {
        world.say(0, 1, number);
        world.say(1, 0, number + 1);
        world.run(pause * 2);
    }
    world.run(Duration::from_secs(1));
    let mut recorded = world.tap.take().expect("a tap");
    assert!(recorded.len() >= count);
    assert_eq!(world.numbers(0).len() + world.numbers(1).len(), count / 2 * 2);
    recorded.shuffle(&mut world.dice);

    replay(&mut world, &recorded, "at once");
    // After 130 s of traffic both sides have new sessions.
    for number in 0..13 {
        world.say(0, 1, LIVE_FROM + number);
        world.run(Duration::from_secs(10));
    }
    assert_eq!(world.numbers(1).len(), 13);
    replay(&mut world, &recorded, "after new sessions");
    world.restart(1, 0);
    world.wake(1);
    world.run(Duration::from_secs(1));
    replay(&mut world, &recorded, "after a restart");
}

/// Gives every datagram to both hosts, from its own address and from others, while live packets are
/// sent.
fn replay(world: &mut World, recorded: &[Datagram], when: &str) {
    world.say(0, 1, LIVE_FROM);
    world.run(Duration::from_secs(1));
    world.numbers(1);
    let before: Vec<_> = [0, 1].iter().map(|host| world.counters(*host).delivered).collect();
    world.hosts.iter_mut().for_each(|host| host.events.clear());
    let mut live = 0;
    for (at, datagram) in recorded.iter().enumerate() {
        let from = match at % 3 {
            0 => datagram.from,
            1 => SocketAddr::from(([203, 0, 113, u8::try_from(at % 251).expect("small")], 4_500)),
            _ => SocketAddr::from((
                datagram.from.ip(),
                1_024 + u16::try_from(at % 60_000).expect("small"),
            )),
        };
        for host in [0, 1] {
            give(world, host, &Datagram { from, ..datagram.clone() });
        }
        if at % LIVE == 0 {
            world.say(0, 1, LIVE_FROM + live);
            live += 1;
            world.run(Duration::from_millis(5));
        }
    }
    world.run(Duration::from_secs(1));

    let heard = world.numbers(1);
    assert_eq!(heard.len(), live as usize, "{when}: live packets arrive, each once, and no other");
    assert_eq!(world.numbers(0), Vec::<u32>::new(), "{when}");
    assert!(heard.iter().all(|number| *number >= LIVE_FROM), "{when}: a recorded one");
    // Apart from keepalives nothing else was accepted.
    let after: Vec<_> = [0, 1].iter().map(|host| world.counters(*host).delivered).collect();
    let keepalives = after[0] - before[0] + (after[1] - before[1]) - u64::from(live);
    assert!(keepalives <= 20, "{when}: {keepalives} more");
    for host in &world.hosts {
        assert!(
            !host.events.iter().any(|event| matches!(event, Event::Roamed { .. })),
            "{when}: {:?}",
            host.events
        );
    }
    for (host, other) in [(0, 1), (1, 0)] {
        assert_eq!(world.status(host).underlay, Some(underlay(other)), "{when}");
    }
    world.assert_accounted();
}
