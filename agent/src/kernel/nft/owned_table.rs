//! A table that belongs to a netlink socket of this process.
//!
//! Nobody else can change or flush it (`NFT_TABLE_F_OWNER`, Linux 5.12), so what was committed last
//! is what is there and need not be read back. When the last descriptor of the socket is closed,
//! the kernel removes the table: whatever it did ends with this process.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{self, MsgFlags};
use overlay_daemon::reserve::Reserve;

use super::encoding::{self, Batch};
use super::requests::open_socket;
use super::ruleset::Ruleset;
use crate::kernel::plan::plan_ruleset;

/// Bytes of a netlink answer that are read; an acknowledgement has 36.
const ANSWER: usize = 4096;

/// A table in the namespace in which its socket was opened; it stands as long as this is held.
#[derive(Debug)]
pub struct OwnedTable {
    owner: OwnedFd,
    held: Option<Ruleset>,
}

impl OwnedTable {
    /// Opens the socket in this thread's namespace; there is no table yet. Where file descriptors
    /// are used up, it takes one of `reserve`.
    ///
    /// # Errors
    ///
    /// When the kernel has no nftables, or descriptors and reserve are used up.
    pub fn open(reserve: &Reserve) -> io::Result<Self> {
        Ok(Self { owner: reserve.spend(open_socket)?, held: None })
    }

    /// Holds the table of an earlier session by the socket that owns it.
    pub(crate) fn adopt(owner: OwnedFd, held: Ruleset) -> Self {
        Self { owner, held: Some(held) }
    }

    /// Returns a further descriptor of the socket that owns the table: it stands as long as anybody
    /// has one.
    pub(crate) fn share(&self) -> io::Result<OwnedFd> {
        self.owner.try_clone()
    }

    /// Makes the table what is desired, in one transaction; does nothing where it is that already.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, and keeps what is there: it is older than 5.12, or a table of this
    /// name is somebody else's.
    pub fn apply(&mut self, desired: Ruleset) -> io::Result<()> {
        let Some(transaction) = plan_ruleset(&desired, self.held.as_ref()) else { return Ok(()) };
        self.commit(&encoding::encode(&transaction))?;
        self.held = Some(desired);

        Ok(())
    }

    fn commit(&self, batch: &Batch) -> io::Result<()> {
        let mut buffer = [0; ANSWER];
        let owner = self.owner.as_raw_fd();
        // What the kernel had to say beyond the first refusal of an earlier transaction.
        while socket::recv(owner, &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
        socket::send(owner, batch.bytes(), MsgFlags::empty())?;
        let mut answers = 0;
        while answers < batch.asked() {
            let len = socket::recv(owner, &mut buffer, MsgFlags::empty())?;
            answers += read_answers(&buffer[..len])?;
        }

        Ok(())
    }
}

/// Counts acknowledgements; the first refusal is an error.
fn read_answers(mut bytes: &[u8]) -> io::Result<usize> {
    let mut count = 0;
    while let Some((len, kind, body)) = encoding::header(bytes) {
        count += usize::from(encoding::is_acknowledgement(kind, body)?);
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }

    Ok(count)
}

#[cfg(test)]
#[path = "owned_table_tests.rs"]
mod tests;
