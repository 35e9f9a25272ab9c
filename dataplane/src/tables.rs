//! What a lane is told to do: its networks, their members and who may use which inner address.
//!
//! Tables are built elsewhere, never changed, and swapped whole with [`crate::Engine::publish`].

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use overlay_core::{NetworkId, NodeId, PrivateKey, PublicKey};

/// Numbers the lanes of a node from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u16);

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Everything one lane must know. A network whose `Arc` is the one published before is not looked at again.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// The networks this node is a member of.
    pub networks: BTreeMap<NetworkId, Arc<NetworkTable>>,
}

/// One network, as seen by one lane.
#[derive(Debug, Clone)]
pub struct NetworkTable {
    /// The network.
    pub id: NetworkId,
    /// This lane's key in this network. A network published with another key starts anew, without sessions.
    pub private_key: PrivateKey,
    /// The other members; never this node. The lanes of a node have them in common.
    pub peers: Arc<Vec<PeerTable>>,
    /// The inner addresses that live on this node: what leaves must come from one, what arrives must go to one.
    pub local: Vec<IpNet>,
    /// The largest inner packet, in bytes. Data messages are padded to 16 bytes, so it should be a multiple of 16.
    pub mtu: u16,
}

/// Another member of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTable {
    /// The node.
    pub node: NodeId,
    /// Its lanes, in order. Ours number i sends to number i modulo their count, and hears all of them.
    pub lanes: Vec<PeerLane>,
    /// The inner prefixes this node may send from and receives for. The longest prefix wins among all peers.
    pub allowed_ips: Vec<IpNet>,
}

/// One lane of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerLane {
    /// Its key in this network.
    pub public_key: PublicKey,
    /// Where it may be reached, likeliest first. Tried in turn until one answers.
    pub candidates: Vec<SocketAddr>,
}
