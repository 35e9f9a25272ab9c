//! File descriptors that are kept back, so that a few things can be opened when no other
//! descriptor is left.

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::descriptors::are_exhausted;

/// File descriptors that are kept back for a purpose.
///
/// What is released may be taken by any thread of this process before whoever needs it opens
/// something: [`Self::replenish`] and a second attempt help then.
#[derive(Debug, Default)]
pub struct Reserve {
    held: Mutex<Vec<OwnedFd>>,
    size: usize,
}

impl Reserve {
    /// Keeps back `size` descriptors, or as many as there are.
    pub fn new(size: usize) -> Self {
        let reserve = Self { held: Mutex::default(), size };
        reserve.replenish();

        reserve
    }

    /// Keeps back `size` descriptors, all of them or none.
    ///
    /// # Errors
    ///
    /// When there are not that many.
    pub fn try_new(size: usize) -> io::Result<Self> {
        let held = (0..size).map(|_| spare()).collect::<io::Result<_>>()?;

        Ok(Self { held: Mutex::new(held), size })
    }

    /// Releases one descriptor, so that another can be opened; returns whether there was one.
    pub fn release(&self) -> bool {
        self.held().pop().is_some()
    }

    /// Refills the reserve as far as possible.
    pub fn replenish(&self) {
        let mut held = self.held();
        while held.len() < self.size
            && let Ok(descriptor) = spare()
        {
            held.push(descriptor);
        }
    }

    /// Opens something. Where no descriptor is left, `open` is repeated with one more of the
    /// reserve each time, so it must close what it opened when it fails.
    ///
    /// # Errors
    ///
    /// Those of `open`; that descriptors are used up only when the reserve is, too.
    pub fn spend<T, E: Error + 'static>(&self, mut open: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        loop {
            match open() {
                Err(error) if are_exhausted(&error) && self.release() => {}
                opened => return opened,
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a descriptor that is good for nothing but to be closed.
pub(crate) fn spare() -> io::Result<OwnedFd> {
    File::open("/dev/null").map(OwnedFd::from)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    use super::*;

    /// Lets this process open no further file while `work` runs.
    fn without_descriptors<T>(work: impl FnOnce() -> T) -> T {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        let lowest = spare().expect("one is left").as_raw_fd();
        setrlimit(Resource::RLIMIT_NOFILE, u64::try_from(lowest).expect("a descriptor"), hard).expect("lowered");
        let outcome = work();
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("raised");

        outcome
    }

    fn two() -> io::Result<[File; 2]> {
        Ok([File::open("/dev/null")?, File::open("/dev/null")?])
    }

    #[test]
    fn what_was_released_is_kept_back_again() {
        let reserve = Reserve::new(2);

        let released = [reserve.release(), reserve.release(), reserve.release()];

        assert_eq!(released, [true, true, false]);
        reserve.replenish();
        assert!(reserve.release());
    }

    #[test]
    fn what_needs_several_descriptors_gets_them_out_of_the_reserve_when_no_other_is_left() {
        let (enough, too_few) = (Reserve::try_new(2).expect("there are two"), Reserve::try_new(1).expect("and one"));

        let (none, opened, refused) =
            without_descriptors(|| (Reserve::try_new(1), enough.spend(two), too_few.spend(two)));

        assert!(opened.is_ok(), "{opened:?}");
        assert!(refused.is_err_and(|error| are_exhausted(&error)));
        assert!(none.is_err_and(|error| are_exhausted(&error)));
    }

    #[test]
    fn another_failure_costs_nothing() {
        let reserve = Reserve::new(1);

        let failed = reserve.spend(|| Err::<(), _>(io::Error::from(io::ErrorKind::NotFound)));

        assert!(failed.is_err() && reserve.release());
    }
}
