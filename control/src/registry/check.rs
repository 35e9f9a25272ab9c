//! Checks that several operations share.

use std::collections::BTreeMap;
use std::fmt::Display;

use overlay_core::{Change, Creator, Network, NetworkId, NodeId, Role};
use overlay_proto::convert;

use super::error::{NetworkError, RegistryError};
use super::limits;
use super::operation::Actor;
use super::record::Record;
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

/// Refuses workers, which make, change and remove no networks.
pub(super) fn refuse_worker(state: &ClusterState, actor: Actor) -> Result<(), RegistryError> {
    let Actor::Node(id) = actor else { return Ok(()) };
    let node = state.node(id)?;
    match node.role {
        Role::Admin | Role::Node => Ok(()),
        Role::Worker => Err(RegistryError::Worker(node.name.clone())),
    }
}

/// Refuses actors that may not say who may enter a network: an admin may, and the node that
/// created it.
pub(super) fn require_creator(
    state: &ClusterState,
    actor: Actor,
    network: &Network,
) -> Result<(), RegistryError> {
    refuse_worker(state, actor)?;
    let Actor::Node(id) = actor else { return Ok(()) };
    if network.is_made_by(id) || state.node(id)?.role == Role::Admin {
        return Ok(());
    }

    Err(NetworkError::OfAnother {
        network: network.name.clone(),
        creator: network.creator.as_ref().map(|by| by.name.clone()),
    }
    .into())
}

/// Checks how large the rows of a decision are as a whole: each part of one has a bound of its own,
/// but all nodes keep all of it.
pub(super) fn check_sizes(records: &[Record]) -> Result<(), RegistryError> {
    for record in records {
        let Record::Row(row) = record else { continue };
        let (what, most): (&dyn Display, _) = match row {
            Change::Network(network) => {
                (&format_args!("network {}", network.name), limits::MAX_ROW)
            }
            Change::Endpoint(endpoint) => {
                (&format_args!("endpoint {}", endpoint.name), limits::MAX_ROW)
            }
            Change::HostReport(_) => (&"the report of this host", limits::MAX_REPORT),
            // A policy has a bound of its own.
            Change::Node(_) | Change::Member(_) | Change::Policy(_) | Change::Removed(_) => {
                continue;
            }
        };
        let bytes = own_len(row);
        if bytes > most {
            return Err(RegistryError::RowTooLarge { what: what.to_string(), bytes, most });
        }
    }

    Ok(())
}

/// Keeps a node that is no admin from publishing more than others have room for: each row has a
/// bound, but whoever may see them keeps all of them.
pub(super) fn check_share(
    state: &ClusterState,
    actor: Actor,
    records: &[Record],
) -> Result<(), RegistryError> {
    let Actor::Node(id) = actor else { return Ok(()) };
    // A host that joins is not a node yet.
    let Some(node) = state.view().nodes.get(&id).filter(|node| node.role != Role::Admin) else {
        return Ok(());
    };
    let before = state.bytes_of(id);
    let own = |row: &Change| share(row).filter(|(of, _)| *of == id).map_or(0, |(_, bytes)| bytes);
    let mut bytes = before;
    for record in records {
        let Record::Row(row) = record else { continue };
        let replaced = state.view().row(row.key()).map_or(0, |old| own(&old));
        bytes = (bytes + own(row)).saturating_sub(replaced);
    }
    if bytes <= limits::MAX_NODE_BYTES || bytes <= before {
        return Ok(());
    }

    Err(RegistryError::ShareTaken { node: node.name.clone(), bytes })
}

/// Returns whose a row is, and how many bytes it takes of that node's share.
pub(super) fn share(row: &Change) -> Option<(NodeId, usize)> {
    let node = match row {
        Change::Network(network) => network.creator.as_ref()?.node,
        Change::Member(member) => member.node,
        Change::Endpoint(endpoint) => endpoint.node,
        // Of each there is one, and it has a bound of its own.
        Change::Node(_) | Change::HostReport(_) | Change::Policy(_) | Change::Removed(_) => {
            return None;
        }
    };

    Some((node, convert::encoded_len(row) + limits::ROW_OVERHEAD))
}

/// Returns how many bytes a row has as a message. Links have a bound of their own: a node that
/// enters a network must not fail because its labels are long and it becomes a gateway.
fn own_len(row: &Change) -> usize {
    if let Change::Network(network) = row
        && !network.settings.links.is_empty()
    {
        let mut network = network.clone();
        network.settings.links.clear();
        return convert::encoded_len(&Change::Network(network));
    }

    convert::encoded_len(row)
}

/// Returns who is noted as having made something; nobody for an operator of control.
pub(super) fn creator(
    state: &ClusterState,
    actor: Actor,
) -> Result<Option<Creator>, RegistryError> {
    match actor {
        Actor::Operator => Ok(None),
        Actor::Node(node) => Ok(Some(Creator { node, name: state.node(node)?.name.clone() })),
    }
}

/// Checks that labels fit into a row.
pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), RegistryError> {
    let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes <= limits::MAX_ROW_LABELS { Ok(()) } else { Err(RegistryError::LabelsTooLong(bytes)) }
}
