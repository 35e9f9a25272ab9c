//! How long the nodes of a network trust each other without control.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The shortest lease: control says something every five seconds.
pub const MIN_LEASE: u32 = 10;
/// The longest lease, in seconds: 30 days.
pub const MAX_LEASE: u32 = 30 * 86_400;

/// How long a node that does not hear control goes on to trust the peers of a network: from 10
/// seconds to 30 days, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Lease(u32);

/// A text or number that is no lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write a lease as a time from 10s to 30d, such as 90s, 15m, 12h or 7d")]
pub struct InvalidLease;

impl Lease {
    /// Returns it as a time.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0.into())
    }

    /// Returns it in seconds.
    pub fn secs(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Lease {
    type Error = InvalidLease;

    fn try_from(secs: u32) -> Result<Self, InvalidLease> {
        match secs {
            MIN_LEASE..=MAX_LEASE => Ok(Self(secs)),
            _ => Err(InvalidLease),
        }
    }
}

impl From<Lease> for u32 {
    fn from(lease: Lease) -> Self {
        lease.0
    }
}

impl FromStr for Lease {
    type Err = InvalidLease;

    fn from_str(text: &str) -> Result<Self, InvalidLease> {
        let unit = text.chars().last().ok_or(InvalidLease)?;
        let each: u32 = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(InvalidLease),
        };
        let digits = text.strip_suffix(unit).ok_or(InvalidLease)?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidLease);
        }
        let count: u32 = digits.parse().map_err(|_| InvalidLease)?;

        count.checked_mul(each).ok_or(InvalidLease)?.try_into()
    }
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(86_400, 'd'), (3_600, 'h'), (60, 'm')];
        let (each, unit) =
            units.into_iter().find(|(each, _)| self.0.is_multiple_of(*each)).unwrap_or((1, 's'));

        write!(f, "{}{unit}", self.0 / each)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn leases_have_a_unit_and_bounds() {
        let parse = |text: &str| text.parse::<Lease>().map(Lease::secs);

        assert_eq!(
            ["10s", "90s", "15m", "12h", "30d"].map(parse),
            [Ok(10), Ok(90), Ok(900), Ok(43_200), Ok(2_592_000)]
        );
        for wrong in ["", "s", "10", "9s", "31d", "1w", "+15m", "1.5h", "99999999999d", "ü"] {
            assert_eq!(parse(wrong), Err(InvalidLease), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn a_lease_is_read_as_it_is_written(secs in MIN_LEASE..=MAX_LEASE) {
            let lease = Lease::try_from(secs).expect("within bounds");

            prop_assert_eq!(lease.to_string().parse(), Ok(lease));
        }
    }
}
