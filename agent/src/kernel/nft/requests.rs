//! Small requests about the tables of a namespace, for which no program is needed: what has changed
//! since, whether a chain is there, and that a table be gone.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
};

use super::edition::TableFrame;
use super::encoding::{self, Batch};

/// `nfgenmsg`, before the attributes.
const FAMILY_HEADER: usize = 4;
/// Room for an answer, in bytes: a chain with its counters has some hundred.
const ANSWER: usize = 4096;

/// A connection to the tables of the namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Requests(OwnedFd);

impl Requests {
    /// Opens it in the calling thread's namespace.
    ///
    /// # Errors
    ///
    /// When the kernel has no nftables.
    pub(super) fn open() -> io::Result<Self> {
        open_socket().map(Self)
    }

    /// Returns the number of the tables' present state. Each transaction, whoever's, adds one.
    pub(super) fn stamp(&self) -> io::Result<u32> {
        let body = self.ask(&encoding::ask_stamp())?;

        encoding::stamp(body.get(FAMILY_HEADER..).unwrap_or_default())
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Returns whether a chain of a table of both families is there.
    pub(super) fn has_chain(&self, table: &str, chain: &str) -> io::Result<bool> {
        found(self.ask(&encoding::ask_chain(table, chain)))
    }

    /// Returns whether a base chain of any of these tables is there that is of both families.
    pub(super) fn has_any_of(&self, frames: &[TableFrame]) -> io::Result<bool> {
        for (table, chain) in frames.iter().flat_map(TableFrame::base_chain_names) {
            if self.has_chain(table, chain)? {
                return Ok(true);
            }
        }

        Ok(false)
    }

    /// Takes a table of both families away; tells whether it was there.
    pub(super) fn remove_table(&self, table: &str) -> io::Result<bool> {
        found(self.ask(&encoding::remove_table(table)))
    }

    /// Takes the tables of this name away, whatever their families.
    pub(super) fn remove_tables(&self, table: &str) -> io::Result<()> {
        self.ask(&encoding::remove_tables(table)).map(drop)
    }

    /// Sends messages, and returns the body of the first answer; a refusal is an error. The kernel
    /// answers at once.
    pub(super) fn ask(&self, batch: &Batch) -> io::Result<Vec<u8>> {
        let socket = self.0.as_raw_fd();
        socket::send(socket, batch.bytes(), MsgFlags::empty())?;
        let mut buffer = [0; ANSWER];
        let len = socket::recv(socket, &mut buffer, MsgFlags::empty())?;
        let (_, kind, body) = encoding::header(&buffer[..len]).ok_or(io::ErrorKind::InvalidData)?;
        encoding::is_acknowledgement(kind, body)?;

        Ok(body.to_vec())
    }
}

impl From<Requests> for OwnedFd {
    fn from(requests: Requests) -> Self {
        requests.0
    }
}

/// Opens a netlink socket to netfilter, in the calling thread's namespace.
///
/// # Errors
///
/// When the kernel has no netfilter, or descriptors are used up.
pub(super) fn open_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let protocol = SockProtocol::NetlinkNetFilter;
    let socket = socket::socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;

    Ok(socket)
}

/// Returns whether this is what a kernel without nftables says, which has no table either.
pub(super) fn lacks_nftables(error: &io::Error) -> bool {
    let lacks = [libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT, libc::EOPNOTSUPP, libc::EINVAL];

    error.raw_os_error().is_some_and(|code| lacks.contains(&code))
}

fn found<T>(answer: io::Result<T>) -> io::Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}
