//! Busy polling: whether a lane polls for an answer for a moment before it sleeps. Pure.
//!
//! Waking a thread takes longer than most answers need inside a rack. A lane that has just
//! forwarded something may therefore poll for up to 100 µs, under two conditions. It slept just
//! before: when packets come in bursts, the processor has better things to do, and each wait is
//! short anyway. And answers have been arriving in time: every poll in vain halves the confidence,
//! and without confidence only one chance in 64 is used as a trial.

use std::time::Duration;

/// The longest poll: a later answer may as well wake the lane.
const MAX_POLL: Duration = Duration::from_micros(100);
/// A wait this long counts as sleep.
const SLEEP: Duration = Duration::from_micros(300);
/// The highest confidence.
const MAX_CONFIDENCE: u8 = 8;
/// With less confidence there are only trials.
const MIN_CONFIDENCE: u8 = 2;
/// A lane without confidence uses one in this many chances as a trial.
const TRIAL: u8 = 64;

/// The side from which the lane last handled a packet: the next one depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Side {
    /// A container; the answer comes from the underlay.
    #[default]
    Tun,
    /// The underlay; the answer comes from a container.
    Udp,
}

/// Decides from the latest waits whether to poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct BusyPoll {
    last: Side,
    slept: bool,
    tun: Confidence,
    udp: Confidence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Confidence {
    level: u8,
    chances: u8,
}

impl BusyPoll {
    /// Records the side of a packet that was handled.
    pub(crate) fn served(&mut self, side: Side) {
        self.last = side;
    }

    /// Returns how long to poll before the next sleep.
    pub(crate) fn duration(&mut self) -> Duration {
        if !self.slept {
            return Duration::ZERO;
        }
        let confidence = self.confidence();
        confidence.chances = (confidence.chances + 1) % TRIAL;

        if confidence.level >= MIN_CONFIDENCE || confidence.chances == 0 {
            MAX_POLL
        } else {
            Duration::ZERO
        }
    }

    /// Records how long it took until something arrived.
    pub(crate) fn waited(&mut self, after: Duration) {
        if self.slept {
            let confidence = self.confidence();
            confidence.level = if after < MAX_POLL {
                (confidence.level + 1).min(MAX_CONFIDENCE)
            } else {
                confidence.level / 2
            };
        }
        self.slept = after >= SLEEP;
    }

    fn confidence(&mut self) -> &mut Confidence {
        match self.last {
            Side::Tun => &mut self.tun,
            Side::Udp => &mut self.udp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(1);

    /// A packet after a pause, and what follows it after `answer`; returns whether the lane looked
    /// out for the answer.
    fn ask(busy_poll: &mut BusyPoll, answer: Duration) -> bool {
        busy_poll.served(Side::Udp);
        busy_poll.duration();
        busy_poll.waited(PAUSE);
        busy_poll.served(Side::Tun);
        let watched = !busy_poll.duration().is_zero();
        busy_poll.waited(answer);

        watched
    }

    #[test]
    fn answers_in_time_are_looked_out_for() {
        let mut busy_poll = BusyPoll::default();

        let watched: Vec<_> =
            (0..4).map(|_| ask(&mut busy_poll, Duration::from_micros(80))).collect();

        assert_eq!(watched, [false, false, true, true]);
    }

    #[test]
    fn late_answers_cost_a_lookout_in_64() {
        let mut busy_poll = BusyPoll::default();

        let watched = (0..640).filter(|_| ask(&mut busy_poll, Duration::from_micros(500))).count();

        assert_eq!(watched, 10);
    }

    #[test]
    fn what_follows_an_answer_has_a_confidence_of_its_own() {
        let mut busy_poll = BusyPoll::default();
        for _ in 0..10 {
            ask(&mut busy_poll, Duration::from_micros(80));
        }

        busy_poll.waited(PAUSE);
        busy_poll.served(Side::Udp);

        assert!(busy_poll.duration().is_zero());
    }

    #[test]
    fn packets_in_rows_are_never_looked_out_for() {
        let mut busy_poll = BusyPoll::default();
        for _ in 0..10 {
            ask(&mut busy_poll, Duration::from_micros(80));
        }

        for _ in 0..1000 {
            busy_poll.served(Side::Tun);
            assert!(busy_poll.duration().is_zero());
            busy_poll.waited(Duration::from_micros(20));
        }
    }
}
