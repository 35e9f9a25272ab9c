//! Makes sure that one state directory has one agent: a lock file that also says who holds it.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// The state directory cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has it.
    #[error("already running, pid {pid} (it holds {}); stop it first, or use another --state", path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Who holds it; `unknown` while it is just starting.
        pid: String,
    },
    /// The directory or the file cannot be made or opened.
    #[error("{} cannot be used", path.display())]
    Unusable {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The taken lock; given back when dropped, by the kernel also when the process dies.
#[derive(Debug)]
pub struct StateLock {
    file: Flock<File>,
}

impl StateLock {
    /// Takes over the lock that another process has, by a descriptor of its.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] when the descriptor is no lock's; [`LockError::Unusable`] when the
    /// directory cannot be written.
    pub(crate) fn take_over(state: &Path, descriptor: OwnedFd) -> Result<Self, LockError> {
        let path = state.join("agent.lock");
        let unusable = |source| LockError::Unusable { path: path.clone(), source };
        let named = std::fs::metadata(&path).map_err(unusable)?;
        let file = File::from(descriptor);
        let held = file.metadata().map_err(unusable)?;
        if (named.dev(), named.ino()) != (held.dev(), held.ino()) {
            return Err(LockError::Held { path, pid: "unknown".to_owned() });
        }

        Self::lock(path, file)
    }

    /// Returns a further descriptor of the lock: whoever has one has the lock.
    pub(crate) fn share(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }

    /// Takes the lock again that another process may have given back, and says that this one has
    /// it.
    pub(crate) fn retake(&self) -> io::Result<()> {
        let mut file = File::from(self.share()?);
        // The one file is open in both, so nobody can have come in between but whoever takes a lock
        // that is free.
        #[expect(
            deprecated,
            reason = "the lock must not be given back when this descriptor is closed"
        )]
        nix::fcntl::flock(file.as_raw_fd(), FlockArg::LockExclusiveNonblock)?;

        write_pid(&mut file)
    }

    /// Makes the state directory (mode 0700) if need be and takes its lock.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] with the holder's pid; [`LockError::Unusable`] when the directory cannot
    /// be written.
    pub fn take(state: &Path) -> Result<Self, LockError> {
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| LockError::Unusable { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(unusable(state))?;
        std::fs::set_permissions(state, Permissions::from_mode(0o700)).map_err(unusable(state))?;
        let path = state.join("agent.lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(unusable(&path))?;

        Self::lock(path, file)
    }

    fn lock(path: PathBuf, file: File) -> Result<Self, LockError> {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => match write_pid(&mut file) {
                Ok(()) => Ok(Self { file }),
                Err(source) => Err(LockError::Unusable { path, source }),
            },
            Err((mut file, Errno::EWOULDBLOCK)) => {
                Err(LockError::Held { path, pid: read_pid(&mut file) })
            }
            Err((_, errno)) => Err(LockError::Unusable { path, source: errno.into() }),
        }
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;

    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> String {
    let mut text = String::new();
    // What cannot be read is unknown.
    let _ = file.take(20).read_to_string(&mut text);
    let pid: String = text.trim().chars().filter(char::is_ascii_digit).collect();

    if pid.is_empty() { "unknown".to_owned() } else { pid }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_names_the_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("state");
        let _first = StateLock::take(&state).expect("free");

        let error = StateLock::take(&state).expect_err("held").to_string();

        assert!(
            error.starts_with(&format!("already running, pid {}", std::process::id())),
            "{error}"
        );
        assert_eq!(std::fs::metadata(&state).expect("made").permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_lock_that_is_taken_over_is_held_by_both_and_by_nobody_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = StateLock::take(dir.path()).expect("free");

        let second = StateLock::take_over(dir.path(), first.share().expect("a descriptor"))
            .expect("it is held");
        assert!(StateLock::take(dir.path()).is_err());
        // One that does not come up gives it back for both.
        drop(second);
        first.retake().expect("it is free");

        assert!(StateLock::take(dir.path()).is_err());
        drop(first);
        assert!(StateLock::take(dir.path()).is_ok());
    }

    #[test]
    fn what_is_no_lock_of_this_directory_is_not_taken_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let _first = StateLock::take(dir.path()).expect("free");
        let other = tempfile::tempfile().expect("a file");

        assert!(matches!(
            StateLock::take_over(dir.path(), other.into()),
            Err(LockError::Held { .. })
        ));
    }

    #[test]
    fn a_lock_given_back_can_be_taken_again() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(StateLock::take(dir.path()).expect("free"));

        assert!(StateLock::take(dir.path()).is_ok());
    }
}
