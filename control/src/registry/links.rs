//! How networks are linked, so that their endpoints reach each other, and which nodes carry packets
//! between them.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use overlay_core::network::{MAX_GATEWAYS, MAX_LINKS};
use overlay_core::{Change, LinkAccess, Network, NetworkId, NetworkLink, NodeId, RowKey};

use super::{
    Actor, ClusterState, Decision, NetworkError, Record, RegistryError, Reply, known_network,
    limits, refuse_worker, require_admin,
};

/// Links two networks, or changes what passes between them.
pub(super) fn link(
    state: &ClusterState,
    actor: Actor,
    one: &str,
    other: &str,
    access: LinkAccess,
) -> Decision {
    let (one, other) = pair(state, actor, one, other)?;
    let known = one.link_with(other.id);
    if known.is_some_and(|known| known.access == access) {
        return Ok((Reply::Network(one.clone()), Vec::new()));
    }
    if known.is_none() {
        check_bounds(state, one, other)?;
        check_prefixes(one, other)?;
    }
    let gateways = gateways(known, &members(state, one.id, &[]), &members(state, other.id, &[]));
    let with = |network: &Network, other: &Network| {
        let link = NetworkLink {
            network: other.id,
            name: other.name.clone(),
            prefix: other.prefix,
            prefix6: other.prefix6,
            access,
            gateways: gateways.clone(),
        };
        let mut network = without(network, other.id);
        network.settings.links.push(link);
        network.settings.links.sort_by_key(|link| link.network);
        network
    };

    Ok(decided(with(one, other), with(other, one)))
}

/// Ends the link of two networks.
pub(super) fn unlink(state: &ClusterState, actor: Actor, one: &str, other: &str) -> Decision {
    let (one, other) = pair(state, actor, one, other)?;
    if one.link_with(other.id).is_none() {
        // The first answer may have been lost.
        return Ok((Reply::Network(one.clone()), Vec::new()));
    }

    Ok(decided(without(one, other.id), without(other, one.id)))
}

/// Makes the records that take a network that is removed out of those that it is linked with.
pub(super) fn end(state: &ClusterState, network: &Network) -> Vec<Record> {
    let linked = network.settings.links.iter();
    let others = linked.filter_map(|link| state.view().networks.get(&link.network));

    others.map(|other| row(without(other, network.id))).collect()
}

/// Has the gateways of links follow the memberships that `records` change.
pub(super) fn follow(state: &ClusterState, records: &mut Vec<Record>) {
    let is_linked =
        |id| state.view().networks.get(&id).is_some_and(|row| !row.settings.links.is_empty());
    let member_of = |row: &Change| {
        if let RowKey::Member(network, _) = row.key() { Some(network) } else { None }
    };
    let touched = rows_of(records).filter_map(member_of);
    let changed: BTreeSet<_> = touched.filter(|id| is_linked(*id)).collect();
    let mut rows: BTreeMap<NetworkId, Network> = BTreeMap::new();
    for one in changed {
        let Some(network) = decided_row(state, records, &rows, one) else { continue };
        for link in network.settings.links.clone() {
            let (of_one, of_other) =
                (members(state, one, records), members(state, link.network, records));
            let gateways = gateways(Some(&link), &of_one, &of_other);
            if gateways == link.gateways {
                continue;
            }
            for (id, other) in [(one, link.network), (link.network, one)] {
                let Some(mut row) = decided_row(state, records, &rows, id) else { continue };
                for link in row.settings.links.iter_mut().filter(|link| link.network == other) {
                    link.gateways.clone_from(&gateways);
                }
                rows.insert(id, row);
            }
        }
    }
    // Of several records of one row, the last one holds.
    records.extend(rows.into_values().map(row));
}

/// Returns a network as it is after these records and rows; `None` where it is gone.
fn decided_row(
    state: &ClusterState,
    records: &[Record],
    rows: &BTreeMap<NetworkId, Network>,
    id: NetworkId,
) -> Option<Network> {
    let recorded = |row: &Change| {
        if let Change::Network(row) = row {
            return (row.id == id).then(|| Some(row.clone()));
        }
        (*row == Change::Removed(RowKey::Network(id))).then_some(None)
    };
    let recorded = rows_of(records).rev().find_map(recorded);
    let present = || state.view().networks.get(&id).cloned();

    rows.get(&id).cloned().or_else(|| recorded.unwrap_or_else(present))
}

/// Lists the members that a network has after these records.
fn members(state: &ClusterState, network: NetworkId, records: &[Record]) -> BTreeSet<NodeId> {
    let mut members: BTreeSet<_> =
        state.view().members_of(network).map(|member| member.node).collect();
    for row in rows_of(records) {
        if let Change::Member(row) = row
            && row.network == network
        {
            members.insert(row.node);
        }
        if let Change::Removed(RowKey::Member(of, node)) = row
            && *of == network
        {
            members.remove(node);
        }
    }

    members
}

/// Lists the rows of the membership among records.
fn rows_of(records: &[Record]) -> impl DoubleEndedIterator<Item = &Change> {
    records.iter().filter_map(|record| if let Record::Row(row) = record { Some(row) } else { None })
}

/// Chooses the nodes that carry packets between two networks: all that are in both, as far as
/// there is room. Those that do already stay, so that no flow changes its way for another one.
fn gateways(
    known: Option<&NetworkLink>,
    one: &BTreeSet<NodeId>,
    other: &BTreeSet<NodeId>,
) -> Vec<NodeId> {
    let is_in_both = |node: &&NodeId| one.contains(node) && other.contains(node);
    let staying = known.into_iter().flat_map(|link| &link.gateways).filter(is_in_both);
    let mut gateways: BTreeSet<NodeId> = staying.copied().collect();
    for node in one.intersection(other) {
        if gateways.len() >= MAX_GATEWAYS {
            break;
        }
        gateways.insert(*node);
    }

    gateways.into_iter().collect()
}

/// Finds two networks, for an actor that may link them: an admin, or the node that made both.
fn pair<'a>(
    state: &'a ClusterState,
    actor: Actor,
    one: &str,
    other: &str,
) -> Result<(&'a Network, &'a Network), RegistryError> {
    let (one, other) = (known_network(state, actor, one)?, known_network(state, actor, other)?);
    if one.id == other.id {
        return Err(NetworkError::LinkWithItself(one.name.clone()).into());
    }
    refuse_worker(state, actor)?;
    let Actor::Node(node) = actor else { return Ok((one, other)) };
    match [one, other].into_iter().find(|network| !network.is_made_by(node)) {
        Some(foreign) if require_admin(state, actor).is_err() => Err(NetworkError::LinkOfAnother {
            network: foreign.name.clone(),
            creator: foreign.creator.as_ref().map(|by| by.name.clone()),
        }
        .into()),
        Some(_) | None => Ok((one, other)),
    }
}

fn check_bounds(state: &ClusterState, one: &Network, other: &Network) -> Result<(), NetworkError> {
    if let Some(full) =
        [one, other].into_iter().find(|network| network.settings.links.len() >= MAX_LINKS)
    {
        return Err(NetworkError::TooManyLinksOf(full.name.clone()));
    }
    let ends: usize =
        state.view().networks.values().map(|network| network.settings.links.len()).sum();
    if ends / 2 >= limits::MAX_LINKED_PAIRS {
        return Err(NetworkError::TooManyLinks);
    }

    Ok(())
}

/// An address means one endpoint on both sides, so prefixes must differ: those of the two networks,
/// and those of all networks that one of them reaches already.
fn check_prefixes(one: &Network, other: &Network) -> Result<(), NetworkError> {
    let all = |network: &Network| {
        let own = [Some(IpNet::V4(network.prefix)), network.prefix6.map(IpNet::V6)];
        own.into_iter().flatten().map(|prefix| (network.name.clone(), prefix)).collect::<Vec<_>>()
    };
    let reached = |network: &Network| {
        let links = network.settings.links.iter();
        let theirs =
            links.flat_map(|link| link.prefixes().map(|prefix| (link.name.clone(), prefix)));
        all(network).into_iter().chain(theirs).collect::<Vec<_>>()
    };
    for (ours, theirs) in [(reached(one), all(other)), (reached(other), all(one))] {
        for (name, prefix) in &ours {
            let overlaps = |with: &IpNet| prefix.contains(with) || with.contains(prefix);
            if let Some((other, with)) = theirs.iter().find(|(_, with)| overlaps(with)) {
                return Err(NetworkError::LinkOverlap {
                    one: name.clone(),
                    prefix: *prefix,
                    other: other.clone(),
                    with: *with,
                });
            }
        }
    }

    Ok(())
}

fn without(network: &Network, other: NetworkId) -> Network {
    let mut network = network.clone();
    network.settings.links.retain(|link| link.network != other);

    network
}

fn decided(one: Network, other: Network) -> (Reply, Vec<Record>) {
    (Reply::Network(one.clone()), vec![row(one), row(other)])
}

fn row(network: Network) -> Record {
    Record::Row(Change::Network(network))
}

#[cfg(test)]
#[path = "links_tests.rs"]
mod tests;
