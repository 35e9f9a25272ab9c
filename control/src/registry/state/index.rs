//! What is looked up in the state without a scan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use overlay_core::{Alias, Change, Endpoint, EndpointId, Member, Name, NetworkId, NodeId};

use crate::registry::policy_parts::PolicyParts;
use crate::registry::record::Digest;
use crate::registry::share;

/// Look-ups that need no scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) network_names: BTreeMap<Name, NetworkId>,
    pub(super) network_titles: BTreeMap<String, NetworkId>,
    pub(super) node_names: BTreeMap<Name, NodeId>,
    pub(super) keys: BTreeMap<Digest, NodeId>,
    pub(super) memberships: BTreeMap<NodeId, BTreeSet<NetworkId>>,
    pub(super) blocks: BTreeSet<(NetworkId, Ipv4Net)>,
    pub(super) addresses: BTreeMap<(NetworkId, IpAddr), EndpointId>,
    pub(super) endpoints: BTreeSet<(NodeId, NetworkId, EndpointId)>,
    /// How many bytes the rows of each node take of its share.
    pub(super) shares: BTreeMap<NodeId, usize>,
    /// The endpoints that claim each name.
    pub(super) claims: BTreeMap<(NetworkId, Alias), BTreeSet<EndpointId>>,
    /// The hosts on which networks differ.
    pub(super) differing: BTreeSet<NodeId>,
    /// The nodes that somebody removed, by when.
    pub(super) evicted: BTreeSet<(u64, NodeId)>,
    /// The keys that removed nodes joined with.
    pub(super) revoked_keys: BTreeMap<Digest, NodeId>,
    /// The policy of the cluster, parsed.
    pub(super) policy: Option<Arc<PolicyParts>>,
}

impl Index {
    pub(super) fn insert(&mut self, row: &Change) {
        if let Some((node, bytes)) = share(row) {
            *self.shares.entry(node).or_default() += bytes;
        }
        match row {
            Change::Network(row) => {
                self.network_names.insert(row.name.clone(), row.id);
                self.network_titles.insert(row.title().to_owned(), row.id);
            }
            Change::Node(row) => drop(self.node_names.insert(row.name.clone(), row.id)),
            Change::Member(row) => self.insert_member(row),
            Change::Endpoint(row) => {
                self.endpoints.insert((row.node, row.network, row.id));
                for name in row.claims() {
                    self.claims.entry((row.network, name)).or_default().insert(row.id);
                }
                self.addresses
                    .extend(row.addresses.iter().map(|address| ((row.network, *address), row.id)));
            }
            Change::HostReport(row) if !row.differences.is_empty() => {
                self.differing.insert(row.node);
            }
            // What this version does not understand is found by [`ClusterState::contradiction`].
            Change::Policy(row) => self.policy = PolicyParts::parse(&row.text).map(Arc::new),
            Change::HostReport(_) | Change::Removed(_) => {}
        }
    }

    fn insert_member(&mut self, row: &Member) {
        self.memberships.entry(row.node).or_default().insert(row.network);
        self.blocks.extend(row.blocks.iter().map(|block| (row.network, block.prefix)));
    }

    pub(super) fn remove(&mut self, row: &Change) {
        if let Some((node, bytes)) = share(row)
            && let Some(of_node) = self.shares.get_mut(&node)
        {
            *of_node = of_node.saturating_sub(bytes);
            if *of_node == 0 {
                self.shares.remove(&node);
            }
        }
        match row {
            Change::Network(row) => {
                self.network_names.remove(&row.name);
                self.network_titles.remove(row.title());
            }
            Change::Node(row) => drop(self.node_names.remove(&row.name)),
            Change::Member(row) => self.remove_member(row),
            Change::Endpoint(row) => {
                self.endpoints.remove(&(row.node, row.network, row.id));
                self.remove_claims(row);
                for key in row.addresses.iter().map(|address| (row.network, *address)) {
                    if self.addresses.get(&key) == Some(&row.id) {
                        self.addresses.remove(&key);
                    }
                }
            }
            Change::HostReport(row) => drop(self.differing.remove(&row.node)),
            Change::Policy(_) => self.policy = None,
            Change::Removed(_) => {}
        }
    }

    fn remove_claims(&mut self, row: &Endpoint) {
        for key in row.claims().into_iter().map(|name| (row.network, name)) {
            if let Some(claimants) = self.claims.get_mut(&key) {
                claimants.remove(&row.id);
                if claimants.is_empty() {
                    self.claims.remove(&key);
                }
            }
        }
    }

    fn remove_member(&mut self, row: &Member) {
        if let Some(networks) = self.memberships.get_mut(&row.node) {
            networks.remove(&row.network);
            if networks.is_empty() {
                self.memberships.remove(&row.node);
            }
        }
        for block in &row.blocks {
            self.blocks.remove(&(row.network, block.prefix));
        }
    }
}
