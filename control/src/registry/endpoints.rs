//! How nodes publish and withdraw endpoints.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use overlay_core::{
    Alias, Endpoint, EndpointId, Member, Network, NetworkId, NodeId, Runtime, claims,
};

use super::report::fence_text;
use super::state::Held;
use super::{
    ClusterState, Decision, EndpointError, NetworkError, Record, RegistryError, Reply,
    check_labels, limits, names,
};

/// Publishes endpoints of a node: all of them or none.
pub(super) fn put(state: &ClusterState, node: NodeId, rows: Vec<Endpoint>, now: u64) -> Decision {
    check_count(rows.len())?;
    let released: BTreeSet<_> =
        rows.iter().filter_map(|row| old_of(state, row)).flat_map(places).collect();
    let mut seen = BTreeSet::new();
    let mut placed = BTreeSet::new();
    for row in &rows {
        if !seen.insert((row.network, row.id)) {
            return Err(EndpointError::ListedTwice(row.id).into());
        }
        check_row(state, node, row)?;
        for place in places(row) {
            if !placed.insert(place) {
                return Err(EndpointError::AddressTwice(place.1).into());
            }
            if !released.contains(&place) {
                check_free(state, place)?;
                check_kept(state, node, place, now)?;
            }
        }
    }
    check_room(state, node, &rows)?;

    // What was held until it is published need not be any more.
    let held = placed.into_iter().map(|(network, address)| Held {
        network,
        node,
        prefix: IpNet::from(address),
    });
    let released: Vec<_> = held.filter(|held| state.holds(held)).map(Record::Release).collect();
    let changed = rows.into_iter().map(|row| ((row.network, row.id), Some(row))).collect();
    let settled = names::settle(state, changed);

    Ok((Reply::Done, names::records(state, settled).chain(released).collect()))
}

/// Checks how many endpoints one call lists.
///
/// # Errors
///
/// [`EndpointError::TooManyInCall`].
pub(crate) fn check_count(count: usize) -> Result<(), RegistryError> {
    if count <= limits::MAX_CALL_ENDPOINTS {
        Ok(())
    } else {
        Err(EndpointError::TooManyInCall(count).into())
    }
}

fn old_of<'a>(state: &'a ClusterState, row: &Endpoint) -> Option<&'a Endpoint> {
    state.view().endpoints.get(&(row.network, row.id))
}

fn places(row: &Endpoint) -> impl Iterator<Item = (NetworkId, IpAddr)> + '_ {
    row.addresses.iter().map(|address| (row.network, *address))
}

/// Checks everything about one endpoint that does not depend on the others in the call.
fn check_row(state: &ClusterState, node: NodeId, row: &Endpoint) -> Result<(), RegistryError> {
    if row.node != node {
        return Err(EndpointError::NamesAnotherNode(row.name.clone()).into());
    }
    check_labels(&row.labels)?;
    check_names(row)?;
    let network = state.view().networks.get(&row.network);
    let Some(network) = network.filter(|network| state.may_enter(node, network.id)) else {
        return Err(NetworkError::Unknown(row.network).into());
    };
    let Some(member) = state.view().member(row.network, node) else {
        return Err(EndpointError::NotAMember(network.name.clone()).into());
    };
    if let Some(old) = old_of(state, row)
        && old.node != node
    {
        return Err(EndpointError::OfAnotherNode(row.id).into());
    }

    Ok(check_addresses(state, network, member, row)?)
}

/// Refuses names that everybody knows as something else: the host itself, or an id. Short ids of
/// their own are what container engines call their containers by.
fn check_names(row: &Endpoint) -> Result<(), EndpointError> {
    let may_be_id = |name: &Alias| *name == Alias::from(row.id) || row.runtime == Runtime::Docker;
    for name in row.claims() {
        claims::check(&name, may_be_id(&name))?;
    }

    Ok(())
}

/// An endpoint whose container runs has one IPv4 address and, on a network with IPv6, at most one
/// IPv6 address. Each comes from the node's blocks, or is one that nobody else will ever assign.
fn check_addresses(
    state: &ClusterState,
    network: &Network,
    member: &Member,
    row: &Endpoint,
) -> Result<(), EndpointError> {
    if row.is_stopped() {
        return Ok(());
    }
    let (v4, v6) = match row.addresses.as_slice() {
        [IpAddr::V4(v4)] => (*v4, None),
        [IpAddr::V4(v4), IpAddr::V6(v6)] => (*v4, Some(*v6)),
        _ => return Err(EndpointError::AddressCount(row.name.clone())),
    };
    check_v4(state, network, member, v4)?;

    v6.map_or(Ok(()), |v6| check_v6(state, network, member, (v4, v6)))
}

fn check_v4(
    state: &ClusterState,
    network: &Network,
    member: &Member,
    address: Ipv4Addr,
) -> Result<(), EndpointError> {
    let (prefix, name) = (network.prefix, || network.name.clone());
    if !prefix.contains(&address) {
        return Err(EndpointError::OutsidePrefix { address, prefix, network: name() });
    }
    if network.is_reserved(address) {
        return Err(EndpointError::Kept { address: address.into(), network: name() });
    }
    if member.blocks.iter().any(|block| block.prefix.contains(&address)) {
        return check_in_block(network, member, address);
    }

    check_claim(state, network, member.node, address, address.into())
}

/// An IPv6 address belongs to the block of the IPv4 address embedded in it. One that embeds none of
/// the network's addresses was assigned by a container engine, or claimed.
fn check_v6(
    state: &ClusterState,
    network: &Network,
    member: &Member,
    (v4, v6): (Ipv4Addr, Ipv6Addr),
) -> Result<(), EndpointError> {
    let name = || network.name.clone();
    if !network.prefix6.is_some_and(|prefix| prefix.contains(&v6)) {
        return Err(EndpointError::OutsidePrefix6 { address: v6, network: name() });
    }
    if network.is_reserved6(v6) {
        return Err(EndpointError::Kept { address: v6.into(), network: name() });
    }
    match network.address4(v6) {
        Some(carried) if carried == v4 => Ok(()),
        Some(carried) if member.blocks.iter().any(|block| block.prefix.contains(&carried)) => {
            check_in_block(network, member, carried)
        }
        Some(carried) if network.prefix.contains(&carried) => {
            check_claim(state, network, member.node, carried, v6.into())
        }
        Some(_) | None => check_numbering(state, network, member.node, v6.into()),
    }
}

fn check_in_block(
    network: &Network,
    member: &Member,
    address: Ipv4Addr,
) -> Result<(), EndpointError> {
    // Addresses that merely look special may still be requested by hand.
    let own = member.node_address(network) == Some(address);
    if own || network.is_reserved(address) {
        return Err(EndpointError::KeptForNode { address, network: network.name.clone() });
    }

    Ok(())
}

/// Checks an address outside the node's blocks: it must be one that nobody else will ever assign.
fn check_claim(
    state: &ClusterState,
    network: &Network,
    node: NodeId,
    address: Ipv4Addr,
    shown: IpAddr,
) -> Result<(), EndpointError> {
    let block = ipnet::Ipv4Net::new(address, network.block_len()).map(|block| block.trunc());
    if block.is_ok_and(|block| state.is_held(network.id, block)) {
        let holder = state
            .view()
            .members_of(network.id)
            .find(|m| m.blocks.iter().any(|b| b.prefix.contains(&address)));
        return Err(EndpointError::InForeignBlock {
            address: shown,
            holder: holder.and_then(|m| state.node_name(m.node)),
            prefix: network.prefix,
        });
    }

    check_numbering(state, network, node, shown)
}

/// Outside all blocks, the container engine that assigns addresses itself may assign any address
/// at any time.
fn check_numbering(
    state: &ClusterState,
    network: &Network,
    node: NodeId,
    address: IpAddr,
) -> Result<(), EndpointError> {
    match network.settings.numbered_by {
        Some(origin) if origin != node => {
            Err(EndpointError::NumberedByAnother { address, origin: state.node_name(origin) })
        }
        Some(_) | None => Ok(()),
    }
}

fn check_free(
    state: &ClusterState,
    (network, address): (NetworkId, IpAddr),
) -> Result<(), EndpointError> {
    let Some(holder) = state.holder(network, address) else { return Ok(()) };
    let endpoint = state.view().endpoints.get(&(network, holder));
    let name = endpoint.map_or_else(|| holder.to_string(), |endpoint| endpoint.name.to_string());
    let node = endpoint.and_then(|endpoint| state.node_name(endpoint.node));

    Err(EndpointError::AddressTaken { address, holder: name, node })
}

/// After a restore, an address that is new to control may be in use by a node that has not told so
/// yet, unless it belongs to a block of the node's own.
fn check_kept(
    state: &ClusterState,
    node: NodeId,
    (network, address): (NetworkId, IpAddr),
    now: u64,
) -> Result<(), EndpointError> {
    let member = state.view().member(network, node);
    let of_network = state.view().networks.get(&network);
    let carried = match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => of_network.and_then(|network| network.address4(address)),
    };
    let is_in_block = carried.is_some_and(|address| {
        member.is_some_and(|m| m.blocks.iter().any(|block| block.prefix.contains(&address)))
    });
    if is_in_block || state.is_kept_for(network, node, address) {
        return Ok(());
    }
    if state.is_kept_for_another(network, node, address) {
        return Err(EndpointError::KeptForAnother(address));
    }
    if state.is_fenced(now) {
        return Err(EndpointError::Fenced { address, waiting: fence_text(state) });
    }

    Ok(())
}

fn check_room(state: &ClusterState, node: NodeId, rows: &[Endpoint]) -> Result<(), EndpointError> {
    let new = rows.iter().filter(|row| old_of(state, row).is_none()).count();
    let own = state.endpoints_of(node, None).count();
    if own + new > limits::MAX_NODE_ENDPOINTS {
        return Err(EndpointError::NodeFull { own, new });
    }
    if state.view().endpoints.len() + new > limits::MAX_ENDPOINTS {
        return Err(EndpointError::ClusterFull);
    }

    Ok(())
}

/// Withdraws endpoints of a node; those that do not exist count as removed, as do those of networks
/// whose endpoints it may not see.
pub(super) fn remove(
    state: &ClusterState,
    node: NodeId,
    keys: &[(NetworkId, EndpointId)],
) -> Decision {
    check_count(keys.len())?;
    let mut removed = names::Changed::new();
    for &(network, id) in keys {
        match state.view().endpoints.get(&(network, id)) {
            Some(_) if state.view().member(network, node).is_none() => {}
            Some(row) if row.node != node => {
                return Err(EndpointError::OfAnotherNode(id).into());
            }
            Some(_) => drop(removed.insert((network, id), None)),
            None => {}
        }
    }

    Ok((Reply::Done, names::removals(state, removed)))
}
