//! What does not work at this moment, and since when: what `overlayctl status` shows to a person.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Problems kept at the most; each is one line, so some 100 KiB.
const MAX_PROBLEMS: usize = 256;

/// Something that does not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Stable, for scripts.
    pub(crate) code: &'static str,
    /// One line for people.
    pub(crate) text: String,
    /// Since when, in seconds since 1970.
    pub(crate) since: u64,
}

/// All present problems, each under the name of the thing it is about.
#[derive(Debug, Default)]
pub(crate) struct Problems(Mutex<BTreeMap<String, Problem>>);

impl Problems {
    /// States a problem of `about`; one that stood already keeps its beginning.
    pub(crate) fn raise(&self, about: &str, code: &'static str, text: impl std::fmt::Display) {
        let text = text.to_string().replace(['\n', '\r'], " ");
        let mut problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match problems.get(about) {
            Some(known) if known.code == code => known.since,
            _ if problems.len() >= MAX_PROBLEMS => return,
            _ => {
                tracing::warn!(about, code, problem = %text, "Problem");
                unix_now()
            }
        };
        problems.insert(about.to_owned(), Problem { code, text, since });
    }

    /// States that `about` works.
    pub(crate) fn clear(&self, about: &str) {
        let gone = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(about);
        if let Some(problem) = gone {
            tracing::info!(about, code = problem.code, "Problem solved");
        }
    }

    /// States that everything under a name that begins like this works, or is not there any more.
    pub(crate) fn clear_prefix(&self, prefix: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|about, _| !about.starts_with(prefix));
    }

    /// Lists them.
    pub(crate) fn list(&self) -> Vec<Problem> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// Writes an error with its causes, in one line.
pub(crate) fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }

    text
}

/// Returns the time in seconds since 1970; 0 before.
pub(crate) fn unix_now() -> u64 {
    unix_seconds(SystemTime::now())
}

/// Returns a time in seconds since 1970; 0 before.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or_default()
}

/// Writes seconds since 1970 as a date and time in UTC (RFC 3339).
pub(crate) fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);

    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Turns days since 1970 into a date of the Gregorian calendar, counting years from March as Howard Hinnant does.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);

    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_that_stays_keeps_its_beginning() {
        let problems = Problems::default();
        problems.raise("control", "control-away", "first");
        let since = problems.list()[0].since;

        problems.raise("control", "control-away", "second");

        assert_eq!(problems.list(), [Problem { code: "control-away", text: "second".into(), since }]);
        problems.clear("control");
        assert!(problems.list().is_empty());
    }

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(utc(1_795_459_559), "2026-11-23T18:45:59Z");
    }
}
