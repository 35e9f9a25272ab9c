//! How this node's peers are doing, lane by lane.

use std::collections::BTreeSet;
use std::net::IpAddr;

use overlay_core::{Name, View};
use overlay_dataplane::{LaneId, PeerStatus};

use crate::backend::{BackendKind, PeerReport};
use crate::health;
use crate::joined_node::JoinedNode;
use crate::problem::unix_now;

/// How things stand between one lane of this node and one of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerLaneStatus {
    /// Which WireGuard carries the network.
    pub(crate) backend: BackendKind,
    /// This node's lane.
    pub(crate) local_lane: LaneId,
    /// What the data path says.
    pub(crate) path: PeerStatus,
    /// The peer's name, while it is a node.
    pub(crate) node_name: Option<Name>,
    /// The network's name, while it exists.
    pub(crate) network_name: Option<Name>,
    /// Why there is no session; empty if there is nothing to say.
    pub(crate) reason: String,
    /// Since when the state holds, in seconds since 1970.
    pub(crate) since: u64,
}

/// Returns how every peer is doing, on every lane that talks to it.
pub(crate) async fn peers(joined: &JoinedNode) -> Vec<PeerLaneStatus> {
    let view = joined.view();
    let own = joined.host.own().borrow().clone();
    let backend = &joined.data_path.backend;
    let peers = backend.report().await.peers.into_iter();

    peers.map(|told| peer(backend.kind(told.status.network), told, &view, &own)).collect()
}

fn peer(
    backend: BackendKind,
    PeerReport { key, status: path }: PeerReport,
    view: &View,
    own: &BTreeSet<IpAddr>,
) -> PeerLaneStatus {
    PeerLaneStatus {
        backend,
        local_lane: key,
        node_name: view.nodes.get(&path.node).map(|node| node.name.clone()),
        network_name: view.networks.get(&path.network).map(|network| network.name.clone()),
        reason: health::reason(&path, own),
        since: unix_now().saturating_sub(path.since.as_secs()),
        path,
    }
}
