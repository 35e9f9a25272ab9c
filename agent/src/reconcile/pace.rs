//! When a network is looked at next. Pure.
//!
//! Changes are heard of, so looking without cause is for the few things that raise no event (most
//! kernel parameters), and rare. What the kernel refuses is tried again, ever more seldom.

use std::time::Duration;

use tokio::time::Instant;

use super::pass::{Cause, PassOutcome};

/// How long a difference that raises no event may stand.
pub(crate) const SWEEP: Duration = Duration::from_secs(60);
/// The same where no event can be heard.
pub(crate) const UNHEARD: Duration = Duration::from_millis(900);
/// The part of it that is left to chance, so that networks which began together do not stay so.
const JITTER: f64 = 0.5;
/// The first and the longest pause before retrying after a refusal. Some causes end without an
/// event, such as exhausted descriptors: the longest pause keeps recovery within 5 s.
const RETRY: Duration = Duration::from_millis(500);
const MAX_RETRY: Duration = Duration::from_secs(3);
/// How long events are gathered before one pass answers them all: at first, and at the most while
/// passes find nothing to do.
pub(super) const GATHER: Duration = Duration::from_millis(20);
const MAX_GATHER: Duration = Duration::from_millis(500);
/// After so long without an event, the next one is answered fast again.
const CALM: Duration = Duration::from_secs(2);

/// The pace of one network's passes.
#[derive(Debug)]
pub(crate) struct Pace {
    sweep: Duration,
    due: Instant,
    retry: Duration,
    gather: Duration,
    last_event: Option<Instant>,
}

impl Pace {
    /// Begins with a pass that is due at once; later ones are without cause every `sweep`.
    pub(crate) fn new(sweep: Duration, now: Instant) -> Self {
        Self { sweep, due: now, retry: RETRY, gather: GATHER, last_event: None }
    }

    /// Looks without cause every `sweep` from now on.
    pub(crate) fn set_sweep(&mut self, sweep: Duration, now: Instant) {
        if sweep < self.sweep {
            self.due = self.due.min(now + sweep);
        }
        self.sweep = sweep;
    }

    /// Returns when the next pass is due though nothing was heard.
    pub(crate) fn poll_timeout(&self) -> Instant {
        self.due
    }

    /// Tells whether one is due, so that whichever comes next must be whole.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.due <= now
    }

    /// Returns how long events are gathered, now that one came.
    pub(crate) fn handle_event(&mut self, now: Instant) -> Duration {
        if self.last_event.is_none_or(|last| now.duration_since(last) > CALM) {
            self.gather = GATHER;
        }
        self.last_event = Some(now);

        self.gather
    }

    /// Takes note of a pass. `chance` is from 0 to 1.
    pub(crate) fn handle_pass(
        &mut self,
        cause: Cause,
        outcome: PassOutcome,
        chance: f64,
        now: Instant,
    ) {
        if cause == Cause::Event {
            self.gather =
                if outcome.did_something { GATHER } else { (self.gather * 2).min(MAX_GATHER) };
        }
        if cause == Cause::Desired || outcome.is_complete {
            self.retry = RETRY;
        }
        if !outcome.is_complete {
            self.due = now + self.retry;
            self.retry = (self.retry * 2).min(MAX_RETRY);
        } else if outcome.is_whole && (cause != Cause::Event || self.due <= now) {
            // What is looked at in turns takes as many sweeps; together they last as long as one.
            let turns = u32::try_from(outcome.turns).unwrap_or(u32::MAX).max(1);
            self.due = now + self.sweep.mul_f64(1.0 - JITTER / 2.0 + JITTER * chance) / turns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: PassOutcome =
        PassOutcome { is_complete: true, is_whole: true, did_something: false, turns: 1 };

    #[test]
    fn what_the_kernel_refuses_is_tried_again_ever_more_seldom() {
        let mut now = Instant::now();
        let (start, mut pace, mut pauses) = (now, Pace::new(SWEEP, now), Vec::new());
        while now < start + Duration::from_secs(60) {
            pace.handle_pass(Cause::Resync, PassOutcome { is_complete: false, ..DONE }, 0.5, now);
            pauses.push(pace.poll_timeout() - now);
            now = pace.poll_timeout();
        }

        assert!(pauses.is_sorted() && pauses[0] == RETRY, "{pauses:?}");
        assert!(pauses.len() < 25, "{} tries", pauses.len());
        // A problem must not be shown for longer than this after its cause has gone.
        assert!(pauses.iter().all(|pause| *pause < Duration::from_secs(5)), "{pauses:?}");
        pace.handle_pass(Cause::Desired, PassOutcome { is_complete: false, ..DONE }, 0.5, now);
        assert_eq!(pace.poll_timeout() - now, RETRY, "something else may be possible at once");
    }

    #[test]
    fn the_first_event_is_answered_at_once_and_a_stream_of_them_is_not() {
        let mut now = Instant::now();
        let mut pace = Pace::new(SWEEP, now);
        assert_eq!(pace.handle_event(now), GATHER);
        for _ in 0..10 {
            pace.handle_pass(Cause::Event, DONE, 0.5, now);
            now += Duration::from_millis(50);
            pace.handle_event(now);
        }

        assert_eq!(pace.handle_event(now), MAX_GATHER);
        now += CALM * 2;
        assert_eq!(pace.handle_event(now), GATHER);
    }

    #[test]
    fn where_events_are_heard_no_more_the_next_look_is_soon() {
        let start = Instant::now();
        let mut pace = Pace::new(SWEEP, start);
        pace.handle_pass(Cause::Desired, DONE, 0.5, start);

        pace.set_sweep(UNHEARD, start);
        pace.handle_pass(Cause::Event, DONE, 0.5, start);

        assert_eq!(pace.poll_timeout(), start + UNHEARD);
        pace.handle_pass(Cause::Resync, DONE, 0.5, start + UNHEARD);
        assert!(pace.poll_timeout() <= start + UNHEARD * 3);
    }

    #[test]
    fn a_pass_that_reads_nothing_back_does_not_put_off_a_sweep() {
        let start = Instant::now();
        let mut pace = Pace::new(SWEEP, start);
        pace.handle_pass(Cause::Desired, DONE, 0.5, start);
        let due = pace.poll_timeout();

        let mut now = start;
        while now < due {
            assert!(!pace.is_due(now));
            pace.handle_pass(Cause::Desired, PassOutcome { is_whole: false, ..DONE }, 0.5, now);
            assert_eq!(pace.poll_timeout(), due);
            now += Duration::from_secs(1);
        }

        assert!(pace.is_due(now));
    }

    #[test]
    fn events_do_not_put_off_a_sweep() {
        let start = Instant::now();
        let mut pace = Pace::new(SWEEP, start);
        pace.handle_pass(Cause::Desired, DONE, 0.5, start);
        let due = pace.poll_timeout();
        pace.handle_event(start + Duration::from_secs(10));
        pace.handle_pass(Cause::Event, DONE, 0.5, start + Duration::from_secs(10));

        assert_eq!(pace.poll_timeout(), due);
    }
}
