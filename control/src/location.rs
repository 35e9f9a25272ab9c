//! Where control can currently be reached: the addresses of its host, read again whenever the
//! kernel reports a change, and the nodes that run on that host.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket,
};
use overlay_core::NodeId;
use overlay_proto::v1;
use tokio::net::UnixDatagram;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::addresses;

/// Multicast groups of routing netlink: addresses and routes of both families (`RTMGRP_*` of
/// `linux/rtnetlink.h`).
const GROUPS: u32 = 0x10 | 0x40 | 0x100 | 0x400;
/// Changes come in bursts; the host is read once a burst is over.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Events drained at a time; any left over cause another read.
const MAX_DRAINED: usize = 1_000;
/// How often the host is read without an event, since events may be lost.
const RESYNC_INTERVAL: Duration = Duration::from_secs(60);
/// Nodes on control's host: one, unless containers that share the host's network are nodes, too.
const MAX_NODES: usize = 4;

/// Where control can be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Location {
    addresses: Vec<String>,
    nodes: BTreeSet<NodeId>,
}

impl From<&Location> for v1::ControlPlace {
    fn from(location: &Location) -> Self {
        Self {
            addresses: location.addresses.clone(),
            nodes: location.nodes.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Tracks the location and reports its changes.
#[derive(Debug)]
pub(crate) struct LocationTracker {
    advertised: Vec<String>,
    listen: SocketAddr,
    present: watch::Sender<Location>,
}

impl LocationTracker {
    /// Reads the host for the first time.
    pub(crate) fn new(advertised: Vec<String>, listen: SocketAddr) -> Self {
        let locations = Self { advertised, listen, present: watch::Sender::default() };
        locations.look();

        locations
    }

    /// Returns the addresses for a join line, read now.
    pub(crate) fn for_join_lines(&self) -> Vec<String> {
        addresses::for_join_lines(&self.advertised, self.listen, &addresses::of_host())
    }

    /// Returns the location, and subscribes to its changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Location> {
        self.present.subscribe()
    }

    /// Records whether a node watches from control's own host.
    pub(crate) fn note(&self, node: NodeId, on_own_host: bool) {
        self.present.send_if_modified(|location| {
            if on_own_host {
                location.nodes.len() < MAX_NODES && location.nodes.insert(node)
            } else {
                location.nodes.remove(&node)
            }
        });
    }

    fn look(&self) {
        let addresses = addresses::for_nodes(&self.advertised, self.listen, &addresses::of_host());
        self.present.send_if_modified(|location| {
            let changed = location.addresses != addresses;
            if changed {
                tracing::info!(?addresses, "Control is found at these addresses");
                location.addresses = addresses;
            }
            changed
        });
    }

    /// Follows the host for as long as control serves.
    pub(crate) async fn follow(&self) {
        let events = match open_events() {
            Ok(events) => Some(events),
            Err(error) => {
                tracing::warn!(%error, "The kernel reports no address changes, checking once a minute");
                None
            }
        };
        loop {
            match &events {
                // Read the host in any case: after a change, a long silence or a failed read.
                Some(events) => drop(timeout(RESYNC_INTERVAL, events.readable()).await),
                None => sleep(RESYNC_INTERVAL).await,
            }
            sleep(DEBOUNCE).await;
            if let Some(events) = &events {
                drain(events);
            }
            self.look();
        }
    }
}

/// Opens a socket that receives the kernel's notifications. With a datagram socket, the runtime
/// only waits and calls `recv(2)`, which works for netlink as well.
fn open_events() -> io::Result<UnixDatagram> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;

    UnixDatagram::from_std(std::os::unix::net::UnixDatagram::from(fd))
}

/// Drains the socket; what the events say does not matter. An error means that the kernel dropped
/// some.
fn drain(events: &UnixDatagram) {
    let mut buffer = [0; 8192];
    for _ in 0..MAX_DRAINED {
        if events
            .try_recv(&mut buffer)
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_of_this_host_are_known_until_they_watch_from_elsewhere() {
        let locations =
            LocationTracker::new(Vec::new(), "192.0.2.1:7443".parse().expect("an address"));
        let mut location = locations.subscribe();

        locations.note(NodeId::FIRST, true);
        let told = v1::ControlPlace::from(&*location.borrow_and_update());
        locations.note(NodeId::FIRST, true);
        let again = location.has_changed().expect("the sender is there");
        locations.note(NodeId::FIRST, false);

        assert_eq!(
            (told.addresses, told.nodes),
            (vec!["192.0.2.1:7443".into()], vec![NodeId::FIRST.to_string()])
        );
        assert!(!again, "nothing changed");
        assert!(location.borrow().nodes.is_empty());
    }

    #[tokio::test]
    async fn the_kernel_can_be_listened_to() {
        let events = open_events().expect("a socket");

        drain(&events);
    }
}
