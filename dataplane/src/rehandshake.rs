//! Peers that still use a session of the engine before this one.
//!
//! Their data messages name an index that nobody knows any more, and WireGuard has them wait 15 seconds before they try anew. For as
//! long as such a session can live, whoever sends one from an address of a member is called back. Nothing proves who it was: what
//! an attacker gains by forging addresses is handshakes to members, as many as [`CALLS`] allow and none twice at a time.

use std::time::{Duration, Instant};

use crate::noise::SESSION_TIME;
use crate::token_bucket::TokenBucket;

/// How many senders are looked up without a pause, at some 10 µs each with a thousand peers. More wait for their next message.
const CALLS: u32 = 50;
/// One more after each of these: 500 a second.
const INTERVAL: Duration = Duration::from_millis(2);

/// Limits who is called back.
#[derive(Debug)]
pub(crate) struct RehandshakeLimiter {
    until: Instant,
    bucket: TokenBucket,
}

impl RehandshakeLimiter {
    /// Begins with the engine.
    pub(crate) fn new(now: Instant) -> Self {
        Self { until: now + SESSION_TIME, bucket: TokenBucket::new(CALLS, INTERVAL, now) }
    }

    /// Says whether the sender of a message for an unknown session may be looked up.
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
