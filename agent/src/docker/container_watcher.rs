//! Finds which containers have which endpoints, and their names.

use std::collections::{BTreeMap, BTreeSet};

use overlay_core::NetworkId;

use super::DRIVER;
use super::client::{DockerClient, EngineError};
use super::engine::{Container, ListedContainer};
use super::plugin_store::{PluginState, PluginStore};
use super::{lifetime, naming, plugin_proxy, ready, recovery};
use crate::endpoint::lifecycle::Endpoints;
use crate::membership::containers::Containers;
use crate::problem_code::ProblemCode;
use crate::problem_key::ProblemKey;
use crate::state::{
    DockerKey, DockerPool, EndpointRecord, ManagedSandbox, SandboxRecord, short_id,
};

/// How many passes an address pool may serve no network before it is removed: a minute, if the
/// engine answers. One that stands still between two calls is not asked in the meantime.
const IDLE_LOOKS: u32 = 20;

/// What is remembered between passes over the containers.
#[derive(Debug, Default)]
pub(super) struct ContainerWatcher {
    /// Pools without a network, and in how many passes they were found so.
    idle: BTreeMap<String, u32>,
}

impl ContainerWatcher {
    /// Looks at all containers: one list, and a closer look at those with something new. Tells
    /// whether there are endpoints or addresses that may belong to nobody any more.
    pub(super) async fn look(
        &mut self,
        store: &PluginStore,
        endpoints: &Endpoints,
        engine: &DockerClient,
    ) -> Result<bool, EngineError> {
        let listed = engine.containers().await?;
        note_all(store, endpoints, &listed);
        for container in unnamed(endpoints, &listed) {
            look_at(store, endpoints, engine, &container).await?;
        }
        let entries = endpoints.journal.entries();
        let is_gone = |key: &ProblemKey| matches!(key, ProblemKey::ContainerNames(id) if !entries.contains_key(id));
        endpoints.problems.retain(|key| !is_gone(key));
        self.strike_idle_pools(store).await;
        recovery::tell(endpoints, &listed);

        Ok(lifetime::is_doubtful(store, endpoints, &listed)
            || recovery::is_needed(store, endpoints, &listed))
    }

    /// Removes pools that Docker gave back while this process was away, with their addresses.
    async fn strike_idle_pools(&mut self, store: &PluginStore) {
        let plugin_state = store.state();
        let is_idle = |pool: &&DockerPool| {
            !pool.docker_network.as_ref().is_some_and(|id| plugin_state.networks.contains_key(id))
        };
        let idle: BTreeSet<&String> =
            plugin_state.pools.values().filter(is_idle).map(|pool| &pool.id).collect();
        self.idle.retain(|pool, _| idle.contains(pool));
        let is_over = |pool: &&&String| {
            let looks = self.idle.entry((**pool).clone()).or_default();
            *looks += 1;
            *looks > IDLE_LOOKS
        };
        let over: BTreeSet<&String> = idle.iter().filter(is_over).copied().collect();
        let leases = plugin_state.leases.values();
        let leases = leases.filter(|lease| {
            over.contains(&lease.pool) || !plugin_state.pools.contains_key(&lease.pool)
        });
        let leases = leases.map(|lease| DockerKey::Lease(lease.pool.clone(), lease.address));
        let struck = leases.chain(over.iter().map(|id| DockerKey::Pool((*id).clone()))).collect();
        store.strike(struck).await;
    }
}

/// Lists the containers that have an endpoint whose container or name is not known yet.
fn unnamed(endpoints: &Endpoints, listed: &[ListedContainer]) -> Vec<String> {
    let entries = endpoints.journal.entries();
    let records = entries.values().filter_map(|record| Some((record.sandbox.managed()?, record)));
    let known: BTreeMap<&String, &EndpointRecord> =
        records.map(|(docker, record)| (&docker.endpoint, record)).collect();
    let is_new = |container: &&ListedContainer| {
        container.endpoints.keys().filter_map(|id| known.get(id)).any(|record| {
            let docker = record.sandbox.managed();
            let named = container
                .name
                .parse()
                .is_ok_and(|name: overlay_core::Name| name == record.endpoint.name);
            let nameless = container.name.parse::<overlay_core::Name>().is_err();
            let is_seen =
                |docker: &ManagedSandbox| docker.container.is_some() && docker.inside.is_some();
            let is_seen = record.endpoint.container.is_some()
                && docker.is_some_and(|docker| !container.is_running || is_seen(docker));
            !is_seen || !(named || nameless)
        })
    };

    listed.iter().filter(is_new).map(|container| container.id.clone()).collect()
}

/// Takes note of which containers there are on networks of the cluster.
fn note_all(store: &PluginStore, endpoints: &Endpoints, listed: &[ListedContainer]) {
    let plugin_state = store.state();
    let of = |container: &ListedContainer| {
        let id = short_id(&container.id);
        let networks = of_cluster(&plugin_state, &container.networks).into_iter();
        let name = container.name.clone();
        networks
            .filter_map(move |network| Some(((network, id.clone()?), name.clone())))
            .collect::<Vec<_>>()
    };
    let is_ours = |id: &str| plugin_state.networks.contains_key(id);
    store.container_networks.note_all(is_ours, listed);
    let known = Containers::Known(listed.iter().flat_map(of).collect());
    endpoints.publisher.containers.send_if_modified(|containers| {
        let is_news = *containers != known;
        *containers = known;
        is_news
    });
}

/// Takes note of one container and the networks that it is on.
fn note(
    store: &PluginStore,
    endpoints: &Endpoints,
    id: &str,
    name: &str,
    networks: &BTreeMap<String, String>,
) {
    let networks = of_cluster(&store.state(), networks);
    if let Some(id) = short_id(id) {
        endpoints.publisher.containers.send_if_modified(|known| known.note(&id, name, networks));
    }
}

/// Lists the networks of the cluster that Docker's stand for.
fn of_cluster(plugin_state: &PluginState, networks: &BTreeMap<String, String>) -> Vec<NetworkId> {
    networks.keys().filter_map(|id| plugin_state.networks.get(id)?.network).collect()
}

/// Finds out a container's name and namespace.
pub(super) async fn look_at(
    store: &PluginStore,
    endpoints: &Endpoints,
    engine: &DockerClient,
    container: &str,
) -> Result<(), EngineError> {
    let found = match engine.container(container).await {
        Err(error) if error.is_missing() => {
            note(store, endpoints, container, "", &BTreeMap::new());
            return Ok(());
        }
        found => found?,
    };
    note(store, endpoints, &found.id, &found.name, &found.networks);
    let plugin_state = store.state();
    let is_ours = |id: &str| plugin_state.networks.contains_key(id);
    store.container_networks.note(is_ours, &found);
    let entries = endpoints.journal.entries();
    for record in entries.values() {
        let Some(docker) = record.sandbox.managed() else { continue };
        let Some(attachment) = found.attachments.get(&docker.endpoint) else { continue };
        let named = naming::named(&record.endpoint, &found, attachment);
        let key = ProblemKey::ContainerNames(record.endpoint.id);
        match naming::unspoken(&named, &found, attachment) {
            Some(text) => endpoints.problems.raise(key, ProblemCode::DockerName, text),
            None => endpoints.problems.clear(&key),
        }
        let inside = match (&docker.inside, &found.netns) {
            (None, Some(netns)) if found.running => {
                recovery::inside(endpoints, record.endpoint.network, record.endpoint.id, netns)
                    .await
            }
            (known, _) => known.clone(),
        };
        let updated = endpoints.journal.update(record.endpoint.id, |record| {
            record.endpoint = named;
            if let SandboxRecord::Managed(docker) = &mut record.sandbox {
                docker.container = Some(found.id.clone());
                docker.inside = inside;
                if found.running {
                    docker.netns = found.netns.clone().or(docker.netns.take());
                }
            }
        });
        if let Err(error) = updated.await {
            // The store reports its own failure; the next pass tries again.
            tracing::debug!(%error, "Failed to write the journal");
        }
    }

    Ok(())
}

/// Starts the containers that Docker could not restart because the agent was absent; Docker itself
/// tries only once. Tells whether any are left.
pub(super) async fn start_stranded(
    store: &PluginStore,
    engine: &DockerClient,
) -> Result<bool, EngineError> {
    let plugin_state = store.state();
    let mut any = false;
    for listed in engine.containers().await? {
        if !listed.endpoints.is_empty() {
            continue;
        }
        let found = match engine.container(&listed.id).await {
            Err(error) if error.is_missing() => continue,
            found => found?,
        };
        if is_stranded(&found, &plugin_state.networks) {
            tracing::info!(container = %found.name, "Starting a container that Docker could not start without us");
            if let Err(error) = engine.start_container(&found.id).await {
                tracing::warn!(container = %found.name, %error, "Container was not started");
                any = true;
            }
        }
    }

    Ok(any)
}

fn is_stranded(
    container: &Container,
    ours: &BTreeMap<String, crate::state::DockerNetwork>,
) -> bool {
    let on_ours = container.networks.keys().any(|network| ours.contains_key(network));
    let restarts = container.restarts && container.has_run && !container.running;

    restarts && on_ours && is_for_want_of_us(&container.error)
}

/// Tells whether Docker's message blames a plugin that did not answer, or not yet. Any other cause
/// is for an operator to fix.
fn is_for_want_of_us(error: &str) -> bool {
    let of_the_plugin = ["plugin", ".sock", "dial unix"].iter().any(|word| error.contains(word))
        && error.contains(DRIVER);

    of_the_plugin || error.contains(plugin_proxy::ABSENT) || error.contains(ready::NOT_YET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_docker_could_not_start_again_for_want_of_us_is_started() {
        let ours = BTreeMap::new();
        let stranded = Container { restarts: true, has_run: true, ..Container::default() };
        assert!(!is_stranded(&stranded, &ours), "on no network of ours");

        for (error, expected) in [
            (format!("error: {}; {NOTHING}", plugin_proxy::ABSENT), true),
            (format!("{}; try again", ready::NOT_YET), true),
            (
                "dial unix /run/docker/plugins/overlay-wg.sock: connect: connection refused"
                    .to_owned(),
                true,
            ),
            ("legacy plugin: plugin \"overlay-wg\" not found".to_owned(), true),
            ("Bind for 0.0.0.0:80 failed: port is already allocated".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(is_for_want_of_us(&error), expected, "{error}");
        }
    }

    const NOTHING: &str = "start it";
}
