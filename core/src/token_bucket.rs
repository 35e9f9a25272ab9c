//! A token bucket: a burst at once, then one more after each interval. Pure: the time is an
//! argument.

use std::time::{Duration, Instant};

/// Limits how often something is done.
#[derive(Debug)]
pub struct TokenBucket {
    burst: u32,
    interval: Duration,
    tokens: u32,
    refilled: Instant,
}

impl TokenBucket {
    /// Makes a full bucket. `interval` must be whole milliseconds, at least one.
    pub fn new(burst: u32, interval: Duration, now: Instant) -> Self {
        Self { burst, interval, tokens: burst, refilled: now }
    }

    /// Takes one token. Returns whether there was one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.take_some(1, now).is_ok()
    }

    /// Takes several tokens, at most as many as the bucket holds; all or none.
    ///
    /// # Errors
    ///
    /// How long it takes until there are enough.
    pub fn take_some(&mut self, count: u32, now: Instant) -> Result<(), Duration> {
        let elapsed = now.saturating_duration_since(self.refilled);
        let earned = elapsed.as_millis().checked_div(self.interval.as_millis()).unwrap_or(0);
        let earned = u32::try_from(earned).unwrap_or(self.burst).min(self.burst);
        if earned > 0 {
            self.tokens = (self.tokens + earned).min(self.burst);
            self.refilled = now;
        }
        let count = count.min(self.burst);
        match self.tokens.checked_sub(count) {
            Some(rest) => {
                self.tokens = rest;
                Ok(())
            }
            None => Err(self.interval * (count - self.tokens)),
        }
    }

    /// Returns whether nothing was taken, or all of it has come back.
    pub fn is_full(&self, now: Instant) -> bool {
        let missing = self.interval * (self.burst - self.tokens);

        now.saturating_duration_since(self.refilled) >= missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(10);

    #[expect(clippy::disallowed_methods, reason = "an instant cannot be made of nothing")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_burst_passes_and_then_one_an_interval() {
        let start = start();
        let mut bucket = TokenBucket::new(3, INTERVAL, start);

        assert_eq!([(); 4].map(|()| bucket.take(start)), [true, true, true, false]);
        assert!(!bucket.is_full(start + INTERVAL * 2));
        assert!(bucket.take(start + INTERVAL));
        assert!(!bucket.take(start + INTERVAL));
        assert!(bucket.is_full(start + INTERVAL * 4));
    }

    #[test]
    fn several_are_taken_together_or_not_at_all() {
        let start = start();
        let mut bucket = TokenBucket::new(10, INTERVAL, start);

        assert_eq!(bucket.take_some(8, start), Ok(()));
        assert_eq!(bucket.take_some(5, start), Err(INTERVAL * 3));
        assert_eq!(bucket.take_some(2, start), Ok(()));
        assert_eq!(bucket.take_some(99, start), Err(INTERVAL * 10), "more than it holds");
        assert_eq!(bucket.take_some(99, start + INTERVAL * 10), Ok(()));
    }
}
