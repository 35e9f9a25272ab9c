//! How this node's peers are doing, lane by lane.

use std::collections::BTreeSet;
use std::net::IpAddr;

use overlay_core::{Name, View};
use overlay_dataplane::{LaneId, PeerStatus};

use crate::health;
use crate::joined_node::JoinedNode;
use crate::problem::unix_now;

/// How things stand between one lane of this node and one of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerLaneStatus {
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
    let reports = joined.lanes.report().await;

    let peers = reports.into_iter().flat_map(|report| {
        let local_lane = report.lane;
        report.peers.into_iter().map(move |peer| (local_lane, peer))
    });
    peers.map(|(local_lane, path)| peer(local_lane, path, &view, &own)).collect()
}

fn peer(
    local_lane: LaneId,
    path: PeerStatus,
    view: &View,
    own: &BTreeSet<IpAddr>,
) -> PeerLaneStatus {
    PeerLaneStatus {
        local_lane,
        node_name: view.nodes.get(&path.node).map(|node| node.name.clone()),
        network_name: view.networks.get(&path.network).map(|network| network.name.clone()),
        reason: health::reason(&path, own),
        since: unix_now().saturating_sub(path.since.as_secs()),
        path,
    }
}
