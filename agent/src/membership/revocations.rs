//! The removed nodes that this node knows of. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use overlay_core::{Change, NodeId, Revocation, RowKey, View};
use overlay_dataplane::Notices;
use overlay_proto::SignedRevocation;
use overlay_proto::revocation::MAX_REVOCATIONS;

/// The removed nodes, the latest [`MAX_REVOCATIONS`], and what peers are told of them.
///
/// They end with the membership of this host alone: no clock can make them end sooner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Revocations {
    known: BTreeMap<NodeId, SignedRevocation>,
    notices: Arc<Notices>,
}

impl Revocations {
    /// Begins with those that were kept.
    pub(crate) fn kept(signed: impl IntoIterator<Item = SignedRevocation>) -> Self {
        let mut kept = Self::default();
        for signed in signed {
            kept.add(signed);
        }
        if !kept.known.is_empty() {
            kept.notices = Arc::new(kept.to_notices());
        }

        kept
    }

    /// Adds one whose signature was verified; returns whether it is new. It is not if it is older
    /// than all of those that there is room for.
    pub(crate) fn insert(&mut self, signed: SignedRevocation) -> bool {
        let is_new = self.add(signed);
        if is_new {
            self.notices = Arc::new(self.to_notices());
        }

        is_new
    }

    /// As [`Revocations::insert`], without what peers are told.
    fn add(&mut self, signed: SignedRevocation) -> bool {
        let node = signed.revocation().node;
        if self.known.contains_key(&node) {
            return false;
        }
        self.known.insert(node, signed);
        if self.known.len() > MAX_REVOCATIONS {
            let oldest = self.known.values().map(age).min();
            self.known.retain(|_, signed| Some(age(signed)) != oldest);
        }

        self.known.contains_key(&node)
    }

    /// Returns whether a node was removed.
    pub(crate) fn names(&self, node: NodeId) -> bool {
        self.known.contains_key(&node)
    }

    /// Returns what is known of a removed node.
    pub(crate) fn find(&self, node: NodeId) -> Option<&Revocation> {
        self.known.get(&node).map(SignedRevocation::revocation)
    }

    /// Lists them by the nodes' ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, &SignedRevocation)> {
        self.known.iter().map(|(node, signed)| (*node, signed))
    }

    /// Returns what peers are told.
    pub(crate) fn notices(&self) -> &Arc<Notices> {
        &self.notices
    }

    /// Returns whether a row is a removed node's.
    pub(crate) fn concern(&self, change: &Change) -> bool {
        match change {
            Change::Node(row) => self.names(row.id),
            Change::Member(row) => self.names(row.node),
            Change::Endpoint(row) => self.names(row.node),
            Change::HostReport(row) => self.names(row.node),
            Change::Network(_) | Change::Policy(_) | Change::Removed(_) => false,
        }
    }

    /// Takes the rows of removed nodes out of a view; returns their keys.
    pub(crate) fn purge(&self, view: &mut Arc<View>) -> Vec<RowKey> {
        let is_there =
            |node: &NodeId| view.nodes.contains_key(node) || view.hosts.contains_key(node);
        let has_member = || view.members.keys().any(|(_, node)| self.names(*node));
        if self.known.is_empty() || !(self.known.keys().any(is_there) || has_member()) {
            return Vec::new();
        }
        let nodes = view.nodes.keys().filter(|id| self.names(**id)).map(|id| RowKey::Node(*id));
        let members = view.members.keys().filter(|(_, node)| self.names(*node));
        let endpoints = view.endpoints.values().filter(|row| self.names(row.node));
        let hosts = view.hosts.keys().filter(|id| self.names(**id));
        let keys: Vec<_> = nodes
            .chain(members.map(|(network, node)| RowKey::Member(*network, *node)))
            .chain(endpoints.map(|row| RowKey::Endpoint(row.network, row.id)))
            .chain(hosts.map(|id| RowKey::HostReport(*id)))
            .collect();
        let view = Arc::make_mut(view);
        for key in &keys {
            view.apply(Change::Removed(*key));
        }

        keys
    }

    fn to_notices(&self) -> Notices {
        let mut latest: Vec<_> = self.known.values().collect();
        latest.sort_by_key(|signed| std::cmp::Reverse(age(signed)));
        let ids: Vec<u8> = self.known.keys().flat_map(|id| id.as_u64().to_be_bytes()).collect();

        Notices {
            digest: digest(&ids),
            messages: latest.into_iter().map(|signed| Arc::clone(signed.bytes())).collect(),
        }
    }
}

fn age(signed: &SignedRevocation) -> (u64, NodeId) {
    let revocation = signed.revocation();

    (revocation.at, revocation.node)
}

/// Hashes ids by FNV-1a. Whoever makes two sets collide has signed revocations to choose from, and
/// gains that two peers do not compare them by digest; each was sent when it was new all the same.
fn digest(ids: &[u8]) -> u64 {
    let hash = ids.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });

    hash.max(1)
}

#[cfg(test)]
mod tests {
    use overlay_core::{ClusterId, Node, Revision, Role};

    use super::*;

    pub(crate) fn signed(node: u64, at: u64) -> SignedRevocation {
        let revocation = Revocation {
            node: NodeId::from_random(node),
            name: format!("n{node}").parse().expect("a name"),
            at,
            by: None,
        };
        let sign = |_: &[u8]| Ok::<_, ()>(vec![7; 70]);

        SignedRevocation::sign(ClusterId::FIRST, revocation, sign).expect("it signs")
    }

    #[test]
    fn the_latest_are_kept_and_told_first() {
        let many = MAX_REVOCATIONS as u64;
        let mut known = Revocations::kept((1..=many).map(|n| signed(n, n + 10)));

        assert!(!known.insert(signed(many + 1, 1)), "it is older than all others");
        assert!(known.insert(signed(many + 2, 20_000)));
        assert!(!known.insert(signed(many + 2, 20_000)), "it is known");

        assert_eq!(known.iter().count(), MAX_REVOCATIONS);
        assert!(!known.names(NodeId::from_random(1)));
        let first = &known.notices().messages[0];
        assert_eq!(first, signed(many + 2, 20_000).bytes());
    }

    #[test]
    fn two_nodes_that_know_the_same_say_so_whatever_the_order() {
        let one = Revocations::kept([signed(1, 5), signed(2, 9)]);
        let other = Revocations::kept([signed(2, 9), signed(1, 5)]);

        assert_eq!(one.notices().digest, other.notices().digest);
        assert_ne!(one.notices().digest, Revocations::kept([signed(1, 5)]).notices().digest);
        assert_eq!(Revocations::default().notices().digest, 0);
    }

    #[test]
    fn a_view_loses_the_rows_of_removed_nodes_and_no_others() {
        let node = |n: u64| {
            Change::Node(Node {
                id: NodeId::from_random(n),
                name: format!("n{n}").parse().expect("a name"),
                role: Role::Node,
                labels: BTreeMap::new(),
                underlay: Vec::new(),
                lane_ports: Vec::new(),
            })
        };
        let mut view = Arc::new(View::from_rows(Revision(1), [node(1), node(2)]));
        let known = Revocations::kept([signed(2, 9)]);

        let keys = known.purge(&mut view);

        assert_eq!(keys, [RowKey::Node(NodeId::from_random(2))]);
        assert_eq!(view.nodes.len(), 1);
        assert!(known.purge(&mut view).is_empty());
        assert!(known.concern(&node(2)) && !known.concern(&node(1)));
    }
}
