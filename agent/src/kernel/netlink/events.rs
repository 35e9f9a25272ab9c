//! "Something changed in this namespace", and no more than that: who hears it reads back.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::super::error::KernelError;
use super::super::netns::Netns;

/// `RTNLGRP_*`: links, IPv4 addresses and routes, IPv6 addresses, routes and rules, and the few parameters that tell
/// (forwarding, `rp_filter`).
const GROUPS: [u32; 8] = [1, 5, 7, 9, 11, 19, 24, 25];
/// Messages are thrown away unread, so what does not fit is no loss.
const SCRATCH: usize = 4096;

/// A subscription to the changes of one namespace, ours included.
#[derive(Debug)]
pub struct Events {
    socket: AsyncFd<OwnedFd>,
}

impl Events {
    /// Subscribes. The runtime that calls drives it.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered or the kernel has no such groups.
    pub async fn open(netns: &Netns) -> Result<Self, KernelError> {
        let opened = netns.enter(subscribe).await?;
        let socket = opened.and_then(register);

        socket.map(|socket| Self { socket }).map_err(|source| KernelError::Refused {
            action: "subscribe to",
            object: "changes".to_owned(),
            namespace: netns.label().to_owned(),
            source,
        })
    }

    /// Waits until something changed since the last call. Safe to cancel: nothing is lost.
    ///
    /// # Errors
    ///
    /// When the socket is broken. An overrun is a change.
    pub async fn changed(&mut self) -> io::Result<()> {
        let mut guard = self.socket.readable().await?;
        let mut scratch = [0; SCRATCH];

        // Reads until nothing is left, so that a burst is one change.
        loop {
            let read = guard.try_io(|socket| {
                let read = socket::recv(socket.as_raw_fd(), &mut scratch, MsgFlags::empty());
                read.map_err(io::Error::from)
            });
            match read {
                Err(_nothing_left) => return Ok(()),
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Ok(Err(error)) => return Err(error),
            }
        }
    }
}

fn subscribe() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    let groups = GROUPS.iter().fold(0, |mask, group| mask | 1 << (group - 1));
    socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;

    Ok(socket)
}

#[expect(unsafe_code, reason = "tokio offers no safe way to wait on a descriptor")]
fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, owned by nobody else, and stays the same descriptor until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}
