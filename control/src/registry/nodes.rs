//! How a node announces where it can be reached, and how it is removed.

use overlay_core::{Change, Creator, HostReport, Node, NodeId, Revocation, RowKey, node};

use super::record::{Enrollment, Revoked};
use super::{
    Actor, Announce, ClusterState, Decision, EnrollmentError, Record, Reply, limits, names,
    require_admin,
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
    let by = match actor {
        Actor::Operator => None,
        Actor::Node(id) => state.node_name(id).map(|name| Creator { node: id, name }),
    };
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
    let node = state.node(id)?;
    let mut records = removals(state, id);
    records.extend(remember(
        state,
        Revoked { node: id, name: node.name.clone(), at: now, evicted: false, by: None, key: None },
    ));

    Ok((Reply::Done, records))
}

fn evict(state: &ClusterState, revocation: Revocation) -> Vec<Record> {
    let Revocation { node, name, at, by } = revocation;
    let key = state.enrollments().get(&node).map(|enrolled| enrolled.key);
    let mut records = removals(state, node);
    records.extend(remember(state, Revoked { node, name, at, evicted: true, by, key }));

    records
}

/// Takes a node out, if it is there: its endpoints, memberships and keys go, and its certificate is
/// refused from then on.
fn removals(state: &ClusterState, id: NodeId) -> Vec<Record> {
    if !state.view().nodes.contains_key(&id) {
        return Vec::new();
    }
    let removed = |key| Record::Row(Change::Removed(key));
    let endpoints = state.endpoints_of(id, None).map(|key| (key, None)).collect();
    let members = state.memberships(id).map(|network| RowKey::Member(network, id));

    let host = state.view().hosts.contains_key(&id).then_some(RowKey::HostReport(id));
    let rows = members.chain(host).chain([RowKey::Node(id)]);

    let mut records = names::removals(state, endpoints);
    records.extend(rows.map(removed));
    records.push(Record::RemoveEnrollment(id));

    records
}

/// Remembers a removed node, in the place of the oldest if there are too many.
fn remember(state: &ClusterState, revoked: Revoked) -> Vec<Record> {
    let oldest = (state.revoked().len() >= limits::MAX_REVOKED)
        .then(|| state.revoked().values().min_by_key(|gone| (gone.evicted, gone.at)))
        .flatten();
    let mut records: Vec<_> =
        oldest.map(|gone| Record::RemoveRevoked(gone.node)).into_iter().collect();
    records.push(Record::Revoked(revoked));

    records
}
