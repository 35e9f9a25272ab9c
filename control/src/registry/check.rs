//! Checks that several operations share.

use std::collections::BTreeMap;

use overlay_core::{Network, NetworkId, Role};

use super::error::{NetworkError, RegistryError};
use super::limits;
use super::operation::Actor;
use super::state::ClusterState;

/// Refuses actors that are not admins.
pub(crate) fn require_admin(state: &ClusterState, actor: Actor) -> Result<(), RegistryError> {
    match actor {
        Actor::Operator => Ok(()),
        Actor::Node(id) => {
            let node = state.node(id)?;
            match node.role {
                Role::Admin => Ok(()),
                role @ (Role::Node | Role::Worker) => {
                    Err(RegistryError::NeedsAdmin { name: node.name.clone(), role })
                }
            }
        }
    }
}

/// Returns whether an actor may know of a network: admins of all, other nodes of those that they
/// may enter.
pub(crate) fn may_know(state: &ClusterState, actor: Actor, network: NetworkId) -> bool {
    match actor {
        Actor::Operator => true,
        Actor::Node(id) => {
            let is_admin = state.view().nodes.get(&id).is_some_and(|node| node.role == Role::Admin);

            is_admin || state.may_enter(id, network)
        }
    }
}

/// Finds a network by name or id, unless the actor may not know of it.
///
/// # Errors
///
/// [`NetworkError::NotFound`], in both cases.
pub(crate) fn known_network<'a>(
    state: &'a ClusterState,
    actor: Actor,
    text: &str,
) -> Result<&'a Network, RegistryError> {
    state
        .network_of(text)
        .filter(|network| may_know(state, actor, network.id))
        .ok_or_else(|| NetworkError::NotFound(text.to_owned()).into())
}

/// Refuses actors that may not create networks, and that may not change or remove this one: an
/// admin may all, a node those that it created.
pub(super) fn require_authority(
    state: &ClusterState,
    actor: Actor,
    network: Option<&Network>,
) -> Result<(), RegistryError> {
    let Actor::Node(id) = actor else { return Ok(()) };
    let node = state.node(id)?;
    let made = |network: &Network| network.creator.as_ref().is_some_and(|by| by.node == id);
    match (node.role, network) {
        (Role::Admin, _) | (Role::Node, None) => Ok(()),
        (Role::Node, Some(network)) if made(network) => Ok(()),
        (Role::Node, Some(network)) => Err(NetworkError::OfAnother {
            network: network.name.clone(),
            creator: network.creator.as_ref().map(|by| by.name.clone()),
        }
        .into()),
        (Role::Worker, _) => Err(RegistryError::Worker(node.name.clone())),
    }
}

/// Checks that labels fit into a row.
pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), RegistryError> {
    let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes <= limits::MAX_ROW_LABELS { Ok(()) } else { Err(RegistryError::LabelsTooLong(bytes)) }
}
