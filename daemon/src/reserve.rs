//! File descriptors that are kept back, so that a few things can be opened when no other
//! descriptor is left.

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::lack::are_exhausted;

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

    /// Hands over `size` descriptors to a reserve of their own. What this one lacks of them is
    /// opened.
    ///
    /// # Errors
    ///
    /// When there are not that many; nothing is handed over then.
    pub fn split_off(&self, size: usize) -> io::Result<Self> {
        let mut held = self.held();
        let rest = held.len().saturating_sub(size);
        let mut taken = held.split_off(rest);
        while taken.len() < size {
            match spare() {
                Ok(descriptor) => taken.push(descriptor),
                Err(error) => {
                    held.append(&mut taken);
                    held.truncate(self.size);
                    return Err(error);
                }
            }
        }

        Ok(Self { held: Mutex::new(taken), size })
    }

    /// Takes back what a reserve that was split off has left, as far as there is room.
    pub fn take_back(&self, other: &Self) {
        let mut left = std::mem::take(&mut *other.held());
        let mut held = self.held();
        held.append(&mut left);
        held.truncate(self.size);
    }

    /// Releases one descriptor, so that another can be opened; returns whether there was one.
    pub fn release(&self) -> bool {
        self.held().pop().is_some()
    }

    /// Takes a descriptor into the reserve that would be closed otherwise, if there is room: no
    /// thread can take its number in between.
    pub fn keep(&self, descriptor: OwnedFd) {
        let mut held = self.held();
        if held.len() < self.size {
            held.push(descriptor);
        }
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
    pub fn spend<T, E: Error + 'static>(
        &self,
        mut open: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
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

/// A lack of descriptors for tests.
#[cfg(any(test, feature = "testing"))]
pub mod testing {
    use std::io;
    use std::os::fd::AsRawFd as _;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    use super::spare;

    /// While this exists, this process can open no further file.
    #[derive(Debug)]
    pub struct NoDescriptors {
        soft: u64,
        hard: u64,
    }

    impl NoDescriptors {
        /// Takes the descriptors away that are free.
        ///
        /// # Errors
        ///
        /// When the limit cannot be lowered.
        pub fn new() -> io::Result<Self> {
            let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
            let lowest = u64::try_from(spare()?.as_raw_fd()).map_err(io::Error::other)?;
            setrlimit(Resource::RLIMIT_NOFILE, lowest, hard)?;

            Ok(Self { soft, hard })
        }
    }

    impl Drop for NoDescriptors {
        fn drop(&mut self) {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, self.soft, self.hard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::NoDescriptors;
    use super::*;

    /// Lets this process open no further file while `work` runs.
    fn without_descriptors<T>(work: impl FnOnce() -> T) -> T {
        let _lack = NoDescriptors::new().expect("lowered");

        work()
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
        let (enough, too_few) = (Reserve::new(2), Reserve::new(1));

        let (opened, refused) = without_descriptors(|| (enough.spend(two), too_few.spend(two)));

        assert!(opened.is_ok(), "{opened:?}");
        assert!(refused.is_err_and(|error| are_exhausted(&error)));
    }

    #[test]
    fn a_part_is_whole_or_refused_and_goes_back() {
        let reserve = Reserve::new(3);

        let (first, second, whole) = without_descriptors(|| {
            let (first, second) = (reserve.split_off(2), reserve.split_off(2));
            first.iter().for_each(|part| reserve.take_back(part));
            (first.map(drop), second.map(drop), reserve.split_off(3))
        });

        first.expect("there are two");
        assert!(second.is_err_and(|error| are_exhausted(&error)));
        whole.expect("all are back");
        assert!(reserve.split_off(1).is_ok(), "with others left, an empty one is no hindrance");
    }

    #[test]
    fn what_would_be_closed_is_kept_as_far_as_there_is_room() {
        let reserve = Reserve::new(1);
        let (first, second) = (spare().expect("one"), spare().expect("another"));
        assert!(reserve.release());

        let released = without_descriptors(|| {
            reserve.keep(first);
            reserve.keep(second);
            [reserve.release(), reserve.release()]
        });

        assert_eq!(released, [true, false]);
    }

    #[test]
    fn another_failure_costs_nothing() {
        let reserve = Reserve::new(1);

        let failed = reserve.spend(|| Err::<(), _>(io::Error::from(io::ErrorKind::NotFound)));

        assert!(failed.is_err() && reserve.release());
    }
}
