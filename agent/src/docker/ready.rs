//! Waits until a network of Docker's can take containers: it stands for an overlay network, and
//! this node is a member of it.
//!
//! Only the first container of a network on a host ever waits: for the name, which Docker tells
//! after the network is made, and for control, which gives keys their members and blocks their
//! holders.

use std::time::Duration;

use overlay_core::Network;
use overlay_proto::Code;
use tokio::time::{Instant, timeout_at};

use super::plugin_store::PluginStore;
use crate::endpoint::lifecycle::Endpoints;
use crate::membership::control_error::ControlError;
use crate::membership::network_membership::MembershipError;
use crate::state::DockerNetwork;

/// How long Docker's call waits at the most; control that is there answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(8);
/// The words of a refusal by which the agent later recognises why a container did not start.
pub(super) const NOT_YET: &str = "this network is not known to the other hosts yet";

/// Why a network of Docker's cannot take containers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReady {
    /// This host does not have it.
    #[error("this network was made before this host joined; remove it and create it again")]
    Unknown,
    /// It is none of the cluster's.
    #[error("{why}")]
    Conflict {
        /// What is told of it.
        why: String,
    },
    /// This node is not in it.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// Control has not made it yet.
    #[error("{NOT_YET}{}; try again", after_colon(.away.as_ref()))]
    NotYet {
        /// Why control cannot be asked, where it cannot.
        away: Option<ControlError>,
    },
}

impl NotReady {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Unknown => Code::NotFound,
            Self::Conflict { .. } => Code::NameTaken,
            Self::Membership(error) => error.code(),
            Self::NotYet { .. } => Code::ControlAway,
        }
    }
}

fn after_colon(away: Option<&ControlError>) -> String {
    away.map_or_else(String::new, |away| format!(": {away}"))
}

/// Returns a network's row in the plugin store, and the overlay network that it stands for.
pub(super) async fn network(
    store: &PluginStore,
    endpoints: &Endpoints,
    docker: &str,
) -> Result<(DockerNetwork, Network), NotReady> {
    let deadline = Instant::now() + PATIENCE;
    let mut changes = store.subscribe();
    let mut membership = endpoints.memberships.membership.subscribe();
    loop {
        let plugin_state = store.state();
        let known = plugin_state.networks.get(docker).ok_or(NotReady::Unknown)?;
        if let Some(conflict) = plugin_state.conflicts.get(docker) {
            return Err(NotReady::Conflict { why: conflict.clone() });
        }
        let found = known.network.and_then(|id| {
            endpoints.memberships.membership.borrow().view.networks.get(&id).cloned()
        });
        if let Some(network) = found {
            endpoints.memberships.enter(network.id, 1).await?;
            return Ok((known.clone(), network));
        }
        let news = async {
            tokio::select! {
                _ = changes.changed() => {}
                _ = membership.changed() => {}
            }
        };
        if timeout_at(deadline, news).await.is_err() {
            let away = endpoints.control().connection.client().err();
            return Err(NotReady::NotYet { away });
        }
    }
}
