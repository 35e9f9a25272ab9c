//! Brings a watcher from the revision that it knows to the current one, limited to what it may see.
//!
//! Rows come from the current state; the change log says which rows changed and, read backwards,
//! which networks the watcher was a member of. So the cost of a change is that of the rows it
//! touches; only a node that enters or leaves a network pays for the whole network.

use std::collections::{BTreeMap, BTreeSet};

use overlay_core::{Change, Delta, NetworkId, NodeId, Revision, RowKey, View};

use super::change_log::ChangeLog;
use crate::registry::ClusterState;

/// The rows that bring a watcher from one revision to another, by their keys.
#[derive(Debug)]
pub(crate) struct MissingRows {
    /// Where it begins; a step without a beginning lists everything.
    pub(crate) from: Option<Revision>,
    /// Where it leads.
    pub(crate) to: Revision,
    /// The rows, in an order in which none comes before what it refers to.
    pub(crate) keys: BTreeSet<RowKey>,
    /// See [`Delta::put_out`].
    pub(crate) put_out: Vec<NetworkId>,
}

/// Returns a row as a watcher gets it; of one that is missing, that it is.
pub(crate) fn change(state: &ClusterState, node: NodeId, key: RowKey) -> Change {
    state.visible_row(node, key).unwrap_or(Change::Removed(key))
}

/// Returns everything a node may see.
pub(crate) fn snapshot(state: &ClusterState, node: NodeId) -> View {
    let MissingRows { to, keys, .. } = whole(state, node);

    View::from_rows(to, keys.into_iter().filter_map(|key| state.visible_row(node, key)))
}

/// Returns what changed for a node since a revision; `None` when the change log does not reach back
/// that far, or the node was not there all the time.
pub(crate) fn delta(
    state: &ClusterState,
    history: &ChangeLog,
    node: NodeId,
    from: Revision,
) -> Option<Delta> {
    let MissingRows { to, keys, put_out, .. } = since(state, history, node, from)?;
    let changes = keys.into_iter().map(|key| change(state, node, key)).collect();

    Some(Delta { from, to, changes, put_out, stamp: None })
}

/// Lists everything a node may see.
pub(crate) fn whole(state: &ClusterState, node: NodeId) -> MissingRows {
    let view = state.view();
    let mut keys: BTreeSet<_> = view.networks.keys().copied().map(RowKey::Network).collect();
    keys.extend(view.hosts.keys().copied().map(RowKey::HostReport));
    keys.extend([RowKey::Node(node), RowKey::Policy]);
    for network in state.memberships(node) {
        insert_network(state, network, &mut keys);
        for linked in state.links_of(network) {
            insert_linked(state, linked, &mut keys);
        }
    }

    MissingRows { from: None, to: view.revision, keys, put_out: Vec::new() }
}

/// Lists what changed for a node since a revision; `None` when the change log does not reach back
/// that far, or the node was not there all the time.
pub(crate) fn since(
    state: &ClusterState,
    history: &ChangeLog,
    node: NodeId,
    from: Revision,
) -> Option<MissingRows> {
    let to = state.view().revision;
    let past = Past::read(state, history, node, from)?;
    let now: BTreeSet<_> = state.memberships(node).collect();
    let turned: Vec<_> =
        past.seen.iter().filter(|(id, was)| **was != state.may_enter(node, **id)).collect();

    let mut keys = concerned(state, node, &past, &now);
    if !past.seen.is_empty() {
        // Reports name only networks that their reader and their host may enter.
        keys.extend(state.differing_hosts().map(RowKey::HostReport));
    }
    let is_relinked = |id: &NetworkId| past.links_of(state, *id) != links_of(state, *id);
    if turned.iter().any(|(id, _)| state.policy_names(**id))
        || past.seen.keys().any(is_relinked)
        // Who may enter a network may read what the policy says of those linked with it.
        || turned.iter().any(|(id, _)| !links_of(state, **id).is_empty())
    {
        keys.insert(RowKey::Policy);
    }
    let is_there = |id: &NetworkId| state.view().networks.contains_key(id);
    let lost = turned.iter().filter(|(_, was)| **was).map(|(id, _)| **id);

    Some(MissingRows { from: Some(from), to, keys, put_out: lost.filter(is_there).collect() })
}

/// What the change log says about a watcher since a revision.
struct Past {
    /// The rows that changed.
    changed: BTreeSet<RowKey>,
    /// The networks that the watcher was a member of.
    memberships: BTreeSet<NetworkId>,
    /// The networks that changed, and whether the watcher could see them.
    seen: BTreeMap<NetworkId, bool>,
    /// The networks that changed, and what they were linked with.
    links: BTreeMap<NetworkId, BTreeSet<NetworkId>>,
}

impl Past {
    /// Reads the change log backwards; `None` when it does not reach back that far, or the watcher
    /// was not there all the time.
    fn read(
        state: &ClusterState,
        history: &ChangeLog,
        node: NodeId,
        from: Revision,
    ) -> Option<Self> {
        // They never change.
        let labels = &state.view().nodes.get(&node)?.labels;
        let mut past = Self {
            changed: BTreeSet::new(),
            memberships: state.memberships(node).collect(),
            seen: BTreeMap::new(),
            links: BTreeMap::new(),
        };
        for row in history.since(from, state.view().revision)?.flat_map(|commit| &commit.changed) {
            match row.key {
                RowKey::Member(network, member) if member == node => {
                    if row.before {
                        past.memberships.insert(network);
                    } else {
                        past.memberships.remove(&network);
                    }
                }
                RowKey::Node(other) if other == node && !row.before => return None,
                RowKey::Network(network) => {
                    let admitted = row.nodes.as_ref().is_none_or(|nodes| nodes.matches(labels));
                    past.seen.insert(network, row.before && admitted);
                    past.links.insert(network, row.links.iter().copied().collect());
                }
                RowKey::Node(_)
                | RowKey::Member(..)
                | RowKey::Endpoint(..)
                | RowKey::HostReport(_)
                | RowKey::Policy => {}
            }
            past.changed.insert(row.key);
        }

        Some(past)
    }

    /// Lists what a network was linked with.
    fn links_of(&self, state: &ClusterState, network: NetworkId) -> BTreeSet<NetworkId> {
        self.links.get(&network).cloned().unwrap_or_else(|| links_of(state, network))
    }

    fn was_seen(&self, network: NetworkId) -> bool {
        self.seen.get(&network).is_some_and(|seen| *seen)
    }
}

/// Lists the rows that may have changed for the watcher: those it could see, and those it may see
/// now.
fn concerned(
    state: &ClusterState,
    node: NodeId,
    past: &Past,
    now: &BTreeSet<NetworkId>,
) -> BTreeSet<RowKey> {
    let mut keys = BTreeSet::new();
    let then = &past.memberships;
    let is_of = |network| then.contains(network) || now.contains(network);
    let linked_then: BTreeSet<_> =
        then.iter().flat_map(|network| past.links_of(state, *network)).collect();
    let linked_now: BTreeSet<_> =
        now.iter().flat_map(|network| links_of(state, *network)).collect();
    let is_near = |network| linked_then.contains(network) || linked_now.contains(network);
    for key in &past.changed {
        match key {
            RowKey::Network(network)
                if past.was_seen(*network) || state.may_enter(node, *network) =>
            {
                keys.insert(*key);
            }
            RowKey::Network(_) => {}
            RowKey::HostReport(_) | RowKey::Policy => drop(keys.insert(*key)),
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
            // Whoever is in a linked network has endpoints there; the membership is not shown.
            RowKey::Member(network, member) if is_near(network) => {
                keys.insert(RowKey::Node(*member));
            }
            RowKey::Endpoint(network, _) if is_of(network) || is_near(network) => {
                keys.insert(*key);
            }
            RowKey::Member(..) | RowKey::Endpoint(..) => {}
        }
    }
    for network in then.symmetric_difference(now) {
        insert_network(state, *network, &mut keys);
    }
    for network in linked_then.symmetric_difference(&linked_now) {
        insert_linked(state, *network, &mut keys);
    }

    keys
}

fn links_of(state: &ClusterState, network: NetworkId) -> BTreeSet<NetworkId> {
    state.links_of(network).collect()
}

/// Adds what is seen of a linked network: its endpoints and their nodes.
fn insert_linked(state: &ClusterState, network: NetworkId, keys: &mut BTreeSet<RowKey>) {
    keys.extend(state.view().members_of(network).map(|member| RowKey::Node(member.node)));
    keys.extend(
        state.view().endpoints_of(network).map(|endpoint| RowKey::Endpoint(network, endpoint.id)),
    );
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
    use overlay_core::policy::FilterMode;
    use overlay_core::visibility::{visible, visible_row};
    use proptest::prelude::*;

    use super::*;
    use crate::registry::apply;
    use crate::registry::random_tests::command;
    use crate::registry::testing::{NOW, join_with, policy, with_tokens};
    use crate::registry::tests::create_for;
    use crate::registry::{Actor, Operation};
    use crate::store::ChangeLogEntry;

    fn network_of(key: RowKey) -> Option<NetworkId> {
        match key {
            RowKey::Network(id) | RowKey::Member(id, _) | RowKey::Endpoint(id, _) => Some(id),
            RowKey::Node(_) | RowKey::HostReport(_) | RowKey::Policy => None,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Invariant 12.
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
                    history.push(ChangeLogEntry { to: state.view().revision, changed, nonce: 0 });
                }
                if !look {
                    continue;
                }
                let Some(next) = delta(&state, &history, node, watched.revision) else {
                    // It joined since, or is gone.
                    watched = snapshot(&state, node);
                    continue;
                };
                let known = |network: &NetworkId| {
                    watched.networks.contains_key(network) || state.may_enter(node, *network)
                };
                let told = next.changes.iter().filter_map(|change| network_of(change.key()));
                prop_assert!(told.chain(next.put_out.clone()).all(|network| known(&network)));
                for network in &next.put_out {
                    prop_assert!(state.view().networks.contains_key(network));
                    prop_assert!(!state.may_enter(node, *network));
                }
                watched.apply_delta(next).expect("it starts where the watcher stands");
                prop_assert_eq!(&watched, &visible(state.view(), node));
                prop_assert_eq!(&snapshot(&state, node), &watched);
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
                    let core = visible_row(state.view(), node, row.key());
                    prop_assert_eq!(state.visible_row(node, row.key()), core);
                }
            }
        }
    }

    #[test]
    fn the_policy_is_sent_again_where_a_network_that_it_names_comes_or_goes() {
        let mut state = with_tokens();
        let mut history = ChangeLog::default();
        let admin = NodeId::from_random(1);
        let mut commit = |state: &mut ClusterState, operation| {
            let from = state.view().revision;
            let (_, records) = apply(state, Actor::Operator, operation, NOW).expect("it is fine");
            let changed = state.commit(records);
            history.push(ChangeLogEntry { to: state.view().revision, changed, nonce: 0 });
            let delta = delta(state, &history, admin, from)?;
            Some(delta.changes.iter().any(|change| change.key() == RowKey::Policy))
        };
        let text = "[network.shop]\ndefault = \"deny\"\n";
        let remove = |name: &str| Operation::RemoveNetwork { network: name.into(), force: true };

        commit(&mut state, join_with(1, 0, "node0"));
        let sent = [
            policy(text, FilterMode::Enforced, None),
            create_for("other", None, ""),
            create_for("shop", None, ""),
            Operation::SetNetwork {
                network: "other".to_owned(),
                nodes: Some("site=b".parse().expect("a selector")),
                lease: None,
            },
            remove("shop"),
            Operation::RollBackPolicy { to: 0, expected: None },
            create_for("shop", None, ""),
        ]
        .map(|operation| commit(&mut state, operation));

        assert_eq!(sent, [true, false, true, false, true, true, false].map(Some));
    }

    #[test]
    fn a_past_that_is_forgotten_or_yet_to_come_has_no_delta() {
        let state = with_tokens();
        let node = NodeId::from_random(1);

        assert!(delta(&state, &ChangeLog::default(), node, Revision(0)).is_none());
        assert!(delta(&state, &ChangeLog::default(), node, Revision(99)).is_none());
    }
}
