//! How large the packets are that a path carries, found out by asking the other end.
//!
//! A value without I/O: it says which probes to send and when, and learns from their answers. ICMP has no say: anybody can
//! forge it, and many networks drop it.
//!
//! ```text
//!                                     answered
//!   session begins, peer roams, ──► Check ────────────► the size holds
//!   or large packets leave            │ only the control was answered
//!                                     ▼
//!             Grow ── answered ──► Narrow ──► Border ──► a smaller size holds
//!              ▲ every 10 to 60 s, if large packets leave             │
//!              └──────────────────────────────────────────────────────┘
//! ```
//! A round is a few probes of different sizes and then a control, the smallest probe there is. A probe counts as lost only
//! when the control, sent after it, was answered: a path that is slow, full or down is not taken for a narrow one. A size
//! is believed too large when it was lost four times while the next smaller one arrived.

mod hand_over;

use std::time::{Duration, Instant};

use crate::noise::PADDING;
use crate::probe::{LEN, Tag};
use crate::status::MtuSource;

/// The smallest MTU that is ever believed, in bytes: a path of 576 bytes, which every IPv4 network carries, has room for it.
pub(crate) const FLOOR: u32 = 512;
/// MTUs that differ by less cost the same on the wire.
const STEP: u32 = 16;
const _: () = assert!(STEP as usize == PADDING, "what a probe measures is a padded payload");
/// Packets of more bytes make us ask whether the path still carries them.
const LARGE: usize = 400;
/// The most sizes tried in one round, the control aside: 11 KB of probes on a path of 1,500 bytes.
const MAX_SIZES: usize = 8;
/// How often the next larger size must be lost, while the one believed arrives, before it is believed to be too large.
const ENOUGH_LOST: u8 = 4;
/// How often a larger size is tried in vain when growing.
const RAISE_TRIES: u8 = 2;
/// Rounds in a row without any answer after which asking makes no sense.
const MAX_SILENT: u8 = 4;
/// More rounds than this are never spent on one question.
const MAX_ROUNDS: u8 = 24;
/// How long a round waits for its control when nothing is known of the path, and at least.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const MIN_WAIT: Duration = Duration::from_millis(100);
/// How long a round waits, after its control was answered, for answers that were overtaken.
const MIN_GRACE: Duration = Duration::from_millis(5);
const MAX_GRACE: Duration = Duration::from_millis(50);
/// How long large packets leave unasked: when there are many, and when there are few. A host that lost what it sent tries
/// again after 200 ms, and is told the size then.
const MANY_PAUSE: Duration = Duration::from_millis(50);
const FEW_PAUSE: Duration = Duration::from_millis(250);
const MANY: u16 = 8;
/// How long to leave a peer alone that never answered; doubles each time.
const MIN_STRANGER_PAUSE: Duration = Duration::from_secs(5);
const MAX_STRANGER_PAUSE: Duration = Duration::from_secs(600);
/// How long to leave a peer alone that answered and does not any more.
const SILENT_PAUSE: Duration = Duration::from_secs(2);
/// How long a path that was found small is not asked for more; doubles each time in vain.
const MIN_GROW_PAUSE: Duration = Duration::from_secs(10);
const MAX_GROW_PAUSE: Duration = Duration::from_secs(60);
/// No round trip takes longer; an answer that claims so is not believed.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(10);
const TIME_BITS: u64 = (1 << 48) - 1;

/// A probe to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    /// The length of its payload, in bytes.
    pub(crate) len: usize,
    /// What its answer brings back.
    pub(crate) tag: Tag,
}

/// What is known of one path, in one direction: 24 bytes until it is asked, as most never are.
#[derive(Debug)]
pub(crate) struct PathMtu {
    /// The tunnel's MTU.
    limit: u32,
    /// The largest inner packet.
    mtu: u32,
    source: MtuSource,
    /// Large packets sent since the path was last asked whether it carries them.
    large: u16,
    inquiry: Option<Box<Inquiry>>,
}

/// What was asked, and when to ask again.
#[derive(Debug)]
struct Inquiry {
    /// Whether the peer ever answered.
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

/// What a search is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Does the path carry `top`?
    Confirm,
    /// What is the largest size it carries, about?
    Bisect,
    /// Is it that of which this is thought?
    Boundary,
    /// Does it carry what it did, and more?
    Raise,
}

/// A question under way. Sizes are payloads of data messages.
#[derive(Debug)]
struct Search {
    phase: Phase,
    first_round: u32,
    /// The largest size that arrived; 0 if none did.
    good: u32,
    /// The smallest size above it that was lost, for all we know.
    bad: u32,
    top: u32,
    /// The sizes of this round, falling.
    sizes: [u32; MAX_SIZES],
    count: usize,
    /// How many of them, and the control, are handed out.
    sent: usize,
    arrived: [bool; MAX_SIZES],
    control_arrived: bool,
    lost: u8,
    silent: u8,
    rounds: u8,
    deadline: Instant,
}

impl PathMtu {
    /// Knows nothing yet; `limit` is the tunnel's MTU.
    pub(crate) fn new(limit: u16) -> Self {
        Self { limit: limit.into(), mtu: limit.into(), source: MtuSource::Unprobed, large: 0, inquiry: None }
    }

    /// Returns the largest inner packet.
    #[inline]
    pub(crate) fn mtu(&self) -> u16 {
        u16::try_from(self.mtu).unwrap_or(u16::MAX)
    }

    /// Returns whether the path carries less than the tunnel's MTU.
    #[inline]
    pub(crate) fn is_narrow(&self) -> bool {
        self.mtu < self.limit
    }

    /// Returns how the MTU is known.
    pub(crate) fn source(&self) -> MtuSource {
        self.source
    }

    /// Takes over the tunnel's MTU. Returns whether there is something to ask.
    pub(crate) fn set_limit(&mut self, limit: u16) -> bool {
        let old = std::mem::replace(&mut self.limit, limit.into());
        self.mtu = if self.mtu == old { self.limit } else { self.mtu.min(self.limit) };

        old != self.limit || self.inquiry.is_none()
    }

    /// Asks anew, because the path is another one. What was known of the old one holds until then.
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

    /// Notes that a packet of `len` bytes leaves.
    #[inline]
    pub(crate) fn note_sent(&mut self, len: usize) {
        if len > LARGE {
            self.large = self.large.saturating_add(1);
        }
    }

    /// Takes the answer to a probe, which arrived with a payload of `len` bytes.
    pub(crate) fn handle_answer(&mut self, tag: Tag, len: u16, now: Instant) {
        let Some(inquiry) = &mut self.inquiry else { return };
        inquiry.answers = true;
        let trip = inquiry.measure(tag, now);
        // Of this answer, not of all: a path that has just lost its load is quick again.
        let grace = trip.map_or(MAX_GRACE, |trip| (trip / 2).clamp(MIN_GRACE, MAX_GRACE));
        // Ours are all of full steps.
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

    /// Returns when [`PathMtu::handle_timeout`] must be called.
    #[inline]
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let inquiry = self.inquiry.as_ref()?;
        if let Some(search) = &inquiry.search {
            return Some(search.deadline);
        }
        let pause = if self.large >= MANY { MANY_PAUSE } else { FEW_PAUSE };

        (self.large > 0).then(|| inquiry.rest_until.max(inquiry.asked + pause))
    }

    /// Performs what is due.
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

    /// Looks at what became of a round, and goes on.
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

    /// Believes what a search found.
    fn settle(&mut self, now: Instant) {
        let Some(inquiry) = &mut self.inquiry else { return };
        let Some(search) = inquiry.search.take() else { return };
        if search.good < FLOOR {
            // Nothing but the smallest arrives. That is no path that any network has, so it is something else.
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

    /// Asks no more for a while, and believes what it believed.
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

    /// Begins to search up to `top`; `good` is known to arrive.
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
                // The size that everybody hopes for, larger and larger steps beyond the border, and what is inside.
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

    /// Notes an arrival of this round; those that were overtaken have until `grace`.
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
            // More arrives than before: the path grew, or it was no narrow path at all.
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
            // What did not arrive may have been as unlucky as the control.
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
            // It became narrower instead.
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
