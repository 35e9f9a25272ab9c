//! How networks are created, changed and removed.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use overlay_core::{
    Change, Lease, Network, NetworkId, NetworkSettings, NodeId, Role, RowKey, Selector, pool,
};

use super::{
    Actor, ClusterState, CreateNetwork, Decision, NetworkError, Record, RegistryError, Reply,
    check_labels, creator, known_network, limits, links, may_know, names, refuse_worker,
    require_admin, require_creator,
};

/// Creates a network. A requested prefix is checked against what hosts have in use; otherwise one
/// is chosen.
pub(super) fn create(state: &ClusterState, actor: Actor, create: CreateNetwork) -> Decision {
    refuse_worker(state, actor)?;
    check_labels(&create.labels)?;
    if let Some(there) = state.network_named(&create.name) {
        return Err(name_taken(state, actor, there).into());
    }
    if state.view().networks.len() >= limits::MAX_NETWORKS {
        return Err(NetworkError::TooMany.into());
    }
    check_share(state, actor)?;

    let network = Network {
        id: free_id(state, create.candidate),
        name: create.name,
        prefix: prefix(state, create.prefix, create.settings.numbered_by.is_some())?,
        prefix6: create.prefix6,
        mode: create.mode,
        labels: create.labels,
        settings: NetworkSettings { links: Vec::new(), ..create.settings },
        creator: creator(state, actor)?,
    };
    if let Some(prefix6) = network.prefix6 {
        check_free(state, IpNet::V6(prefix6))?;
    }
    check_settings(&network, actor)?;
    check_title(state, actor, &network)?;
    check_nodes(state, actor, &network)?;

    Ok((Reply::Network(network.clone()), vec![Record::Row(Change::Network(network))]))
}

/// Keeps a node that is no admin from taking the room of all others.
fn check_share(state: &ClusterState, actor: Actor) -> Result<(), RegistryError> {
    let Actor::Node(id) = actor else { return Ok(()) };
    let node = state.node(id)?;
    let count = state.view().networks.values().filter(|network| network.is_made_by(id)).count();
    if node.role == Role::Admin || count < limits::MAX_NODE_NETWORKS {
        return Ok(());
    }

    Err(NetworkError::TooManyOfNode(node.name.clone()).into())
}

/// Says that a name is taken, and of a network that the actor may not know of nothing else.
fn name_taken(state: &ClusterState, actor: Actor, there: &Network) -> NetworkError {
    let name = there.name.clone();
    if may_know(state, actor, there.id) {
        NetworkError::NameTaken { name, prefix: there.prefix }
    } else {
        NetworkError::NameHidden(name)
    }
}

/// Hosts report by this name which networks differ there, so it belongs to one network.
fn check_title(state: &ClusterState, actor: Actor, network: &Network) -> Result<(), NetworkError> {
    match state.network_titled(network.title()) {
        Some(there) if may_know(state, actor, there.id) => Err(NetworkError::TitleTaken {
            title: network.title().to_owned(),
            name: there.name.clone(),
        }),
        Some(_) => Err(NetworkError::NameHidden(network.name.clone())),
        None => Ok(()),
    }
}

/// Checks who may enter a network: whoever makes or changes it as a plain node, and the node whose
/// container engine assigns its addresses.
fn check_nodes(state: &ClusterState, actor: Actor, network: &Network) -> Result<(), RegistryError> {
    let nodes = || network.settings.nodes.clone();
    if let Actor::Node(id) = actor {
        let node = state.node(id)?;
        if node.role != Role::Admin && !network.admits(&node.labels) {
            let node = node.name.clone();
            return Err(NetworkError::ShutsCallerOut { nodes: nodes(), node }.into());
        }
    }
    let origin = network.settings.numbered_by.and_then(|id| state.view().nodes.get(&id));
    match origin.filter(|origin| !network.admits(&origin.labels)) {
        Some(origin) => Err(NetworkError::ShutsOriginOut {
            nodes: nodes(),
            network: network.name.clone(),
            node: origin.name.clone(),
        }
        .into()),
        None => Ok(()),
    }
}

fn prefix(
    state: &ClusterState,
    asked: Option<Ipv4Net>,
    chosen_by_engine: bool,
) -> Result<Ipv4Net, NetworkError> {
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
            pool::pick(state.view(), pool, &[], 0).ok_or(NetworkError::PoolExhausted(pool))
        }
    }
}

/// Refuses a prefix that a node has in use, naming node and holder.
fn check_free(state: &ClusterState, prefix: IpNet) -> Result<(), NetworkError> {
    refuse_taken(prefix, pool::conflict(state.view(), prefix))
}

fn refuse_taken(prefix: IpNet, conflict: Option<String>) -> Result<(), NetworkError> {
    match conflict {
        None => Ok(()),
        Some(holder) => Err(NetworkError::PrefixTaken { prefix, holder }),
    }
}

/// Checks that the settings fit the prefixes.
fn check_settings(network: &Network, actor: Actor) -> Result<(), NetworkError> {
    let settings = &network.settings;
    let (prefix, name) = (network.prefix, || network.name.clone());
    let prefixes = network.prefixes(network.prefix);
    let whole = network.prefix6.map(IpNet::V6);
    let inside =
        |address: IpAddr| prefixes.iter().chain(&whole).any(|prefix| prefix.contains(&address));
    let gateways = [settings.gateway.map(IpAddr::V4), settings.gateway6.map(IpAddr::V6)];
    if let Some(gateway) = gateways.into_iter().flatten().find(|gateway| !inside(*gateway)) {
        return Err(NetworkError::GatewayOutside { gateway, network: name() });
    }
    if [prefix.network(), prefix.broadcast()].contains(&network.gateway()) {
        return Err(NetworkError::GatewayAtEdge { gateway: network.gateway(), prefix });
    }
    if let Some((reserved, &address)) =
        settings.reserved.iter().find(|(_, address)| !inside(**address))
    {
        let reserved = reserved.clone();
        return Err(NetworkError::ReservedOutside { name: reserved, address, network: name() });
    }
    if let Some(range) = settings.range
        && (!prefix.contains(&range)
            || range.trunc() != range
            || range.prefix_len() > MAX_RANGE_LEN)
    {
        return Err(NetworkError::InvalidRange { range, prefix });
    }
    if settings.numbered_by.is_some_and(|node| actor != Actor::Node(node)) {
        return Err(NetworkError::NumberedByAnother);
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

/// Changes who may enter a network. The members that may not any more lose their membership, with
/// their blocks and endpoints there, in the same commit.
pub(super) fn set(
    state: &ClusterState,
    actor: Actor,
    name: &str,
    nodes: Option<Selector>,
    lease: Option<Option<Lease>>,
) -> Decision {
    let old = known_network(state, actor, name)?;
    require_creator(state, actor, old)?;
    let mut network = old.clone();
    if let Some(nodes) = nodes {
        network.settings.nodes = nodes;
    }
    if let Some(lease) = lease {
        network.settings.lease = lease;
    }
    if network == *old {
        return Ok((Reply::Network(network), Vec::new()));
    }
    check_nodes(state, actor, &network)?;

    let mut records = put_out(state, &network);
    records.push(Record::Row(Change::Network(network.clone())));

    Ok((Reply::Network(network), records))
}

/// Makes the records that end the memberships of nodes that a network does not admit, with their
/// endpoints there.
fn put_out(state: &ClusterState, network: &Network) -> Vec<Record> {
    let is_admitted = |node: NodeId| {
        state.view().nodes.get(&node).is_some_and(|node| network.admits(&node.labels))
    };
    let members = state.view().members_of(network.id).map(|member| member.node);
    let barred: Vec<_> = members.filter(|node| !is_admitted(*node)).collect();
    let endpoints = barred.iter().flat_map(|node| state.endpoints_of(*node, Some(network.id)));
    let mut records = names::removals(state, endpoints.map(|key| (key, None)).collect());
    let members = barred.iter().map(|node| RowKey::Member(network.id, *node));
    records.extend(members.map(|key| Record::Row(Change::Removed(key))));

    records
}

/// Removes a network with its memberships. One with endpoints takes `force`, and an admin if any
/// belong to another node; those that are stopped do not count, as with container engines.
pub(super) fn remove(state: &ClusterState, actor: Actor, name: &str, force: bool) -> Decision {
    let network = known_network(state, actor, name)?;
    refuse_worker(state, actor)?;
    let all = || state.view().endpoints_of(network.id);
    let endpoints: Vec<_> = all().filter(|endpoint| !endpoint.is_stopped()).collect();
    if let Some(first) = endpoints.first()
        && !force
    {
        return Err(NetworkError::InUse {
            network: network.name.clone(),
            endpoints: endpoints.len(),
            first: first.name.clone(),
            node: state.node_name(first.node),
        }
        .into());
    }
    if endpoints.iter().any(|endpoint| Actor::Node(endpoint.node) != actor) {
        require_admin(state, actor)?;
    }

    let endpoints = all().map(|endpoint| RowKey::Endpoint(network.id, endpoint.id));
    let members =
        state.view().members_of(network.id).map(|member| RowKey::Member(network.id, member.node));
    let keys = endpoints.chain(members).chain([RowKey::Network(network.id)]);

    let mut records = links::end(state, network);
    records.extend(keys.map(|key| Record::Row(Change::Removed(key))));

    Ok((Reply::Done, records))
}
