//! Finds out how large a packet a path carries by probing the other end.
//!
//! A value without I/O: it says which probes to send and when, and learns from their answers. ICMP
//! errors are ignored: anybody can forge them, and many networks drop them.
//!
//! ```text
//!                                     answered
//!   session begins, peer roams, ──► Confirm ──────────────► the size holds
//!   or large packets leave            │ only the control was answered
//!                                     ▼
//!             Raise ── answered ──► Bisect ──► Boundary ──► a smaller size holds
//!              ▲ every 10 to 60 s, if large packets leave             │
//!              └──────────────────────────────────────────────────────┘
//! ```
//! A round consists of a few probes of different sizes and then a control, the smallest possible
//! probe. A probe counts as lost only when the control, sent after it, was answered: a slow,
//! congested or broken path is not mistaken for a narrow one. A size is considered too large when
//! it was lost four times while the next smaller one arrived.

mod hand_over;

use std::time::{Duration, Instant};

use crate::noise::PADDING;
use crate::probe::{LEN, Tag};
use crate::status::MtuSource;

/// The smallest MTU accepted, in bytes: it fits a path of 576 bytes, which every IPv4 network has.
pub(crate) const FLOOR: u32 = 512;
/// The granularity of the search, in bytes: smaller differences do not change the size on the wire.
const STEP: u32 = 16;
const _: () = assert!(STEP as usize == PADDING, "what a probe measures is a padded payload");
/// Packets of more bytes than this make us check whether the path still carries them.
const LARGE: usize = 400;
/// The most sizes tried in one round, besides the control: 11 KB of probes for 1,500 bytes of MTU.
const MAX_SIZES: usize = 8;
/// How often the next larger size must be lost while the accepted one arrives.
const ENOUGH_LOST: u8 = 4;
/// How many times a larger size is tried in vain when growing.
const RAISE_TRIES: u8 = 2;
/// After how many consecutive rounds without any answer the search is given up.
const MAX_SILENT: u8 = 4;
/// The most rounds of one search.
const MAX_ROUNDS: u8 = 24;
/// How long a round waits for its control while the round-trip time is unknown, and at the least.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const MIN_WAIT: Duration = Duration::from_millis(100);
/// How long a round waits for late answers after its control was answered: the least and the most.
const MIN_GRACE: Duration = Duration::from_millis(5);
const MAX_GRACE: Duration = Duration::from_millis(50);
/// How long large packets are sent before they cause a check, if there are many of them, and if
/// not. A host that lost a packet repeats it after 200 ms, and is then told the size.
const MANY_PAUSE: Duration = Duration::from_millis(50);
const FEW_PAUSE: Duration = Duration::from_millis(250);
const MANY: u16 = 8;
/// How long a peer that never answered is left alone; doubles each time.
const MIN_STRANGER_PAUSE: Duration = Duration::from_secs(5);
const MAX_STRANGER_PAUSE: Duration = Duration::from_secs(600);
/// How long a peer that answered once, but no longer does, is left alone.
const SILENT_PAUSE: Duration = Duration::from_secs(2);
/// How long after a path was found narrow a larger size is tried; doubles each time it fails.
const MIN_GROW_PAUSE: Duration = Duration::from_secs(10);
const MAX_GROW_PAUSE: Duration = Duration::from_secs(60);
/// The longest round trip that is believed.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(10);
const TIME_BITS: u64 = (1 << 48) - 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    /// The length of its payload, in bytes.
    pub(crate) len: usize,
    pub(crate) tag: Tag,
}

/// What is known about one path in one direction: 24 bytes until it is probed, as most never are.
#[derive(Debug)]
pub(crate) struct PathMtu {
    limit: u32,
    /// The largest inner packet, in bytes.
    mtu: u32,
    source: MtuSource,
    /// How many large packets were sent since the path was last checked for them.
    large: u16,
    inquiry: Option<Box<Inquiry>>,
}

/// What was probed, and when to probe again.
#[derive(Debug)]
struct Inquiry {
    /// Whether the peer has ever answered.
    answers: bool,
    born: Instant,
    round: u32,
    round_trip: Option<Duration>,
    asked: Instant,
    rest_until: Instant,
    grow_at: Instant,
    grow_pause: Duration,
    stranger_pause: Duration,
    search: Option<Box<Search>>,
}

/// What a search is looking for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Whether the path carries `top`.
    Confirm,
    /// Roughly, the largest size that the path carries.
    Bisect,
    /// Whether the size found is the largest.
    Boundary,
    /// Whether the path carries the size found before, and more.
    Raise,
}

/// A search under way. Sizes are those of data message payloads, in bytes.
#[derive(Debug)]
struct Search {
    phase: Phase,
    first_round: u32,
    /// The largest size that arrived; 0 if none did.
    good: u32,
    /// The smallest size above `good` that seems to be lost.
    bad: u32,
    top: u32,
    /// The sizes of this round, in descending order.
    sizes: [u32; MAX_SIZES],
    count: usize,
    /// How many of them have been taken to be sent; the control comes last.
    sent: usize,
    arrived: [bool; MAX_SIZES],
    control_arrived: bool,
    lost: u8,
    silent: u8,
    rounds: u8,
    deadline: Instant,
}

impl PathMtu {
    /// Makes a value that knows nothing yet; `limit` is the tunnel's MTU in bytes.
    pub(crate) fn new(limit: u16) -> Self {
        Self { limit: limit.into(), mtu: limit.into(), source: MtuSource::Unprobed, large: 0, inquiry: None }
    }

    /// Returns the largest inner packet, in bytes.
    #[inline]
    pub(crate) fn mtu(&self) -> u16 {
        u16::try_from(self.mtu).unwrap_or(u16::MAX)
    }

    /// Returns whether the path carries less than the tunnel's MTU.
    #[inline]
    pub(crate) fn is_narrow(&self) -> bool {
        self.mtu < self.limit
    }

    /// Returns how the MTU was determined.
    pub(crate) fn source(&self) -> MtuSource {
        self.source
    }

    /// Sets the tunnel's MTU. Returns whether there is something to probe.
    pub(crate) fn set_limit(&mut self, limit: u16) -> bool {
        let old = std::mem::replace(&mut self.limit, limit.into());
        self.mtu = if self.mtu == old { self.limit } else { self.mtu.min(self.limit) };

        old != self.limit || self.inquiry.is_none()
    }

    /// Starts a new search because the path has changed. Until it ends, the MTU of the old path
    /// holds.
    pub(crate) fn start(&mut self, now: Instant) {
        if let Some(inquiry) = &mut self.inquiry {
            (inquiry.rest_until, inquiry.grow_at, inquiry.grow_pause) = (now, now, MIN_GROW_PAUSE);
        }
        if self.limit > FLOOR {
            let inquiry = self.inquiry.get_or_insert_with(|| Box::new(Inquiry::new(now)));
            inquiry.begin(Phase::Confirm, 0, self.limit, now);
            self.large = 0;
        }
    }

    /// Notes that a packet of `len` bytes is sent.
    #[inline]
    pub(crate) fn note_sent(&mut self, len: usize) {
        if len > LARGE {
            self.large = self.large.saturating_add(1);
        }
    }

    /// Accepts the answer to a probe that arrived with a payload of `len` bytes.
    pub(crate) fn handle_answer(&mut self, tag: Tag, len: u16, now: Instant) {
        let Some(inquiry) = &mut self.inquiry else { return };
        inquiry.answers = true;
        let trip = inquiry.measure(tag, now);
        // From this round trip, not from the average: a path that has just lost its load is quick
        // again.
        let grace = trip.map_or(MAX_GRACE, |trip| (trip / 2).clamp(MIN_GRACE, MAX_GRACE));
        // The sizes of our probes are multiples of the step.
        let (round, len) = (inquiry.round, u32::from(len) / STEP * STEP);
        let Some(search) = &mut inquiry.search else { return };
        if tag.round.wrapping_sub(search.first_round) > round.wrapping_sub(search.first_round) || len > search.top {
            return;
        }
        if tag.round == round {
            search.note_arrival(len, now + grace);
        }
        if len >= FLOOR {
            search.note_good(len);
        }
        if search.good >= search.top {
            self.settle(now);
        } else if search.is_answered() {
            self.judge(now);
        }
    }

    /// Returns when [`PathMtu::handle_timeout`] must next be called.
    #[inline]
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let inquiry = self.inquiry.as_ref()?;
        if let Some(search) = &inquiry.search {
            return Some(search.deadline);
        }
        let pause = if self.large >= MANY { MANY_PAUSE } else { FEW_PAUSE };

        (self.large > 0).then(|| inquiry.rest_until.max(inquiry.asked + pause))
    }

    /// Performs whatever is due at `now`.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        let (is_assumed, is_narrow) = (self.source == MtuSource::Assumed, self.is_narrow());
        let Some(inquiry) = &mut self.inquiry else { return };
        if inquiry.search.is_some() {
            self.judge(now);
            return;
        }
        if is_assumed {
            inquiry.begin(Phase::Confirm, 0, self.limit, now);
        } else if is_narrow && inquiry.grow_at <= now {
            inquiry.begin(Phase::Raise, self.mtu, self.limit, now);
        } else {
            inquiry.begin(Phase::Confirm, 0, self.mtu, now);
        }
        self.large = 0;
    }

    /// Takes the next probe to send.
    pub(crate) fn poll_probe(&mut self, now: Instant) -> Option<Probe> {
        let inquiry = self.inquiry.as_mut()?;
        let tag = Tag { round: inquiry.round, sent_micros: inquiry.micros(now) };
        let search = inquiry.search.as_mut()?;
        let len = match search.sent {
            sent if sent < search.count => usize::try_from(search.sizes[sent]).ok()?,
            sent if sent == search.count => LEN,
            _ => return None,
        };
        search.sent += 1;

        Some(Probe { len, tag })
    }

    /// Evaluates a round and continues the search.
    fn judge(&mut self, now: Instant) {
        let Some(inquiry) = &mut self.inquiry else { return };
        let Some(search) = &mut inquiry.search else { return };
        search.judge();
        if search.silent >= MAX_SILENT || search.rounds >= MAX_ROUNDS {
            inquiry.search = None;
            self.rest(now);
        } else if search.is_decided() {
            self.settle(now);
        } else {
            inquiry.next_round(now);
            self.large = 0;
        }
    }

    /// Accepts the result of a search.
    fn settle(&mut self, now: Instant) {
        let Some(inquiry) = &mut self.inquiry else { return };
        let Some(search) = inquiry.search.take() else { return };
        if search.good < FLOOR {
            // Only the smallest probe arrives. No network has such a path, so there is another
            // cause.
            self.rest(now);
            return;
        }
        inquiry.asked = now;
        let was = self.mtu;
        self.mtu = search.good.min(self.limit);
        self.source = if self.mtu < self.limit { MtuSource::Probed } else { MtuSource::Link };
        if self.mtu != was || search.phase != Phase::Confirm {
            let in_vain = self.mtu == was;
            inquiry.grow_pause = if in_vain { (inquiry.grow_pause * 2).min(MAX_GROW_PAUSE) } else { MIN_GROW_PAUSE };
            inquiry.grow_at = now + inquiry.grow_pause;
        }
    }

    /// Ends the search without a change, and starts none for a while.
    fn rest(&mut self, now: Instant) {
        let Some(inquiry) = &mut self.inquiry else { return };
        if inquiry.answers {
            inquiry.rest_until = now + SILENT_PAUSE;
        } else {
            self.source = MtuSource::Assumed;
            inquiry.rest_until = now + inquiry.stranger_pause;
            inquiry.stranger_pause = (inquiry.stranger_pause * 2).min(MAX_STRANGER_PAUSE);
        }
    }
}

impl Inquiry {
    fn new(now: Instant) -> Self {
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
    fn begin(&mut self, phase: Phase, good: u32, top: u32, now: Instant) {
        let top = top.next_multiple_of(STEP);
        let first_round = self.round.wrapping_add(1);
        self.search = Some(Box::new(Search::new(phase, good, top, first_round, now)));
        self.next_round(now);
    }

    fn next_round(&mut self, now: Instant) {
        self.round = self.round.wrapping_add(1);
        self.asked = now;
        let wait = self.round_trip.map_or(FIRST_WAIT, |trip| (trip * 3).max(MIN_WAIT));
        if let Some(search) = &mut self.search {
            search.choose();
            search.deadline = now + wait * (1 << search.silent.min(MAX_SILENT));
        }
    }

    fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.born).as_micros()).unwrap_or_default() & TIME_BITS
    }

    fn measure(&mut self, tag: Tag, now: Instant) -> Option<Duration> {
        let trip = Duration::from_micros(self.micros(now).wrapping_sub(tag.sent_micros) & TIME_BITS);
        if trip > MAX_ROUND_TRIP {
            return None;
        }
        self.round_trip = Some(self.round_trip.map_or(trip, |known| (known * 3 + trip) / 4));

        Some(trip)
    }
}

impl Search {
    fn new(phase: Phase, good: u32, top: u32, first_round: u32, now: Instant) -> Self {
        Self {
            phase,
            first_round,
            good,
            bad: top + STEP,
            top,
            sizes: [0; MAX_SIZES],
            count: 0,
            sent: 0,
            arrived: [false; MAX_SIZES],
            control_arrived: false,
            lost: 0,
            silent: 0,
            rounds: 0,
            deadline: now,
        }
    }

    /// Chooses the sizes of the next round.
    fn choose(&mut self) {
        self.rounds += 1;
        self.count = 0;
        self.sent = 0;
        self.arrived = [false; MAX_SIZES];
        self.control_arrived = false;
        match self.phase {
            Phase::Confirm => self.add(self.top),
            Phase::Raise => {
                self.add(self.good + STEP);
                self.add(self.good);
            }
            Phase::Boundary => {
                // The size hoped for, larger and larger steps beyond the boundary, and the size
                // that is known to arrive.
                self.add(self.top);
                for step in (0..MAX_SIZES - 2).rev() {
                    self.add((self.low() + (STEP << step)).min(self.top));
                }
                self.add(self.good);
            }
            Phase::Bisect => {
                self.add(self.top);
                let (low, points) = (self.low(), u32::try_from(MAX_SIZES - 1).unwrap_or(1));
                let gap = (self.bad - low) / STEP;
                for point in (1..points).rev() {
                    self.add(low + gap * point / points * STEP);
                }
                self.add(low + STEP);
            }
        }
    }

    fn add(&mut self, size: u32) {
        let is_smaller = self.sizes[..self.count].last().is_none_or(|last| size < *last);
        if size >= FLOOR && is_smaller && self.count < MAX_SIZES {
            self.sizes[self.count] = size;
            self.count += 1;
        }
    }

    fn low(&self) -> u32 {
        self.good.max(FLOOR - STEP)
    }

    fn is_closed(&self) -> bool {
        self.bad <= self.low() + STEP
    }

    fn is_answered(&self) -> bool {
        self.control_arrived && self.arrived[..self.count].iter().all(|arrived| *arrived)
    }

    /// Records an answer in this round; the others have until `grace`.
    fn note_arrival(&mut self, len: u32, grace: Instant) {
        if len as usize == LEN {
            self.control_arrived = true;
            self.deadline = self.deadline.min(grace);
        }
        for (size, arrived) in self.sizes[..self.count].iter().zip(&mut self.arrived) {
            *arrived |= *size == len;
        }
    }

    fn note_good(&mut self, len: u32) {
        if len > self.good {
            self.good = len;
            // More arrives than before: the path has grown, or was never narrow.
            if self.phase == Phase::Raise {
                self.phase = Phase::Bisect;
            }
            self.lost = 0;
        }
        if len >= self.bad {
            self.bad = self.top + STEP;
        }
    }

    fn judge(&mut self) {
        let has_arrived = self.arrived[..self.count].contains(&true);
        if !self.control_arrived {
            // Without the control, nothing follows from a probe that did not arrive.
            self.silent = if has_arrived { 0 } else { self.silent + 1 };
            return;
        }
        self.silent = 0;
        let round = || self.sizes[..self.count].iter().zip(self.arrived);
        let border = round().filter(|(size, arrived)| !arrived && **size > self.good).map(|(size, _)| *size).min();
        let good_arrived = round().any(|(size, arrived)| arrived && *size == self.good);
        let Some(border) = border else { return };
        self.bad = border;
        match self.phase {
            Phase::Confirm => self.phase = Phase::Bisect,
            Phase::Bisect if self.is_closed() => self.phase = Phase::Boundary,
            Phase::Bisect => {}
            Phase::Boundary => self.lost += u8::from(good_arrived || self.good < FLOOR),
            Phase::Raise if good_arrived => self.lost += 1,
            // The path became narrower instead.
            Phase::Raise => (self.phase, self.bad, self.good) = (Phase::Bisect, self.good, 0),
        }
    }

    fn is_decided(&self) -> bool {
        match self.phase {
            Phase::Confirm | Phase::Bisect => false,
            Phase::Raise => self.lost >= RAISE_TRIES,
            Phase::Boundary => self.lost >= ENOUGH_LOST,
        }
    }
}

#[cfg(test)]
#[path = "path_mtu_tests.rs"]
mod tests;
