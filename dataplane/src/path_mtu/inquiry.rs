//! What was probed on a path, and when it is probed again.

use std::time::{Duration, Instant};

use super::search::{Phase, STEP, Search};
use crate::probe::Tag;

/// After how many consecutive rounds without any answer the search is given up.
pub(super) const MAX_SILENT: u8 = 4;
/// How long a round waits for its control while the round-trip time is unknown, and at the least.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const MIN_WAIT: Duration = Duration::from_millis(100);
/// How long a peer that never answered is left alone; doubles each time.
pub(super) const MIN_STRANGER_PAUSE: Duration = Duration::from_secs(5);
pub(super) const MAX_STRANGER_PAUSE: Duration = Duration::from_secs(600);
/// How long after a path was found narrow a larger size is tried; doubles each time it fails.
pub(super) const MIN_GROW_PAUSE: Duration = Duration::from_secs(10);
pub(super) const MAX_GROW_PAUSE: Duration = Duration::from_secs(60);
/// The longest round trip that is believed.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(10);
pub(super) const TIME_BITS: u64 = (1 << 48) - 1;

/// What was probed, and when to probe again.
#[derive(Debug)]
pub(super) struct Inquiry {
    /// Whether the peer has ever answered.
    pub(super) answers: bool,
    pub(super) born: Instant,
    pub(super) round: u32,
    pub(super) round_trip: Option<Duration>,
    pub(super) asked: Instant,
    pub(super) rest_until: Instant,
    pub(super) grow_at: Instant,
    pub(super) grow_pause: Duration,
    pub(super) stranger_pause: Duration,
    pub(super) search: Option<Box<Search>>,
}

impl Inquiry {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            answers: false,
            born: now,
            round: 0,
            round_trip: None,
            asked: now,
            rest_until: now,
            grow_at: now,
            grow_pause: MIN_GROW_PAUSE,
            stranger_pause: MIN_STRANGER_PAUSE,
            search: None,
        }
    }

    /// Begins a search up to `top`; `good` is known to arrive.
    pub(super) fn begin(&mut self, phase: Phase, good: u32, top: u32, now: Instant) {
        let top = top.next_multiple_of(STEP);
        let first_round = self.round.wrapping_add(1);
        self.search = Some(Box::new(Search::new(phase, good, top, first_round, now)));
        self.next_round(now);
    }

    pub(super) fn next_round(&mut self, now: Instant) {
        self.round = self.round.wrapping_add(1);
        self.asked = now;
        let wait = self.round_trip.map_or(FIRST_WAIT, |trip| (trip * 3).max(MIN_WAIT));
        if let Some(search) = &mut self.search {
            search.choose();
            search.deadline = now + wait * (1 << search.silent.min(MAX_SILENT));
        }
    }

    pub(super) fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.born).as_micros()).unwrap_or_default()
            & TIME_BITS
    }

    pub(super) fn measure(&mut self, tag: Tag, now: Instant) -> Option<Duration> {
        let trip =
            Duration::from_micros(self.micros(now).wrapping_sub(tag.sent_micros) & TIME_BITS);
        if trip > MAX_ROUND_TRIP {
            return None;
        }
        self.round_trip = Some(self.round_trip.map_or(trip, |known| (known * 3 + trip) / 4));

        Some(trip)
    }
}
