//! Calls back peers that still use a session of a previous engine.
//!
//! Their data messages have a receiver index that no longer exists, and WireGuard waits 15 seconds
//! before it tries a new handshake. For as long as such a session can live, whoever sends such a
//! message from an address of a member is called back. Nothing proves who sent it: by forging
//! addresses an attacker can cause handshakes with members, at most as many as [`CALLS`] allows and
//! never two at a time with the same one.

use std::time::{Duration, Instant};

use overlay_core::token_bucket::TokenBucket;

use crate::noise::SESSION_TIME;

/// How many senders are looked up at once, at some 10 µs each with a thousand peers. Others must
/// wait for their next message.
const CALLS: u32 = 50;
/// The time after which one more is allowed: 500 a second.
const INTERVAL: Duration = Duration::from_millis(2);

/// Limits how many senders are called back.
#[derive(Debug)]
pub(crate) struct RehandshakeLimiter {
    until: Instant,
    bucket: TokenBucket,
}

impl RehandshakeLimiter {
    /// Makes a limiter for an engine that starts now.
    pub(crate) fn new(now: Instant) -> Self {
        Self { until: now + SESSION_TIME, bucket: TokenBucket::new(CALLS, INTERVAL, now) }
    }

    /// Returns whether the sender of a message for an unknown session may be looked up.
    pub(crate) fn admits(&mut self, now: Instant) -> bool {
        now < self.until && self.bucket.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::start;

    #[test]
    fn a_flood_is_looked_up_seldom_and_only_at_first() {
        let mut limiter = RehandshakeLimiter::new(start());

        assert_eq!((0..CALLS * 3).filter(|_| limiter.admits(start())).count(), CALLS as usize);
        assert!(limiter.admits(start() + INTERVAL));
        assert!(limiter.admits(start() + SESSION_TIME - INTERVAL));
        assert!(!limiter.admits(start() + SESSION_TIME));
    }
}
