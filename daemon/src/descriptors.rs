//! File descriptors: raises the limit, keeps a few in reserve so that diagnosis still works, and
//! reports when none is left.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::lack::{Lacking, lacking};
use crate::reserve::{Reserve, spare};
use crate::{Condition, unix_now};

pub use crate::lack::{are_exhausted, remedy};

/// The number of file descriptors in reserve: enough for two operators at the same time, twice.
const RESERVED: usize = 4;

/// Raises the soft limit of file descriptors to the hard limit: the usual soft limit is for
/// programs that use `select`.
///
/// # Errors
///
/// The kernel's error.
pub fn raise_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;

    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// The file descriptors of this process: whether any are left, and a few in reserve.
#[derive(Debug)]
pub struct Descriptors {
    reserve: Arc<Reserve>,
    used_up_since: Mutex<Option<u64>>,
}

impl Descriptors {
    /// Creates a reserve. Do this early: if the limit is lowered later, the higher numbers go
    /// first.
    pub fn new() -> Self {
        Self { reserve: Arc::new(Reserve::new(RESERVED)), used_up_since: Mutex::default() }
    }

    /// Creates no reserve and only reports exhaustion.
    pub fn watched() -> Self {
        Self { reserve: Arc::default(), used_up_since: Mutex::default() }
    }

    /// Returns the descriptors in reserve, for whoever asks what is wrong.
    pub fn reserve(&self) -> &Arc<Reserve> {
        &self.reserve
    }

    /// Returns a condition while no file descriptor is left.
    pub fn condition(&self) -> Option<Condition> {
        self.reserve.replenish();
        let error = match spare() {
            Ok(_) => None,
            Err(error) => Some(error).filter(|error| are_exhausted(error)),
        };
        let mut used_up_since = self.used_up_since.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(error) = error else {
            if used_up_since.take().is_some() {
                tracing::info!("File descriptors are free again");
            }
            return None;
        };
        let whose = match lacking(&error) {
            Some(Lacking::Host) => "this host",
            Some(Lacking::Process) | None => "this process",
        };
        let remedy = remedy(&error).unwrap_or_default();
        let text = format!(
            "{whose} may open no more files ({error}): what needs one is refused; {remedy}"
        );
        let since = *used_up_since.get_or_insert_with(|| {
            tracing::warn!(%error, "File descriptors are used up");
            unix_now()
        });

        Some(Condition { text, since })
    }
}

impl Default for Descriptors {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lack_of_descriptors_counts_as_one() {
        assert!(
            are_exhausted(&io::Error::from_raw_os_error(24))
                && are_exhausted(&io::Error::from_raw_os_error(23))
        );
        assert!(!are_exhausted(&io::Error::from_raw_os_error(12)));
    }

    #[test]
    fn only_a_lack_of_descriptors_has_a_remedy_and_it_names_the_limit() {
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");

        let (own, host) = (io::Error::from_raw_os_error(24), io::Error::from_raw_os_error(23));

        assert!(remedy(&own).is_some_and(|text| text.contains(&format!("LimitNOFILE= of the unit, {soft} now"))));
        assert!(remedy(&host).is_some_and(|text| text.contains("fs.file-max")));
        assert_eq!(remedy(&io::Error::from_raw_os_error(12)), None);
    }
}
