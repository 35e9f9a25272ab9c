//! Checks that several operations share.

use std::collections::BTreeMap;

use overlay_core::Role;
use overlay_proto::{Code, Refusal};

use super::limits;
use super::operation::Actor;
use super::state::ClusterState;

/// Refuses actors that are not admins.
pub(crate) fn require_admin(state: &ClusterState, actor: Actor) -> Result<(), Refusal> {
    match actor {
        Actor::Operator => Ok(()),
        Actor::Node(id) => {
            let node = state.node(id)?;
            match node.role {
                Role::Admin => Ok(()),
                Role::Node => Err(refuse(
                    Code::NotAllowed,
                    format!(
                        "node {} has the role node, and this needs the role admin; do it on an admin node",
                        node.name
                    ),
                )),
            }
        }
    }
}

/// Makes a refusal of a command.
pub(super) fn refuse(code: Code, message: impl std::fmt::Display) -> Refusal {
    Refusal::new(code, message)
}

/// Checks that labels fit into a row.
pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes <= limits::MAX_ROW_LABELS {
        Ok(())
    } else {
        let most = limits::MAX_ROW_LABELS;
        Err(refuse(Code::InvalidInput, format!("labels have {bytes} bytes, more than {most}")))
    }
}
