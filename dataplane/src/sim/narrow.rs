//! Paths that carry less than the tunnel's MTU, without telling anybody, and that change.

use std::time::Duration;

use etherparse::{Icmpv4Slice, Icmpv4Type, icmpv4};
use proptest::prelude::*;

use super::*;
use crate::fragment::V6_MIN_MTU;
use crate::mss::tests::{offered, syn};
use crate::{MtuSource, ip};

const MS: Duration = Duration::from_millis(1);
/// The headers around an inner packet, in bytes: IPv4, UDP, WireGuard.
const OVERHEAD: usize = 60;

fn carried(outer: usize) -> u16 {
    u16::try_from((outer - OVERHEAD) / 16 * 16).expect("small").min(MTU)
}

/// A world of two hosts whose paths carry packets of up to `there` and `back` bytes, after a second
/// of traffic.
fn world(there: usize, back: usize) -> World {
    let mut world = World::connected(2);
    world.narrow.extend([((0, 1), there), ((1, 0), back)]);
    world.say(0, 1, 0);
    world.say(1, 0, 0);
    world.run(Duration::from_secs(1));
    world.hosts.iter_mut().for_each(|host| host.received.clear());
    world
}

/// A packet that must not be fragmented.
fn whole(from: IpAddr, to: IpAddr, len: usize) -> Vec<u8> {
    let mut bytes = packet(from, to, len);
    bytes[6] = 0x40;
    bytes
}

/// Returns the MTU that an ICMP error gives.
fn named(error: &[u8]) -> u16 {
    let Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::FragmentationNeeded {
        next_hop_mtu,
    }) = Icmpv4Slice::from_slice(&error[20..]).expect("ICMP").icmp_type()
    else {
        panic!("fragmentation needed")
    };
    next_hop_mtu
}

/// A sender that fills every packet, follows ICMP errors, and measures how long nothing arrived.
struct Sender {
    mtu: u16,
    silence: Duration,
    longest: Duration,
}

impl Sender {
    fn new() -> Self {
        Self { mtu: MTU, silence: Duration::ZERO, longest: Duration::ZERO }
    }

    /// Sends ten packets a millisecond. When nothing arrives, it repeats one after 200 ms, 600 ms
    /// and 1.4 s, as TCP does.
    fn run(&mut self, world: &mut World, time: Duration) {
        let mut repeat_at = 200 * MS;
        for _ in 0..time.as_millis() {
            let count =
                if self.silence < 20 * MS { 10 } else { usize::from(self.silence == repeat_at) };
            if count == 1 {
                repeat_at = repeat_at * 2 + 200 * MS;
            }
            for _ in 0..count {
                world.send(0, NET, &whole(inner(0), inner(1), self.mtu.into()));
            }
            let errors = std::mem::take(&mut world.hosts[0].received);
            if let Some(told) =
                errors.iter().map(|(_, error)| named(error)).min().filter(|told| *told < self.mtu)
            {
                self.mtu = told;
                world.send(0, NET, &whole(inner(0), inner(1), told.into()));
            }
            world.run(MS);
            self.silence =
                if world.hosts[1].received.is_empty() { self.silence + MS } else { Duration::ZERO };
            if self.silence.is_zero() {
                repeat_at = 200 * MS;
            }
            world.hosts[1].received.clear();
            self.longest = self.longest.max(self.silence);
        }
    }
}

#[test]
fn each_direction_has_a_size_of_its_own() {
    for (there, back) in
        [(576, 1500), (1280, 1300), (1420, 1280), (1492, 576), (1500, 1500), (9000, 1300)]
    {
        let world = world(there, back);

        for (host, outer) in [(0, there), (1, back)] {
            let status = world.status(host);
            let source = if outer < 1468 { MtuSource::Probed } else { MtuSource::Link };
            assert_eq!(
                (status.mtu, status.mtu_source),
                (carried(outer), source),
                "{there} and {back}"
            );
        }
        world.assert_accounted();
    }
}

#[test]
fn senders_are_told_the_size_in_the_name_of_the_destination() {
    let mut world = world(1280, 1500);

    world.send(0, NET, &whole(inner(0), inner(1), 1217));
    world.send(0, NET, &whole(inner(0), inner(1), 1216));
    world.send(0, NET, &packet(inner6(0), inner6(1), 1281));
    world.run(MS * 10);

    assert_eq!(world.hosts[1].received.len(), 1, "what fits arrives");
    let errors = std::mem::take(&mut world.hosts[0].received);
    assert_eq!(errors.len(), 2);
    assert_eq!(ip::parse(&errors[0].1).expect("sound").source, inner(1));
    assert_eq!(named(&errors[0].1), 1216);
    // No sender goes below the IPv6 minimum MTU, so none is asked to.
    assert_eq!(errors[1].1[44..48], u32::from(V6_MIN_MTU).to_be_bytes());
    assert_eq!(world.dropped(0, DropReason::TooBig), 2);
    world.assert_accounted();
}

#[test]
fn what_may_be_cut_is_cut() {
    let mut world = world(576, 1500);

    for packet in [packet(inner(0), inner(1), 1400), packet(inner6(0), inner6(1), 1280)] {
        world.send(0, NET, &packet);
        world.run(MS * 10);

        let pieces: Vec<_> = world.hosts[1].received.drain(..).map(|(_, piece)| piece).collect();
        assert_eq!(pieces.len(), 3);
        assert!(pieces.iter().all(|piece| piece.len() <= 512));
    }
    assert_eq!(world.counters(0).fragments, 4);
    assert!(world.hosts[0].received.is_empty(), "nobody is bothered");
    world.assert_accounted();
}

#[test]
fn tcp_begins_with_what_the_path_carries() {
    let mut world = world(1300, 1500);
    let syn = |from: usize, to: usize, is_v6: bool| {
        let mut bytes = syn(is_v6, 1360, 0);
        match (inner(from), inner(to), inner6(from), inner6(to)) {
            (IpAddr::V4(from), IpAddr::V4(to), _, _) if !is_v6 => {
                bytes[12..16].copy_from_slice(&from.octets());
                bytes[16..20].copy_from_slice(&to.octets());
            }
            (_, _, IpAddr::V6(from), IpAddr::V6(to)) => {
                bytes[8..24].copy_from_slice(&from.octets());
                bytes[24..40].copy_from_slice(&to.octets());
            }
            _ => panic!("one family"),
        }
        bytes
    };

    for (is_v6, expected) in [(false, 1232 - 40), (true, 1232 - 60)] {
        for (from, to) in [(0, 1), (1, 0)] {
            world.send(from, NET, &syn(from, to, is_v6));
            world.run(MS * 10);

            let (_, arrived) = world.hosts[to].received.pop().expect("it arrives");
            let sliced = etherparse::TcpSlice::from_slice(&arrived[if is_v6 { 40 } else { 20 }..])
                .expect("TCP");
            let mss = sliced.options_iterator().find_map(|option| match option {
                Ok(etherparse::TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
                _ => None,
            });
            assert_eq!(mss, Some(expected), "from {from}");
        }
    }
    assert_eq!(
        offered(&crate::mss::tests::syn(false, 1360, 0)),
        1360,
        "the test's own packet is sound"
    );
    assert_eq!(
        (world.counters(0).mss_clamped, world.counters(1).mss_clamped),
        (4, 0),
        "the side that knows does it"
    );
    world.assert_accounted();
}

#[test]
fn a_path_that_changes_while_in_use_never_stalls_for_a_second() {
    let mut world = world(1500, 1500);
    let mut sender = Sender::new();
    sender.run(&mut world, Duration::from_secs(1));

    for outer in [1420, 1300, 1280, 576] {
        world.narrow.insert((0, 1), outer);
        sender.run(&mut world, Duration::from_secs(2));
        assert_eq!(sender.mtu, carried(outer));
    }
    assert!(sender.longest < 500 * MS, "{:?}", sender.longest);

    world.narrow.clear();
    for _ in 0..700 {
        world.send(0, NET, &whole(inner(0), inner(1), sender.mtu.into()));
        world.run(MS * 100);
    }
    assert_eq!((world.status(0).mtu, world.status(0).mtu_source), (MTU, MtuSource::Link));
    assert_eq!(world.dropped(1, DropReason::InnerMalformed), 0);
    world.assert_accounted();
}

#[test]
fn a_peer_that_moves_is_asked_again() {
    let mut world = world(1300, 1500);
    assert_eq!(world.status(0).mtu, carried(1300));

    world.narrow.insert((0, 1), 1400);
    world.hosts[1].addr = SocketAddr::from(([198, 51, 100, 9], 4500));
    world.say(1, 0, 1);
    world.run(Duration::from_secs(1));

    assert_eq!(world.status(0).mtu, carried(1400));
}

#[test]
fn a_narrow_path_to_one_peer_is_nobody_elses() {
    let mut world = World::connected(3);
    world.narrow.insert((0, 1), 1280);
    for to in [1, 2] {
        world.say(0, to, 0);
    }
    world.run(Duration::from_secs(1));

    let mtus: Vec<_> =
        world.hosts[0].engine.status(world.now).iter().map(|peer| peer.mtu).collect();
    assert_eq!(mtus, [1216, MTU]);
    world.send(0, NET, &whole(inner(0), inner(2), MTU.into()));
    world.run(MS * 10);
    assert_eq!(world.hosts[2].received.len(), 2);
}

/// Invariant 13.
#[test]
fn nobody_without_the_session_can_change_a_size() {
    let mut world = World::connected(2);
    world.tap = Some(Vec::new());
    world.narrow.insert((0, 1), 1300);
    world.say(0, 1, 0);
    world.run(Duration::from_secs(1));
    let recorded = world.tap.take().expect("recorded");

    for mut datagram in recorded {
        // Unchanged, from another address, and changed in every byte that the header does not
        // cover.
        world.inject(datagram.clone());
        datagram.from = SocketAddr::from(([203, 0, 113, 1], 53));
        world.inject(datagram.clone());
        for at in 16..datagram.bytes.len().min(48) {
            let mut forged = datagram.clone();
            forged.bytes[at] ^= 1;
            world.inject(forged);
        }
        world.run(MS);
    }

    assert_eq!((world.status(0).mtu, world.status(1).mtu), (carried(1300), MTU));
    world.assert_accounted();
}

#[test]
fn a_peer_can_ask_for_no_more_than_it_gives() {
    let mut world = World::connected(2);
    world.say(1, 0, 0);
    world.run(Duration::from_secs(1));
    world.tap = Some(Vec::new());

    // Ten seconds of load.
    for _ in 0..10_000 {
        world.send(1, NET, &whole(inner(1), inner(0), MTU.into()));
        world.run(MS);
        world.hosts[0].received.clear();
    }

    let tap = world.tap.take().expect("recorded");
    let (load, answers): (Vec<_>, Vec<_>) =
        tap.iter().partition(|datagram| datagram.from == underlay(1));
    assert!(answers.len() <= 10 * 20 * 2 + 100, "{}", answers.len());
    let probes = load.len() - 10_000;
    assert!(probes <= 10 * 20 * 2 + 100, "{probes}");
    assert!(answers.iter().all(|answer| answer.bytes.len() <= 148));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_the_paths_everything_sent_at_their_size_arrives(
        there in 576..1600_usize, back in 576..1600_usize, loss_percent in 0..10_u32,
    ) {
        let mut world = World::connected(2);
        world.narrow.extend([((0, 1), there), ((1, 0), back)]);
        world.faults = Faults { loss_percent, ..Faults::NONE };
        for number in 0..200 {
            world.say(0, 1, number);
            world.say(1, 0, number);
            world.run(MS * 20);
        }
        world.faults = Faults::NONE;
        world.run(Duration::from_secs(1));
        world.hosts.iter_mut().for_each(|host| host.received.clear());

        for (from, to, outer) in [(0, 1, there), (1, 0, back)] {
            let mtu = world.status(from).mtu;
            prop_assert!(mtu <= carried(outer) && mtu + 64 >= carried(outer), "{} of {}", mtu, carried(outer));
            world.send(from, NET, &whole(inner(from), inner(to), mtu.into()));
            world.run(MS * 10);
            prop_assert_eq!(world.hosts[to].received.len(), 1);
        }
        world.assert_accounted();
    }
}
