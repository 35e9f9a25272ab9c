//! How networks are made and removed.

use ipnet::{IpNet, Ipv4Net};
use overlay_core::{Change, Network, NetworkId, RowKey};
use overlay_proto::{Code, Refusal};

use super::{Actor, CreateNetwork, Outcome, Record, State, Verdict, check_labels, limits, pool, refuse, require_admin};

/// Makes a network; its prefix is checked against what nodes have in use, or chosen.
pub(super) fn create(state: &State, create: CreateNetwork) -> Verdict {
    check_labels(&create.labels)?;
    if let Some(there) = state.network_named(&create.name) {
        return Err(refuse(
            Code::NameTaken,
            format!("network {} is there already, with prefix {}", there.name, there.prefix),
        ));
    }
    if state.view().networks.len() >= limits::MAX_NETWORKS {
        return Err(refuse(Code::Exhausted, format!("there are {} networks already", limits::MAX_NETWORKS)));
    }

    let network = Network {
        id: free_id(state, create.candidate),
        name: create.name,
        prefix: prefix(state, create.prefix)?,
        prefix6: create.prefix6,
        mode: create.mode,
        labels: create.labels,
    };
    if let Some(prefix6) = network.prefix6 {
        pool::check(state, IpNet::V6(prefix6))?;
    }

    Ok((Outcome::Network(network.clone()), vec![Record::Row(Change::Network(network))]))
}

fn prefix(state: &State, asked: Option<Ipv4Net>) -> Result<Ipv4Net, Refusal> {
    match asked {
        Some(prefix) => pool::check(state, IpNet::V4(prefix)).map(|()| prefix),
        None => pool::pick(state),
    }
}

fn free_id(state: &State, candidate: NetworkId) -> NetworkId {
    let mut id = candidate;
    while state.view().networks.contains_key(&id) {
        id = NetworkId::from_random(id.as_u64() + 1);
    }

    id
}

/// Removes a network with its memberships; while endpoints are on it, only by force, and others' only by an admin.
pub(super) fn remove(state: &State, actor: Actor, name: &str, force: bool) -> Verdict {
    let network = state.network_of(name)?;
    let endpoints: Vec<_> = state.view().endpoints_of(network.id).collect();
    if let Some(first) = endpoints.first()
        && !force
    {
        let on = state.view().nodes.get(&first.node).map_or("a node", |node| node.name.as_str());
        return Err(refuse(
            Code::InUse,
            format!(
                "network {} has {} endpoints, {} on {on} for one; stop them first",
                network.name,
                endpoints.len(),
                first.name
            ),
        ));
    }
    if endpoints.iter().any(|endpoint| Actor::Node(endpoint.node) != actor) {
        require_admin(state, actor)?;
    }

    let endpoints = endpoints.iter().map(|endpoint| RowKey::Endpoint(network.id, endpoint.id));
    let members = state.view().members_of(network.id).map(|member| RowKey::Member(network.id, member.node));
    let keys = endpoints.chain(members).chain([RowKey::Network(network.id)]);

    Ok((Outcome::Done, keys.map(|key| Record::Row(Change::Removed(key))).collect()))
}
