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
mod inquiry;
mod search;

use std::time::{Duration, Instant};

use self::inquiry::{Inquiry, MAX_GROW_PAUSE, MAX_SILENT, MAX_STRANGER_PAUSE, MIN_GROW_PAUSE};
pub(crate) use self::search::FLOOR;
use self::search::{Phase, STEP};
use crate::probe::{LEN, Tag};
use crate::status::MtuSource;

/// Packets of more bytes than this make us check whether the path still carries them.
const LARGE: usize = 400;
/// The most rounds of one search.
const MAX_ROUNDS: u8 = 24;
/// How long a round waits for late answers after its control was answered: the least and the most.
const MIN_GRACE: Duration = Duration::from_millis(5);
const MAX_GRACE: Duration = Duration::from_millis(50);
/// How long large packets are sent before they cause a check, if there are many of them, and if
/// not. A host that lost a packet repeats it after 200 ms, and is then told the size.
const MANY_PAUSE: Duration = Duration::from_millis(50);
const FEW_PAUSE: Duration = Duration::from_millis(250);
const MANY: u16 = 8;
/// How long a peer that answered once, but no longer does, is left alone.
const SILENT_PAUSE: Duration = Duration::from_secs(2);

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

impl PathMtu {
    /// Makes a value that knows nothing yet; `limit` is the tunnel's MTU in bytes.
    pub(crate) fn new(limit: u16) -> Self {
        Self {
            limit: limit.into(),
            mtu: limit.into(),
            source: MtuSource::Unprobed,
            large: 0,
            inquiry: None,
        }
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
        if tag.round.wrapping_sub(search.first_round) > round.wrapping_sub(search.first_round)
            || len > search.top
        {
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
            inquiry.grow_pause =
                if in_vain { (inquiry.grow_pause * 2).min(MAX_GROW_PAUSE) } else { MIN_GROW_PAUSE };
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

#[cfg(test)]
#[path = "path_mtu_tests.rs"]
mod tests;
