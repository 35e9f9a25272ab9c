//! Whether an endpoint of Docker's still belongs to something, and whether an address that Docker
//! holds still serves somebody. Both are judged by what the engine says and by the run of the
//! kernel, never by a clock: a container may take minutes to start, and the engine may stand still
//! between any two calls.
//!
//! What proves that nobody has an endpoint any more: the engine's network does not list it,
//! *after* every container was found at rest. The engine answers for a single container only
//! between two changes of it, so a start or a connect that was under way has ended by then, and
//! has either taken the endpoint over or given it up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use overlay_core::{EndpointId, NetworkId};
use tokio::time::timeout;

use super::client::{DockerClient, EngineError};
use super::engine::ListedContainer;
use super::plugin_store::{PluginState, PluginStore};
use crate::endpoint::lifecycle::Endpoints;
use crate::endpoint::sandbox;
use crate::state::journal::Entries;
use crate::state::{DockerKey, DockerLease, EndpointRecord, ManagedSandbox};

/// How long Docker may take to describe a container before the container counts as busy; the next
/// pass tries again.
const REST: Duration = Duration::from_secs(1);

/// How long a request for an address waits for [`pass`].
const FREED: Duration = Duration::from_secs(3);

/// What is known about an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    /// Whether it was created before the host was rebooted, so that its interfaces are gone.
    is_of_earlier_boot: bool,
    /// Whether a running container has it, according to Docker's list.
    is_listed: bool,
    /// Whether the container that had it no longer exists.
    is_container_removed: bool,
    /// Whether Docker's network has it; `None` if Docker did not say.
    in_network: Option<bool>,
    /// Whether all containers were found idle before the network was inspected.
    all_rested: bool,
}

/// Whether an endpoint is still in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Liveness {
    /// It is in use.
    Lives,
    /// Undecided; it stays.
    Undecided,
    /// It is no longer in use, with the reason.
    Gone(&'static str),
}

fn judge(facts: Facts) -> Liveness {
    match facts {
        Facts { is_of_earlier_boot: true, .. } => Liveness::Gone("the host was started anew"),
        Facts { is_listed: true, .. } => Liveness::Lives,
        Facts { is_container_removed: true, .. } => Liveness::Gone("its container was removed"),
        Facts { in_network: Some(true), .. } => Liveness::Lives,
        Facts { in_network: Some(false), all_rested: true, .. } => {
            Liveness::Gone("Docker does not have it any more")
        }
        Facts { in_network: Some(false) | None, .. } => Liveness::Undecided,
    }
}

/// Returns what Docker's list alone says about an endpoint.
fn facts(docker: &ManagedSandbox, listed: &[ListedContainer]) -> Facts {
    let has_it = |container: &ListedContainer| {
        container.is_running && container.endpoints.contains_key(&docker.endpoint)
    };
    let is_removed = |id: &String| listed.iter().all(|container| container.id != *id);

    Facts {
        is_of_earlier_boot: sandbox::is_of_earlier_boot(docker),
        is_listed: listed.iter().any(has_it),
        is_container_removed: docker.container.as_ref().is_some_and(is_removed),
        in_network: None,
        all_rested: false,
    }
}

/// Lists the addresses of endpoints, each with its network.
fn addresses<'a>(
    records: impl Iterator<Item = &'a EndpointRecord>,
) -> BTreeSet<(NetworkId, IpAddr)> {
    let of = |record: &'a EndpointRecord| {
        record.endpoint.addresses.iter().map(|address| (record.endpoint.network, *address))
    };

    records.flat_map(of).collect()
}

/// Lists the addresses that Docker holds for containers and that no endpoint has.
fn unused<'a>(plugin_state: &'a PluginState, entries: &Entries) -> Vec<&'a DockerLease> {
    let used = addresses(entries.values());
    let unused =
        plugin_state.given().filter(|(network, lease)| !used.contains(&(*network, lease.address)));

    unused.map(|(_, lease)| lease).collect()
}

/// Tells whether anything needs [`pass`], as the engine lists its containers.
pub(super) fn is_doubtful(
    store: &PluginStore,
    endpoints: &Endpoints,
    listed: &[ListedContainer],
) -> bool {
    let entries = endpoints.journal.entries();
    let docker = entries.values().filter_map(|record| record.sandbox.managed());

    docker.map(|docker| facts(docker, listed)).any(|facts| !facts.is_listed)
        || !unused(&store.state(), &entries).is_empty()
}

/// Goes over the endpoints that no running container has and the addresses that no endpoint has,
/// and removes those that nobody can have any more.
pub(super) async fn pass(
    store: &PluginStore,
    endpoints: &Endpoints,
    engine: &DockerClient,
) -> Result<(), EngineError> {
    // What is made later than this is not judged by what follows.
    let entries = endpoints.journal.entries();
    let plugin_state = store.state();
    let listed = engine.containers().await?;
    let mut cases = Cases::new(&entries, &listed);
    cases.ask_networks(engine).await?;
    let has_unused = !unused(&plugin_state, &entries).is_empty();
    let all_rested =
        (has_unused || cases.undecided().next().is_some()) && all_rest(engine, &listed).await;
    if all_rested {
        cases.rested();
        cases.ask_networks(engine).await?;
    }
    let gone = cases.gone();
    let had = addresses(entries.values().filter(|record| gone.contains_key(&record.endpoint.id)));
    let with_them =
        plugin_state.given().filter(|(network, lease)| had.contains(&(*network, lease.address)));
    let with_them = with_them.map(|(_, lease)| lease);
    let unused = unused(&plugin_state, &entries).into_iter().filter(|_| all_rested);
    let leases: Vec<_> = with_them.chain(unused).collect();
    for (id, why) in &gone {
        if let Err(error) = endpoints.remove(vec![*id], why).await {
            // The store reports its own failure; the next pass tries again.
            tracing::debug!(%error, "Failed to write the journal");
        }
    }
    strike(store, endpoints, &leases).await;
    store.count_gc_pass();

    Ok(())
}

/// Waits until an address that somebody names is free, which Docker may have taken from its holder
/// unnoticed.
pub(super) async fn freed(
    store: &PluginStore,
    endpoints: &Endpoints,
    network: NetworkId,
    address: IpAddr,
) {
    let is_held = || {
        let has_it = |record: &EndpointRecord| {
            record.endpoint.network == network && record.endpoint.addresses.contains(&address)
        };
        store.state().leased(network).contains(&address)
            || endpoints
                .journal
                .entries()
                .values()
                .any(|record| record.sandbox.is_managed() && has_it(record))
    };
    let mut examined = store.gc_passes();
    // One may be under way that began before the holder was removed.
    let enough = *examined.borrow_and_update() + 2;
    let looks = async {
        while is_held() && *examined.borrow_and_update() < enough {
            store.request_gc();
            if examined.changed().await.is_err() {
                return;
            }
        }
    };
    // Where the engine says nothing, the address counts as taken.
    let _ = timeout(FREED, looks).await;
}

/// The endpoints that no running container has, by the engine's list.
struct Cases<'a> {
    facts: BTreeMap<EndpointId, (Facts, &'a ManagedSandbox)>,
}

impl<'a> Cases<'a> {
    fn new(entries: &'a Entries, listed: &[ListedContainer]) -> Self {
        let docker =
            |record: &'a EndpointRecord| Some((record.endpoint.id, record.sandbox.managed()?));
        let all = entries.values().filter_map(docker);
        let judged = all.map(|(id, docker)| (id, (facts(docker, listed), docker)));

        Self { facts: judged.filter(|(_, (facts, _))| !facts.is_listed).collect() }
    }

    fn undecided(&self) -> impl Iterator<Item = &'a ManagedSandbox> + '_ {
        let undecided =
            self.facts.values().filter(|(facts, _)| judge(*facts) == Liveness::Undecided);

        undecided.map(|(_, docker)| *docker)
    }

    /// Asks the engine's networks for the endpoints that are not decided, each network once.
    async fn ask_networks(&mut self, engine: &DockerClient) -> Result<(), EngineError> {
        let networks: BTreeSet<&String> = self.undecided().map(|docker| &docker.network).collect();
        for network in networks {
            let there = match engine.endpoints_of(network).await {
                Err(error) if error.is_missing() => BTreeSet::new(),
                there => there?,
            };
            let of_network =
                self.facts.values_mut().filter(|(_, docker)| docker.network == *network);
            for (facts, docker) in of_network {
                facts.in_network = Some(there.contains(&docker.endpoint));
            }
        }

        Ok(())
    }

    /// Notes that every container was found at rest: what the networks said before is stale.
    fn rested(&mut self) {
        for (facts, _) in
            self.facts.values_mut().filter(|(facts, _)| judge(*facts) == Liveness::Undecided)
        {
            *facts = Facts { all_rested: true, in_network: None, ..*facts };
        }
    }

    fn gone(&self) -> BTreeMap<EndpointId, &'static str> {
        let why = |facts: Facts| match judge(facts) {
            Liveness::Gone(why) => Some(why),
            Liveness::Lives | Liveness::Undecided => None,
        };

        self.facts.iter().filter_map(|(id, (facts, _))| Some((*id, why(*facts)?))).collect()
    }
}

/// Asks for each container by itself, which waits for what is being done to it.
async fn all_rest(engine: &DockerClient, listed: &[ListedContainer]) -> bool {
    for container in listed {
        match timeout(REST, engine.container(&container.id)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.is_missing() => {}
            Ok(Err(_)) | Err(_) => return false,
        }
    }

    true
}

/// Removes addresses from the plugin store that Docker gave back while this process was away.
async fn strike(store: &PluginStore, endpoints: &Endpoints, leases: &[&DockerLease]) {
    // Nobody is given one meanwhile.
    let _one = endpoints.memberships.reserving().await;
    let now = store.state();
    let is_same = |lease: &&&DockerLease| {
        now.leases.get(&(lease.pool.clone(), lease.address)) == Some(**lease)
    };
    let keys = leases.iter().filter(is_same);
    let keys = keys.map(|lease| DockerKey::Lease(lease.pool.clone(), lease.address)).collect();
    store.strike(keys).await;
}

#[cfg(test)]
#[path = "lifetime_tests.rs"]
mod tests;
