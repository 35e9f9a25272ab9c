//! The search for the largest size that a path carries.

use std::time::Instant;

use crate::noise::PADDING;
use crate::probe::LEN;

/// The smallest MTU accepted, in bytes: it fits a path of 576 bytes, which every IPv4 network has.
pub(crate) const FLOOR: u32 = 512;
/// The granularity of the search, in bytes: smaller differences do not change the size on the wire.
pub(super) const STEP: u32 = 16;
const _: () = assert!(STEP as usize == PADDING, "what a probe measures is a padded payload");
/// The most sizes tried in one round, besides the control: 11 KB of probes for 1,500 bytes of MTU.
const MAX_SIZES: usize = 8;
/// How often the next larger size must be lost while the accepted one arrives.
const ENOUGH_LOST: u8 = 4;
/// How many times a larger size is tried in vain when growing.
const RAISE_TRIES: u8 = 2;

/// What a search is looking for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
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
pub(super) struct Search {
    pub(super) phase: Phase,
    pub(super) first_round: u32,
    /// The largest size that arrived; 0 if none did.
    pub(super) good: u32,
    /// The smallest size above `good` that seems to be lost.
    pub(super) bad: u32,
    pub(super) top: u32,
    /// The sizes of this round, in descending order.
    pub(super) sizes: [u32; MAX_SIZES],
    pub(super) count: usize,
    /// How many of them have been taken to be sent; the control comes last.
    pub(super) sent: usize,
    pub(super) arrived: [bool; MAX_SIZES],
    pub(super) control_arrived: bool,
    pub(super) lost: u8,
    pub(super) silent: u8,
    pub(super) rounds: u8,
    pub(super) deadline: Instant,
}

impl Search {
    pub(super) fn new(phase: Phase, good: u32, top: u32, first_round: u32, now: Instant) -> Self {
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
    pub(super) fn choose(&mut self) {
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

    pub(super) fn add(&mut self, size: u32) {
        let is_smaller = self.sizes[..self.count].last().is_none_or(|last| size < *last);
        if size >= FLOOR && is_smaller && self.count < MAX_SIZES {
            self.sizes[self.count] = size;
            self.count += 1;
        }
    }

    pub(super) fn low(&self) -> u32 {
        self.good.max(FLOOR - STEP)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.bad <= self.low() + STEP
    }

    pub(super) fn is_answered(&self) -> bool {
        self.control_arrived && self.arrived[..self.count].iter().all(|arrived| *arrived)
    }

    /// Records an answer in this round; the others have until `grace`.
    pub(super) fn note_arrival(&mut self, len: u32, grace: Instant) {
        if len as usize == LEN {
            self.control_arrived = true;
            self.deadline = self.deadline.min(grace);
        }
        for (size, arrived) in self.sizes[..self.count].iter().zip(&mut self.arrived) {
            *arrived |= *size == len;
        }
    }

    pub(super) fn note_good(&mut self, len: u32) {
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

    pub(super) fn judge(&mut self) {
        let has_arrived = self.arrived[..self.count].contains(&true);
        if !self.control_arrived {
            // Without the control, nothing follows from a probe that did not arrive.
            self.silent = if has_arrived { 0 } else { self.silent + 1 };
            return;
        }
        self.silent = 0;
        let round = || self.sizes[..self.count].iter().zip(self.arrived);
        let border = round()
            .filter(|(size, arrived)| !arrived && **size > self.good)
            .map(|(size, _)| *size)
            .min();
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

    pub(super) fn is_decided(&self) -> bool {
        match self.phase {
            Phase::Confirm | Phase::Bisect => false,
            Phase::Raise => self.lost >= RAISE_TRIES,
            Phase::Boundary => self.lost >= ENOUGH_LOST,
        }
    }
}
