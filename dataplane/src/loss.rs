//! Measures how much of what a peer sends arrives, from what it says it has sent and what was
//! received.
//!
//! Loss counts as high only if it was high in several consecutive windows, so that a short outage
//! does not count.

use std::time::{Duration, Instant};

use crate::echo::Loss;

/// The shortest window.
const WINDOW: Duration = Duration::from_millis(900);
/// The fewest messages in a window.
const FEWEST: u32 = 50;
/// A window that is older than this is discarded.
const STALE: Duration = Duration::from_secs(20);
/// For how long the last window counts.
const FRESH: Duration = Duration::from_secs(5);
/// How many consecutive windows with a high loss make the loss high.
const WINDOWS: usize = 3;
/// A loss is high if more than one message in so many is lost: 5 %.
const HIGH: u32 = 20;

/// The loss in one direction of one link.
#[derive(Debug, Default)]
pub(crate) struct LossMeter {
    /// How many messages had been sent and received when the current window began, and when it did.
    begin: Option<(u32, u32, Instant)>,
    /// Lost and sent messages in the last windows, the latest first.
    windows: [(u32, u32); WINDOWS],
    closed: Option<Instant>,
}

impl LossMeter {
    /// Records how many messages the peer says it has sent, and how many were received by then.
    pub(crate) fn note(&mut self, sent: u32, received: u32, now: Instant) {
        let Some((first_sent, first_received, since)) = self.begin else {
            self.begin = Some((sent, received, now));
            return;
        };
        let (sent_since, age) =
            (sent.wrapping_sub(first_sent), now.saturating_duration_since(since));
        // A restarted peer counts from zero, and a report may arrive after a later one.
        if sent_since > u32::MAX / 2 || age > STALE {
            *self = Self { begin: Some((sent, received, now)), ..Self::default() };
            return;
        }
        if sent_since < FEWEST || age < WINDOW {
            return;
        }
        let lost = sent_since.saturating_sub(received.wrapping_sub(first_received));
        self.windows.rotate_right(1);
        self.windows[0] = (lost, sent_since);
        self.begin = Some((sent, received, now));
        self.closed = Some(now);
    }

    /// Returns the loss over the last windows, if it is known.
    pub(crate) fn loss(&self, now: Instant) -> Option<Loss> {
        self.closed.filter(|at| now.saturating_duration_since(*at) <= FRESH)?;
        let sum = |of: fn(&(u32, u32)) -> u32| {
            self.windows.iter().map(|window| u64::from(of(window))).sum::<u64>()
        };
        let (lost, sent) = (sum(|window| window.0), sum(|window| window.1));
        let permille = u16::try_from((lost * 1000).checked_div(sent)?).unwrap_or(1000);
        let is_high =
            self.windows.iter().all(|(lost, sent)| *sent > 0 && lost.saturating_mul(HIGH) > *sent);

        Some(Loss { permille, is_high })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::start;

    /// Feeds windows of 100 messages of which so many are lost, 1 s apart.
    fn fed(lost: &[u32]) -> (LossMeter, Instant) {
        let (mut meter, mut now, mut received) = (LossMeter::default(), start(), 0);
        meter.note(0, 0, now);
        for (window, lost) in (1..).zip(lost) {
            now += Duration::from_secs(1);
            received += 100 - lost;
            meter.note(window * 100, received, now);
        }
        (meter, now)
    }

    #[test]
    fn a_loss_that_lasts_is_high_and_one_clean_window_ends_it() {
        let is_high = |lost: &[u32]| {
            let (meter, now) = fed(lost);
            meter.loss(now).expect("a window").is_high
        };

        assert!(!is_high(&[10, 10]));
        assert!(is_high(&[10, 10, 10]));
        assert!(!is_high(&[10, 10, 10, 0]));
        assert!(!is_high(&[5, 5, 5]), "5 % is not more than 5 %");
        assert!(!is_high(&[0, 90, 0]), "an outage");
    }

    #[test]
    fn the_loss_is_that_of_the_last_windows_and_grows_old() {
        let (meter, now) = fed(&[90, 10, 20, 30]);

        assert_eq!(meter.loss(now), Some(Loss { permille: 200, is_high: true }));
        assert_eq!(meter.loss(now + FRESH + WINDOW), None);
    }

    #[test]
    fn few_messages_and_a_peer_that_begins_anew_say_nothing() {
        let (mut meter, now) = fed(&[]);
        meter.note(49, 0, now + WINDOW);
        assert_eq!(meter.loss(now + WINDOW), None);

        let (mut meter, now) = fed(&[50, 50, 50]);
        meter.note(3, 160, now + WINDOW);
        assert_eq!(meter.loss(now + WINDOW), None);
    }
}
