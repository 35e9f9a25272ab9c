//! Makes sure that one state directory has one agent: a lock file that also says who holds it.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
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
    _file: Flock<File>,
}

impl StateLock {
    /// Makes the state directory (mode 0700) if need be and takes its lock.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] with the holder's pid; [`LockError::Unusable`] when the directory cannot be written.
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

        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                write_pid(&mut file).map_err(unusable(&path))?;
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => Err(LockError::Held { path, pid: read_pid(&mut file) }),
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

        assert!(error.starts_with(&format!("already running, pid {}", std::process::id())), "{error}");
        assert_eq!(std::fs::metadata(&state).expect("made").permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_lock_given_back_can_be_taken_again() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(StateLock::take(dir.path()).expect("free"));

        assert!(StateLock::take(dir.path()).is_ok());
    }
}
