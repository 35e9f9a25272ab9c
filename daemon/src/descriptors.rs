//! File descriptors: raises the limit, keeps a few in reserve so that diagnosis still works, and
//! reports when none is left.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{Condition, unix_now};

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

/// Returns whether an error means that no file descriptor is left, in this process or in the whole
/// system.
pub fn are_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
}

/// The file descriptors of this process: whether any are left, and a few in reserve.
#[derive(Debug)]
pub struct Descriptors {
    reserve: Mutex<Vec<OwnedFd>>,
    /// How many are in reserve now.
    reserved: usize,
    used_up_since: Mutex<Option<u64>>,
}

impl Descriptors {
    /// Creates a reserve. Do this early: if the limit is lowered later, the higher numbers go
    /// first.
    pub fn new() -> Self {
        let descriptors = Self { reserved: RESERVED, ..Self::watched() };
        descriptors.replenish();

        descriptors
    }

    /// Creates no reserve and only reports exhaustion.
    pub fn watched() -> Self {
        Self { reserve: Mutex::default(), reserved: 0, used_up_since: Mutex::default() }
    }

    /// Releases one descriptor of the reserve, so that another can be opened; returns whether there
    /// was one.
    pub fn release(&self) -> bool {
        self.reserve.lock().unwrap_or_else(PoisonError::into_inner).pop().is_some()
    }

    /// Refills the reserve as far as possible.
    pub fn replenish(&self) {
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        while reserve.len() < self.reserved
            && let Ok(descriptor) = spare()
        {
            reserve.push(descriptor);
        }
    }

    /// Returns a condition while no file descriptor is left.
    pub fn condition(&self) -> Option<Condition> {
        self.replenish();
        let error = match spare() {
            Ok(_) => None,
            Err(error) => Some(error).filter(are_exhausted),
        };
        let mut used_up_since = self.used_up_since.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(error) = error else {
            if used_up_since.take().is_some() {
                tracing::info!("File descriptors are free again");
            }
            return None;
        };
        let whose = if error.raw_os_error() == Some(Errno::ENFILE as i32) { "this host" } else { "this process" };
        let advice = "close what is not needed, or raise LimitNOFILE= of the unit";
        let text = format!("{whose} may open no more files ({error}): what needs one is refused; {advice}");
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

fn spare() -> io::Result<OwnedFd> {
    File::open("/dev/null").map(OwnedFd::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_up_is_kept_back_again() {
        let descriptors = Descriptors::new();

        let given: Vec<_> = (0..=RESERVED).map(|_| descriptors.release()).collect();

        assert_eq!(given, [true, true, true, true, false]);
        descriptors.replenish();
        assert!(descriptors.release());
        assert_eq!(descriptors.condition(), None);
    }

    #[test]
    fn only_a_lack_of_descriptors_counts_as_one() {
        assert!(are_exhausted(&io::Error::from_raw_os_error(24)) && are_exhausted(&io::Error::from_raw_os_error(23)));
        assert!(!are_exhausted(&io::Error::from_raw_os_error(12)));
    }
}
