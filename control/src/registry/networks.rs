//! How networks are created and removed.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use overlay_core::{Change, Network, NetworkId, RowKey, pool};
use overlay_proto::{Code, Refusal};

use super::{
    Actor, ClusterState, CreateNetwork, Decision, Record, Reply, check_labels, limits, refuse,
    require_admin,
};

/// Creates a network. A requested prefix is checked against what hosts have in use; otherwise one
/// is chosen.
pub(super) fn create(state: &ClusterState, actor: Actor, create: CreateNetwork) -> Decision {
    check_labels(&create.labels)?;
    if let Some(there) = state.network_named(&create.name) {
        return Err(refuse(
            Code::NameTaken,
            format!("network {} is there already, with prefix {}", there.name, there.prefix),
        ));
    }
    if state.view().networks.len() >= limits::MAX_NETWORKS {
        return Err(refuse(
            Code::Exhausted,
            format!("there are {} networks already", limits::MAX_NETWORKS),
        ));
    }

    let network = Network {
        id: free_id(state, create.candidate),
        name: create.name,
        prefix: prefix(state, create.prefix, create.settings.numbered_by.is_some())?,
        prefix6: create.prefix6,
        mode: create.mode,
        labels: create.labels,
        settings: create.settings,
    };
    if let Some(prefix6) = network.prefix6 {
        check_free(state, IpNet::V6(prefix6))?;
    }
    check_settings(&network, actor)?;

    Ok((Reply::Network(network.clone()), vec![Record::Row(Change::Network(network))]))
}

fn prefix(
    state: &ClusterState,
    asked: Option<Ipv4Net>,
    chosen_by_engine: bool,
) -> Result<Ipv4Net, Refusal> {
    match asked {
        // The engine uses the prefix already, and its agent has refused what a person could not
        // have asked for.
        Some(prefix) if chosen_by_engine => {
            refuse_taken(prefix.into(), pool::conflict_of_chosen(state.view(), prefix.into()))
                .map(|()| prefix)
        }
        Some(prefix) => check_free(state, IpNet::V4(prefix)).map(|()| prefix),
        None => {
            let pool = state.settings().pool;
            let none = || {
                let why = "networks or routes of nodes use all of it";
                refuse(
                    Code::Exhausted,
                    format!("no prefix is left in the pool {pool}: {why}; name one: --subnet CIDR"),
                )
            };
            pool::pick(state.view(), pool, &[], 0).ok_or_else(none)
        }
    }
}

/// Refuses a prefix that a node has in use, naming node and holder.
fn check_free(state: &ClusterState, prefix: IpNet) -> Result<(), Refusal> {
    refuse_taken(prefix, pool::conflict(state.view(), prefix))
}

fn refuse_taken(prefix: IpNet, conflict: Option<String>) -> Result<(), Refusal> {
    match conflict {
        None => Ok(()),
        Some(holder) => Err(refuse(
            Code::AddressTaken,
            format!(
                "{prefix} overlaps {holder}; choose another prefix: --subnet CIDR, or none to have one chosen"
            ),
        )),
    }
}

/// Checks that the settings fit the prefixes.
fn check_settings(network: &Network, actor: Actor) -> Result<(), Refusal> {
    let settings = &network.settings;
    let wrong = |what: String| Err(refuse(Code::InvalidInput, what));
    let prefixes = network.prefixes(network.prefix);
    let whole = network.prefix6.map(IpNet::V6);
    let inside =
        |address: IpAddr| prefixes.iter().chain(&whole).any(|prefix| prefix.contains(&address));
    let gateways = [settings.gateway.map(IpAddr::V4), settings.gateway6.map(IpAddr::V6)];
    if let Some(gateway) = gateways.into_iter().flatten().find(|gateway| !inside(*gateway)) {
        return wrong(format!(
            "gateway {gateway} is not in the prefix of network {}",
            network.name
        ));
    }
    if [network.prefix.network(), network.prefix.broadcast()].contains(&network.gateway()) {
        return wrong(format!(
            "gateway {} is the first or last address of {}",
            network.gateway(),
            network.prefix
        ));
    }
    if let Some((name, address)) = settings.reserved.iter().find(|(_, address)| !inside(**address))
    {
        return wrong(format!(
            "reserved address {name}={address} is not in the prefix of network {}",
            network.name
        ));
    }
    if let Some(range) = settings.range
        && (!network.prefix.contains(&range)
            || range.trunc() != range
            || range.prefix_len() > MAX_RANGE_LEN)
    {
        return wrong(format!(
            "range {range} is not a part of {} with at least 4 addresses",
            network.prefix
        ));
    }
    if settings.numbered_by.is_some_and(|node| actor != Actor::Node(node)) {
        return Err(refuse(Code::NotAllowed, "numbered_by names a node other than the caller"));
    }

    Ok(())
}

/// The longest prefix that blocks can be cut out of.
const MAX_RANGE_LEN: u8 = 30;

fn free_id(state: &ClusterState, candidate: NetworkId) -> NetworkId {
    let mut id = candidate;
    while state.view().networks.contains_key(&id) {
        id = NetworkId::from_random(id.as_u64() + 1);
    }

    id
}

/// Removes a network with its memberships. One with endpoints takes `force`, and an admin if any
/// belong to another node.
pub(super) fn remove(state: &ClusterState, actor: Actor, name: &str, force: bool) -> Decision {
    let network = state.network_of(name)?;
    let endpoints: Vec<_> = state.view().endpoints_of(network.id).collect();
    if let Some(first) = endpoints.first()
        && !force
    {
        let on = state.view().nodes.get(&first.node).map_or("a node", |node| node.name.as_str());
        return Err(refuse(
            Code::InUse,
            format!(
                "network {} has {} endpoint{}, {} on {on} for one; stop them first",
                network.name,
                endpoints.len(),
                if endpoints.len() == 1 { "" } else { "s" },
                first.name
            ),
        ));
    }
    if endpoints.iter().any(|endpoint| Actor::Node(endpoint.node) != actor) {
        require_admin(state, actor)?;
    }

    let endpoints = endpoints.iter().map(|endpoint| RowKey::Endpoint(network.id, endpoint.id));
    let members =
        state.view().members_of(network.id).map(|member| RowKey::Member(network.id, member.node));
    let keys = endpoints.chain(members).chain([RowKey::Network(network.id)]);

    Ok((Reply::Done, keys.map(|key| Record::Row(Change::Removed(key))).collect()))
}
