//! Listings out of the own view, for while control is away: what this node may see, as it last heard of it.

use overlay_core::{NodeId, View};
use overlay_proto::{Refusal, convert, v1};

use crate::endpoint::request::require_network;

/// Lists all networks; members and endpoints only of those this node is in.
pub(super) fn networks(view: &View, own: NodeId) -> v1::ListNetworksResponse {
    let name = |node: &NodeId| view.nodes.get(node).map(|node| node.name.to_string());
    let networks = view.networks.values().map(|network| v1::NetworkState {
        network: Some(network.clone().into()),
        members: view.members_of(network.id).filter_map(|member| name(&member.node)).collect(),
        endpoints: u32::try_from(view.endpoints_of(network.id).count()).unwrap_or(u32::MAX),
        differences: convert::differences_of(view, network),
        hidden: view.member(network.id, own).is_none(),
    });

    v1::ListNetworksResponse { networks: networks.collect() }
}

/// Lists endpoints, of one network or of all.
pub(super) fn endpoints(view: &View, network: &str) -> Result<v1::ListEndpointsResponse, Refusal> {
    let only = if network.is_empty() { None } else { Some(require_network(view, network)?.id) };
    let network_name = |id| view.networks.get(&id).map(|network| network.name.to_string()).unwrap_or_default();
    let node_name = |id| view.nodes.get(&id).map(|node| node.name.to_string()).unwrap_or_default();
    let endpoints = view.endpoints.values().filter(|endpoint| only.is_none_or(|id| id == endpoint.network));
    let state = |endpoint: &overlay_core::Endpoint| v1::EndpointState {
        network_name: network_name(endpoint.network),
        node_name: node_name(endpoint.node),
        endpoint: Some(endpoint.clone().into()),
    };

    Ok(v1::ListEndpointsResponse { endpoints: endpoints.map(state).collect() })
}

/// Lists the nodes this node knows. Who is online is control's knowledge; of itself a node is sure.
pub(super) fn nodes(view: &View, own: NodeId) -> v1::ListNodesResponse {
    let networks = |node| {
        let names = view.memberships_of(node).filter_map(|member| view.networks.get(&member.network));
        names.map(|network| network.name.to_string()).collect()
    };
    let nodes = view.nodes.values().map(|node| v1::NodeState {
        node: Some(node.clone().into()),
        online: node.id == own,
        networks: networks(node.id),
        ..v1::NodeState::default()
    });

    v1::ListNodesResponse { nodes: nodes.collect() }
}
