//! A process that cannot be mistaken for another one: its pidfd, its pid and start time on disk,
//! and its end awaited.
#![expect(unsafe_code, reason = "pidfds have no safe interface in the libraries used here")]

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

/// Which process: a pid alone may come to mean another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pid: i32,
    /// Clock ticks since boot (proc(5), field 22 of `stat`).
    started: u64,
    /// Which boot.
    boot: String,
}

/// A living process, held by a descriptor.
#[derive(Debug)]
pub(crate) struct Process {
    id: ProcessId,
    fd: OwnedFd,
}

impl Process {
    /// Takes hold of the process that has this pid now; none when there is none, or it has ended
    /// and nobody has taken note of it yet.
    pub(crate) fn of_pid(pid: i32) -> Option<Self> {
        // SAFETY: pidfd_open takes a pid and flags and returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let id = ProcessId { pid, started: start_time(pid)?, boot: boot_id() };

        Some(Self { id, fd }).filter(|process| !process.has_ended())
    }

    /// Takes hold of a process that was noted in a file; none when it is gone, even if its pid
    /// lives on.
    pub(crate) fn of_file(path: &Path) -> Option<Self> {
        let noted: ProcessId = serde_json::from_slice(&fs::read(path).ok()?).ok()?;

        Self::of_pid(noted.pid).filter(|process| process.id == noted)
    }

    /// Notes the process in a file.
    pub(crate) fn note(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(&self.id).map_err(io::Error::other)?;

        crate::state::write(path, &text)
    }

    /// Returns its pid.
    pub(crate) fn pid(&self) -> i32 {
        self.id.pid
    }

    /// Tells whether it was started with `word` among its arguments.
    pub(crate) fn has_word(&self, word: &str) -> bool {
        let line = fs::read(format!("/proc/{}/cmdline", self.id.pid)).unwrap_or_default();

        line.split(|byte| *byte == 0).any(|found| found == word.as_bytes())
    }

    /// Sends a signal to exactly this process; one that is gone is no error.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        // SAFETY: the descriptor is a live pidfd; a null siginfo asks for the default one.
        let done = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };

        match Errno::result(done) {
            Ok(_) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Tells whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        // A pidfd is readable once all threads of its process have ended (pidfd_open(2)).
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];

        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        // SAFETY: `self` owns the descriptor, is borrowed for the whole wait, and never closes or
        // replaces it.
        let fd = unsafe { AsyncFd::register_with_interest(self.fd.as_fd(), Interest::READABLE) }
            .map_err(io::Error::from)?;
        let _ready = fd.readable().await?;

        Ok(())
    }

    /// Asks it to end, and ends it when it does not within `grace`.
    pub(crate) async fn stop(&self, grace: Duration) -> io::Result<()> {
        self.signal(Signal::SIGTERM)?;
        if timeout(grace, self.ended()).await.is_ok() {
            return Ok(());
        }
        self.signal(Signal::SIGKILL)?;

        timeout(grace, self.ended()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

/// Finds a process of our user and mount namespace that runs `program` with `argument` among its
/// words.
pub(crate) fn find(program: &str, argument: &Path) -> Option<Process> {
    let entries = fs::read_dir("/proc").ok()?;

    entries
        .flatten()
        .filter(|entry| runs(&entry.path(), program, argument) && is_of_this_host(&entry.path()))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find_map(Process::of_pid)
}

fn runs(process: &Path, program: &str, argument: &Path) -> bool {
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0).map(OsStr::from_bytes);
    let first = words.next().and_then(|word| Path::new(word).file_name());

    first.is_some_and(|name| name == program) && words.any(|word| word == argument)
}

/// A container's processes are seen here too, and their paths look the same.
fn is_of_this_host(process: &Path) -> bool {
    let namespace = |process: &Path| fs::read_link(process.join("ns/mnt")).ok();
    let owner = fs::metadata(process).map(|metadata| metadata.uid()).ok();

    owner == Some(nix::unistd::geteuid().as_raw())
        && namespace(process) == namespace(Path::new("/proc/self"))
}

/// Reads when a process started, in clock ticks since boot; none when it is gone or a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, blanks and parentheses too: the fields begin after the last one.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let living = !matches!(*fields.first()?, "Z" | "X");

    fields.get(19).filter(|_| living)?.parse().ok()
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[tokio::test]
    async fn a_noted_process_is_found_stopped_and_not_found_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pid");
        let mut child =
            Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("a process");
        let pid = i32::try_from(child.id()).expect("a pid");
        Process::of_pid(pid).expect("it lives").note(&file).expect("noted");

        Process::of_file(&file)
            .expect("it lives")
            .stop(Duration::from_secs(5))
            .await
            .expect("stopped");

        assert!(Process::of_file(&file).is_none());
        child.wait().expect("reaped");
    }

    #[test]
    fn another_process_with_the_same_pid_is_not_taken() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pid");
        let pid = i32::try_from(std::process::id()).expect("a pid");
        let mut earlier = Process::of_pid(pid).expect("we live");
        earlier.id.started -= 1;
        earlier.note(&file).expect("noted");

        assert!(Process::of_file(&file).is_none());
    }

    #[test]
    fn a_damaged_note_names_nobody() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pid");
        for junk in ["", "1", "{\"pid\":1}", "{\"pid\":-1,\"started\":0,\"boot\":\"\"}"] {
            fs::write(&file, junk).expect("written");
            assert!(Process::of_file(&file).is_none(), "{junk}");
        }
    }
}
