//! How a node announces where it can be reached, and how it is removed.

use std::collections::BTreeSet;

use overlay_core::{Change, HostReport, Node, NodeId, Revocation, RowKey, node};

use super::record::{Enrollment, Revoked};
use super::{
    Actor, Announce, ClusterState, Decision, EnrollmentError, Record, Reply, creator, limits,
    names, require_admin,
};

/// Records how a node is reached and what its host has in use.
pub(super) fn announce(state: &ClusterState, id: NodeId, announce: Announce) -> Decision {
    if announce.version.len() > limits::MAX_VERSION
        || announce.version.chars().any(char::is_control)
    {
        return Err(EnrollmentError::InvalidVersion.into());
    }
    for &address in &announce.underlay {
        if let Some(kind) = node::unreachable_kind(address) {
            return Err(EnrollmentError::UnreachableUnderlay { address, kind }.into());
        }
    }
    let old = state.node(id)?;
    let Some(enrolled) = state.enrollments().get(&id) else {
        return Err(EnrollmentError::NoKey(id).into());
    };

    let node = Node { underlay: announce.underlay, lane_ports: announce.lane_ports, ..old.clone() };
    let enrollment = Enrollment { version: announce.version, ..enrolled.clone() };
    let report = HostReport {
        node: id,
        prefixes: announce.prefixes,
        differences: announce.differences,
        name: old.name.clone(),
    };
    let mut records = Vec::new();
    if enrollment != *enrolled {
        records.push(Record::Enrollment(enrollment));
    }
    if node != *old {
        records.push(Record::Row(Change::Node(node)));
    }
    if state.view().hosts.get(&id) != Some(&report) {
        records.push(Record::Row(Change::HostReport(report)));
    }

    Ok((Reply::Done, records))
}

/// Removes a node at the request of an admin.
pub(super) fn remove(state: &ClusterState, actor: Actor, name: &str, now: u64) -> Decision {
    require_admin(state, actor)?;
    let node = state.node_of(name)?;
    let by = creator(state, actor)?;
    let revocation = Revocation { node: node.id, name: node.name.clone(), at: now, by };

    Ok((Reply::Done, evict(state, revocation)))
}

/// Takes over that a node was removed, which this history does not have: it was restored from a
/// backup made before.
pub(super) fn revoke(state: &ClusterState, revocation: Revocation) -> Decision {
    let is_known = state.revoked().get(&revocation.node).is_some_and(|gone| gone.evicted);
    let records = if is_known { Vec::new() } else { evict(state, revocation) };

    Ok((Reply::Done, records))
}

/// Removes a node at its own request.
pub(super) fn leave(state: &ClusterState, id: NodeId, now: u64) -> Decision {
    let name = state.node(id)?.name.clone();
    let gone = Revoked { node: id, name, at: now, evicted: false, by: None, key: None };

    Ok((Reply::Done, removal(state, vec![gone])))
}

fn evict(state: &ClusterState, revocation: Revocation) -> Vec<Record> {
    let Revocation { node, name, at, by } = revocation;
    let key = state.enrollments().get(&node).map(|enrolled| enrolled.key);

    removal(state, vec![Revoked { node, name, at, evicted: true, by, key }])
}

/// Lists the records that remove nodes, whether they are there or not, and remember them.
pub(super) fn removal(state: &ClusterState, gone: Vec<Revoked>) -> Vec<Record> {
    let mut records = removals(state, &gone.iter().map(|gone| gone.node).collect());
    records.extend(remember(state, gone));

    records
}

/// Takes nodes out that are there: their endpoints, memberships and keys go, and their certificates
/// are refused from then on.
fn removals(state: &ClusterState, ids: &BTreeSet<NodeId>) -> Vec<Record> {
    let there: Vec<_> =
        ids.iter().copied().filter(|id| state.view().nodes.contains_key(id)).collect();
    let removed = |key| Record::Row(Change::Removed(key));
    let endpoints = there.iter().flat_map(|id| state.endpoints_of(*id, None));
    let mut records = names::removals(state, endpoints.map(|key| (key, None)).collect());
    for id in there {
        let members = state.memberships(id).map(|network| RowKey::Member(network, id));
        let host = state.view().hosts.contains_key(&id).then_some(RowKey::HostReport(id));
        records.extend(members.chain(host).chain([RowKey::Node(id)]).map(removed));
        records.push(Record::RemoveEnrollment(id));
        records.extend(state.held_by(id).map(Record::Release));
        if state.awaited().contains(&id) {
            records.push(Record::RemoveAwaited(id));
        }
    }

    records
}

/// Remembers removed nodes, in the places of the oldest if there are too many; those that left go
/// first.
fn remember(state: &ClusterState, gone: Vec<Revoked>) -> Vec<Record> {
    let excess = (state.revoked().len() + gone.len()).saturating_sub(limits::MAX_REVOKED);
    let mut records = Vec::new();
    if excess > 0 {
        let known = state.revoked().values();
        let mut oldest: Vec<_> = known.map(|gone| (gone.evicted, gone.at, gone.node)).collect();
        oldest.sort_unstable();
        let forgotten = oldest.into_iter().take(excess);
        records.extend(forgotten.map(|(_, _, node)| Record::RemoveRevoked(node)));
    }
    records.extend(gone.into_iter().map(Record::Revoked));

    records
}
