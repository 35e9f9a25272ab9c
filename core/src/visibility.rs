//! What a node may see of the membership: the settings of all networks, the prefixes in use on
//! hosts, and the nodes, keys and endpoints of the networks that it is a member of.
//!
//! Membership is cryptographic ("a network is a key"): a key that control does not distribute is
//! useless.

use std::collections::BTreeSet;

use crate::id::NodeId;
use crate::view::{Change, RowKey, View};

/// Returns whether a node may see a row of `view`, present or not.
pub fn may_see(view: &View, node: NodeId, key: RowKey) -> bool {
    match key {
        RowKey::Network(_) | RowKey::HostReport(_) => true,
        RowKey::Node(other) => {
            other == node
                || view.memberships_of(node).any(|mine| view.member(mine.network, other).is_some())
        }
        RowKey::Member(network, _) | RowKey::Endpoint(network, _) => {
            view.member(network, node).is_some()
        }
    }
}

/// Returns the part of `view` that a node may see.
pub fn visible(view: &View, node: NodeId) -> View {
    let rows = view.rows().filter(|row| may_see(view, node, row.key()));

    View::from_rows(view.revision, rows)
}

/// Lists the changes from what a node could see `before` to what it may see `after` the `changes`.
///
/// The cost is proportional to the changes; only for a node that enters or leaves a network is it
/// that of the whole network.
pub fn visible_changes(
    before: &View,
    after: &View,
    node: NodeId,
    changes: &[Change],
) -> Vec<Change> {
    let mut keys = BTreeSet::new();
    for change in changes {
        let key = change.key();
        keys.insert(key);
        if let RowKey::Member(network, member) = key {
            keys.insert(RowKey::Node(member));
            if member == node
                && before.member(network, node).is_some() != after.member(network, node).is_some()
            {
                for view in [before, after] {
                    keys.extend(
                        view.members_of(network)
                            .flat_map(|m| [RowKey::Member(network, m.node), RowKey::Node(m.node)]),
                    );
                    keys.extend(
                        view.endpoints_of(network).map(|e| RowKey::Endpoint(network, e.id)),
                    );
                }
            }
        }
    }

    keys.into_iter().filter_map(|key| visible_change(before, after, node, key)).collect()
}

fn visible_change(before: &View, after: &View, node: NodeId, key: RowKey) -> Option<Change> {
    let seen = |view: &View| view.row(key).filter(|_| may_see(view, node, key));
    match (seen(before), seen(after)) {
        (was, Some(is)) if was.as_ref() != Some(&is) => Some(is),
        (Some(_), None) => Some(Change::Removed(key)),
        (Some(_) | None, Some(_)) | (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::endpoint::{Endpoint, Runtime};
    use crate::id::{EndpointId, NetworkId};
    use crate::network::{Member, Network, NetworkMode, NetworkSettings};
    use crate::node::{HostReport, Node, Role};
    use crate::view::{Delta, Revision};

    fn network(n: u64) -> NetworkId {
        NetworkId::from_random(n + 1)
    }

    fn node(n: u64) -> NodeId {
        NodeId::from_random(n + 1)
    }

    fn network_row(n: u64) -> Change {
        Change::Network(Network {
            id: network(n),
            name: format!("net{n}").parse().expect("a name"),
            prefix: "10.0.0.0/16".parse().expect("a prefix"),
            prefix6: None,
            mode: NetworkMode::L3,
            labels: BTreeMap::new(),
            settings: NetworkSettings::default(),
        })
    }

    fn change() -> impl Strategy<Value = Change> {
        let (a, b, c) = (0..3u64, 0..4u64, 0..5u64);
        (0..9u8, a, b, c, any::<u8>()).prop_map(|(kind, a, b, c, salt)| match kind {
            0 => network_row(a),
            1 => Change::Node(Node {
                id: node(b),
                name: format!("node{b}-{salt}").parse().expect("a name"),
                role: Role::Node,
                labels: BTreeMap::new(),
                underlay: Vec::new(),
                lane_ports: Vec::new(),
            }),
            2 | 3 => Change::Member(Member {
                network: network(a),
                node: node(b),
                lane_keys: vec![[salt; 32].into()],
                blocks: Vec::new(),
            }),
            4 => Change::Endpoint(Endpoint {
                id: EndpointId::from_random(c + 1),
                network: network(a),
                node: node(b),
                name: format!("e{c}-{salt}").parse().expect("a name"),
                aliases: BTreeSet::new(),
                addresses: Vec::new(),
                labels: BTreeMap::new(),
                runtime: Runtime::Run,
            }),
            5 => Change::Removed(RowKey::Member(network(a), node(b))),
            6 => Change::Removed(RowKey::Node(node(b))),
            7 => Change::HostReport(HostReport {
                node: node(b),
                prefixes: Vec::new(),
                differences: Vec::new(),
                name: format!("node{b}-{salt}").parse().expect("a name"),
            }),
            _ => Change::Removed(RowKey::Endpoint(network(a), EndpointId::from_random(c + 1))),
        })
    }

    proptest! {
        #[test]
        fn following_the_visible_changes_shows_what_may_be_seen(
            history in prop::collection::vec(change(), 0..40),
            step in prop::collection::vec(change(), 0..10),
            watcher in 0..4u64,
        ) {
            // The registry keeps no membership in a network that does not exist.
            let before = View::from_rows(Revision(7), (0..3).map(network_row).chain(history));
            let mut after = before.clone();
            for change in step.clone() {
                after.apply(change);
            }
            after.revision = before.revision.next();
            let mut watched = visible(&before, node(watcher));

            let changes = visible_changes(&before, &after, node(watcher), &step);
            watched
                .apply_delta(Delta { from: before.revision, to: after.revision, changes })
                .expect("the delta starts where the watcher stands");

            prop_assert_eq!(watched, visible(&after, node(watcher)));
        }
    }

    /// Invariant 12.
    #[test]
    fn a_stranger_to_a_network_sees_its_settings_and_no_key() {
        let rows = [Change::Member(Member {
            network: network(0),
            node: node(0),
            lane_keys: vec![[1; 32].into()],
            blocks: Vec::new(),
        })];
        let view = View::from_rows(Revision(1), rows);

        assert!(may_see(&view, node(1), RowKey::Network(network(0))));
        assert!(!may_see(&view, node(1), RowKey::Member(network(0), node(0))));
        assert!(may_see(&view, node(0), RowKey::Member(network(0), node(0))));
    }
}
