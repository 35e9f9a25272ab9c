//! A node: one host that runs the agent, as everybody else knows it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::name::Name;

/// What a node may ask of control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May see and change everything: tokens, other nodes, all networks.
    Admin,
    /// May change its own endpoints and memberships, create networks, and see what it is a member of.
    Node,
}

/// A host that runs the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Given by control at join.
    pub id: NodeId,
    /// Unique among the nodes of a cluster.
    pub name: Name,
    /// Decided by the token the node joined with.
    pub role: Role,
    /// Free words of the operator; from the join token.
    pub labels: BTreeMap<String, String>,
    /// Addresses at which the node's UDP ports may be reached, the likeliest first.
    pub underlay: Vec<IpAddr>,
    /// The UDP port of each lane, in lane order. Empty until the agent has announced itself.
    pub lane_ports: Vec<u16>,
}

impl Node {
    /// Lists where lane `lane` of this node may be reached, the likeliest first.
    ///
    /// A peer with more lanes than this node shares this node's lanes out, hence the remainder.
    pub fn underlay_addrs(&self, lane: usize) -> Vec<SocketAddr> {
        let Some(&port) = lane.checked_rem(self.lane_ports.len()).and_then(|i| self.lane_ports.get(i)) else {
            return Vec::new();
        };

        self.underlay.iter().map(|&ip| SocketAddr::new(ip, port)).collect()
    }
}

/// A prefix in use on a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPrefix {
    /// The addresses.
    pub prefix: IpNet,
    /// What holds it there, for messages; empty when not told.
    pub holder: String,
}

/// A network that is not on a host as it is elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Difference {
    /// The network's name, as the host's container engine has it.
    pub network: String,
    /// Why, in a sentence for people.
    pub reason: String,
}

/// What a node says of its host. Every node may know, so that it can refuse a prefix without a question to control, and say why a
/// network differs on another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// The node.
    pub node: NodeId,
    /// What the host uses by itself: no network is put onto these prefixes.
    pub prefixes: Vec<HostPrefix>,
    /// The networks that are not there as they are elsewhere.
    pub differences: Vec<Difference>,
    /// The node's name, for messages: who sees this row need not see the node's own.
    pub name: Name,
}
