//! Processes as seen from outside: whether one is alive, since when, and waiting for its end with a
//! deadline.

use std::fs;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use overlay_traffic::wait::poll_timeout;
use serde::{Deserialize, Serialize};

/// Identifies a process; a later one with the same id is not mistaken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessIdentity {
    /// Its process id.
    pub(crate) pid: i32,
    /// When it started, in clock ticks since boot.
    pub(crate) started: u64,
}

impl ProcessIdentity {
    /// Identifies the process that has this id now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may contain spaces and parentheses, so fields are counted from its end. The
        // start time is field 22.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let dead = matches!(*fields.first()?, "Z" | "X");

        (!dead).then_some(Self { pid, started: fields.get(19)?.parse().ok()? })
    }

    /// Returns whether it still runs.
    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Kills it and waits until it is gone; returns `false` if it is still there at the deadline.
    pub(crate) fn kill(self, within: Duration) -> bool {
        let Ok(handle) = ProcessHandle::open(self.pid) else { return !self.is_alive() };
        if !self.is_alive() {
            return true;
        }
        // The handle keeps the id from being given to another process between the check and the
        // signal.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.pid),
            nix::sys::signal::Signal::SIGKILL,
        );

        handle.wait_gone(within)
    }
}

/// An open reference to a process.
pub(crate) struct ProcessHandle(OwnedFd);

impl ProcessHandle {
    /// Opens the process with this id.
    ///
    /// # Errors
    ///
    /// If there is none.
    #[expect(unsafe_code, reason = "no library here wraps pidfd_open(2)")]
    pub(crate) fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes a process id and flags, reads no memory and returns a new
        // descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }

        // SAFETY: the kernel just made this descriptor for us; nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Waits for the end of the process; returns `false` if it still runs at the deadline.
    pub(crate) fn wait_gone(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], poll_timeout(left)) {
                Ok(0) if left.is_zero() => return false,
                Ok(0) | Err(_) => {}
                Ok(_) => return true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_number() {
        let own = ProcessIdentity::of(i32::try_from(std::process::id()).unwrap()).unwrap();

        assert!(own.is_alive());
        assert!(!ProcessIdentity { started: own.started + 1, ..own }.is_alive());
    }

    #[test]
    fn killing_waits_for_the_end_and_knows_the_dead() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessIdentity::of(i32::try_from(child.id()).unwrap()).unwrap();

        assert!(id.kill(Duration::from_secs(5)));
        assert!(!id.is_alive(), "a zombie is not alive");
        child.wait().unwrap();
        assert!(id.kill(Duration::from_secs(5)), "gone already");
    }

    #[test]
    fn waiting_ends_at_the_deadline() {
        let own = ProcessHandle::open(i32::try_from(std::process::id()).unwrap()).unwrap();

        assert!(!own.wait_gone(Duration::from_millis(5)));
    }
}
