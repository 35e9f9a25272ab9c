//! What must not be given away after control's history began anew, until it is known who has it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use overlay_core::{Lineage, NetworkId, NodeId, Revision};
use serde::{Deserialize, Serialize};

use super::ClusterState;
use crate::registry::history::HistoryKey;
use crate::registry::record::Record;

/// Why control's history began anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FenceCause {
    /// An operator restored it from a backup.
    Restored,
    /// A node showed that its state is an older copy, put back by hand.
    Copied,
}

/// What holds until every node has reported what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fence {
    /// Why there is one.
    pub(crate) cause: FenceCause,
    /// The history that the state was copied from.
    pub(crate) before: Lineage,
    /// Its revision in the copy: whoever stood there or before knows nothing that control lacks.
    pub(crate) revision: Revision,
    /// When it began, in seconds since 1970.
    pub(crate) since: u64,
    /// When it ends though nodes have not reported, in seconds since 1970.
    pub(crate) until: u64,
}

/// Addresses that a node reported and that control could not give it: nobody else gets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Held {
    /// The network, which may be missing: it was made after the backup.
    pub(crate) network: NetworkId,
    /// The node.
    pub(crate) node: NodeId,
    /// A block, or a single address.
    pub(crate) prefix: IpNet,
}

/// The part of the state that is about its own history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::registry) struct Fencing {
    history: Option<HistoryKey>,
    fence: Option<Fence>,
    awaited: BTreeSet<NodeId>,
    held: BTreeMap<NetworkId, BTreeSet<Held>>,
}

impl Fencing {
    pub(super) fn set_history(&mut self, history: HistoryKey) {
        self.history = Some(history);
    }

    pub(super) fn set_fence(&mut self, fence: Option<Fence>) {
        self.fence = fence;
    }

    pub(super) fn set_awaited(&mut self, node: NodeId, is_awaited: bool) {
        if is_awaited {
            self.awaited.insert(node);
        } else {
            self.awaited.remove(&node);
        }
    }

    pub(super) fn hold(&mut self, held: Held) {
        self.held.entry(held.network).or_default().insert(held);
    }

    pub(super) fn release(&mut self, held: &Held) {
        if let Some(of_network) = self.held.get_mut(&held.network) {
            of_network.remove(held);
            if of_network.is_empty() {
                self.held.remove(&held.network);
            }
        }
    }

    /// Lists the records that rebuild this from nothing.
    pub(super) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let history = self.history.map(Record::History);
        let fence = self.fence.clone().map(Record::Fence);
        let awaited = self.awaited.iter().copied().map(Record::Awaited);
        let held = self.held.values().flatten().copied().map(Record::Held);

        history.into_iter().chain(fence).chain(awaited).chain(held)
    }
}

impl ClusterState {
    /// Returns the history that the state belongs to; none only before control has started.
    pub(crate) fn history(&self) -> Option<&HistoryKey> {
        self.fencing.history.as_ref()
    }

    /// Returns the fence as it is kept, also where no node has to report.
    pub(crate) fn kept_fence(&self) -> Option<&Fence> {
        self.fencing.fence.as_ref()
    }

    /// Returns the fence, if the history began anew and nodes have still to report.
    pub(crate) fn fence(&self) -> Option<&Fence> {
        self.kept_fence().filter(|_| !self.fencing.awaited.is_empty())
    }

    /// Returns whether addresses that the backup had as free must not be given to anybody.
    pub(in crate::registry) fn is_fenced(&self, now: u64) -> bool {
        self.fence().is_some_and(|fence| now < fence.until)
    }

    /// Lists the nodes that have still to report.
    pub(crate) fn awaited(&self) -> &BTreeSet<NodeId> {
        &self.fencing.awaited
    }

    /// Returns whether exactly this is held.
    pub(in crate::registry) fn holds(&self, held: &Held) -> bool {
        self.fencing.held.get(&held.network).is_some_and(|all| all.contains(held))
    }

    /// Lists what is held for a node.
    pub(crate) fn held_by(&self, node: NodeId) -> impl Iterator<Item = Held> + '_ {
        self.fencing.held.values().flatten().filter(move |held| held.node == node).copied()
    }

    /// Returns whether any part of a block is held for another node.
    pub(in crate::registry) fn is_held_for_another(
        &self,
        network: NetworkId,
        node: NodeId,
        block: Ipv4Net,
    ) -> bool {
        let overlaps = |held: &Held| match held.prefix {
            IpNet::V4(prefix) => prefix.contains(&block) || block.contains(&prefix),
            IpNet::V6(_) => false,
        };

        self.others_hold(network, node).any(overlaps)
    }

    /// Returns whether an address of a block is held for this very node: with the block, it might
    /// become the node's own, which an endpoint has already.
    pub(in crate::registry) fn holds_address_in(
        &self,
        network: NetworkId,
        node: NodeId,
        block: Ipv4Net,
    ) -> bool {
        self.own_hold(network, node)
            .any(|held| matches!(held.prefix, IpNet::V4(prefix) if block.contains(&prefix)))
    }

    /// Returns whether an address is held for another node.
    pub(in crate::registry) fn is_kept_for_another(
        &self,
        network: NetworkId,
        node: NodeId,
        address: IpAddr,
    ) -> bool {
        self.others_hold(network, node).any(|held| held.prefix.contains(&address))
    }

    /// Returns whether an address is held for this very node.
    pub(in crate::registry) fn is_kept_for(
        &self,
        network: NetworkId,
        node: NodeId,
        address: IpAddr,
    ) -> bool {
        self.own_hold(network, node).any(|held| held.prefix.contains(&address))
    }

    fn own_hold(&self, network: NetworkId, node: NodeId) -> impl Iterator<Item = &Held> {
        let held = self.fencing.held.get(&network).into_iter().flatten();

        held.filter(move |held| held.node == node)
    }

    fn others_hold(&self, network: NetworkId, node: NodeId) -> impl Iterator<Item = &Held> {
        let held = self.fencing.held.get(&network).into_iter().flatten();

        held.filter(move |held| held.node != node)
    }

    /// Returns whether another node's endpoint has an address of a block.
    pub(in crate::registry) fn others_live_in(
        &self,
        network: NetworkId,
        node: NodeId,
        block: Ipv4Net,
    ) -> bool {
        let is_of_another = |(_, id): (Ipv4Addr, _)| {
            self.view.endpoints.get(&(network, id)).is_some_and(|row| row.node != node)
        };

        self.addresses(network, block).any(is_of_another)
    }
}
