//! Gives running containers back what this node lost of theirs: an endpoint that the journal does
//! not have, because an older agent removed it or the state is an older copy. The interface is then
//! made again as for one that foreign hands destroyed ([`crate::kernel::container_interface`]). What cannot be
//! given back is told, with the command that helps.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use overlay_core::{Network, NetworkId};
use overlay_proto::{Code, Refusal};
use tokio::time::timeout;

use super::client::{Container, DockerClient, EngineError, ListedContainer};
use super::driver::{find, needs_claim, record, sandbox_of};
use super::plugin_store::PluginState;
use super::{ipam, naming};
use crate::endpoint::trouble::{BROKEN, about_interface};
use crate::joined_node::JoinedNode;
use crate::kernel::container_interface::name_inside;
use crate::membership::{network_membership, publish};
use crate::problem::explain;
use crate::reconcile::EndpointState;
use crate::state::{DockerNetwork, DockerSandbox, EndpointRecord, IpamMode, SandboxRecord};

/// How long a container may take to answer before it counts as busy; the next look asks again.
const REST: Duration = Duration::from_secs(1);
/// Under what containers without an endpoint are told.
const LOST: &str = "container endpoint ";

/// An endpoint that a running container has and the journal does not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Lost {
    container: String,
    endpoint: String,
    network: String,
}

fn lost(joined: &JoinedNode, listed: &[ListedContainer]) -> Vec<Lost> {
    let plugin_state = joined.docker.state();
    let entries = joined.journal.entries();
    let known = |endpoint: &str| {
        entries.values().filter_map(|record| record.sandbox.docker()).any(|docker| docker.endpoint == endpoint)
    };

    of_ours(&plugin_state, listed).into_iter().filter(|lost| !known(&lost.endpoint)).collect()
}

/// Lists the endpoints of running containers on networks that stand for one of the cluster.
fn of_ours(plugin_state: &PluginState, listed: &[ListedContainer]) -> Vec<Lost> {
    let is_ours = |network: &String| plugin_state.networks.get(network).is_some_and(|known| known.network.is_some());
    let running = listed.iter().filter(|container| container.is_running);
    let of = |container: &ListedContainer| {
        let ours = container.endpoints.iter().filter(|(_, network)| is_ours(network));
        let lost = ours.map(|(endpoint, network)| Lost {
            container: container.id.clone(),
            endpoint: endpoint.clone(),
            network: network.clone(),
        });
        lost.collect::<Vec<_>>()
    };

    running.flat_map(of).collect()
}

/// Tells whether anything needs [`pass`], as the engine lists its containers.
pub(super) fn is_needed(joined: &JoinedNode, listed: &[ListedContainer]) -> bool {
    !lost(joined, listed).is_empty()
}

/// Writes down again what running containers have.
pub(super) async fn pass(joined: &JoinedNode, engine: &DockerClient) -> Result<(), EngineError> {
    let listed = engine.containers().await?;
    let mut failed = BTreeMap::new();
    for lost in lost(joined, &listed) {
        // Whoever answers is not being changed: what it has then, it has for good.
        let found = match timeout(REST, engine.container(&lost.container)).await {
            Err(_busy) => continue,
            Ok(Err(error)) if error.is_missing() => continue,
            Ok(found) => found?,
        };
        let Some((docker, network)) = network_of(joined, &lost.network) else { continue };
        if let Err(refusal) = give_back(joined, &found, &lost.endpoint, &docker, &network).await {
            let text = remedied(&found.name, network.title(), &refusal.message);
            failed.insert(format!("{LOST}{}", lost.endpoint), (refusal.code, text));
        }
    }
    joined.problems.keep_only(LOST, |about| failed.contains_key(about));
    for (about, (code, text)) in failed {
        joined.problems.raise(&about, code.as_str(), text);
    }

    Ok(())
}

fn network_of(joined: &JoinedNode, docker: &str) -> Option<(DockerNetwork, Network)> {
    let known = joined.docker.state().networks.get(docker).cloned()?;
    let network = joined.membership.borrow().view.networks.get(&known.network?).cloned()?;

    Some((known, network))
}

fn remedied(container: &str, network: &str, why: &str) -> String {
    let again =
        format!("docker network disconnect {network} {container} && docker network connect {network} {container}");

    format!("container {container} has no interface on network {network}: {why}; run: {again}")
}

async fn give_back(
    joined: &JoinedNode,
    found: &Container,
    endpoint: &str,
    docker: &DockerNetwork,
    network: &Network,
) -> Result<(), Refusal> {
    let attachment = found.attachments.get(endpoint).filter(|_| found.running);
    let (Some(attachment), Some(netns)) = (attachment, &found.netns) else { return Ok(()) };
    let _one = network_membership::stay(joined, network.id).await?;
    if find(joined, endpoint).is_some() {
        return Ok(());
    }
    let sandbox = DockerSandbox {
        container: Some(found.id.clone()),
        netns: Some(netns.clone()),
        joined: true,
        mac: attachment.mac,
        ..sandbox_of(docker, endpoint.to_owned())
    };
    let mut record = record(joined, network, sandbox, attachment.addresses.clone())?;
    record.endpoint = naming::named(&record.endpoint, found, attachment);
    try_free(joined, &record)?;
    let inside = inside(joined, &record, netns).await;
    if let SandboxRecord::Docker(docker) = &mut record.sandbox {
        docker.inside = inside;
    }
    if needs_claim(joined, network, &record) {
        publish::put(joined, std::slice::from_ref(&record.endpoint)).await?;
    }
    if let IpamMode::Ours { pool, pool6 } = &docker.ipam_mode {
        for address in &record.endpoint.addresses {
            let pool = if address.is_ipv4() { Some(pool) } else { pool6.as_ref() };
            let pool = pool.and_then(|pool| joined.docker.state().pools.get(pool).cloned());
            if let Some(pool) = pool {
                ipam::note(joined, &pool, *address, true).await?;
            }
        }
    }
    tracing::warn!(container = %found.name, network = %network.name, "A container had lost its endpoint and gets it back");

    joined.journal.insert(record).await
}

/// Checks that nobody was given the addresses meanwhile.
fn try_free(joined: &JoinedNode, record: &EndpointRecord) -> Result<(), Refusal> {
    let view = joined.local_view();
    let others = view.endpoints_of(record.endpoint.network).filter(|other| {
        let has_one = other.addresses.iter().any(|address| record.endpoint.addresses.contains(address));
        has_one && (other.node, other.id) != (record.endpoint.node, record.endpoint.id)
    });
    match others.into_iter().next() {
        None => Ok(()),
        Some(other) => Err(Refusal::new(Code::AddressTaken, format!("its address is {}'s by now", other.name))),
    }
}

/// Finds out how an endpoint's interface is called in its container.
pub(super) async fn inside(joined: &JoinedNode, record: &EndpointRecord, netns: &Path) -> Option<String> {
    let endpoint = &record.endpoint;
    let found = name_inside(&joined.run_dir, endpoint.network, endpoint.id, netns).await;

    found.unwrap_or_else(|error| {
        tracing::debug!(endpoint = %endpoint.id, error = %explain(&error), "A container was not looked into");
        None
    })
}

/// Tells of running containers whose interface the kernel does not have.
pub(super) fn tell(joined: &JoinedNode, listed: &[ListedContainer]) {
    let reports = joined.networks.borrow().clone();
    let view = Arc::clone(&joined.membership.borrow().view);
    let title = |network: NetworkId| view.networks.get(&network).map(|network| network.title().to_owned());
    let why =
        |record: &EndpointRecord| match reports.get(&record.endpoint.network)?.endpoints.get(&record.endpoint.id)? {
            EndpointState::Ready => None,
            EndpointState::Failed(why) | EndpointState::Gone(why) => Some(why.clone()),
        };
    let mut broken = BTreeMap::new();
    for container in listed.iter().filter(|container| container.is_running) {
        for record in container.endpoints.keys().filter_map(|endpoint| find(joined, endpoint)) {
            if let (Some(why), Some(title)) = (why(&record), title(record.endpoint.network)) {
                let text = remedied(&container.name, &title, &why);
                broken.insert(about_interface(record.endpoint.id), text);
            }
        }
    }
    joined.problems.keep_only(BROKEN, |about| broken.contains_key(about));
    for (about, text) in broken {
        joined.problems.raise(&about, "interface-lost", text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::testing;

    #[test]
    fn only_running_containers_on_networks_of_the_cluster_are_given_back_their_endpoints() {
        let networks = [
            testing::network("bound", "10.1.0.0/16", Some(NetworkId::FIRST)),
            testing::network("unbound", "10.2.0.0/16", None),
        ];
        let networks = networks.map(|network| (network.id.clone(), network)).into();
        let plugin_state = PluginState { networks, ..PluginState::default() };
        let container = |id: &str, is_running, endpoints: &[(&str, &str)]| ListedContainer {
            id: id.into(),
            name: id.into(),
            is_running,
            endpoints: endpoints.iter().map(|&(endpoint, network)| (endpoint.into(), network.into())).collect(),
        };
        let listed = [
            container("c1", true, &[("e1", "bound"), ("e2", "unbound"), ("e3", "bridge")]),
            container("c2", false, &[("e4", "bound")]),
        ];

        let found: Vec<_> = of_ours(&plugin_state, &listed).into_iter().map(|lost| lost.endpoint).collect();

        assert_eq!(found, ["e1"]);
    }

    #[test]
    fn a_problem_names_container_network_and_remedy() {
        assert_eq!(
            remedied("c1", "my.net", "its address is c2's by now"),
            "container c1 has no interface on network my.net: its address is c2's by now; \
             run: docker network disconnect my.net c1 && docker network connect my.net c1"
        );
    }
}
