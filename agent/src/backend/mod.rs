//! What carries the packets of networks, in the agent's words: networks, peers, keys, prefixes,
//! counters and MTUs.
//!
//! [`Backend`] is about configuration and reports; no packet passes through it. `userspace`
//! implements it by the lanes (`path`). What only that one has is not here: lanes are started,
//! handed over and ended where it is built, in `node`.

mod counters;
mod events;
#[cfg(test)]
pub(crate) mod fake;
mod lane_status;
pub(crate) mod lane_tables;
mod served_tun;
pub(crate) mod userspace;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use overlay_core::{NetworkId, NodeId, PrivateKey};
use overlay_dataplane::{LaneId, LinkTable, Notices, PeerStatus, PeerTable};
use tokio::sync::watch;

pub(crate) use counters::Counter;

use crate::kernel::{InterfaceDesired, NetworkInterface};
use crate::path::{AddError, Offload};

/// Carries the packets of networks.
///
/// There is one of a kind for all networks of a node, and each call says which network it is about.
/// So a choice between two of them is a backend itself: it gives each network's part of what it is
/// told to the one that carries the network, and puts reports together, and nobody who configures
/// networks knows of it. A network changes hands when it is left out of what one publishes and is
/// in what the other does. An object for each network could not be told all networks at once,
/// though a node that is expelled must stop with all of them in one step, and would share what is
/// the node's (sockets, the host's addresses, who is behind a translation) behind the callers'
/// backs (`docs/adr/0020-backend.md`).
pub(crate) trait Backend: fmt::Debug + Send + Sync {
    /// Returns which WireGuard carries a network.
    fn kind(&self, network: NetworkId) -> BackendKind;

    /// Returns the interface that a network needs in its namespace.
    fn interface(&self, network: NetworkId, mtu: u32) -> InterfaceDesired;

    /// Returns the interface that an earlier session of the agent had, if it still serves.
    fn earlier_interface(
        &self,
        network: NetworkId,
        desired: InterfaceDesired,
    ) -> Option<NetworkInterface>;

    /// Closes the interfaces of an earlier session, but for those of networks that are `kept`.
    fn forget_earlier(&self, kept: &BTreeSet<NetworkId>);

    /// Takes a network's interface, in place of one before; packets go through it once it is
    /// served.
    fn take_interface(
        &self,
        network: NetworkId,
        interface: NetworkInterface,
    ) -> Box<dyn ServedInterface>;

    /// Uses a network's interface no longer.
    fn release_interface(&self, network: NetworkId);

    /// Tells peers this, from the next [`Backend::publish`] on; those that it leaves out are told
    /// before.
    fn know_notices(&self, notices: &Arc<Notices>);

    /// Carries these networks from now on, as they are configured, and no other.
    fn publish(&self, networks: &NetworkConfigs);

    /// Sends handshakes at once; for an agent whose peers may hold sessions that it does not know.
    fn wake_peers(&self);

    /// Finds out how peers see this node, if none has said: who is behind a translation must call
    /// first.
    fn greet(&self);

    /// Sets the host's own addresses.
    fn know_own(&self, own: &Arc<BTreeSet<IpAddr>>);

    /// Tells peers in use that this node's address may be another one.
    fn announce(&self);

    /// Says where each peer was heard last, with proof.
    fn heard_at(&self) -> watch::Receiver<BTreeMap<NodeId, IpAddr>>;

    /// Reports how everything is doing. What does not answer in time is left out.
    fn report(&self) -> Pin<Box<dyn Future<Output = BackendReport> + Send + '_>>;
}

/// A network's interface that a backend has. Dropped, it is kept for the next session of the agent
/// if there is to be one.
pub(crate) trait ServedInterface: fmt::Debug + Send + Sync {
    /// Carries packets through it. `host` holds the addresses of this host itself in the network,
    /// if it is attached: its tunnel packets are kept out of there.
    ///
    /// # Errors
    ///
    /// [`ServeError`]; serving again is safe.
    fn serve(&self, host: &BTreeSet<IpAddr>) -> Result<(), ServeError>;
}

/// Why packets of a network are not carried through its interface.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The lanes do not take it.
    #[error(transparent)]
    Userspace(#[from] AddError),
}

/// Which WireGuard carries packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackendKind {
    /// The agent's own.
    Userspace,
}

impl BackendKind {
    /// Returns the word for it, as users read it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Userspace => "userspace",
        }
    }
}

/// What is carried. A network whose `Arc` is the one that was published before is the same.
pub(crate) type NetworkConfigs = BTreeMap<NetworkId, Arc<NetworkConfig>>;

/// A network, as it is to be carried.
#[derive(Debug, Clone)]
pub(crate) struct NetworkConfig {
    /// The network.
    pub(crate) id: NetworkId,
    /// This node's keys in it, in the order in which the membership shows the public ones.
    pub(crate) keys: Vec<PrivateKey>,
    /// The other members, each with its keys, the candidates of each key, and its prefixes.
    pub(crate) peers: Arc<Vec<Arc<PeerTable>>>,
    /// The inner addresses of this node.
    pub(crate) local: Vec<IpNet>,
    /// The linked networks, and the peers that carry packets between.
    pub(crate) links: Arc<Vec<LinkTable>>,
    /// The largest inner packet, in bytes.
    pub(crate) mtu: u16,
}

impl NetworkConfig {
    /// Tells whether two of them say the same.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.id == other.id
            && self
                .keys
                .iter()
                .map(PrivateKey::expose)
                .eq(other.keys.iter().map(PrivateKey::expose))
            && (Arc::ptr_eq(&self.peers, &other.peers) || self.peers == other.peers)
            && self.local == other.local
            && self.links == other.links
            && self.mtu == other.mtu
    }
}

/// What this node's networks are carried by, and where peers reach it.
#[derive(Debug, Clone)]
pub(crate) struct DataPath {
    /// What carries them.
    pub(crate) backend: Arc<dyn Backend>,
    /// The UDP port of each key, in the same order in every network.
    pub(crate) ports: Arc<[u16]>,
}

/// How a backend is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct BackendReport {
    /// Its UDP sockets.
    pub(crate) sockets: Vec<SocketReport>,
    /// What became of packets, by name.
    pub(crate) counters: Vec<Counter>,
    /// How long ago the host's firewall last refused what was sent.
    pub(crate) refused: Option<Duration>,
    /// Each pair of a key of this node and one of a peer.
    pub(crate) peers: Vec<PeerReport>,
}

/// A UDP socket by which peers are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SocketReport {
    /// Which of this node's keys it belongs to.
    pub(crate) key: LaneId,
    /// Its port.
    pub(crate) port: u16,
    /// Which super-packets the networks' interfaces take.
    pub(crate) interfaces: Offload,
    /// Whether it takes batches.
    pub(crate) segments: bool,
}

/// How one key of this node does with one of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerReport {
    /// Which of this node's keys it is.
    pub(crate) key: LaneId,
    /// How the peer is doing.
    pub(crate) status: PeerStatus,
}
