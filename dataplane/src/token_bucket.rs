//! A token bucket: a burst at once, then one more after each interval.

use std::time::{Duration, Instant};

/// Limits how often something is done.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    burst: u32,
    interval: Duration,
    tokens: u32,
    refilled: Instant,
}

impl TokenBucket {
    /// Makes a full bucket. `interval` must be whole milliseconds, at least one.
    pub(crate) fn new(burst: u32, interval: Duration, now: Instant) -> Self {
        Self { burst, interval, tokens: burst, refilled: now }
    }

    /// Takes one token. Returns whether there was one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.refilled);
        let earned = elapsed.as_millis().checked_div(self.interval.as_millis()).unwrap_or(0);
        let earned = u32::try_from(earned).unwrap_or(self.burst).min(self.burst);
        if earned > 0 {
            self.tokens = (self.tokens + earned).min(self.burst);
            self.refilled = now;
        }
        let Some(rest) = self.tokens.checked_sub(1) else { return false };
        self.tokens = rest;

        true
    }
}
