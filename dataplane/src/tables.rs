//! The configuration of a lane: its networks, their members, and who may use which inner address.
//!
//! Tables are built elsewhere, never changed, and replaced as a whole with
//! [`crate::Engine::publish`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use overlay_core::{Candidate, NetworkId, NodeId, PrivateKey, PublicKey};

use crate::notice::Notices;

/// A lane of a node, numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u16);

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Everything one lane must know. A network whose `Arc` is the one published before is skipped.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// The networks this node is a member of.
    pub networks: BTreeMap<NetworkId, Arc<NetworkTable>>,
    /// What this node tells its peers. Those of the networks before are told what is new in it,
    /// also where they are no peers any more.
    pub notices: Arc<Notices>,
}

/// One network, as seen by one lane.
#[derive(Debug, Clone)]
pub struct NetworkTable {
    /// The network.
    pub id: NetworkId,
    /// This lane's key in this network. A network published with another key starts over, without
    /// sessions.
    pub private_key: PrivateKey,
    /// The other members, never this node. All lanes of a node share the list. A peer whose `Arc`
    /// is the one published before is skipped as long as the others have the same keys.
    pub peers: Arc<Vec<Arc<PeerTable>>>,
    /// The inner addresses of this node: packets to peers must come from one of them, packets from
    /// peers must go to one.
    pub local: Vec<IpNet>,
    /// The other networks that are reached through some of the peers; their prefixes are none of
    /// any peer's.
    pub links: Arc<Vec<LinkTable>>,
    /// The largest inner packet, in bytes. Data messages are padded to multiples of 16 bytes, so it
    /// should be one.
    pub mtu: u16,
}

/// Another network that is linked with this one, and the peers through which it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkTable {
    /// Its prefixes.
    pub prefixes: Vec<IpNet>,
    /// The nodes that carry packets to it, the preferred one first: packets go to the first that is
    /// not lost, and may come from any of them. Nodes that are no peers are passed over.
    pub gateways: Vec<NodeId>,
}

/// Another member of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTable {
    /// The node.
    pub node: NodeId,
    /// Its lanes, in order. Our lane `i` sends to lane `i` modulo their count, and hears all of
    /// them.
    pub lanes: Vec<PeerLane>,
    /// The inner prefixes that this node may send from and receives packets for. The longest prefix
    /// among all peers wins.
    pub allowed_ips: Vec<IpNet>,
}

/// One lane of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerLane {
    /// Its key in this network.
    pub public_key: PublicKey,
    /// The underlay addresses at which it may be reached, the likeliest first. They are tried in
    /// turn until one answers.
    pub candidates: Vec<Candidate>,
}
