//! Everything control stores, at one revision, with the indexes that keep decisions cheap.
//!
//! Only records change it, and every index is a function of the rows.

mod contradiction;
mod fencing;
mod index;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use overlay_core::policy::ClusterPolicy;
use overlay_core::{
    Alias, Change, EndpointId, Name, Network, NetworkId, Node, NodeId, RowKey, View, visibility,
};

pub(crate) use contradiction::Contradiction;
use fencing::Fencing;
pub(crate) use fencing::{Fence, FenceCause, Held};
use index::Index;

use super::error::{EnrollmentError, RegistryError};
use super::record::{
    AppliedPolicy, ChangedKey, Digest, Enrollment, Record, Revoked, Settings, Token,
};

/// The state of control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClusterState {
    settings: Settings,
    view: View,
    tokens: BTreeMap<String, Token>,
    enrollments: BTreeMap<NodeId, Enrollment>,
    revoked: BTreeMap<NodeId, Revoked>,
    policies: BTreeMap<u64, AppliedPolicy>,
    fencing: Fencing,
    index: Index,
}

impl ClusterState {
    /// Creates the state of a new cluster.
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            view: View::default(),
            tokens: BTreeMap::new(),
            enrollments: BTreeMap::new(),
            revoked: BTreeMap::new(),
            policies: BTreeMap::new(),
            fencing: Fencing::default(),
            index: Index::default(),
        }
    }

    /// Rebuilds the state from stored records.
    pub(crate) fn from_records(
        settings: Settings,
        revision: overlay_core::Revision,
        records: impl IntoIterator<Item = Record>,
    ) -> Self {
        let mut state = Self::new(settings);
        for record in records {
            state.apply(record);
        }
        state.view.revision = revision;

        state
    }

    /// Applies records as the next revision; returns which rows of the membership changed.
    pub(crate) fn commit(&mut self, records: impl IntoIterator<Item = Record>) -> Vec<ChangedKey> {
        let mut changed = BTreeMap::new();
        for record in records {
            if let Record::Row(change) = &record {
                let key = change.key();
                changed.entry(key).or_insert_with(|| self.changed_key(key));
            }
            self.apply(record);
        }
        self.view.revision = self.view.revision.next();

        changed.into_values().collect()
    }

    /// Describes a row before a commit changes it.
    fn changed_key(&self, key: RowKey) -> ChangedKey {
        let settings = match key {
            RowKey::Network(id) => self.view.networks.get(&id).map(|row| &row.settings),
            RowKey::Node(_)
            | RowKey::Member(..)
            | RowKey::Endpoint(..)
            | RowKey::HostReport(_)
            | RowKey::Policy => None,
        };
        let nodes = settings.map(|settings| &settings.nodes);
        let nodes = nodes.filter(|nodes| !nodes.is_everything()).cloned().map(Box::new);
        let links = settings.into_iter().flat_map(|settings| &settings.links);

        ChangedKey {
            key,
            before: self.view.row(key).is_some(),
            nodes,
            links: links.map(|link| link.network).collect(),
        }
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Row(change) => {
                if let Some(old) = self.view.row(change.key()) {
                    self.index.remove(&old);
                }
                self.index.insert(&change);
                self.view.apply(change);
            }
            Record::Token(token) => drop(self.tokens.insert(token.id.clone(), token)),
            Record::RemoveToken(id) => drop(self.tokens.remove(&id)),
            Record::Enrollment(enrolled) => {
                self.index.keys.insert(enrolled.key, enrolled.node);
                self.enrollments.insert(enrolled.node, enrolled);
            }
            Record::RemoveEnrollment(node) => {
                if let Some(enrolled) = self.enrollments.remove(&node) {
                    self.index.keys.remove(&enrolled.key);
                }
            }
            Record::Revoked(revoked) => {
                self.forget_revoked(revoked.node);
                if revoked.evicted {
                    self.index.evicted.insert((revoked.at, revoked.node));
                }
                self.index.revoked_keys.extend(revoked.key.map(|key| (key, revoked.node)));
                self.revoked.insert(revoked.node, revoked);
            }
            Record::RemoveRevoked(node) => self.forget_revoked(node),
            Record::AppliedPolicy(applied) => {
                self.policies.insert(applied.revision, applied);
            }
            Record::RemoveAppliedPolicy(revision) => drop(self.policies.remove(&revision)),
            Record::History(history) => self.fencing.set_history(history),
            Record::Fence(fence) => self.fencing.set_fence(Some(fence)),
            Record::RemoveFence => self.fencing.set_fence(None),
            Record::Awaited(node) => self.fencing.set_awaited(node, true),
            Record::RemoveAwaited(node) => self.fencing.set_awaited(node, false),
            Record::Held(held) => self.fencing.hold(held),
            Record::Release(held) => self.fencing.release(&held),
        }
    }

    fn forget_revoked(&mut self, node: NodeId) {
        if let Some(gone) = self.revoked.remove(&node) {
            self.index.evicted.remove(&(gone.at, node));
            let is_its = |key: &Digest| self.index.revoked_keys.get(key) == Some(&node);
            if let Some(key) = gone.key.filter(is_its) {
                self.index.revoked_keys.remove(&key);
            }
        }
    }

    /// Returns the settings that `init` chose.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the membership.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// Returns all tokens by id.
    pub(crate) fn tokens(&self) -> &BTreeMap<String, Token> {
        &self.tokens
    }

    /// Returns how each node was enrolled.
    pub(crate) fn enrollments(&self) -> &BTreeMap<NodeId, Enrollment> {
        &self.enrollments
    }

    /// Returns the nodes that were removed.
    pub(crate) fn revoked(&self) -> &BTreeMap<NodeId, Revoked> {
        &self.revoked
    }

    /// Lists the nodes that somebody removed, the latest first.
    pub(crate) fn evicted(&self) -> impl Iterator<Item = &Revoked> + '_ {
        self.index.evicted.iter().rev().filter_map(|(_, node)| self.revoked.get(node))
    }

    /// Finds the removed node that joined with a given key.
    pub(crate) fn revoked_with_key(&self, key: &Digest) -> Option<&Revoked> {
        self.revoked.get(self.index.revoked_keys.get(key)?)
    }

    /// Returns the policies that are or were live, by revision.
    pub(crate) fn policies(&self) -> &BTreeMap<u64, AppliedPolicy> {
        &self.policies
    }

    /// Lists the records that rebuild this state from nothing.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let rows = self.view.rows().map(Record::Row);
        let tokens = self.tokens.values().cloned().map(Record::Token);
        let enrollments = self.enrollments.values().cloned().map(Record::Enrollment);
        let revoked = self.revoked.values().cloned().map(Record::Revoked);
        let policies = self.policies.values().cloned().map(Record::AppliedPolicy);

        let rest = self.fencing.records();

        rows.chain(tokens).chain(enrollments).chain(revoked).chain(policies).chain(rest)
    }

    /// Finds a node.
    ///
    /// # Errors
    ///
    /// [`EnrollmentError::Removed`] or [`EnrollmentError::Evicted`], or
    /// [`EnrollmentError::Unknown`] when there never was such a node.
    pub(crate) fn node(&self, id: NodeId) -> Result<&Node, RegistryError> {
        match (self.view.nodes.get(&id), self.revoked.get(&id)) {
            (Some(node), _) => Ok(node),
            (None, Some(gone)) => Err(EnrollmentError::of(gone).into()),
            (None, None) => Err(EnrollmentError::Unknown(id).into()),
        }
    }

    /// Returns the name of a node that is there.
    pub(super) fn node_name(&self, id: NodeId) -> Option<Name> {
        self.view.nodes.get(&id).map(|node| node.name.clone())
    }

    /// Finds a node by its name.
    pub(crate) fn node_named(&self, name: &Name) -> Option<&Node> {
        self.view.nodes.get(self.index.node_names.get(name)?)
    }

    /// Finds the node that joined with a given key.
    pub(crate) fn node_of_key(&self, key: &Digest) -> Option<&Node> {
        self.view.nodes.get(self.index.keys.get(key)?)
    }

    /// Finds a network by its name.
    pub(crate) fn network_named(&self, name: &Name) -> Option<&Network> {
        self.view.networks.get(self.index.network_names.get(name)?)
    }

    /// Finds a network by the name that container engines know it by.
    pub(crate) fn network_titled(&self, title: &str) -> Option<&Network> {
        self.view.networks.get(self.index.network_titles.get(title)?)
    }

    /// Finds a network by name or id.
    pub(crate) fn network_of(&self, text: &str) -> Option<&Network> {
        let named = text.parse::<Name>().ok().and_then(|name| self.network_named(&name));
        let known = || text.parse::<NetworkId>().ok().and_then(|id| self.view.networks.get(&id));

        named.or_else(known)
    }

    /// Finds a node by name or id.
    ///
    /// # Errors
    ///
    /// [`EnrollmentError::NotFound`].
    pub(super) fn node_of(&self, text: &str) -> Result<&Node, EnrollmentError> {
        let named = text.parse::<Name>().ok().and_then(|name| self.node_named(&name));
        let known = || text.parse::<NodeId>().ok().and_then(|id| self.view.nodes.get(&id));

        named.or_else(known).ok_or_else(|| EnrollmentError::NotFound(text.to_owned()))
    }

    /// Lists the networks that a node is a member of.
    pub(crate) fn memberships(&self, node: NodeId) -> impl Iterator<Item = NetworkId> + '_ {
        self.index.memberships.get(&node).into_iter().flatten().copied()
    }

    /// Returns whether two nodes are members of a common network, or are the same node.
    pub(crate) fn share_network(&self, one: NodeId, other: NodeId) -> bool {
        let (one_of, other_of) =
            (self.index.memberships.get(&one), self.index.memberships.get(&other));

        one == other || one_of.zip(other_of).is_some_and(|(a, b)| !a.is_disjoint(b))
    }

    /// Returns whether a node may see a row, present or not. The answer is that of
    /// [`overlay_core::visibility::may_see`], found faster.
    pub(crate) fn may_see(&self, node: NodeId, key: RowKey) -> bool {
        match key {
            RowKey::Network(network) => self.may_enter(node, network),
            RowKey::HostReport(_) | RowKey::Policy => self.view.nodes.contains_key(&node),
            RowKey::Node(other) => {
                self.share_network(node, other)
                    || self.memberships(other).any(|network| self.may_reach(node, network))
            }
            RowKey::Member(network, _) => self.view.member(network, node).is_some(),
            RowKey::Endpoint(network, _) => self.may_reach(node, network),
        }
    }

    /// Lists the networks that a network is linked with.
    pub(crate) fn links_of(&self, network: NetworkId) -> impl Iterator<Item = NetworkId> + '_ {
        let links = self.view.networks.get(&network).map(|network| &network.settings.links);

        links.into_iter().flatten().map(|link| link.network)
    }

    /// Returns whether a node is in a network, or in one that is linked with it.
    fn may_reach(&self, node: NodeId, network: NetworkId) -> bool {
        let is_in = |network| self.view.member(network, node).is_some();

        is_in(network) || self.links_of(network).any(is_in)
    }

    /// Returns whether a node may enter a network, and so may know of it; not one that is missing.
    pub(crate) fn may_enter(&self, node: NodeId, network: NetworkId) -> bool {
        visibility::may_enter(&self.view, node, network)
    }

    /// Returns a row as a node may see it, if it may. The answer is that of
    /// [`overlay_core::visibility::visible_row`], found faster.
    pub(crate) fn visible_row(&self, node: NodeId, key: RowKey) -> Option<Change> {
        if key == RowKey::Policy {
            return self.visible_policy(node).map(Change::Policy);
        }
        let row = self.view.row(key).filter(|_| self.may_see(node, key))?;

        if let Change::Node(row) = row {
            let whole = self.share_network(node, row.id);
            return Some(Change::Node(if whole { row } else { visibility::behind_link(row) }));
        }

        Some(visibility::without_hidden_networks(row, |title, host| {
            self.network_titled(title).is_some_and(|network| {
                self.may_enter(node, network.id) && self.may_enter(host, network.id)
            })
        }))
    }

    /// Returns what a node may see of the policy.
    pub(crate) fn visible_policy(&self, node: NodeId) -> Option<ClusterPolicy> {
        let row = self.view.policy.as_ref().filter(|_| self.may_see(node, RowKey::Policy))?;
        let shows = |name: &Name| {
            let network = self.network_named(name);
            network.is_some_and(|it| visibility::may_name(&self.view, node, it.id))
        };

        // Whoever does not understand a policy keeps its networks closed; without one they are
        // open.
        let Some(policy) = self.index.policy.as_deref() else { return Some(row.as_ref().clone()) };

        Some(policy.visible(row, shows))
    }

    /// Returns whether the policy has anything to do with a network, or may have had with one that
    /// is gone.
    pub(crate) fn policy_names(&self, network: NetworkId) -> bool {
        let Some(policy) = &self.index.policy else { return false };

        match self.view.networks.get(&network) {
            Some(network) => policy.networks().contains(&network.name),
            None => !policy.networks().is_empty(),
        }
    }

    /// Lists the hosts that report networks which differ there.
    pub(crate) fn differing_hosts(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.index.differing.iter().copied()
    }

    /// Returns whether some node holds exactly this block.
    pub(crate) fn is_held(&self, network: NetworkId, block: Ipv4Net) -> bool {
        self.index.blocks.contains(&(network, block))
    }

    /// Lists the live IPv4 addresses of a prefix in a network, with their endpoints.
    pub(crate) fn addresses(
        &self,
        network: NetworkId,
        prefix: Ipv4Net,
    ) -> impl Iterator<Item = (Ipv4Addr, EndpointId)> + '_ {
        self.index
            .addresses
            .range((network, prefix.network().into())..=(network, prefix.broadcast().into()))
            .filter_map(|(&(_, address), &endpoint)| Some((v4(address)?, endpoint)))
    }

    /// Finds the endpoint that has an address.
    pub(crate) fn holder(&self, network: NetworkId, address: IpAddr) -> Option<EndpointId> {
        self.index.addresses.get(&(network, address)).copied()
    }

    /// Lists the endpoints of a network that claim a name.
    pub(super) fn claimants(
        &self,
        network: NetworkId,
        name: &Alias,
    ) -> impl Iterator<Item = EndpointId> + '_ {
        self.index.claims.get(&(network, name.clone())).into_iter().flatten().copied()
    }

    /// Returns how many bytes the rows of a node take of its share.
    pub(super) fn bytes_of(&self, node: NodeId) -> usize {
        self.index.shares.get(&node).copied().unwrap_or_default()
    }

    /// Lists the endpoints of a node, on one network or all.
    pub(crate) fn endpoints_of(
        &self,
        node: NodeId,
        network: Option<NetworkId>,
    ) -> impl Iterator<Item = (NetworkId, EndpointId)> + '_ {
        let (from, to) = (network.unwrap_or(NetworkId::FIRST), network.unwrap_or(NetworkId::LAST));

        self.index
            .endpoints
            .range((node, from, EndpointId::FIRST)..=(node, to, EndpointId::LAST))
            .map(|&(_, network, endpoint)| (network, endpoint))
    }
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    }
}
