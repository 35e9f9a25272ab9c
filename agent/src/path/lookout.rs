//! Whether a lane looks out for an answer for a moment before it goes to sleep. Pure.
//!
//! Waking a thread takes longer than most answers are on their way inside a rack. A lane that has just passed something on may
//! therefore look again and again, for 100 µs at most, under two conditions. It was asleep just before: where packets come
//! in rows, the processor has better things to do, and each wait is short anyway. And answers have been coming in time:
//! every lookout in vain halves the confidence, and without confidence one in 64 is a trial.

use std::time::Duration;

/// The longest lookout: a longer answer may as well wake the lane.
const LONGEST: Duration = Duration::from_micros(100);
/// A wait this long is sleep.
const SLEEP: Duration = Duration::from_micros(300);
/// Confidence goes from 0 to this.
const MOST: u8 = 8;
/// With less there are only trials.
const ENOUGH: u8 = 2;
/// How many chances a lane without confidence lets pass before it tries again.
const TRIAL: u8 = 64;

/// From where the lane served a packet last: what comes next depends on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Side {
    /// A container; the answer comes from the underlay.
    #[default]
    Tun,
    /// The underlay; the answer comes from a container.
    Udp,
}

/// How much the last waits encourage it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lookout {
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

impl Lookout {
    /// Notes from where something was served.
    pub(crate) fn served(&mut self, side: Side) {
        self.last = side;
    }

    /// Returns how long the coming wait begins with looking.
    pub(crate) fn watch(&mut self) -> Duration {
        if !self.slept {
            return Duration::ZERO;
        }
        let confidence = self.confidence();
        confidence.chances = (confidence.chances + 1) % TRIAL;

        if confidence.level >= ENOUGH || confidence.chances == 0 { LONGEST } else { Duration::ZERO }
    }

    /// Notes how long it took until something came.
    pub(crate) fn came(&mut self, after: Duration) {
        if self.slept {
            let confidence = self.confidence();
            confidence.level = if after < LONGEST { (confidence.level + 1).min(MOST) } else { confidence.level / 2 };
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

    /// A packet after a pause, and what follows it after `answer`; returns whether the lane looked out for the answer.
    fn ask(lookout: &mut Lookout, answer: Duration) -> bool {
        lookout.served(Side::Udp);
        lookout.watch();
        lookout.came(PAUSE);
        lookout.served(Side::Tun);
        let watched = !lookout.watch().is_zero();
        lookout.came(answer);

        watched
    }

    #[test]
    fn answers_in_time_are_looked_out_for() {
        let mut lookout = Lookout::default();

        let watched: Vec<_> = (0..4).map(|_| ask(&mut lookout, Duration::from_micros(80))).collect();

        assert_eq!(watched, [false, false, true, true]);
    }

    #[test]
    fn late_answers_cost_a_lookout_in_64() {
        let mut lookout = Lookout::default();

        let watched = (0..640).filter(|_| ask(&mut lookout, Duration::from_micros(500))).count();

        assert_eq!(watched, 10);
    }

    #[test]
    fn what_follows_an_answer_has_a_confidence_of_its_own() {
        let mut lookout = Lookout::default();
        for _ in 0..10 {
            ask(&mut lookout, Duration::from_micros(80));
        }

        lookout.came(PAUSE);
        lookout.served(Side::Udp);

        assert!(lookout.watch().is_zero());
    }

    #[test]
    fn packets_in_rows_are_never_looked_out_for() {
        let mut lookout = Lookout::default();
        for _ in 0..10 {
            ask(&mut lookout, Duration::from_micros(80));
        }

        for _ in 0..1000 {
            lookout.served(Side::Tun);
            assert!(lookout.watch().is_zero());
            lookout.came(Duration::from_micros(20));
        }
    }
}
