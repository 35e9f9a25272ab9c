//! Limits how many handshake messages are processed (§5.3): all of them while they are few,
//! otherwise those of senders that proved their address, each source up to its share.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// The number of handshake messages in a window beyond which an interface is under load.
const CALM: u32 = 100;
/// The time over which they are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// The time after which a source may send one more: 20 a second, as in the kernel.
const COST: Duration = Duration::from_millis(50);
/// How far ahead of that a source may be: five messages at once.
const BURST: Duration = Duration::from_millis(250);
/// The most sources that are remembered: 3 MiB. Others are refused until some have been quiet for
/// [`BURST`]. A source is remembered only once it has shown a cookie, so the table cannot be filled
/// with forged addresses.
const MAX_SOURCES: usize = 65_536;

/// The source that a limit applies to: an IPv4 address, or the half of an IPv6 address that a host
/// does not choose itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    V4(Ipv4Addr),
    /// The upper 64 bits of the address.
    V6(u64),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments().map(u64::from);
                Self::V6(a << 48 | b << 32 | c << 16 | d)
            }
        }
    }
}

/// Counts handshake messages.
#[derive(Debug)]
pub(crate) struct Limiter {
    since: Instant,
    count: u32,
    /// When each source has its full share again.
    whole_at: BTreeMap<Source, Instant>,
    swept: Instant,
}

impl Limiter {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, count: 0, whole_at: BTreeMap::new(), swept: now }
    }

    /// Counts a message and returns whether its sender must show a cookie.
    pub(crate) fn is_under_load(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= WINDOW {
            self.since = now;
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);

        self.count > CALM
    }

    /// Takes a message out of its source's share. Returns whether there was any left.
    pub(crate) fn admits(&mut self, address: IpAddr, now: Instant) -> bool {
        self.sweep(now);
        let source = Source::from(address);
        let whole_at = self.whole_at.get(&source).copied();
        if whole_at.is_none() && self.whole_at.len() >= MAX_SOURCES {
            return false;
        }
        let next = whole_at.map_or(now, |at| at.max(now)) + COST;
        let is_admitted = next.saturating_duration_since(now) <= BURST;
        if is_admitted {
            self.whole_at.insert(source, next);
        }

        is_admitted
    }

    /// Forgets sources with a full share: new ones get the same.
    fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept) >= BURST {
            self.swept = now;
            self.whole_at.retain(|_, at| *at > now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::tests::start;

    fn admitted(limiter: &mut Limiter, address: &str, count: usize, now: Instant) -> usize {
        let address = address.parse().expect("an address");

        (0..count).filter(|_| limiter.admits(address, now)).count()
    }

    #[test]
    fn a_second_of_many_messages_is_load() {
        let mut limiter = Limiter::new(start());
        let calm = (0..CALM * 2).filter(|_| !limiter.is_under_load(start())).count();

        assert_eq!(calm, CALM as usize);
        assert!(limiter.is_under_load(start() + WINDOW - Duration::from_nanos(1)));
        assert!(!limiter.is_under_load(start() + WINDOW));
    }

    #[test]
    fn each_source_has_five_at_once_and_twenty_a_second() {
        let mut limiter = Limiter::new(start());

        assert_eq!(admitted(&mut limiter, "203.0.113.1", 100, start()), 5);
        assert_eq!(admitted(&mut limiter, "203.0.113.2", 100, start()), 5);
        let later: usize = (1..=1000)
            .map(|ms| start() + Duration::from_millis(ms))
            .map(|now| admitted(&mut limiter, "203.0.113.1", 10, now))
            .sum();
        assert_eq!(later, 20);
        let rested = start() + Duration::from_secs(10);
        assert_eq!(admitted(&mut limiter, "203.0.113.1", 100, rested), 5);
    }

    #[test]
    fn a_host_is_one_source_whatever_it_calls_itself() {
        let mut limiter = Limiter::new(start());

        assert_eq!(admitted(&mut limiter, "2001:db8::1", 3, start()), 3);
        assert_eq!(admitted(&mut limiter, "2001:db8::ffff:ffff:1:2", 3, start()), 2);
        assert_eq!(admitted(&mut limiter, "2001:db8:0:1::1", 3, start()), 3);
        assert_eq!(admitted(&mut limiter, "203.0.113.1", 3, start()), 3);
        assert_eq!(admitted(&mut limiter, "::ffff:203.0.113.1", 3, start()), 2);
    }

    #[test]
    fn the_table_is_bounded_and_emptied() {
        let mut limiter = Limiter::new(start());
        for number in 0..u32::try_from(MAX_SOURCES).expect("small") {
            assert!(limiter.admits(Ipv4Addr::from_bits(number).into(), start()));
        }

        assert_eq!(admitted(&mut limiter, "255.255.255.255", 1, start()), 0);
        assert_eq!(admitted(&mut limiter, "0.0.0.0", 9, start()), 4);
        let later = start() + BURST;
        assert_eq!(admitted(&mut limiter, "255.255.255.255", 1, later), 1);
        assert_eq!(limiter.whole_at.len(), 1);
    }
}
