//! The lines waiting to be written, and the state of writing them. Pure, so that every failure can
//! be tested.

use std::io;
use std::time::{Duration, Instant};

use crate::Condition;

/// The most bytes of waiting lines: some thousand lines.
pub(super) const CAPACITY: usize = 256 << 10;
/// A write that takes longer than this is reported: disks are slow now and then.
pub(super) const STUCK: Duration = Duration::from_secs(3);

/// Lines that were lost.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Losses {
    /// How many there were.
    pub(super) lines: u64,
    /// When the first one was lost, in seconds since 1970.
    pub(super) since: u64,
    /// Why they were lost.
    pub(super) why: String,
}

/// The waiting lines and the state of writing them.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Vec<u8>,
    /// When the write in progress began.
    writing: Option<Instant>,
    /// The error of the last attempt to write, and when it first occurred.
    error: Option<(String, u64)>,
    losses: Option<Losses>,
}

impl Queue {
    /// Appends a line, or counts it as lost when the queue is full.
    pub(super) fn push(&mut self, line: &[u8], now_unix: u64) {
        if self.waiting.len() + line.len() <= CAPACITY {
            self.waiting.extend_from_slice(line);
            return;
        }
        let why = self.error.as_ref().map(|(why, _)| why.as_str());
        let losses = self.losses.get_or_insert_with(|| Losses {
            lines: 0,
            since: now_unix,
            why: why.unwrap_or("nobody took the lines").to_owned(),
        });
        losses.lines += 1;
    }

    /// Returns whether no line is waiting.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns whether everything is written.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.writing.is_none() && self.losses.is_none()
    }

    /// Takes the waiting lines.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.waiting)
    }

    /// Takes the losses, to be reported in the log itself.
    pub(super) fn take_losses(&mut self) -> Option<Losses> {
        self.losses.take()
    }

    /// Records that the lines taken are being written.
    pub(super) fn begin(&mut self, now: Instant) {
        self.writing = Some(now);
    }

    /// Records that the lines taken were written.
    pub(super) fn written(&mut self) {
        self.writing = None;
        self.error = None;
    }

    /// Records that the lines taken could not be written and will be retried.
    pub(super) fn failed(&mut self, error: &io::Error, now_unix: u64) {
        let since = self.error.as_ref().map_or(now_unix, |(_, since)| *since);
        self.error = Some((error.to_string(), since));
    }

    /// Returns the error of the last attempt to write, if it failed.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_ref().map(|(why, _)| why.as_str())
    }

    /// Returns a condition while lines cannot be written.
    pub(super) fn condition(&self, now: Instant) -> Option<Condition> {
        let waited = self.writing.map(|since| now.duration_since(since)).unwrap_or_default();
        let (why, since) = match &self.error {
            Some((why, since)) => (why.clone(), *since),
            None if waited >= STUCK => {
                let since = crate::unix_now().saturating_sub(waited.as_secs());
                ("nobody reads what standard error leads to".to_owned(), since)
            }
            None => return None,
        };
        let lost = self.losses.as_ref().map_or(0, |losses| losses.lines);

        Some(Condition {
            text: format!("the log cannot be written: {why}; {lost} lines lost so far"),
            since,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_past_the_bound_are_counted_and_the_first_ones_kept() {
        let mut queue = Queue::default();
        let line = [b'x'; 1024];

        for _ in 0..CAPACITY / line.len() + 3 {
            queue.push(&line, 7);
        }

        assert_eq!(queue.take().len(), CAPACITY);
        let losses = queue.take_losses().expect("three had no room");
        assert_eq!((losses.lines, losses.since), (3, 7));
    }

    #[test]
    fn trouble_begins_with_the_first_failure_and_ends_with_a_success() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.begin(now);
        queue.failed(&io::Error::from_raw_os_error(28), 100);
        queue.failed(&io::Error::from_raw_os_error(28), 160);

        let condition = queue.condition(now).expect("it failed");

        assert_eq!(condition.since, 100);
        assert!(condition.text.contains("No space left on device"), "{}", condition.text);
        queue.written();
        assert_eq!(queue.condition(now), None);
    }

    #[test]
    fn a_write_that_does_not_end_is_trouble_and_a_slow_one_is_none() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.begin(now);

        assert_eq!(queue.condition(now + STUCK / 2), None);
        assert!(
            queue
                .condition(now + STUCK)
                .is_some_and(|condition| condition.text.contains("nobody reads"))
        );
        queue.written();
        assert_eq!(queue.condition(now + STUCK), None);
    }
}
