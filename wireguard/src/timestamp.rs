//! TAI64N, the timestamp of an initiation (§5.1): a replayed initiation is not later than the
//! original.

use std::fmt;
use std::time::{Duration, Instant};

/// The TAI64 label of the first second of 1970 UTC.
///
/// TAI has been 37 s ahead of UTC since 2017. Timestamps must never go back, because a peer
/// remembers the last one, so this value stays the same whatever leap seconds follow.
const EPOCH: u64 = (1 << 62) + 37;

/// A timestamp in wire format. Later times are greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp([u8; Self::LEN]);

impl Timestamp {
    /// Its length in bytes.
    pub const LEN: usize = 12;
    /// A timestamp before every time.
    pub const ZERO: Self = Self([0; Self::LEN]);

    /// Returns the timestamp of a time since the Unix epoch.
    fn at(unix: Duration) -> Self {
        let mut bytes = [0; Self::LEN];
        let (seconds, nanoseconds) = bytes.split_at_mut(8);
        seconds.copy_from_slice(&EPOCH.saturating_add(unix.as_secs()).to_be_bytes());
        nanoseconds.copy_from_slice(&unix.subsec_nanos().to_be_bytes());

        Self(bytes)
    }

    /// Returns the smallest later timestamp.
    pub(crate) fn successor(self) -> Self {
        let mut bytes = self.0;
        for byte in bytes.iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }

        Self(bytes)
    }

    /// Returns the bytes in wire format.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        self.0
    }

    /// Makes a timestamp from bytes in wire format.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("@")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Derives the time of day from the monotonic clock, so that it never goes back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WallClock {
    started: Instant,
    started_unix: Duration,
}

impl WallClock {
    /// Makes a clock; `unix_time` is the time since the Unix epoch at `now`.
    pub(crate) fn new(now: Instant, unix_time: Duration) -> Self {
        Self { started: now, started_unix: unix_time }
    }

    /// Returns the time at `now`.
    pub(crate) fn timestamp(&self, now: Instant) -> Timestamp {
        let elapsed = now.saturating_duration_since(self.started);

        Timestamp::at(self.started_unix.saturating_add(elapsed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::tests::start;

    #[test]
    fn labels_are_those_of_the_definition() {
        // https://cr.yp.to/libtai/tai64.html: 4000000000000000 is the beginning of 1970 TAI, and
        // the example 400000002a2b2c2d is 2a2b2c2d seconds later.
        let unix = Duration::new(0x2a2b_2c2d - 37, 0x0102_0304);

        let label = Timestamp::at(unix).to_bytes();

        assert_eq!(label, [0x40, 0, 0, 0, 0x2a, 0x2b, 0x2c, 0x2d, 1, 2, 3, 4]);
    }

    #[test]
    fn later_times_are_greater() {
        let clock = WallClock::new(start(), Duration::from_secs(1_800_000_000));
        let moments = [0, 1, 999_999_999, 1_000_000_000, 300_000_000_000];
        let times = moments.map(|nanos| clock.timestamp(start() + Duration::from_nanos(nanos)));

        assert!(times.is_sorted_by(|a, b| a < b));
        assert!(Timestamp::ZERO < times[0]);
    }

    #[test]
    fn a_successor_is_the_next_greater_time() {
        let time = |last: [u8; 2]| Timestamp([1, 2, 3, 4, 5, 6, 7, 8, 9, 9, last[0], last[1]]);

        assert_eq!(time([0, 0]).successor(), time([0, 1]));
        assert_eq!(time([0, 255]).successor(), time([1, 0]));
        assert!(time([255, 255]).successor() > time([255, 255]));
    }

    #[test]
    fn no_time_is_too_late_to_be_labelled() {
        let clock = WallClock::new(start(), Duration::MAX);

        assert!(clock.timestamp(start() + Duration::from_secs(1)) > Timestamp::ZERO);
    }
}
