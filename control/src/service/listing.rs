//! Listings: the part of the current state that the caller may see.

use overlay_core::claims::Conflicts;
use overlay_core::{Name, Network, Node, NodeId, Role, RowKey};
use overlay_proto::{Refusal, v1};

use crate::registry::{Actor, ClusterState, Token, known_network, require_admin};
use crate::watch::Hub;

/// Returns whether the caller may see a row: admins see everything, other nodes the networks that
/// they may enter, and what is in those that they are members of.
fn sees(state: &ClusterState, caller: &Node, key: RowKey) -> bool {
    // Of nodes in linked networks only, a node has no more to do with than their labels.
    let is_near = || {
        let RowKey::Node(other) = key else { return true };
        state.share_network(caller.id, other)
    };

    caller.role == Role::Admin || (state.may_see(caller.id, key) && is_near())
}

pub(super) fn nodes(hub: &Hub, caller: NodeId) -> Result<Vec<v1::NodeState>, Refusal> {
    let mut nodes = hub.look(|state| {
        let caller = state.node(caller)?;
        let rows =
            state.view().nodes.values().filter(|node| sees(state, caller, RowKey::Node(node.id)));

        Ok::<_, Refusal>(
            rows.map(|node| (node.id, node_state(state, caller, node))).collect::<Vec<_>>(),
        )
    })?;
    for (id, node) in &mut nodes {
        let presence = hub.presence(*id);
        (node.online, node.seen_unix, node.revision) =
            (presence.online, presence.seen, presence.revision.0);
    }

    Ok(nodes.into_iter().map(|(_, node)| node).collect())
}

fn node_state(state: &ClusterState, caller: &Node, node: &Node) -> v1::NodeState {
    let shared =
        |network: &overlay_core::NetworkId| sees(state, caller, RowKey::Member(*network, node.id));
    let networks = state.memberships(node.id).filter(shared);
    let name = |id| state.view().networks.get(&id).map(|network| network.name.to_string());

    v1::NodeState {
        node: Some(node.clone().into()),
        online: false,
        seen_unix: 0,
        revision: 0,
        version: state
            .enrollments()
            .get(&node.id)
            .map(|enrolled| enrolled.version.clone())
            .unwrap_or_default(),
        networks: networks.filter_map(name).collect(),
    }
}

pub(super) fn networks(
    state: &ClusterState,
    caller: NodeId,
) -> Result<Vec<v1::NetworkState>, Refusal> {
    let caller = state.node(caller)?;
    let name = |id| state.view().nodes.get(&id).map(|node: &Node| node.name.to_string());
    let row = |network: &Network| {
        let seen = sees(state, caller, RowKey::Member(network.id, caller.id));
        let members = state.view().members_of(network.id).filter(|_| seen);
        let live = state.view().endpoints_of(network.id).filter(|row| !row.is_stopped());
        let endpoints = live.filter(|_| seen).count();

        v1::NetworkState {
            network: Some(network.clone().into()),
            members: members.filter_map(|member| name(member.node)).collect(),
            endpoints: u32::try_from(endpoints).unwrap_or(u32::MAX),
            differences: differences(state, network),
            hidden: !seen,
        }
    };

    let known = |network: &&Network| sees(state, caller, RowKey::Network(network.id));

    Ok(state.view().networks.values().filter(known).map(row).collect())
}

/// Lists the hosts on which a network differs, of those that may enter it: others have no say.
fn differences(state: &ClusterState, network: &Network) -> Vec<v1::HostDifference> {
    let is_of_it = |name: &Name| {
        state.node_named(name).is_some_and(|node| state.may_enter(node.id, network.id))
    };
    let differing = state.view().differences_of(network).filter(|(node, _)| is_of_it(node));

    differing
        .map(|(node, reason)| v1::HostDifference {
            node: node.to_string(),
            reason: reason.to_owned(),
        })
        .collect()
}

pub(super) fn endpoints(
    state: &ClusterState,
    caller: NodeId,
    network: &str,
) -> Result<Vec<v1::EndpointState>, Refusal> {
    let caller = state.node(caller)?;
    let asked = match network {
        "" => None,
        text => Some(known_network(state, Actor::Node(caller.id), text)?.id),
    };
    let networks = state.view().networks.values().filter(|network| {
        asked.is_none_or(|id| id == network.id)
            && sees(state, caller, RowKey::Member(network.id, caller.id))
    });
    let rows = networks
        .flat_map(|network| state.view().endpoints_of(network.id).map(move |row| (network, row)));
    let node_name = |id| {
        state.view().nodes.get(&id).map(|node: &Node| node.name.to_string()).unwrap_or_default()
    };
    let conflicts = Conflicts::new(state.view());

    Ok(rows
        .map(|(network, row)| v1::EndpointState {
            endpoint: Some(row.clone().into()),
            network_name: network.name.to_string(),
            node_name: node_name(row.node),
            // What else is wrong with it, its node adds.
            problem: conflicts.of(row).unwrap_or_default(),
        })
        .collect())
}

pub(super) fn tokens(state: &ClusterState, caller: NodeId) -> Result<Vec<v1::Token>, Refusal> {
    require_admin(state, Actor::Node(caller))?;

    Ok(state.tokens().values().cloned().map(token).collect())
}

pub(super) fn token(token: Token) -> v1::Token {
    v1::Token {
        id: token.id,
        expires_unix: token.expires,
        uses: token.uses,
        used: token.used,
        role: v1::Role::from(token.role).into(),
        labels: token.labels,
        fenced: token.fenced,
    }
}
