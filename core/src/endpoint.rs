//! An endpoint: one container's (or process's, or host's) attachment to one network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::id::{EndpointId, NetworkId, NodeId};
use crate::name::{Alias, Name};

/// Who asked for an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// `overlayctl run`.
    Run,
    /// `overlayctl attach --netns`.
    Attach,
    /// `overlayctl attach --host`.
    Host,
    /// A container engine through the Docker plugin.
    Docker,
    /// A runtime through CNI.
    Cni,
}

/// An attachment to one network, as everybody in that network knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Drawn by the node that made it.
    pub id: EndpointId,
    /// The network it is on.
    pub network: NetworkId,
    /// The node it is on.
    pub node: NodeId,
    /// The name others find it by. Several endpoints may share one: all their addresses are answered.
    pub name: Name,
    /// More names, which may have several labels.
    pub aliases: BTreeSet<Alias>,
    /// One address a family, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Free words of the operator, which policy selects by.
    pub labels: BTreeMap<String, String>,
    /// Who asked for it.
    pub runtime: Runtime,
}
