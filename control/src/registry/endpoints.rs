//! How nodes publish endpoints and take them back.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use overlay_core::{Change, Endpoint, EndpointId, Member, Network, NetworkId, NodeId, RowKey, ipam};
use overlay_proto::{Code, Refusal};

use super::state::v4_of;
use super::{Outcome, Record, State, Verdict, check_labels, limits, refuse};

/// Publishes endpoints of a node, all or none.
pub(super) fn put(state: &State, node: NodeId, rows: Vec<Endpoint>) -> Verdict {
    check_count(rows.len())?;
    let released: BTreeSet<_> = rows.iter().filter_map(|row| old_of(state, row)).filter_map(place).collect();
    let mut seen = BTreeSet::new();
    let mut placed = BTreeSet::new();
    for row in &rows {
        if !seen.insert((row.network, row.id)) {
            return Err(refuse(Code::InvalidInput, format!("endpoint {} is there twice", row.id)));
        }
        check_row(state, node, row)?;
        let Some(place) = place(row) else {
            return Err(refuse(Code::InvalidInput, format!("endpoint {} has no IPv4 address", row.name)));
        };
        if !placed.insert(place) {
            return Err(refuse(Code::AddressTaken, format!("{} is asked for twice", place.1)));
        }
        if !released.contains(&place) {
            check_free(state, place)?;
        }
    }
    check_room(state, node, &rows)?;

    let changed = rows.into_iter().filter(|row| old_of(state, row) != Some(row));

    Ok((Outcome::Done, changed.map(|row| Record::Row(Change::Endpoint(row))).collect()))
}

fn check_count(count: usize) -> Result<(), Refusal> {
    if count <= limits::MAX_CALL_ENDPOINTS {
        Ok(())
    } else {
        let most = limits::MAX_CALL_ENDPOINTS;
        Err(refuse(Code::InvalidInput, format!("{count} endpoints in one call are more than {most}")))
    }
}

fn old_of<'a>(state: &'a State, row: &Endpoint) -> Option<&'a Endpoint> {
    state.view().endpoints.get(&(row.network, row.id))
}

fn place(row: &Endpoint) -> Option<(NetworkId, Ipv4Addr)> {
    v4_of(row).map(|address| (row.network, address))
}

/// Checks everything about one endpoint that does not depend on the others in the call.
fn check_row(state: &State, node: NodeId, row: &Endpoint) -> Result<(), Refusal> {
    if row.node != node {
        return Err(refuse(
            Code::NotAllowed,
            format!("endpoint {} names another node than the one that calls", row.name),
        ));
    }
    if let Some(old) = old_of(state, row)
        && old.node != node
    {
        return Err(refuse(Code::NotAllowed, format!("endpoint {} belongs to another node", row.id)));
    }
    check_labels(&row.labels)?;
    let Some(network) = state.view().networks.get(&row.network) else {
        return Err(refuse(Code::NotFound, format!("there is no network {}", row.network)));
    };
    let Some(member) = state.view().member(row.network, node) else {
        return Err(refuse(Code::WrongState, format!("this node is no member of network {}", network.name)));
    };

    check_addresses(state, network, member, row)
}

fn check_addresses(state: &State, network: &Network, member: &Member, row: &Endpoint) -> Result<(), Refusal> {
    let Some(address) = v4_of(row) else {
        return Err(refuse(Code::InvalidInput, format!("endpoint {} has no IPv4 address", row.name)));
    };
    if row.addresses != network.addresses(address) {
        let right: Vec<_> = network.addresses(address).iter().map(IpAddr::to_string).collect();
        return Err(refuse(
            Code::InvalidInput,
            format!(
                "the addresses of endpoint {} must be {} on network {}",
                row.name,
                right.join(" and "),
                network.name
            ),
        ));
    }
    if member.blocks.iter().any(|block| block.prefix.contains(&address)) {
        return check_in_block(network, member, address);
    }

    check_claim(state, network, address)
}

fn check_in_block(network: &Network, member: &Member, address: Ipv4Addr) -> Result<(), Refusal> {
    if ipam::Pool::new(network, member).contains(address) {
        Ok(())
    } else {
        Err(refuse(Code::AddressTaken, format!("{address} is kept for network {} or this node itself", network.name)))
    }
}

/// Checks an address outside the node's blocks: it must be one that nobody else will ever give out.
fn check_claim(state: &State, network: &Network, address: Ipv4Addr) -> Result<(), Refusal> {
    let (prefix, name) = (network.prefix, &network.name);
    if !prefix.contains(&address) {
        return Err(refuse(Code::InvalidInput, format!("{address} is not in {prefix}, the prefix of network {name}")));
    }
    if [prefix.network(), network.gateway(), prefix.broadcast()].contains(&address) {
        return Err(refuse(Code::AddressTaken, format!("{address} is kept for network {name} itself")));
    }
    let block = ipnet::Ipv4Net::new(address, ipam::block_len(prefix)).map(|block| block.trunc());
    if block.is_ok_and(|block| state.is_held(network.id, block)) {
        let holder = state.view().members_of(network.id).find(|m| m.blocks.iter().any(|b| b.prefix.contains(&address)));
        let holder = holder.and_then(|m| state.view().nodes.get(&m.node)).map_or("another node", |n| n.name.as_str());
        return Err(refuse(
            Code::AddressTaken,
            format!("{address} is in a block of addresses that {holder} gives out; take one lower in {prefix}"),
        ));
    }

    Ok(())
}

fn check_free(state: &State, (network, address): (NetworkId, Ipv4Addr)) -> Result<(), Refusal> {
    let Some((_, holder)) = state.addresses(network, address.into()).next() else { return Ok(()) };
    let endpoint = state.view().endpoints.get(&(network, holder));
    let name = endpoint.map_or_else(|| holder.to_string(), |endpoint| endpoint.name.to_string());
    let node = endpoint.and_then(|e| state.view().nodes.get(&e.node)).map_or("a node", |node| node.name.as_str());

    Err(refuse(Code::AddressTaken, format!("{address} is taken by {name} on {node}")))
}

fn check_room(state: &State, node: NodeId, rows: &[Endpoint]) -> Result<(), Refusal> {
    let new = rows.iter().filter(|row| old_of(state, row).is_none()).count();
    let own = state.endpoints_of(node, None).count();
    if own + new > limits::MAX_NODE_ENDPOINTS {
        let most = limits::MAX_NODE_ENDPOINTS;
        return Err(refuse(Code::Exhausted, format!("this node has {own} endpoints, {new} more are past {most}")));
    }
    if state.view().endpoints.len() + new > limits::MAX_ENDPOINTS {
        return Err(refuse(Code::Exhausted, format!("the cluster may have {} endpoints", limits::MAX_ENDPOINTS)));
    }

    Ok(())
}

/// Takes endpoints of a node back; those that are not there are gone already.
pub(super) fn remove(state: &State, node: NodeId, keys: &[(NetworkId, EndpointId)]) -> Verdict {
    check_count(keys.len())?;
    let mut records = Vec::new();
    for &(network, id) in keys {
        match state.view().endpoints.get(&(network, id)) {
            Some(row) if row.node != node => {
                return Err(refuse(Code::NotAllowed, format!("endpoint {id} belongs to another node")));
            }
            Some(_) => records.push(Record::Row(Change::Removed(RowKey::Endpoint(network, id)))),
            None => {}
        }
    }

    Ok((Outcome::Done, records))
}
