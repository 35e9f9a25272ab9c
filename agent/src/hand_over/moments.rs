//! Moments as two processes of one host share them: readings of the monotonic clock.

use std::io;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// One moment in both forms, from which all others are told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moments {
    instant: Instant,
    since_boot: Duration,
}

impl Moments {
    /// Reads the clock.
    pub(crate) fn now() -> io::Result<Self> {
        let since_boot = clock_gettime(ClockId::CLOCK_MONOTONIC)?.into();

        Ok(Self { instant: Instant::now(), since_boot })
    }

    /// Returns a moment as nanoseconds of the monotonic clock.
    pub(crate) fn nanos(&self, at: Instant) -> u64 {
        let since_boot = match at.checked_duration_since(self.instant) {
            Some(later) => self.since_boot.saturating_add(later),
            None => self.since_boot.saturating_sub(self.instant.saturating_duration_since(at)),
        };

        u64::try_from(since_boot.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Returns the moment of a reading; nothing where this process cannot express it.
    pub(crate) fn instant(&self, nanos: u64) -> Option<Instant> {
        let since_boot = Duration::from_nanos(nanos);
        match since_boot.checked_sub(self.since_boot) {
            Some(later) => self.instant.checked_add(later),
            None => self.instant.checked_sub(self.since_boot - since_boot),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_the_same_for_whoever_reads_it_later() {
        let writer = Moments::now().expect("a clock");
        let moments = [0, 1, 999, 1_000_000_007].map(Duration::from_nanos);
        let moments = moments.map(|of| [writer.instant - of, writer.instant + of]);
        std::thread::yield_now();
        let reader = Moments::now().expect("a clock");

        for at in moments.iter().flatten() {
            let read = reader.instant(writer.nanos(*at)).expect("a moment");
            let off = read.saturating_duration_since(*at).max(at.saturating_duration_since(read));
            assert!(
                off < Duration::from_millis(50),
                "{off:?}: two readings of two clocks lie between"
            );
        }
    }
}
