//! How a node says where it is reached, and how it goes.

use overlay_core::{Change, HostReport, Node, NodeId, RowKey};
use overlay_proto::Code;

use super::record::{Host, Revoked};
use super::{Actor, Announce, Outcome, Record, State, Verdict, limits, refuse, require_admin};

/// Takes down how a node is reached and what it has in use.
pub(super) fn announce(state: &State, id: NodeId, announce: Announce) -> Verdict {
    if announce.version.len() > limits::MAX_VERSION || announce.version.chars().any(char::is_control) {
        return Err(refuse(Code::InvalidInput, "version: at most 64 bytes and no control characters"));
    }
    let old = state.node(id)?;
    let Some(old_host) = state.hosts().get(&id) else {
        return Err(refuse(Code::Fault, format!("node {id} has no key on record")));
    };

    let node = Node { underlay: announce.underlay, lane_ports: announce.lane_ports, ..old.clone() };
    let host = Host { version: announce.version, ..old_host.clone() };
    let report =
        HostReport { node: id, prefixes: announce.prefixes, differences: announce.differences, name: old.name.clone() };
    let mut records = Vec::new();
    if host != *old_host {
        records.push(Record::Host(host));
    }
    if node != *old {
        records.push(Record::Row(Change::Node(node)));
    }
    if state.view().hosts.get(&id) != Some(&report) {
        records.push(Record::Row(Change::HostReport(report)));
    }

    Ok((Outcome::Done, records))
}

/// Takes a node out because an admin says so.
pub(super) fn remove(state: &State, actor: Actor, name: &str, now: u64) -> Verdict {
    require_admin(state, actor)?;
    let id = state.node_of(name)?.id;

    leave(state, id, now)
}

/// Takes a node out: its endpoints, memberships and keys go, and its certificate is refused from then on.
pub(super) fn leave(state: &State, id: NodeId, now: u64) -> Verdict {
    let node = state.node(id)?;
    let removed = |key| Record::Row(Change::Removed(key));
    let endpoints = state.endpoints_of(id, None).map(|(network, endpoint)| RowKey::Endpoint(network, endpoint));
    let members = state.memberships(id).map(|network| RowKey::Member(network, id));

    let host = state.view().hosts.contains_key(&id).then_some(RowKey::HostReport(id));
    let rows = endpoints.chain(members).chain(host).chain([RowKey::Node(id)]);

    let mut records: Vec<_> = rows.map(removed).collect();
    records.push(Record::NoHost(id));
    if state.revoked().len() >= limits::MAX_REVOKED {
        let oldest = state.revoked().values().min_by_key(|gone| gone.at);
        records.extend(oldest.map(|gone| Record::NoRevoked(gone.node)));
    }
    records.push(Record::Revoked(Revoked { node: id, name: node.name.clone(), at: now }));

    Ok((Outcome::Done, records))
}
