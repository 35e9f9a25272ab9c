//! Limits handshakes before they are read: in a flood of initiations, those from addresses that no
//! member has are dropped unread.
//!
//! An initiation costs hashes before anything is known about it, one for each network of the lane,
//! and possibly a cookie reply after that. A flood from random addresses would take a whole core.
//! Cookies limit each source to its share; this limiter keeps the number of sources small. Members
//! call from addresses that the membership lists or that they were heard at before, so it never
//! turns them away. Others, such as a node behind a translation that is not known yet, are admitted
//! as long as there are few.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The time over which initiations are counted.
const WINDOW: Duration = Duration::from_secs(1);
/// How many initiations are read in a window before addresses are checked. Each hundred take one
/// thousandth of a core. No honest cluster makes as many: 16,384 nodes renew 137 sessions a second
/// with a peer that they all talk to.
const MAX_UNKNOWN: u32 = 2_000;

/// Counts initiations and knows the members' addresses.
#[derive(Debug)]
pub(crate) struct HandshakeRateLimiter {
    since: Instant,
    count: u32,
    /// The members' addresses, looked up when a window first needs them.
    known: Option<BTreeSet<IpAddr>>,
}

impl HandshakeRateLimiter {
    /// Makes a limiter that has counted nothing.
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, count: 0, known: None }
    }

    /// Returns whether an initiation from this address may be read. `known` lists the members'
    /// addresses.
    pub(crate) fn admits(
        &mut self,
        from: IpAddr,
        now: Instant,
        known: impl FnOnce() -> BTreeSet<IpAddr>,
    ) -> bool {
        if now.saturating_duration_since(self.since) >= WINDOW {
            *self = Self::new(now);
        }
        self.count = self.count.saturating_add(1);

        self.count <= MAX_UNKNOWN || self.known.get_or_insert_with(known).contains(&from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::start;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn strangers_are_few_and_members_are_not_counted_out() {
        let (mut limiter, stranger, member) =
            (HandshakeRateLimiter::new(start()), address("203.0.113.9"), address("fd00::7"));
        let mut asked = 0;
        let mut admits = |limiter: &mut HandshakeRateLimiter, from, now| {
            limiter.admits(from, now, || {
                asked += 1;
                BTreeSet::from([member])
            })
        };

        let admitted =
            (0..MAX_UNKNOWN * 3).filter(|_| admits(&mut limiter, stranger, start())).count();
        assert_eq!(admitted, MAX_UNKNOWN as usize);
        assert!((0..MAX_UNKNOWN).all(|_| admits(&mut limiter, member, start())));
        assert!(admits(&mut limiter, stranger, start() + WINDOW), "a new second");
        assert_eq!(asked, 1, "the members are read once a window, and only in a flood");
    }
}
