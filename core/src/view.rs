//! The membership at one revision, and the changes between revisions.
//!
//! A [`View`] is a set of rows. A [`Change`] replaces or removes one whole row, so changes may be
//! coalesced and repeated. A [`Delta`] holds the changes between two revisions, and applies only to
//! the first.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::endpoint::Endpoint;
use crate::id::{EndpointId, NetworkId, NodeId};
use crate::lineage::{Lineage, Stamp};
use crate::name::Name;
use crate::network::{Member, Network};
use crate::node::{HostReport, Node};
use crate::policy::ClusterPolicy;

/// A position in control's history; each commit increments it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Revision(pub u64);

impl Revision {
    /// Returns the revision after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The replacement or removal of one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A network was created or changed.
    Network(Network),
    /// A node joined or announced itself again.
    Node(Node),
    /// A membership began or changed.
    Member(Member),
    /// An endpoint was attached or changed.
    Endpoint(Endpoint),
    /// A host's report changed.
    HostReport(HostReport),
    /// Another policy applies.
    Policy(ClusterPolicy),
    /// The row is gone.
    Removed(RowKey),
}

impl Change {
    /// Returns the key of the row that this changes.
    pub fn key(&self) -> RowKey {
        match self {
            Self::Network(row) => RowKey::Network(row.id),
            Self::Node(row) => RowKey::Node(row.id),
            Self::Member(row) => RowKey::Member(row.network, row.node),
            Self::Endpoint(row) => RowKey::Endpoint(row.network, row.id),
            Self::HostReport(row) => RowKey::HostReport(row.node),
            Self::Policy(_) => RowKey::Policy,
            Self::Removed(key) => *key,
        }
    }
}

/// The key of one row of a [`View`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKey {
    /// A network.
    Network(NetworkId),
    /// A node.
    Node(NodeId),
    /// A node's membership in a network.
    Member(NetworkId, NodeId),
    /// An endpoint on a network.
    Endpoint(NetworkId, EndpointId),
    /// A node's report about its host.
    HostReport(NodeId),
    /// The policy of the cluster.
    Policy,
}

/// The changes from one revision to a later one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The revision it starts from.
    pub from: Revision,
    /// The revision it results in.
    pub to: Revision,
    /// The changes; of several to one row, only the last matters.
    pub changes: Vec<Change>,
    /// The networks that the watcher could see and may not enter any more: they are gone from its
    /// view, but not removed.
    #[serde(default)]
    pub put_out: Vec<NetworkId>,
    /// The history that both revisions belong to, with the mark of the later one; missing from
    /// control of a version before lineages.
    #[serde(default)]
    pub stamp: Option<Stamp>,
}

/// A delta that does not continue the view: the watcher must ask for a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Gap {
    /// It does not start at the view's revision.
    #[error("delta starts at revision {from}, the view stands at {at}")]
    Revision {
        /// The view's revision.
        at: Revision,
        /// The revision at which the delta starts.
        from: Revision,
    },
    /// It belongs to another history than the view.
    #[error("control's history began anew: control was restored from a backup, or made anew")]
    Lineage,
}

/// The membership at one revision: all nodes, networks, members and endpoints for control, the
/// visible part for a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// The revision.
    pub revision: Revision,
    /// The networks.
    pub networks: BTreeMap<NetworkId, Network>,
    /// The nodes.
    pub nodes: BTreeMap<NodeId, Node>,
    /// The memberships, by network, then node.
    pub members: BTreeMap<(NetworkId, NodeId), Member>,
    /// The endpoints, by network, then id.
    pub endpoints: BTreeMap<(NetworkId, EndpointId), Endpoint>,
    /// The host reports, by node.
    pub hosts: BTreeMap<NodeId, HostReport>,
    /// The policy; without one, everything passes.
    pub policy: Option<Arc<ClusterPolicy>>,
    /// The history that the revision belongs to, where that is known.
    pub stamp: Option<Stamp>,
}

impl View {
    /// Builds a view from the rows of a snapshot.
    pub fn from_rows(revision: Revision, rows: impl IntoIterator<Item = Change>) -> Self {
        let mut view = Self { revision, ..Self::default() };
        for row in rows {
            view.apply(row);
        }

        view
    }

    /// Lists all rows in the order of a snapshot: nodes and networks before what refers to them.
    pub fn rows(&self) -> impl Iterator<Item = Change> + '_ {
        let networks = self.networks.values().cloned().map(Change::Network);
        let nodes = self.nodes.values().cloned().map(Change::Node);
        let members = self.members.values().cloned().map(Change::Member);
        let endpoints = self.endpoints.values().cloned().map(Change::Endpoint);
        let hosts = self.hosts.values().cloned().map(Change::HostReport);
        let policy = self.row(RowKey::Policy);

        networks.chain(nodes).chain(members).chain(endpoints).chain(hosts).chain(policy)
    }

    /// Returns one row, if it exists.
    pub fn row(&self, key: RowKey) -> Option<Change> {
        match key {
            RowKey::Network(id) => self.networks.get(&id).cloned().map(Change::Network),
            RowKey::Node(id) => self.nodes.get(&id).cloned().map(Change::Node),
            RowKey::Member(network, node) => {
                self.members.get(&(network, node)).cloned().map(Change::Member)
            }
            RowKey::Endpoint(network, id) => {
                self.endpoints.get(&(network, id)).cloned().map(Change::Endpoint)
            }
            RowKey::HostReport(node) => self.hosts.get(&node).cloned().map(Change::HostReport),
            RowKey::Policy => self.policy.as_deref().cloned().map(Change::Policy),
        }
    }

    /// Replaces or removes one row; the revision stays.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Network(row) => drop(self.networks.insert(row.id, row)),
            Change::Node(row) => drop(self.nodes.insert(row.id, row)),
            Change::Member(row) => drop(self.members.insert((row.network, row.node), row)),
            Change::Endpoint(row) => drop(self.endpoints.insert((row.network, row.id), row)),
            Change::HostReport(row) => drop(self.hosts.insert(row.node, row)),
            Change::Policy(row) => self.policy = Some(Arc::new(row)),
            Change::Removed(RowKey::Network(id)) => drop(self.networks.remove(&id)),
            Change::Removed(RowKey::Node(id)) => drop(self.nodes.remove(&id)),
            Change::Removed(RowKey::Member(network, node)) => {
                drop(self.members.remove(&(network, node)))
            }
            Change::Removed(RowKey::Endpoint(network, id)) => {
                drop(self.endpoints.remove(&(network, id)))
            }
            Change::Removed(RowKey::HostReport(node)) => drop(self.hosts.remove(&node)),
            Change::Removed(RowKey::Policy) => self.policy = None,
        }
    }

    /// Applies a delta.
    ///
    /// # Errors
    ///
    /// [`Gap`] when the delta does not start at the view's revision, or belongs to another history;
    /// the view is then unchanged.
    pub fn apply_delta(&mut self, delta: Delta) -> Result<(), Gap> {
        if delta.stamp.map(|stamp| stamp.lineage) != self.lineage() {
            return Err(Gap::Lineage);
        }
        if delta.from != self.revision {
            return Err(Gap::Revision { at: self.revision, from: delta.from });
        }
        for change in delta.changes {
            self.apply(change);
        }
        (self.revision, self.stamp) = (delta.to, delta.stamp);

        Ok(())
    }

    /// Returns the history that the view belongs to, where that is known.
    pub fn lineage(&self) -> Option<Lineage> {
        self.stamp.map(|stamp| stamp.lineage)
    }

    /// Finds a network by its name.
    pub fn network_named(&self, name: &Name) -> Option<&Network> {
        self.networks.values().find(|network| network.name == *name)
    }

    /// Finds a node by its name.
    pub fn node_named(&self, name: &Name) -> Option<&Node> {
        self.nodes.values().find(|node| node.name == *name)
    }

    /// Returns a node's membership in a network.
    pub fn member(&self, network: NetworkId, node: NodeId) -> Option<&Member> {
        self.members.get(&(network, node))
    }

    /// Lists the members of a network.
    pub fn members_of(&self, network: NetworkId) -> impl Iterator<Item = &Member> {
        self.members
            .range((network, NodeId::FIRST)..=(network, NodeId::LAST))
            .map(|(_, member)| member)
    }

    /// Lists the endpoints on a network.
    pub fn endpoints_of(&self, network: NetworkId) -> impl Iterator<Item = &Endpoint> {
        self.endpoints
            .range((network, EndpointId::FIRST)..=(network, EndpointId::LAST))
            .map(|(_, endpoint)| endpoint)
    }

    /// Lists the hosts on which a network differs: the node's name, and why.
    pub fn differences_of<'a>(
        &'a self,
        network: &'a Network,
    ) -> impl Iterator<Item = (&'a Name, &'a str)> {
        self.hosts.values().flat_map(move |host| {
            let of_it = host
                .differences
                .iter()
                .filter(move |difference| difference.network == network.title());
            of_it.map(move |difference| (&host.name, difference.reason.as_str()))
        })
    }

    /// Lists the memberships of a node.
    pub fn memberships_of(&self, node: NodeId) -> impl Iterator<Item = &Member> {
        self.networks.keys().filter_map(move |&network| self.member(network, node))
    }
}
