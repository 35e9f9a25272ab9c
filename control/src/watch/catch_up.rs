//! Brings a watcher from the revision that it knows to the current one, limited to what it may see.
//!
//! Rows come from the current state; the change log says which rows changed and, read backwards,
//! which networks the watcher was a member of. So the cost of a change is that of the rows it
//! touches; only a node that enters or leaves a network pays for the whole network.

use std::collections::BTreeSet;

use overlay_core::{Change, Delta, NetworkId, NodeId, Revision, RowKey, View};

use super::change_log::ChangeLog;
use crate::registry::ClusterState;

/// Returns everything a node may see.
pub(crate) fn snapshot(state: &ClusterState, node: NodeId) -> View {
    let view = state.view();
    let mut keys: BTreeSet<_> = view.networks.keys().copied().map(RowKey::Network).collect();
    keys.insert(RowKey::Node(node));
    for network in state.memberships(node) {
        insert_network(state, network, &mut keys);
    }

    View::from_rows(view.revision, keys.into_iter().filter_map(|key| view.row(key)))
}

/// Returns what changed for a node since a revision; `None` when the change log does not reach back
/// that far.
pub(crate) fn delta(
    state: &ClusterState,
    history: &ChangeLog,
    node: NodeId,
    from: Revision,
) -> Option<Delta> {
    let to = state.view().revision;
    let now: BTreeSet<_> = state.memberships(node).collect();
    let mut then = now.clone();
    let mut changed = BTreeSet::new();
    for commit in history.since(from, to)? {
        for row in &commit.changed {
            changed.insert(row.key);
            if let RowKey::Member(network, member) = row.key
                && member == node
            {
                if row.before {
                    then.insert(network)
                } else {
                    then.remove(&network)
                };
            }
        }
    }

    let keys = concerned(state, node, &changed, &then, &now);
    let change = |key| match state.view().row(key).filter(|_| state.may_see(node, key)) {
        Some(row) => row,
        None => Change::Removed(key),
    };

    Some(Delta { from, to, changes: keys.into_iter().map(change).collect() })
}

/// Lists the rows that may have changed for the watcher: those it could see, and those it may see
/// now.
fn concerned(
    state: &ClusterState,
    node: NodeId,
    changed: &BTreeSet<RowKey>,
    then: &BTreeSet<NetworkId>,
    now: &BTreeSet<NetworkId>,
) -> BTreeSet<RowKey> {
    let mut keys = BTreeSet::new();
    let is_of = |network| then.contains(network) || now.contains(network);
    for key in changed {
        match key {
            RowKey::Network(_) | RowKey::HostReport(_) => drop(keys.insert(*key)),
            RowKey::Node(other) if *other == node => drop(keys.insert(*key)),
            RowKey::Node(other)
                if state.view().nodes.contains_key(other) && state.may_see(node, *key) =>
            {
                keys.insert(*key);
            }
            // A node that is no longer visible has left a network, so its membership changed, too.
            RowKey::Node(_) => {}
            RowKey::Member(network, member) if is_of(network) => {
                keys.extend([*key, RowKey::Node(*member)])
            }
            RowKey::Endpoint(network, _) if is_of(network) => drop(keys.insert(*key)),
            RowKey::Member(..) | RowKey::Endpoint(..) => {}
        }
    }
    for network in then.symmetric_difference(now) {
        insert_network(state, *network, &mut keys);
    }

    keys
}

fn insert_network(state: &ClusterState, network: NetworkId, keys: &mut BTreeSet<RowKey>) {
    let members = state.view().members_of(network);
    keys.extend(
        members
            .flat_map(|member| [RowKey::Member(network, member.node), RowKey::Node(member.node)]),
    );
    keys.extend(
        state.view().endpoints_of(network).map(|endpoint| RowKey::Endpoint(network, endpoint.id)),
    );
}

#[cfg(test)]
mod tests {
    use overlay_core::visibility::visible;
    use proptest::prelude::*;

    use super::*;
    use crate::registry::apply;
    use crate::registry::random_tests::command;
    use crate::registry::testing::{NOW, with_tokens};
    use crate::store::ChangeLogEntry;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn a_watcher_that_catches_up_sees_what_it_may_see(
            commands in prop::collection::vec((command(), any::<bool>()), 1..150),
            node in 0..5u64,
        ) {
            let node = NodeId::from_random(node + 1);
            let mut state = with_tokens();
            let mut history = ChangeLog::default();
            let mut watched = snapshot(&state, node);
            for ((actor, command), look) in commands {
                if let Ok((_, records)) = apply(&state, actor, command, NOW)
                    && !records.is_empty()
                {
                    let changed = state.commit(records);
                    history.push(ChangeLogEntry { to: state.view().revision, changed });
                }
                if look {
                    let next = delta(&state, &history, node, watched.revision).expect("history reaches back");
                    watched.apply_delta(next).expect("it starts where the watcher stands");
                    prop_assert_eq!(&watched, &visible(state.view(), node));
                    prop_assert_eq!(&snapshot(&state, node), &watched);
                }
            }
        }

        #[test]
        fn the_fast_answer_to_who_sees_what_is_that_of_core(
            commands in prop::collection::vec(command(), 1..100),
        ) {
            let mut state = with_tokens();
            for (actor, command) in commands {
                if let Ok((_, records)) = apply(&state, actor, command, NOW) {
                    state.commit(records);
                }
            }
            for node in (1..6).map(NodeId::from_random) {
                for row in state.view().rows() {
                    let core = overlay_core::visibility::may_see(state.view(), node, row.key());
                    prop_assert_eq!(state.may_see(node, row.key()), core);
                }
            }
        }
    }

    #[test]
    fn a_past_that_is_forgotten_or_yet_to_come_has_no_delta() {
        let state = with_tokens();
        let node = NodeId::from_random(1);

        assert!(delta(&state, &ChangeLog::default(), node, Revision(0)).is_none());
        assert!(delta(&state, &ChangeLog::default(), node, Revision(99)).is_none());
    }
}
