//! Gives running containers back what this node lost of theirs: an endpoint that the journal does
//! not have, because an older agent removed it or the state is an older copy. An interface that is
//! still there is taken up as it is: none is removed before Docker was asked
//! ([`crate::state::journal::Journal::strays`]). One that is not is made again as for one that
//! foreign hands destroyed ([`crate::kernel::container_interface`]). What cannot be given back is
//! reported, with the command that helps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use overlay_core::{EndpointId, Name, Network, NetworkId};
use overlay_proto::Code;
use tokio::time::timeout;

use super::client::{DockerClient, EngineError};
use super::driver::{find, reservation, sandbox_of};
use super::engine::{Container, ListedContainer};
use super::ipam;
use super::naming::ContainerNames;
use super::plugin_store::{PluginState, PluginStore};
use crate::desired::EndpointRows;
use crate::endpoint::lifecycle::Endpoints;
use crate::endpoint::reservation::{Reservation, ReservationError};
use crate::kernel::container_interface::name_inside;
use crate::membership::network_membership::MembershipError;
use crate::problem::explain;
use crate::problem_code::ProblemCode;
use crate::problem_key::ProblemKey;
use crate::reconcile::EndpointState;
use crate::state::journal::Entries;
use crate::state::{
    DockerNetwork, EndpointRecord, IpamMode, ManagedSandbox, SandboxRecord, StoreFailure,
};

/// How long a container may take to answer before it counts as busy; the next look asks again.
const REST: Duration = Duration::from_secs(1);

/// An endpoint that a running container has and the journal does not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Lost {
    container: String,
    endpoint: String,
    network: String,
}

fn lost(store: &PluginStore, endpoints: &Endpoints, listed: &[ListedContainer]) -> Vec<Lost> {
    let plugin_state = store.state();
    let entries = endpoints.journal.entries();
    let known = |endpoint: &str| {
        entries
            .values()
            .filter_map(|record| record.sandbox.managed())
            .any(|docker| docker.endpoint == endpoint)
    };

    of_ours(&plugin_state, listed).into_iter().filter(|lost| !known(&lost.endpoint)).collect()
}

/// Lists the endpoints of running containers on networks that stand for one of the cluster.
fn of_ours(plugin_state: &PluginState, listed: &[ListedContainer]) -> Vec<Lost> {
    let is_ours = |network: &String| {
        plugin_state.networks.get(network).is_some_and(|known| known.network.is_some())
    };
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
pub(super) fn is_needed(
    store: &PluginStore,
    endpoints: &Endpoints,
    listed: &[ListedContainer],
) -> bool {
    !lost(store, endpoints, listed).is_empty()
}

/// Records again what running containers have.
pub(super) async fn pass(
    store: &PluginStore,
    endpoints: &Endpoints,
    engine: &DockerClient,
) -> Result<(), EngineError> {
    let listed = engine.containers().await?;
    let mut of_container: BTreeMap<String, Vec<Lost>> = BTreeMap::new();
    for lost in lost(store, endpoints, &listed) {
        of_container.entry(lost.container.clone()).or_default().push(lost);
    }
    let (mut failed, mut is_whole) = (BTreeMap::new(), true);
    for (container, mut lost) in of_container {
        // Whoever answers is not being changed: what it has then, it has for good.
        let found = match timeout(REST, engine.container(&container)).await {
            Err(_busy) => {
                is_whole = false;
                continue;
            }
            Ok(Err(error)) if error.is_missing() => continue,
            Ok(found) => found?,
        };
        // Where no interface is left to tell, names are given in the order in which Docker gave
        // them.
        lost.sort_by_key(|lost| found.first_network.as_ref() != Some(&lost.network));
        for lost in lost {
            let Some((docker, network)) = network_of(store, endpoints, &lost.network) else {
                continue;
            };
            if let Err(error) =
                give_back(store, endpoints, &found, &lost.endpoint, &docker, &network).await
            {
                is_whole &= error.code() != Code::ControlAway;
                let text = remedied(&found.name, network.title(), &error.to_string());
                failed.insert(lost.endpoint, (error.code(), text));
            }
        }
    }
    let is_over =
        |key: &ProblemKey| matches!(key, ProblemKey::LostEndpoint(id) if !failed.contains_key(id));
    endpoints.problems.retain(|key| !is_over(key));
    for (endpoint, (code, text)) in failed {
        endpoints.problems.raise(ProblemKey::LostEndpoint(endpoint), code, text);
    }
    if is_whole {
        conclude(endpoints);
    }

    Ok(())
}

/// Takes note that no running container lacks what could be given back. The networks are those of
/// the cluster only once control was heard.
pub(super) fn conclude(endpoints: &Endpoints) {
    if endpoints.memberships.membership.borrow().live {
        endpoints.journal.set_whole();
    }
}

fn network_of(
    store: &PluginStore,
    endpoints: &Endpoints,
    docker: &str,
) -> Option<(DockerNetwork, Network)> {
    let known = store.state().networks.get(docker).cloned()?;
    let network =
        endpoints.memberships.membership.borrow().view.networks.get(&known.network?).cloned()?;

    Some((known, network))
}

fn remedied(container: &str, network: &str, why: &str) -> String {
    let again = format!(
        "docker network disconnect {network} {container} && docker network connect {network} {container}"
    );

    format!("container {container} has no interface on network {network}: {why}; run: {again}")
}

/// Why a container does not get its endpoint back.
#[derive(Debug, thiserror::Error)]
enum GiveBackError {
    /// Somebody has its address.
    #[error("its address is {holder}'s by now")]
    Taken {
        /// What has it.
        holder: Name,
    },
    /// This node is not in the network.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// It is not to be had.
    #[error(transparent)]
    Reservation(#[from] ReservationError),
    /// Its address cannot be written down.
    #[error(transparent)]
    Store(#[from] StoreFailure),
}

impl GiveBackError {
    /// Returns the stable code.
    fn code(&self) -> Code {
        match self {
            Self::Taken { .. } => Code::AddressTaken,
            Self::Membership(error) => error.code(),
            Self::Reservation(error) => error.code(),
            Self::Store(failure) => failure.code(),
        }
    }
}

async fn give_back(
    store: &PluginStore,
    endpoints: &Endpoints,
    found: &Container,
    endpoint: &str,
    docker: &DockerNetwork,
    network: &Network,
) -> Result<(), GiveBackError> {
    let attachment = found.attachments.get(endpoint).filter(|_| found.running);
    let (Some(attachment), Some(netns)) = (attachment, &found.netns) else { return Ok(()) };
    let _one = endpoints.memberships.stay(network.id).await?;
    if find(endpoints, endpoint).is_some() {
        return Ok(());
    }
    let sandbox = ManagedSandbox {
        container: Some(found.id.clone()),
        netns: Some(netns.clone()),
        joined: true,
        mac: attachment.mac,
        ..sandbox_of(docker, endpoint.to_owned())
    };
    let mut reservation = reservation(endpoints, sandbox, attachment.addresses.clone());
    try_free(endpoints, network.id, reservation.id, &attachment.addresses)?;
    if let SandboxRecord::Managed(docker) = &mut reservation.sandbox {
        docker.inside = inside(endpoints, network.id, reservation.id, netns).await;
    }
    let ContainerNames { name, aliases, group, labels } = ContainerNames::new(found, attachment);
    let wanted = Reservation { name, aliases, group, labels, ..reservation };
    let record = endpoints.reserve(network, wanted).await?;
    if let IpamMode::Ours { pool, pool6 } = &docker.ipam_mode {
        for address in &record.endpoint.addresses {
            let pool = if address.is_ipv4() { Some(pool) } else { pool6.as_ref() };
            let pool = pool.and_then(|pool| store.state().pools.get(pool).cloned());
            if let Some(pool) = pool {
                ipam::note(store, &pool, *address, true).await?;
            }
        }
    }
    tracing::warn!(container = %found.name, network = %network.name, "A container had lost its endpoint and gets it back");

    Ok(())
}

/// Checks that nobody was given the addresses meanwhile.
fn try_free(
    endpoints: &Endpoints,
    network: NetworkId,
    id: EndpointId,
    addresses: &[IpAddr],
) -> Result<(), GiveBackError> {
    let (view, journal) = (endpoints.view(), endpoints.journal.entries());
    let rows = EndpointRows { view: &view, journal: &journal, node: endpoints.node() };
    let mut others = rows.of(network).filter(|other| {
        let has_one = other.addresses.iter().any(|address| addresses.contains(address));
        has_one && (other.node, other.id) != (endpoints.node(), id)
    });
    match others.next() {
        None => Ok(()),
        Some(other) => Err(GiveBackError::Taken { holder: other.name.clone() }),
    }
}

/// Finds out how an endpoint's interface is called in its container.
pub(super) async fn inside(
    endpoints: &Endpoints,
    network: NetworkId,
    endpoint: EndpointId,
    netns: &Path,
) -> Option<String> {
    let taken = names_inside(&endpoints.journal.entries(), endpoint, netns);
    let found = name_inside(&endpoints.run_dir, network, endpoint, netns, &taken).await;

    found.unwrap_or_else(|error| {
        tracing::debug!(%endpoint, error = %explain(&error), "A container was not looked into");
        None
    })
}

/// Lists how the interfaces of a container's other endpoints are called, also of those that are
/// still to be made.
fn names_inside(entries: &Entries, but: EndpointId, netns: &Path) -> BTreeSet<String> {
    let others = entries.values().filter(|record| record.endpoint.id != but);
    let here = others
        .filter_map(|record| record.sandbox.managed())
        .filter(|other| other.netns.as_deref() == Some(netns));

    here.filter_map(|other| other.inside.clone()).collect()
}

/// Reports running containers whose interface the kernel does not have.
pub(super) fn tell(endpoints: &Endpoints, listed: &[ListedContainer]) {
    let reports = endpoints.reports.borrow().clone();
    let view = endpoints.view();
    let title =
        |network: NetworkId| view.networks.get(&network).map(|network| network.title().to_owned());
    let why = |record: &EndpointRecord| match reports
        .get(&record.endpoint.network)?
        .endpoints
        .get(&record.endpoint.id)?
    {
        EndpointState::Ready | EndpointState::HeldUp => None,
        EndpointState::Failed(why) | EndpointState::Gone(why) => Some(why.clone()),
    };
    let mut broken = BTreeMap::new();
    for container in listed.iter().filter(|container| container.is_running) {
        for record in container.endpoints.keys().filter_map(|endpoint| find(endpoints, endpoint)) {
            if let (Some(why), Some(title)) = (why(&record), title(record.endpoint.network)) {
                let text = remedied(&container.name, &title, &why);
                broken.insert(record.endpoint.id, text);
            }
        }
    }
    let is_well =
        |key: &ProblemKey| matches!(key, ProblemKey::Interface(id) if !broken.contains_key(id));
    endpoints.problems.retain(|key| !is_well(key));
    for (endpoint, text) in broken {
        endpoints.problems.raise(ProblemKey::Interface(endpoint), ProblemCode::InterfaceLost, text);
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
            endpoints: endpoints
                .iter()
                .map(|&(endpoint, network)| (endpoint.into(), network.into()))
                .collect(),
            networks: BTreeMap::new(),
        };
        let listed = [
            container("c1", true, &[("e1", "bound"), ("e2", "unbound"), ("e3", "bridge")]),
            container("c2", false, &[("e4", "bound")]),
        ];

        let found: Vec<_> =
            of_ours(&plugin_state, &listed).into_iter().map(|lost| lost.endpoint).collect();

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
