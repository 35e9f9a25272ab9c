//! The wall clock in seconds since 1970.

use std::time::{SystemTime, UNIX_EPOCH};

/// Reads the wall clock; a clock before 1970 reads as 0.
pub(crate) fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
