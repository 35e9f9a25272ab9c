//! What waits to be written, and what became of it: pure, so that every way to fail can be tried.

use std::io;
use std::time::{Duration, Instant};

use crate::Trouble;

/// Bytes of lines that wait at the most: some thousand lines.
pub(super) const CAPACITY: usize = 256 << 10;
/// A write that takes longer than this is trouble: disks are slow now and then.
pub(super) const STUCK: Duration = Duration::from_secs(3);

/// Lines that were lost.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Losses {
    /// How many.
    pub(super) lines: u64,
    /// Since when, in seconds since 1970.
    pub(super) since: u64,
    /// Why.
    pub(super) why: String,
}

/// The lines that wait, and how the writing goes.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Vec<u8>,
    /// Since when the lines that were taken last are being written.
    writing: Option<Instant>,
    /// What the last attempt to write said, and since when it is so.
    error: Option<(String, u64)>,
    losses: Option<Losses>,
}

impl Queue {
    /// Takes a line, or counts it where there is no room.
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

    /// Says whether no line waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Says whether everything is written.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.writing.is_none() && self.losses.is_none()
    }

    /// Hands the lines over that wait.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.waiting)
    }

    /// Hands over what was lost, to be told in the log itself.
    pub(super) fn take_losses(&mut self) -> Option<Losses> {
        self.losses.take()
    }

    /// Notes that lines that were taken are being written.
    pub(super) fn begin(&mut self, now: Instant) {
        self.writing = Some(now);
    }

    /// Notes that the lines that were taken are written.
    pub(super) fn written(&mut self) {
        self.writing = None;
        self.error = None;
    }

    /// Notes that they could not be written, and will be tried again.
    pub(super) fn failed(&mut self, error: &io::Error, now_unix: u64) {
        let since = self.error.as_ref().map_or(now_unix, |(_, since)| *since);
        self.error = Some((error.to_string(), since));
    }

    /// Returns what the last attempt to write said.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_ref().map(|(why, _)| why.as_str())
    }

    /// Says that lines cannot be written, if that is so.
    pub(super) fn trouble(&self, now: Instant) -> Option<Trouble> {
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

        Some(Trouble { text: format!("the log cannot be written: {why}; {lost} lines lost so far"), since })
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

        let trouble = queue.trouble(now).expect("it failed");

        assert_eq!(trouble.since, 100);
        assert!(trouble.text.contains("No space left on device"), "{}", trouble.text);
        queue.written();
        assert_eq!(queue.trouble(now), None);
    }

    #[test]
    fn a_write_that_does_not_end_is_trouble_and_a_slow_one_is_none() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.begin(now);

        assert_eq!(queue.trouble(now + STUCK / 2), None);
        assert!(queue.trouble(now + STUCK).is_some_and(|trouble| trouble.text.contains("nobody reads")));
        queue.written();
        assert_eq!(queue.trouble(now + STUCK), None);
    }
}
