//! A node: a host that runs the agent, as all others see it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::candidate::Candidate;
use crate::id::NodeId;
use crate::name::Name;

/// What a node may request from control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May see and change everything: tokens, other nodes, all networks.
    Admin,
    /// May change its own endpoints and memberships, create networks and change those, and see what
    /// it is a member of.
    Node,
    /// The same as [`Role::Node`], but creates, changes and removes no networks.
    Worker,
}

impl Role {
    /// Returns the word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Node => "node",
            Self::Worker => "worker",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Says what kind of address it is that no other host can be reached at. All peers send handshakes
/// to what a node announces, and cloud providers serve secrets at some of these addresses.
pub fn unreachable_kind(address: IpAddr) -> Option<&'static str> {
    const METADATA: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    ];
    let address = address.to_canonical();
    let is_link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let kinds = [
        (address.is_loopback(), "a loopback address"),
        (is_link_local, "a link-local address"),
        (address.is_multicast(), "a multicast address"),
        (address.is_unspecified(), "no address"),
        (METADATA.contains(&address), "an address of a cloud's metadata service"),
    ];

    kinds.into_iter().find_map(|(is_it, kind)| is_it.then_some(kind))
}

/// A host that runs the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The id, assigned by control at join.
    pub id: NodeId,
    /// The name, unique among the nodes of a cluster.
    pub name: Name,
    /// The role, set by the token that the node joined with.
    pub role: Role,
    /// The operator's labels, from the join token.
    pub labels: BTreeMap<String, String>,
    /// The addresses at which the node's UDP ports may be reached, the likeliest first.
    pub underlay: Vec<IpAddr>,
    /// The UDP port of each lane, in lane order. Empty until the agent has announced itself.
    pub lane_ports: Vec<u16>,
}

impl Node {
    /// Lists the addresses at which a lane of this node may be reached, as it announces them, the
    /// likeliest first.
    ///
    /// A peer with more lanes than this node uses this node's lanes in turn, hence the remainder.
    pub fn candidates(&self, lane: usize) -> Vec<Candidate> {
        let lane =
            lane.checked_rem(self.lane_ports.len()).and_then(|lane| u16::try_from(lane).ok());
        let port = lane.and_then(|lane| Some((lane, *self.lane_ports.get(usize::from(lane))?)));
        let Some((lane, port)) = port else { return Vec::new() };

        self.underlay.iter().map(|&ip| Candidate::host(SocketAddr::new(ip, port), lane)).collect()
    }
}

/// A prefix in use on a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPrefix {
    /// The addresses.
    pub prefix: IpNet,
    /// What uses it there, for messages; empty when unknown.
    pub holder: String,
}

/// A network that is different, or missing, on one host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Difference {
    /// The network's name, as the host's container engine has it.
    pub network: String,
    /// Why, in a sentence for people.
    pub reason: String,
}

/// What a node reports about its host. Every node may see it, so that it can refuse a prefix
/// without asking control, and can explain why a network differs on another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// The node.
    pub node: NodeId,
    /// The prefixes that the host itself uses; no network may overlap them.
    pub prefixes: Vec<HostPrefix>,
    /// The networks that differ on this host.
    pub differences: Vec<Difference>,
    /// The node's name, for messages: not everyone who sees this row may see the node.
    pub name: Name,
}
