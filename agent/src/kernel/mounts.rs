//! Hears of mounts that come and go on this host: a namespace's file is one.

use std::fs::File;
use std::io;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What the kernel lists mounts in; it can be waited for.
const TABLE: &str = "/proc/self/mountinfo";

/// A subscription to changes of the mounts that this process sees.
#[derive(Debug)]
pub struct MountEvents {
    table: AsyncFd<File>,
}

impl MountEvents {
    /// Subscribes. The runtime that calls drives it.
    ///
    /// # Errors
    ///
    /// When `/proc` is not there.
    #[expect(unsafe_code, reason = "tokio offers no safe way to wait on a descriptor")]
    pub fn open() -> io::Result<Self> {
        let file = File::open(TABLE)?;
        // SAFETY: a `File` is open, owned by nobody else, and stays the same descriptor until it is
        // dropped.
        let table = unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) }?;

        Ok(Self { table })
    }

    /// Waits until something changed since the last call. Safe to cancel: nothing is lost.
    ///
    /// # Errors
    ///
    /// When the runtime is shutting down.
    pub async fn changed(&mut self) -> io::Result<()> {
        self.table.ready(Interest::PRIORITY).await?.clear_ready();

        Ok(())
    }
}
