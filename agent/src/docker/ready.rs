//! Waits until a network of Docker's can take containers: it stands for an overlay network, and
//! this node is a member of it.
//!
//! Only the first container of a network on a host ever waits: for the name, which Docker tells
//! after the network is made, and for control, which gives keys their members and blocks their
//! holders.

use std::time::Duration;

use overlay_core::Network;
use overlay_proto::{Code, Refusal};
use tokio::time::{Instant, timeout_at};

use super::plugin_store::PluginStore;
use crate::endpoint::lifecycle::Endpoints;
use crate::state::DockerNetwork;

/// How long Docker's call waits at the most; control that is there answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(8);
/// By these words of a refusal the agent knows later why a container did not start.
pub(super) const NOT_YET: &str = "this network is not known to the other hosts yet";

/// Returns what stands in the book of a network, and the overlay network that it stands for.
pub(super) async fn network(
    store: &PluginStore,
    endpoints: &Endpoints,
    docker: &str,
) -> Result<(DockerNetwork, Network), Refusal> {
    let deadline = Instant::now() + PATIENCE;
    let mut changes = store.subscribe();
    let mut membership = endpoints.memberships.membership.subscribe();
    loop {
        let plugin_state = store.state();
        let Some(known) = plugin_state.networks.get(docker) else {
            let text =
                "this network was made before this host joined; remove it and create it again";
            return Err(Refusal::new(Code::NotFound, text));
        };
        if let Some(conflict) = plugin_state.conflicts.get(docker) {
            return Err(Refusal::new(Code::NameTaken, conflict));
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
            let away = endpoints
                .control()
                .connection
                .client()
                .err()
                .map_or_else(String::new, |away| format!(": {away}"));
            let text = format!("{NOT_YET}{away}; try again");
            return Err(Refusal::new(Code::ControlAway, text));
        }
    }
}
