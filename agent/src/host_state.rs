//! What is known of this host's network. Whoever looks at it (`membership::announce`) notes it
//! here, and everybody else hears of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::watch;

use crate::kernel::host::{Underlay, tunnel_mtu};

/// The MTU of most underlays, until the host's own is known.
const ETHERNET_MTU: u32 = 1500;

/// What the host has in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostPrefixes {
    /// Of its links, with the link.
    pub(crate) links: BTreeMap<IpNet, String>,
    /// Of its routes, with the link that they lead to.
    pub(crate) routes: BTreeMap<IpNet, String>,
}

/// The host's network, as it was seen last.
#[derive(Debug)]
pub(crate) struct HostState {
    prefixes: watch::Sender<HostPrefixes>,
    own: watch::Sender<Arc<BTreeSet<IpAddr>>>,
    ways: watch::Sender<u64>,
    underlay_mtu: watch::Sender<u32>,
}

impl HostState {
    /// Begins with a host that was not looked at yet.
    pub(crate) fn new() -> Self {
        Self {
            prefixes: watch::Sender::default(),
            own: watch::Sender::default(),
            ways: watch::Sender::default(),
            underlay_mtu: watch::Sender::new(ETHERNET_MTU),
        }
    }

    /// Subscribes to the prefixes that the host itself uses.
    pub(crate) fn prefixes(&self) -> watch::Receiver<HostPrefixes> {
        self.prefixes.subscribe()
    }

    /// Records the prefixes that the host itself uses.
    pub(crate) fn note_prefixes(&self, prefixes: HostPrefixes) {
        self.prefixes.send_if_modified(|known| {
            let changed = *known != prefixes;
            *known = prefixes;
            changed
        });
    }

    /// Subscribes to the host's own addresses; empty until they were read.
    pub(crate) fn own(&self) -> watch::Receiver<Arc<BTreeSet<IpAddr>>> {
        self.own.subscribe()
    }

    /// Records the host's own addresses, and tells whether they changed; a peer that sees this node
    /// at another address means that it is behind NAT.
    pub(crate) fn note_own(&self, own: BTreeSet<IpAddr>) -> bool {
        self.own.send_if_modified(|known| {
            **known != own && {
                *known = Arc::new(own);
                true
            }
        })
    }

    /// Hears whenever the host's addresses or routes have changed: connections may be dead by that.
    pub(crate) fn ways(&self) -> watch::Receiver<u64> {
        self.ways.subscribe()
    }

    /// Takes note that the host's addresses or routes have changed.
    pub(crate) fn note_ways(&self) {
        self.ways.send_modify(|count| *count += 1);
    }

    /// Subscribes to the underlay's MTU, in bytes.
    pub(crate) fn underlay_mtu(&self) -> watch::Receiver<u32> {
        self.underlay_mtu.subscribe()
    }

    /// Records the underlay's MTU, in bytes.
    pub(crate) fn note_underlay_mtu(&self, mtu: u32) {
        self.underlay_mtu.send_if_modified(|known| std::mem::replace(known, mtu) != mtu);
    }

    /// Returns the largest inner packet, in bytes.
    pub(crate) fn mtu(&self) -> u32 {
        tunnel_mtu(*self.underlay_mtu.borrow(), Underlay::Any)
    }
}
