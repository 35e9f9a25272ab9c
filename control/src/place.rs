//! Where control is found at the moment: the addresses of its host, read anew whenever the kernel says that they changed,
//! and which nodes run on that host.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
use overlay_core::NodeId;
use overlay_proto::v1;
use tokio::net::UnixDatagram;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::addresses;

/// Multicast groups of routing netlink: addresses and routes of both families (`RTMGRP_*` of `linux/rtnetlink.h`).
const GROUPS: u32 = 0x10 | 0x40 | 0x100 | 0x400;
/// Changes come in rows; the last one of them is looked at.
const GATHER: Duration = Duration::from_millis(100);
/// Events taken at a time; what is left after that makes for another look.
const MAX_DRAINED: usize = 1_000;
/// How often the host is looked at without being told, as events may be lost.
const SLOW_LOOK: Duration = Duration::from_secs(60);
/// Nodes on control's host: one, unless somebody shares the host's network with containers that are nodes.
const MAX_NODES: usize = 4;

/// Where control is found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    addresses: Vec<String>,
    nodes: BTreeSet<NodeId>,
}

impl From<&Place> for v1::ControlPlace {
    fn from(place: &Place) -> Self {
        Self { addresses: place.addresses.clone(), nodes: place.nodes.iter().map(ToString::to_string).collect() }
    }
}

/// Keeps the place, and tells of its changes.
#[derive(Debug)]
pub(crate) struct Places {
    advertised: Vec<String>,
    listen: SocketAddr,
    present: watch::Sender<Place>,
}

impl Places {
    /// Reads the host for the first time.
    pub(crate) fn new(advertised: Vec<String>, listen: SocketAddr) -> Self {
        let places = Self { advertised, listen, present: watch::Sender::default() };
        places.look();

        places
    }

    /// Returns the addresses for a join line, read now.
    pub(crate) fn for_join_lines(&self) -> Vec<String> {
        addresses::for_join_lines(&self.advertised, self.listen, &addresses::of_host())
    }

    /// Returns the place, and hears of its changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Place> {
        self.present.subscribe()
    }

    /// Notes from where a node watches.
    pub(crate) fn note(&self, node: NodeId, on_own_host: bool) {
        self.present.send_if_modified(|place| {
            if on_own_host {
                place.nodes.len() < MAX_NODES && place.nodes.insert(node)
            } else {
                place.nodes.remove(&node)
            }
        });
    }

    fn look(&self) {
        let addresses = addresses::for_nodes(&self.advertised, self.listen, &addresses::of_host());
        self.present.send_if_modified(|place| {
            let changed = place.addresses != addresses;
            if changed {
                tracing::info!(?addresses, "Control is found at these addresses");
                place.addresses = addresses;
            }
            changed
        });
    }

    /// Follows the host for as long as control serves.
    pub(crate) async fn follow(&self) {
        let events = match open_events() {
            Ok(events) => Some(events),
            Err(error) => {
                tracing::warn!(%error, "The kernel does not tell of changed addresses, looking once a minute");
                None
            }
        };
        loop {
            match &events {
                // Whether it changed, or nothing was heard for long, or reading failed: look.
                Some(events) => drop(timeout(SLOW_LOOK, events.readable()).await),
                None => sleep(SLOW_LOOK).await,
            }
            sleep(GATHER).await;
            if let Some(events) = &events {
                drain(events);
            }
            self.look();
        }
    }
}

/// Opens a socket that hears of changes. The runtime does nothing with a datagram socket but wait and `recv(2)`, which
/// netlink takes as well.
fn open_events() -> io::Result<UnixDatagram> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;

    UnixDatagram::from_std(std::os::unix::net::UnixDatagram::from(fd))
}

/// Takes whatever is there; what it says does not matter. An error says that more came than the kernel kept.
fn drain(events: &UnixDatagram) {
    let mut buffer = [0; 8192];
    for _ in 0..MAX_DRAINED {
        if events.try_recv(&mut buffer).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_of_this_host_are_known_until_they_watch_from_elsewhere() {
        let places = Places::new(Vec::new(), "192.0.2.1:7443".parse().expect("an address"));
        let mut place = places.subscribe();

        places.note(NodeId::FIRST, true);
        let told = v1::ControlPlace::from(&*place.borrow_and_update());
        places.note(NodeId::FIRST, true);
        let again = place.has_changed().expect("the sender is there");
        places.note(NodeId::FIRST, false);

        assert_eq!((told.addresses, told.nodes), (vec!["192.0.2.1:7443".into()], vec![NodeId::FIRST.to_string()]));
        assert!(!again, "nothing changed");
        assert!(place.borrow().nodes.is_empty());
    }

    #[tokio::test]
    async fn the_kernel_can_be_listened_to() {
        let events = open_events().expect("a socket");

        drain(&events);
    }
}
