//! Waiting for a condition with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::poll::{PollTimeout, poll};

/// The time between two checks: short compared to what tests measure, long compared to a check.
const INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `condition` holds, checking every 20 ms, and returns how long that took.
///
/// # Errors
///
/// If it does not hold within `deadline`; the error names `what` was waited for.
pub fn wait_until(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> Result<Duration> {
    let start = Instant::now();
    loop {
        if condition() {
            return Ok(start.elapsed());
        }
        if start.elapsed() >= deadline {
            bail!("waited {:.1} s without success: {what}", deadline.as_secs_f64());
        }
        rest(INTERVAL);
    }
}

/// Returns a timeout for poll(2): whole milliseconds, rounded up so that a short wait does not
/// become a busy loop.
pub fn poll_timeout(duration: Duration) -> PollTimeout {
    PollTimeout::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
}

/// Sleeps for `duration`, between two checks of a condition.
pub fn rest(duration: Duration) {
    let _ = poll(&mut [], poll_timeout(duration));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_later_is_waited_for() {
        let mut looks = 0;

        wait_until(Duration::from_secs(5), "three looks", || {
            looks += 1;
            looks == 3
        })
        .unwrap();
        assert_eq!(looks, 3);
    }

    #[test]
    fn what_never_holds_is_named() {
        let error = wait_until(Duration::from_millis(1), "rain", || false).unwrap_err();

        assert!(error.to_string().ends_with("rain"), "{error}");
    }
}
