//! Checks that several operations share.

use std::collections::BTreeMap;

use overlay_core::Role;

use super::error::RegistryError;
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
                Role::Node => Err(RegistryError::NeedsAdmin(node.name.clone())),
            }
        }
    }
}

/// Checks that labels fit into a row.
pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), RegistryError> {
    let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes <= limits::MAX_ROW_LABELS { Ok(()) } else { Err(RegistryError::LabelsTooLong(bytes)) }
}
