//! One path and its two ends, in virtual time.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::inquiry::TIME_BITS;
use super::*;
use crate::noise::PADDING;
use crate::sim::start;

/// A path that carries payloads of up to `carries` bytes, with an end that answers.
struct Rig {
    path: PathMtu,
    now: Instant,
    carries: usize,
    round_trip: Duration,
    loss: f64,
    is_stranger: bool,
    wire: BTreeMap<(Instant, u64), (Tag, u16)>,
    sent: u64,
    dice: StdRng,
}

impl Rig {
    fn new(limit: u16, carries: usize) -> Self {
        let mut rig = Self {
            path: PathMtu::new(limit),
            now: start(),
            carries,
            round_trip: Duration::from_millis(1),
            loss: 0.0,
            is_stranger: false,
            wire: BTreeMap::new(),
            sent: 0,
            dice: StdRng::seed_from_u64(3),
        };
        rig.path.start(rig.now);
        rig
    }

    /// Lets time pass; a large packet is sent every `every`, unless that is zero.
    fn run(&mut self, time: Duration, every: Duration) {
        let end = self.now + time;
        let mut next_packet = (!every.is_zero()).then_some(self.now);
        self.send();
        for _ in 0..1_000_000 {
            let arrival = self.wire.keys().next().map(|(at, _)| *at);
            let next = arrival.into_iter().chain(self.path.poll_timeout()).chain(next_packet).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            if let Some(at) = next_packet.filter(|at| *at <= self.now) {
                self.path.note_sent(1000);
                next_packet = Some(at + every);
            }
            while let Some((key, (tag, len))) =
                self.wire.first_key_value().map(|(key, value)| (*key, *value))
            {
                if key.0 > self.now {
                    break;
                }
                self.wire.remove(&key);
                self.path.handle_answer(tag, len, self.now);
            }
            self.path.handle_timeout(self.now);
            assert!(
                self.path.poll_timeout().is_none_or(|at| at > self.now),
                "a handled timeout is still due"
            );
            self.send();
        }
        panic!("it does not come to rest");
    }

    fn send(&mut self) {
        while let Some(probe) = self.path.poll_probe(self.now) {
            self.sent += 1;
            let is_lost = self.dice.random_bool(1.0 - (1.0 - self.loss).powi(2));
            if probe.len <= self.carries && !self.is_stranger && !is_lost {
                let len = u16::try_from(probe.len).expect("small");
                self.wire.insert((self.now + self.round_trip, self.sent), (probe.tag, len));
            }
        }
    }
}

const NOTHING: Duration = Duration::ZERO;
const BULK: Duration = Duration::from_micros(500);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn a_path_that_carries_everything_costs_two_probes() {
    let mut rig = Rig::new(1408, 9000);

    rig.run(millis(10_000), NOTHING);

    assert_eq!((rig.path.mtu(), rig.path.source(), rig.sent), (1408, MtuSource::Link, 2));
    assert_eq!(rig.path.poll_timeout(), None, "an idle path has no timer");
}

#[test]
fn a_stranger_is_asked_less_and_less() {
    let mut rig = Rig::new(1408, 9000);
    rig.is_stranger = true;

    rig.run(millis(4_000), millis(2));
    assert_eq!((rig.path.mtu(), rig.path.source(), rig.sent), (1408, MtuSource::Assumed, 8));
    rig.run(millis(3_600_000), millis(20));
    assert!(rig.sent < 120, "{}", rig.sent);

    rig.is_stranger = false;
    rig.run(MAX_STRANGER_PAUSE, millis(2));
    assert_eq!(rig.path.source(), MtuSource::Link, "a peer may learn to answer");
}

#[test]
fn a_path_that_shrinks_under_load_is_noticed_before_hosts_repeat_what_was_lost() {
    let mut rig = Rig::new(1408, 9000);
    rig.run(millis(1000), BULK);

    rig.carries = 1216;
    rig.run(millis(150), BULK);

    assert_eq!((rig.path.mtu(), rig.path.source()), (1216, MtuSource::Probed));
}

#[test]
fn a_path_that_shrinks_is_noticed_although_the_lost_packet_was_the_last() {
    let mut rig = Rig::new(1408, 9000);
    rig.run(millis(1000), NOTHING);

    rig.carries = 1216;
    rig.path.note_sent(1408);
    rig.run(millis(350), NOTHING);

    assert_eq!(rig.path.mtu(), 1216);
}

#[test]
fn a_path_that_grows_is_used_within_a_minute_also_after_many_vain_tries() {
    let mut rig = Rig::new(1408, 1216);
    rig.run(millis(600_000), millis(2));
    assert_eq!(rig.path.mtu(), 1216);

    rig.carries = 1312;
    rig.run(millis(61_000), BULK);
    assert_eq!((rig.path.mtu(), rig.path.source()), (1312, MtuSource::Probed));

    rig.carries = 1500;
    rig.run(millis(61_000), BULK);
    assert_eq!((rig.path.mtu(), rig.path.source()), (1408, MtuSource::Link));
}

#[test]
fn probes_are_few_whatever_is_sent() {
    let mut rig = Rig::new(1408, 9000);
    rig.run(millis(10_000), BULK);
    assert!(rig.sent <= 2 * 10 * 20 + 2, "20 rounds a second at most: {}", rig.sent);

    let mut rig = Rig::new(1408, 1216);
    rig.run(millis(1_000), BULK);
    let found = rig.sent;
    assert!(found < 100, "{found}");
    rig.run(millis(10_000), BULK);
    assert!(rig.sent - found <= 2 * 10 * 20 + 2 * 10, "{}", rig.sent - found);
}

#[test]
fn an_outage_changes_nothing() {
    let mut rig = Rig::new(1408, 9000);
    rig.run(millis(1000), BULK);

    rig.is_stranger = true;
    rig.run(millis(60_000), BULK);
    let asked = rig.sent;
    assert_eq!((rig.path.mtu(), rig.path.source()), (1408, MtuSource::Link));

    rig.run(millis(60_000), BULK);
    assert!(rig.sent - asked < 60 * 4, "it is asked now and then");
}

#[test]
fn what_carries_only_controls_is_not_taken_for_a_path() {
    let mut rig = Rig::new(1408, 100);

    rig.run(millis(10_000), BULK);

    assert_eq!(rig.path.mtu(), 1408);
}

#[test]
fn answers_to_nothing_are_ignored() {
    let mut rig = Rig::new(1408, 1216);
    rig.run(millis(1_000), NOTHING);

    for round in 0..100 {
        rig.path.handle_answer(Tag { round, sent_micros: u64::from(round) }, 1408, rig.now);
        rig.path.handle_answer(Tag { round, sent_micros: TIME_BITS }, u16::MAX, rig.now);
    }

    assert_eq!(rig.path.mtu(), 1216);
}

#[test]
fn a_new_limit_is_asked_about() {
    let mut rig = Rig::new(1408, 3000);
    rig.run(millis(100), NOTHING);

    assert!(rig.path.set_limit(8912));
    rig.path.start(rig.now);
    rig.run(millis(300), NOTHING);
    assert_eq!(rig.path.mtu(), 2992);

    assert!(rig.path.set_limit(1408));
    assert_eq!((rig.path.mtu(), rig.path.is_narrow()), (1408, false));
    assert!(!rig.path.set_limit(1408));
}

proptest! {
    #[test]
    fn every_size_is_found_to_the_byte_that_counts(
        limit in 528..9000_u16, carries in 512..9100_usize, round_trip in 1..200_u64,
    ) {
        let mut rig = Rig::new(limit, carries);
        rig.round_trip = millis(round_trip);

        rig.run(millis(500 + 25 * round_trip), NOTHING);

        let whole = carries / PADDING * PADDING;
        prop_assert_eq!(usize::from(rig.path.mtu()), whole.min(limit.into()));
        prop_assert_eq!(rig.path.source() == MtuSource::Link, whole >= limit.into());
    }

    #[test]
    fn loss_is_not_taken_for_a_narrow_path_and_does_not_hide_one(
        percent in 0..20_u32, seed in any::<u64>(), carries in 1000..1700_usize,
    ) {
        let mut rig = Rig::new(1408, carries);
        rig.loss = f64::from(percent) / 100.0;
        rig.dice = StdRng::seed_from_u64(seed);

        rig.run(millis(60_000), millis(20));

        let (mtu, whole) = (usize::from(rig.path.mtu()), (carries / PADDING * PADDING).min(1408));
        prop_assert!(mtu <= whole && whole - mtu <= 4 * PADDING, "{mtu} of {whole}");
    }
}

#[test]
fn a_burst_after_a_rest_is_enough_to_notice_whatever_is_due() {
    for rest in [100, 1_000, 100_000] {
        let mut rig = Rig::new(8912, 8912);
        rig.run(millis(1000), NOTHING);
        for carries in [1440, 1360, 1232, 512] {
            rig.carries = carries;
            rig.run(millis(rest), NOTHING);

            (0..10).for_each(|_| rig.path.note_sent(1000));
            rig.run(millis(180), NOTHING);

            assert_eq!(usize::from(rig.path.mtu()), carries, "after {rest} ms");
        }
    }
}
