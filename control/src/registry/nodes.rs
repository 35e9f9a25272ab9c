//! How a node announces where it can be reached, and how it is removed.

use overlay_core::{Change, HostReport, Node, NodeId, RowKey, node};

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
    let id = state.node_of(name)?.id;

    leave(state, id, now)
}

/// Removes a node: its endpoints, memberships and keys go, and its certificate is refused from then
/// on.
pub(super) fn leave(state: &ClusterState, id: NodeId, now: u64) -> Decision {
    let node = state.node(id)?;
    let removed = |key| Record::Row(Change::Removed(key));
    let endpoints = state.endpoints_of(id, None).map(|key| (key, None)).collect();
    let members = state.memberships(id).map(|network| RowKey::Member(network, id));

    let host = state.view().hosts.contains_key(&id).then_some(RowKey::HostReport(id));
    let rows = members.chain(host).chain([RowKey::Node(id)]);

    let mut records = names::removals(state, endpoints);
    records.extend(rows.map(removed));
    records.push(Record::RemoveEnrollment(id));
    if state.revoked().len() >= limits::MAX_REVOKED {
        let oldest = state.revoked().values().min_by_key(|gone| gone.at);
        records.extend(oldest.map(|gone| Record::RemoveRevoked(gone.node)));
    }
    records.push(Record::Revoked(Revoked { node: id, name: node.name.clone(), at: now }));

    Ok((Reply::Done, records))
}
