//! How nodes publish and withdraw endpoints.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use overlay_core::{Change, Endpoint, EndpointId, Member, Network, NetworkId, NodeId, RowKey};
use overlay_proto::{Code, Refusal};

use super::{ClusterState, Decision, Record, Reply, check_labels, limits, refuse};

/// Publishes endpoints of a node: all of them or none.
pub(super) fn put(state: &ClusterState, node: NodeId, rows: Vec<Endpoint>) -> Decision {
    check_count(rows.len())?;
    let released: BTreeSet<_> =
        rows.iter().filter_map(|row| old_of(state, row)).flat_map(places).collect();
    let mut seen = BTreeSet::new();
    let mut placed = BTreeSet::new();
    for row in &rows {
        if !seen.insert((row.network, row.id)) {
            return Err(refuse(Code::InvalidInput, format!("endpoint {} is listed twice", row.id)));
        }
        check_row(state, node, row)?;
        for place in places(row) {
            if !placed.insert(place) {
                return Err(refuse(Code::AddressTaken, format!("{} is requested twice", place.1)));
            }
            if !released.contains(&place) {
                check_free(state, place)?;
            }
        }
    }
    check_room(state, node, &rows)?;

    let changed = rows.into_iter().filter(|row| old_of(state, row) != Some(row));

    Ok((Reply::Done, changed.map(|row| Record::Row(Change::Endpoint(row))).collect()))
}

fn check_count(count: usize) -> Result<(), Refusal> {
    if count <= limits::MAX_CALL_ENDPOINTS {
        Ok(())
    } else {
        let most = limits::MAX_CALL_ENDPOINTS;
        Err(refuse(
            Code::InvalidInput,
            format!("{count} endpoints in one call are more than {most}"),
        ))
    }
}

fn old_of<'a>(state: &'a ClusterState, row: &Endpoint) -> Option<&'a Endpoint> {
    state.view().endpoints.get(&(row.network, row.id))
}

fn places(row: &Endpoint) -> impl Iterator<Item = (NetworkId, IpAddr)> + '_ {
    row.addresses.iter().map(|address| (row.network, *address))
}

/// Checks everything about one endpoint that does not depend on the others in the call.
fn check_row(state: &ClusterState, node: NodeId, row: &Endpoint) -> Result<(), Refusal> {
    if row.node != node {
        return Err(refuse(
            Code::NotAllowed,
            format!("endpoint {} names a node other than the caller", row.name),
        ));
    }
    if let Some(old) = old_of(state, row)
        && old.node != node
    {
        return Err(refuse(
            Code::NotAllowed,
            format!("endpoint {} belongs to another node", row.id),
        ));
    }
    check_labels(&row.labels)?;
    let Some(network) = state.view().networks.get(&row.network) else {
        return Err(refuse(Code::NotFound, format!("there is no network {}", row.network)));
    };
    let Some(member) = state.view().member(row.network, node) else {
        return Err(refuse(
            Code::WrongState,
            format!("this node is not a member of network {}", network.name),
        ));
    };

    check_addresses(state, network, member, row)
}

/// An endpoint has one IPv4 address and, on a network with IPv6, at most one IPv6 address. Each
/// comes from the node's blocks, or is one that nobody else will ever assign.
fn check_addresses(
    state: &ClusterState,
    network: &Network,
    member: &Member,
    row: &Endpoint,
) -> Result<(), Refusal> {
    let (v4, v6) = match row.addresses.as_slice() {
        [IpAddr::V4(v4)] => (*v4, None),
        [IpAddr::V4(v4), IpAddr::V6(v6)] => (*v4, Some(*v6)),
        _ => {
            let text = format!(
                "endpoint {} must have one IPv4 address, then at most one IPv6 address",
                row.name
            );
            return Err(refuse(Code::InvalidInput, text));
        }
    };
    check_v4(state, network, member, v4)?;

    v6.map_or(Ok(()), |v6| check_v6(state, network, member, (v4, v6)))
}

fn check_v4(
    state: &ClusterState,
    network: &Network,
    member: &Member,
    address: Ipv4Addr,
) -> Result<(), Refusal> {
    let (prefix, name) = (network.prefix, &network.name);
    if !prefix.contains(&address) {
        return Err(refuse(
            Code::InvalidInput,
            format!("{address} is not in {prefix}, the prefix of network {name}"),
        ));
    }
    if network.is_reserved(address) {
        return Err(refuse(
            Code::AddressTaken,
            format!("{address} is kept for network {name} itself"),
        ));
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
) -> Result<(), Refusal> {
    let name = &network.name;
    if !network.prefix6.is_some_and(|prefix| prefix.contains(&v6)) {
        return Err(refuse(
            Code::InvalidInput,
            format!("{v6} is not in the IPv6 prefix of network {name}"),
        ));
    }
    if network.is_reserved6(v6) {
        return Err(refuse(Code::AddressTaken, format!("{v6} is kept for network {name} itself")));
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

fn check_in_block(network: &Network, member: &Member, address: Ipv4Addr) -> Result<(), Refusal> {
    // Addresses that merely look special may still be requested by hand.
    let own = member.node_address(network) == Some(address);
    if own || network.is_reserved(address) {
        let text = format!("{address} is kept for network {} or this node itself", network.name);
        return Err(refuse(Code::AddressTaken, text));
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
) -> Result<(), Refusal> {
    let block = ipnet::Ipv4Net::new(address, network.block_len()).map(|block| block.trunc());
    if block.is_ok_and(|block| state.is_held(network.id, block)) {
        let holder = state
            .view()
            .members_of(network.id)
            .find(|m| m.blocks.iter().any(|b| b.prefix.contains(&address)));
        let holder = holder
            .and_then(|m| state.view().nodes.get(&m.node))
            .map_or("another node", |n| n.name.as_str());
        let prefix = network.prefix;
        return Err(refuse(
            Code::AddressTaken,
            format!(
                "{shown} is in a block of addresses that {holder} assigns; choose a lower one in {prefix}"
            ),
        ));
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
) -> Result<(), Refusal> {
    match network.settings.numbered_by {
        Some(origin) if origin != node => {
            let origin =
                state.view().nodes.get(&origin).map_or("another node", |node| node.name.as_str());
            let text = format!("{address} is one that the container engine of {origin} may assign");
            Err(refuse(Code::AddressTaken, format!("{text}; take one of this node's own blocks")))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_free(
    state: &ClusterState,
    (network, address): (NetworkId, IpAddr),
) -> Result<(), Refusal> {
    let Some(holder) = state.holder(network, address) else { return Ok(()) };
    let endpoint = state.view().endpoints.get(&(network, holder));
    let name = endpoint.map_or_else(|| holder.to_string(), |endpoint| endpoint.name.to_string());
    let node = endpoint
        .and_then(|e| state.view().nodes.get(&e.node))
        .map_or("a node", |node| node.name.as_str());

    Err(refuse(Code::AddressTaken, format!("{address} is taken by {name} on {node}")))
}

fn check_room(state: &ClusterState, node: NodeId, rows: &[Endpoint]) -> Result<(), Refusal> {
    let new = rows.iter().filter(|row| old_of(state, row).is_none()).count();
    let own = state.endpoints_of(node, None).count();
    if own + new > limits::MAX_NODE_ENDPOINTS {
        let most = limits::MAX_NODE_ENDPOINTS;
        return Err(refuse(
            Code::Exhausted,
            format!("this node has {own} endpoints; {new} more would exceed the limit of {most}"),
        ));
    }
    if state.view().endpoints.len() + new > limits::MAX_ENDPOINTS {
        return Err(refuse(
            Code::Exhausted,
            format!("the cluster is limited to {} endpoints", limits::MAX_ENDPOINTS),
        ));
    }

    Ok(())
}

/// Withdraws endpoints of a node; those that do not exist count as removed.
pub(super) fn remove(
    state: &ClusterState,
    node: NodeId,
    keys: &[(NetworkId, EndpointId)],
) -> Decision {
    check_count(keys.len())?;
    let mut records = Vec::new();
    for &(network, id) in keys {
        match state.view().endpoints.get(&(network, id)) {
            Some(row) if row.node != node => {
                return Err(refuse(
                    Code::NotAllowed,
                    format!("endpoint {id} belongs to another node"),
                ));
            }
            Some(_) => records.push(Record::Row(Change::Removed(RowKey::Endpoint(network, id)))),
            None => {}
        }
    }

    Ok((Reply::Done, records))
}
