//! Listings out of the own view, for while control is away: what this node may see, as it last
//! heard of it.

use overlay_core::claims::Conflicts;
use overlay_core::{EndpointId, NetworkId, NodeId, View};
use overlay_proto::{Refusal, convert, v1};

use crate::endpoint::request::require_network;

/// Lists all networks; members and endpoints only of those this node is in.
pub(super) fn networks(view: &View, own: NodeId) -> v1::ListNetworksResponse {
    let name = |node: &NodeId| view.nodes.get(node).map(|node| node.name.to_string());
    let is_in = |id| view.member(id, own).is_some();
    let live = |id| {
        let endpoints = view.endpoints_of(id).filter(|endpoint| !endpoint.is_stopped());
        endpoints.filter(|_| is_in(id)).count()
    };
    let networks = view.networks.values().map(|network| v1::NetworkState {
        network: Some(network.clone().into()),
        members: view.members_of(network.id).filter_map(|member| name(&member.node)).collect(),
        endpoints: u32::try_from(live(network.id)).unwrap_or(u32::MAX),
        differences: convert::differences_of(view, network),
        hidden: !is_in(network.id),
    });

    v1::ListNetworksResponse { networks: networks.collect() }
}

/// Lists endpoints, of one network or of all.
pub(super) fn endpoints(view: &View, network: &str) -> Result<v1::ListEndpointsResponse, Refusal> {
    let only = if network.is_empty() { None } else { Some(require_network(view, network)?.id) };
    let network_name =
        |id| view.networks.get(&id).map(|network| network.name.to_string()).unwrap_or_default();
    let node_name = |id| view.nodes.get(&id).map(|node| node.name.to_string()).unwrap_or_default();
    // Members see members; of a linked network, endpoints alone.
    let is_in = |id| view.members_of(id).next().is_some();
    let endpoints = view
        .endpoints
        .values()
        .filter(|endpoint| only.is_none_or(|id| id == endpoint.network) && is_in(endpoint.network));
    let conflicts = Conflicts::new(view);
    let state = |endpoint: &overlay_core::Endpoint| v1::EndpointState {
        network_name: network_name(endpoint.network),
        node_name: node_name(endpoint.node),
        endpoint: Some(endpoint.clone().into()),
        problem: conflicts.of(endpoint).unwrap_or_default(),
    };

    Ok(v1::ListEndpointsResponse { endpoints: endpoints.map(state).collect() })
}

/// Adds what is wrong with the endpoints of this node, which knows of more than names that belong
/// to others.
pub(super) fn with_problems(
    mut listed: v1::ListEndpointsResponse,
    problem: impl Fn(NetworkId, EndpointId) -> Option<String>,
    own: NodeId,
) -> v1::ListEndpointsResponse {
    let own = own.to_string();
    for state in &mut listed.endpoints {
        let Some(endpoint) = state.endpoint.as_ref().filter(|endpoint| endpoint.node == own) else {
            continue;
        };
        let (Ok(network), Ok(id)) = (endpoint.network.parse(), endpoint.id.parse()) else {
            continue;
        };
        if let Some(problem) = problem(network, id) {
            state.problem = problem;
        }
    }

    listed
}

/// Lists the nodes this node knows. Who is online is control's knowledge; of itself a node is sure.
pub(super) fn nodes(view: &View, own: NodeId) -> v1::ListNodesResponse {
    let networks = |node| {
        let names =
            view.memberships_of(node).filter_map(|member| view.networks.get(&member.network));
        names.map(|network| network.name.to_string()).collect()
    };
    // Of nodes in linked networks only, this node has no more to do with than their labels.
    let is_near = |id| id == own || view.memberships_of(id).next().is_some();
    let nodes = view.nodes.values().filter(|node| is_near(node.id)).map(|node| v1::NodeState {
        node: Some(node.clone().into()),
        online: node.id == own,
        networks: networks(node.id),
        ..v1::NodeState::default()
    });

    v1::ListNodesResponse { nodes: nodes.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_endpoints_of_this_node_are_marked() {
        let own = NodeId::FIRST;
        let endpoint = |n: u8, node: NodeId| v1::EndpointState {
            endpoint: Some(v1::Endpoint {
                id: EndpointId::from_random(n.into()).to_string(),
                network: NetworkId::FIRST.to_string(),
                node: node.to_string(),
                ..v1::Endpoint::default()
            }),
            ..v1::EndpointState::default()
        };
        let listed = v1::ListEndpointsResponse {
            endpoints: vec![endpoint(1, own), endpoint(2, own), endpoint(1, NodeId::LAST)],
        };
        let broken = EndpointId::from_random(1);

        let marked =
            with_problems(listed, |_, id| (id == broken).then(|| "no interface".to_owned()), own);

        let problems: Vec<_> =
            marked.endpoints.iter().map(|state| state.problem.as_str()).collect();
        assert_eq!(problems, ["no interface", "", ""]);
    }
}
