//! Descriptors: as many as the system allows, some kept back for who asks what is wrong, and said when none is left.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{Trouble, unix_now};

/// Descriptors that are kept back: two people who look at the same time, twice.
const RESERVED: usize = 4;

/// Raises the limit of descriptors as far as this process may: the usual soft limit is for programs that use `select`.
///
/// # Errors
///
/// What the kernel says.
pub fn raise_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;

    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// Says whether an error means that no descriptor is left, here or in the whole system.
pub fn are_used_up(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
}

/// The descriptors of this process: whether any are left, and a few that are kept back.
#[derive(Debug)]
pub struct Descriptors {
    reserve: Mutex<Vec<OwnedFd>>,
    /// How many are kept back.
    reserved: usize,
    used_up_since: Mutex<Option<u64>>,
}

impl Descriptors {
    /// Keeps some back. To be made early: a limit that is lowered later takes the higher numbers away first.
    pub fn new() -> Self {
        let descriptors = Self { reserved: RESERVED, ..Self::watched() };
        descriptors.replenish();

        descriptors
    }

    /// Keeps none back.
    pub fn watched() -> Self {
        Self { reserve: Mutex::default(), reserved: 0, used_up_since: Mutex::default() }
    }

    /// Gives one of those up that are kept back, so that one may be opened; says whether there was one.
    pub fn give_up(&self) -> bool {
        self.reserve.lock().unwrap_or_else(PoisonError::into_inner).pop().is_some()
    }

    /// Keeps back again what was given up, as far as there is any.
    pub fn replenish(&self) {
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        while reserve.len() < self.reserved
            && let Ok(descriptor) = spare()
        {
            reserve.push(descriptor);
        }
    }

    /// Says that none is left, if that is so.
    pub fn trouble(&self) -> Option<Trouble> {
        self.replenish();
        let error = match spare() {
            Ok(_) => None,
            Err(error) => Some(error).filter(are_used_up),
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

        Some(Trouble { text, since })
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

        let given: Vec<_> = (0..=RESERVED).map(|_| descriptors.give_up()).collect();

        assert_eq!(given, [true, true, true, true, false]);
        descriptors.replenish();
        assert!(descriptors.give_up());
        assert_eq!(descriptors.trouble(), None);
    }

    #[test]
    fn only_a_lack_of_descriptors_counts_as_one() {
        assert!(are_used_up(&io::Error::from_raw_os_error(24)) && are_used_up(&io::Error::from_raw_os_error(23)));
        assert!(!are_used_up(&io::Error::from_raw_os_error(12)));
    }
}
