//! Hears of processes that end.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Ends that are taken at a time.
const AT_ONCE: usize = 64;

/// Processes that are watched, each under a key; it costs a descriptor a process.
#[derive(Debug)]
pub struct ProcessExits {
    set: AsyncFd<OwnedFd>,
    epoll: Epoll,
    watched: BTreeMap<u64, Vec<OwnedFd>>,
}

impl ProcessExits {
    /// Begins without any. The runtime that calls drives it.
    ///
    /// # Errors
    ///
    /// When the kernel gives no descriptor.
    #[expect(unsafe_code, reason = "tokio offers no safe way to wait on a descriptor")]
    pub fn open() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let copy = epoll.0.try_clone()?;
        // SAFETY: an `OwnedFd` is open, owned by nobody else, and stays the same descriptor until
        // it is dropped.
        let set = unsafe { AsyncFd::register_with_interest(copy, Interest::READABLE) }?;

        Ok(Self { set, epoll, watched: BTreeMap::new() })
    }

    /// Watches one more process under this key. One that has ended already is no error, and is
    /// heard of at once.
    ///
    /// # Errors
    ///
    /// When there is no such process, or no descriptor for it.
    pub fn watch(&mut self, key: u64, pid: u32) -> io::Result<()> {
        let process = open_process(pid)?;
        self.epoll.add(process.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, key))?;
        self.watched.entry(key).or_default().push(process);

        Ok(())
    }

    /// Watches the processes of this key no longer.
    pub fn forget(&mut self, key: u64) {
        for process in self.watched.remove(&key).into_iter().flatten() {
            // Closing it does the same, unless somebody has a copy.
            let _ = self.epoll.delete(process);
        }
    }

    /// Waits until watched processes have ended, and returns their keys; those are forgotten. Safe
    /// to cancel.
    ///
    /// # Errors
    ///
    /// When the runtime is shutting down.
    pub async fn ended(&mut self) -> io::Result<Vec<u64>> {
        loop {
            let mut guard = self.set.readable().await?;
            let mut ready = [EpollEvent::empty(); AT_ONCE];
            let count = match self.epoll.wait(&mut ready, EpollTimeout::ZERO) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            if count < AT_ONCE {
                guard.clear_ready();
            }
            drop(guard);
            let keys: Vec<_> = ready[..count].iter().map(EpollEvent::data).collect();
            for key in &keys {
                self.forget(*key);
            }
            if !keys.is_empty() {
                return Ok(keys);
            }
        }
    }
}

#[expect(unsafe_code, reason = "no library here wraps pidfd_open(2)")]
fn open_process(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: pidfd_open takes a process number and a word of flags, reads no memory and returns a
    // new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }

    // SAFETY: the kernel just made this descriptor for us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn an_end_is_heard_of_once_under_its_key_and_life_is_silent() {
        let mut exits = ProcessExits::open().expect("a descriptor");
        let mut child = Command::new("sleep").arg("60").spawn().expect("a child");
        exits.watch(1, std::process::id()).expect("this process");
        exits.watch(2, child.id()).expect("a child");
        assert!(timeout(Duration::from_millis(20), exits.ended()).await.is_err(), "both live");

        child.kill().expect("a child");
        let ended =
            timeout(Duration::from_secs(5), exits.ended()).await.expect("in time").expect("a set");
        child.wait().expect("a child");

        assert_eq!(ended, [2]);
        assert!(timeout(Duration::from_millis(20), exits.ended()).await.is_err(), "only once");
        assert!(exits.watch(3, child.id()).is_err(), "it is gone");
    }
}
