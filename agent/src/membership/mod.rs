//! All communication between the agent and control.
//!
//! `join` makes this host a node. From then on `watch` keeps one connection and follows the
//! membership on it; `announce`, `publish`, `network_membership` and `renewal` use that connection
//! while it lasts. Nothing here is on a packet's way: all of it may fail for hours.

pub(crate) mod address_book;
pub(crate) mod admission;
pub(crate) mod announce;
mod broken_watch;
pub(crate) mod candidates;
pub(crate) mod changed_rows;
pub(crate) mod connection;
pub(crate) mod connection_loss;
pub(crate) mod contact;
pub(crate) mod containers;
pub(crate) mod control_error;
pub(crate) mod control_link;
pub(crate) mod eviction;
pub(crate) mod join;
pub(crate) mod leases;
pub(crate) mod network_membership;
pub(crate) mod per_network;
pub(crate) mod prefix_clash;
pub(crate) mod publish;
pub(crate) mod renewal;
pub(crate) mod report;
pub(crate) mod revocations;
pub(crate) mod transfer;
pub(crate) mod unpublished;
pub(crate) mod view_cache;
pub(crate) mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use overlay_core::{Change, Delta, Gap, NetworkId, NodeId, View};
use overlay_proto::SignedRevocation;

use changed_rows::ChangedRows;
use revocations::Revocations;

/// The membership as this node knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Membership {
    /// The rows.
    pub(crate) view: Arc<View>,
    /// Whether control said so since this process started. Until then the view is the one kept on
    /// disk: good enough to carry packets by, not to remove anything by.
    pub(crate) live: bool,
    /// Which rows changed lately.
    pub(crate) changed: ChangedRows,
    /// The networks that this node was in and may not enter any more, with what people call them.
    pub(crate) put_out: BTreeMap<NetworkId, String>,
    /// The removed nodes, of which the view has no row.
    pub(crate) revocations: Arc<Revocations>,
    /// The networks that this node was in and that control lost, because it was restored from a
    /// backup made before them, with what people call them. Their endpoints are not removed.
    pub(crate) lost: BTreeMap<NetworkId, String>,
}

impl Membership {
    /// Begins with the rows that were kept on disk.
    pub(crate) fn kept(view: View) -> Self {
        Self { view: Arc::new(view), ..Self::default() }
    }

    /// The same without the rows of nodes that were removed.
    pub(crate) fn without(mut self, revocations: Revocations) -> Self {
        revocations.purge(&mut self.view);
        self.revocations = Arc::new(revocations);

        self
    }

    /// Takes a removed node out; returns whether it was not known to be removed.
    pub(crate) fn revoke(&mut self, signed: SignedRevocation) -> bool {
        let is_new = Arc::make_mut(&mut self.revocations).insert(signed);
        if is_new {
            let keys = self.revocations.purge(&mut self.view);
            self.changed.note(keys);
        }

        is_new
    }

    /// Goes one delta further as `node`: in place, unless somebody still reads the view as it was.
    /// Whole views are most of what an agent holds while many nodes join.
    ///
    /// # Errors
    ///
    /// [`Gap`] when the delta does not start at the view's revision; nothing is changed then.
    pub(crate) fn go_on(&mut self, mut delta: Delta, node: NodeId) -> Result<(), Gap> {
        delta.changes.retain(|change| !self.revocations.concern(change));
        let keys: Vec<_> = delta.changes.iter().map(Change::key).collect();
        let lost = self.left_behind(&delta.put_out, node);
        Arc::make_mut(&mut self.view).apply_delta(delta)?;
        self.changed.note(keys);
        self.put_out.extend(lost);
        self.forget_reopened();

        Ok(())
    }

    /// Takes over a snapshot, as `node`.
    pub(crate) fn begin_anew(&mut self, view: View, node: NodeId) {
        if self.view.lineage().is_some() && view.lineage() != self.view.lineage() {
            let own =
                self.view.memberships_of(node).filter_map(|m| self.view.networks.get(&m.network));
            let gone = own.filter(|network| !view.networks.contains_key(&network.id));
            let gone = gone.map(|network| (network.id, network.title().to_owned()));
            self.lost.extend(gone.collect::<Vec<_>>());
        }
        self.view = Arc::new(view);
        self.revocations.purge(&mut self.view);
        self.changed.note_snapshot();
        self.forget_reopened();
    }

    /// Lists those of the networks that a node is in, with what people call them. Whoever is in no
    /// network loses nothing by it, and others cannot make this list grow.
    fn left_behind(&self, networks: &[NetworkId], node: NodeId) -> Vec<(NetworkId, String)> {
        let is_in = |id: &&NetworkId| self.view.member(**id, node).is_some();
        let known = networks.iter().filter(is_in).filter_map(|id| self.view.networks.get(id));

        known.map(|network| (network.id, network.title().to_owned())).collect()
    }

    /// What is seen may be entered.
    fn forget_reopened(&mut self) {
        let view = &self.view;
        self.put_out.retain(|network, _| !view.networks.contains_key(network));
        self.lost.retain(|network, _| !view.networks.contains_key(network));
    }
}

/// Pauses between attempts: from 0.2 s to 2 s, jittered, so that changes reach a control that
/// returns within seconds and a thousand nodes do not return to it at once.
pub(crate) fn back_off() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(2))
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use overlay_core::{Member, Network, NetworkMode, NetworkSettings, Revision, RowKey};

    use super::*;

    const ME: NodeId = NodeId::FIRST;

    fn network(id: NetworkId, title: &str) -> Change {
        Change::Network(Network {
            id,
            name: title.to_lowercase().parse().expect("a name"),
            prefix: "10.1.0.0/16".parse().expect("a prefix"),
            prefix6: None,
            mode: NetworkMode::L3,
            labels: BTreeMap::new(),
            settings: NetworkSettings { title: Some(title.into()), ..NetworkSettings::default() },
            creator: None,
        })
    }

    fn next(membership: &mut Membership, changes: Vec<Change>, put_out: Vec<NetworkId>) {
        let from = membership.view.revision;
        let delta = Delta { from, to: from.next(), changes, put_out, stamp: None };
        membership.go_on(delta, ME).expect("it follows");
    }

    #[test]
    fn a_network_that_this_node_was_put_out_of_is_remembered_until_it_is_open_again() {
        let (used, unused) = (NetworkId::FIRST, NetworkId::LAST);
        let member = Member { network: used, node: ME, lane_keys: vec![], blocks: vec![] };
        let rows = [network(used, "Shop"), network(unused, "Spare"), Change::Member(member)];
        let mut membership = Membership::kept(View::from_rows(Revision(1), rows));
        let gone = [used, unused].map(|id| Change::Removed(RowKey::Network(id)));

        let gone = gone.into_iter().chain([Change::Removed(RowKey::Member(used, ME))]);
        next(&mut membership, gone.collect(), vec![used, unused]);
        assert_eq!(membership.put_out, BTreeMap::from([(used, "Shop".to_owned())]));
        next(&mut membership, Vec::new(), Vec::new());
        assert_eq!(membership.put_out.len(), 1);
        next(&mut membership, vec![network(used, "Shop")], Vec::new());
        assert_eq!(membership.put_out, BTreeMap::new());
    }

    #[test]
    fn a_network_that_a_restored_control_lost_is_remembered_until_it_is_there_again() {
        let stamp = |n| Some(overlay_core::Stamp { lineage: [n; 16].into(), mark: None });
        let (used, other) = (NetworkId::FIRST, NetworkId::LAST);
        let member = Member { network: used, node: ME, lane_keys: vec![], blocks: vec![] };
        let rows = [network(used, "Shop"), network(other, "Spare"), Change::Member(member)];
        let view = View { stamp: stamp(1), ..View::from_rows(Revision(5), rows) };
        let mut membership = Membership::kept(view);
        let empty = |n| View { stamp: stamp(n), ..View::from_rows(Revision(5), []) };

        membership.begin_anew(empty(1), ME);
        assert!(membership.lost.is_empty(), "in one history it was removed");
        let rows = [
            network(used, "Shop"),
            Change::Member(Member { network: used, node: ME, lane_keys: vec![], blocks: vec![] }),
        ];
        membership.begin_anew(View { stamp: stamp(1), ..View::from_rows(Revision(6), rows) }, ME);
        membership.begin_anew(empty(2), ME);
        assert_eq!(membership.lost, BTreeMap::from([(used, "Shop".to_owned())]));
        membership.begin_anew(View::from_rows(Revision(7), [network(used, "Shop")]), ME);
        assert!(membership.lost.is_empty());
    }

    /// Invariant 9.
    #[test]
    fn a_delta_of_another_history_changes_nothing() {
        let stamp = |n| Some(overlay_core::Stamp { lineage: [n; 16].into(), mark: None });
        let view = View { stamp: stamp(1), ..View::from_rows(Revision(5), []) };
        let mut membership = Membership::kept(view);
        let delta = |n| Delta {
            from: Revision(5),
            to: Revision(6),
            changes: vec![network(NetworkId::FIRST, "Ghost")],
            put_out: Vec::new(),
            stamp: stamp(n),
        };

        let none = membership.go_on(Delta { stamp: None, ..delta(1) }, ME);

        assert_eq!((membership.go_on(delta(2), ME), none), (Err(Gap::Lineage), Err(Gap::Lineage)));
        assert!(membership.view.networks.is_empty());
        assert_eq!(membership.go_on(delta(1), ME), Ok(()));
    }

    #[test]
    fn a_snapshot_that_shows_a_network_opens_it_again() {
        let put_out = BTreeMap::from([(NetworkId::FIRST, "Shop".to_owned())]);
        let mut membership = Membership { put_out, ..Membership::default() };

        membership.begin_anew(View::default(), ME);
        assert_eq!(membership.put_out.len(), 1);
        let rows = [network(NetworkId::FIRST, "Shop")];
        membership.begin_anew(View::from_rows(Revision(1), rows), ME);
        assert_eq!(membership.put_out, BTreeMap::new());
    }
}
