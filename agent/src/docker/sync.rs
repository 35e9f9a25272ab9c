//! Makes the engine's networks those of the cluster, and the other way round. What is to be done is
//! computed afresh each time (`network_plan`): no order of events, no lost one and no restart makes
//! a difference.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::Ipv4Net;
use overlay_core::{NetworkId, View};
use overlay_proto::convert::{self, ConversionError, MAX_DIFFERENCES, difference};
use overlay_proto::{Code, v1};
use tokio::sync::watch;

use super::client::{DockerClient, EngineError};
use super::engine::EngineNetwork;
use super::network_plan::{Action, Facts, Plan};
use super::plugin_store::{PluginState, PluginStore};
use super::{gwbridge, prefixes, publish};
use crate::endpoint::lifecycle::Endpoints;
use crate::kernel::{KernelError, Netns, reservation};
use crate::membership::connection;
use crate::membership::control_error::ControlError;
use crate::problem::{Problems, explain};
use crate::problem_code::ProblemCode;
use crate::problem_key::ProblemKey;
use crate::state::{DockerKey, DockerRow, EndpointRecord, StoreFailure};

/// What is remembered between passes.
#[derive(Debug)]
pub(super) struct Sync {
    served: BTreeSet<NetworkId>,
    /// Networks of the store that the engine did not list, and how often in a row: one that is just
    /// being made is not listed yet.
    unlisted: BTreeMap<String, u32>,
    /// The prefixes that Docker was kept from choosing last.
    reserved: Option<BTreeSet<Ipv4Net>>,
    /// The networks that differ in this host's Docker.
    differences: watch::Sender<Vec<v1::Difference>>,
}

/// Passes in which a network may be missing from the engine's list before it counts as removed.
const UNLISTED: u32 = 3;

impl Sync {
    /// Begins without memory; the networks that differ are published through `differences`.
    pub(super) fn new(differences: watch::Sender<Vec<v1::Difference>>) -> Self {
        Self { served: BTreeSet::new(), unlisted: BTreeMap::new(), reserved: None, differences }
    }

    /// Goes over everything once; tells whether another pass should follow soon.
    pub(super) async fn pass(
        &mut self,
        store: &PluginStore,
        endpoints: &Endpoints,
        engine: &DockerClient,
        regular: bool,
    ) -> Result<bool, EngineError> {
        let mut again = tell_removals(store, endpoints).await;
        let listed = engine.networks().await?;
        let membership = endpoints.memberships.membership.borrow().clone();
        if let Err(error) = gwbridge::ensure(engine, &listed).await {
            tracing::warn!(error = %explain(&error), "docker_gwbridge was not made beforehand");
        }
        if !membership.live {
            return Ok(again);
        }
        if regular {
            self.strike_unlisted(store, &listed).await;
        }
        let view = &membership.view;
        self.reserve(store, endpoints, view, regular).await;
        let entries = endpoints.journal.entries();
        let docker =
            |record: &EndpointRecord| record.sandbox.managed().map(|docker| docker.network.clone());
        let busy = entries.values().filter_map(docker).collect();
        let shown = view.endpoints.values().filter(|endpoint| endpoint.node == endpoints.node());
        self.served.extend(shown.map(|endpoint| endpoint.network));
        let plugin_state = store.state();
        let facts = Facts {
            view,
            node: endpoints.node(),
            plugin_state: &plugin_state,
            engine: &listed,
            busy: &busy,
            served: &self.served,
            put_out: &membership.put_out,
        };
        let mut plan = facts.plan();
        // Before anything is removed, so that a container that starts meanwhile is told why it
        // cannot.
        store.set_conflicts(plan.conflicts.clone());
        for step in std::mem::take(&mut plan.actions) {
            let done = perform(store, endpoints, engine, &listed, view, &plugin_state, &step).await;
            again |= matches!(step, Action::Publish(..) | Action::Remove(_)) && done.is_ok();
            if let Err((about, text)) = done {
                match about {
                    About::Docker(id) => drop(plan.conflicts.insert(id, text)),
                    About::Network(id) => drop(plan.missing.insert(id, text)),
                }
            }
        }
        store.set_conflicts(plan.conflicts.clone());
        self.report(&endpoints.problems, &listed, view, &plan);
        self.served.retain(|network| plugin_state.bound_to(*network).is_some());

        Ok(again)
    }

    /// Reports what cannot be done, as problems here and to all nodes.
    fn report(&self, problems: &Problems, listed: &[EngineNetwork], view: &View, plan: &Plan) {
        let mut differences = Vec::new();
        let is_told = |id: &String| {
            plan.conflicts.contains_key(id)
                || plan.missing.keys().any(|network| network.to_string() == *id)
        };
        problems.retain(|key| !matches!(key, ProblemKey::EngineNetwork(id) if !is_told(id)));
        for (id, text) in &plan.conflicts {
            let name = listed
                .iter()
                .find(|network| network.id == *id)
                .map_or(id.as_str(), |network| network.name.as_str());
            differences.push(difference(name, text));
            problems.raise(
                ProblemKey::EngineNetwork(id.clone()),
                ProblemCode::DockerConflict,
                format!("Docker's network {name}: {text}"),
            );
        }
        for (id, text) in &plan.missing {
            let name = view
                .networks
                .get(id)
                .map_or_else(|| id.to_string(), |network| network.title().to_owned());
            differences.push(difference(&name, text));
            problems.raise(
                ProblemKey::EngineNetwork(id.to_string()),
                ProblemCode::DockerMissing,
                format!("network {name} is not in Docker: {text}"),
            );
        }
        differences.truncate(MAX_DIFFERENCES);
        self.differences.send_if_modified(|told| {
            let is_news = *told != differences;
            *told = differences;
            is_news
        });
    }

    /// Keeps Docker from choosing what other hosts have in use; what foreign hands removed is back
    /// with the next regular pass.
    async fn reserve(
        &mut self,
        store: &PluginStore,
        endpoints: &Endpoints,
        view: &View,
        regular: bool,
    ) {
        let wanted =
            prefixes::reserved(view, endpoints.node(), &store.state().engine.default_pools);
        if !regular && self.reserved.as_ref() == Some(&wanted) {
            return;
        }
        match set_reserved(&wanted).await {
            Ok(()) => {
                endpoints.problems.clear(&ProblemKey::ReservedPrefixes);
                self.reserved = Some(wanted);
            }
            Err(error) => {
                let text = format!(
                    "Docker is not kept from choosing prefixes in use elsewhere: {}",
                    explain(&error)
                );
                endpoints.problems.raise(ProblemKey::ReservedPrefixes, Code::Kernel, text);
                self.reserved = None;
            }
        }
    }

    /// Forgets networks that were removed while this process was away. What stands for one of the
    /// cluster comes back.
    async fn strike_unlisted(&mut self, store: &PluginStore, listed: &[EngineNetwork]) {
        let plugin_state = store.state();
        let missing = plugin_state
            .networks
            .keys()
            .filter(|id| listed.iter().all(|network| network.id != **id));
        let missing: BTreeSet<&String> = missing.collect();
        self.unlisted.retain(|id, _| missing.contains(id));
        let mut struck = Vec::new();
        for id in missing {
            let passes = self.unlisted.entry(id.clone()).or_default();
            *passes += 1;
            if *passes >= UNLISTED {
                struck.push(DockerKey::Network(id.clone()));
            }
        }
        store.strike(struck).await;
    }
}

async fn set_reserved(prefixes: &BTreeSet<Ipv4Net>) -> Result<(), KernelError> {
    reservation::set(&Netns::host()?, prefixes).await
}

/// What a failure is about.
enum About {
    Docker(String),
    Network(NetworkId),
}

/// Tells control of the networks that were removed here; returns whether one still waits for
/// control.
async fn tell_removals(store: &PluginStore, endpoints: &Endpoints) -> bool {
    let mut waits = false;
    for network in store.state().removals.iter().copied() {
        endpoints.publisher.published().await;
        let asked = match endpoints.control().connection.client() {
            Ok(mut client) => {
                let request =
                    v1::RemoveNetworkRequest { network: network.to_string(), force: false };
                connection::call(client.remove_network(request))
                    .await
                    .map(|revised| revised.revision)
            }
            Err(away) => Err(away),
        };
        let comes_back = match asked {
            Ok(revision) => {
                let mut membership = endpoints.memberships.membership.subscribe();
                let arrived =
                    membership.wait_for(|membership| membership.view.revision.0 >= revision);
                let _ = tokio::time::timeout(std::time::Duration::from_secs(2), arrived).await;
                false
            }
            Err(error) if error.code() == Code::NotFound => false,
            Err(error) if matches!(error.code(), Code::InUse | Code::NotAllowed) => {
                tracing::warn!(%network, reason = %error, "A network removed with Docker is still there and comes back");
                true
            }
            Err(_) => {
                waits = true;
                continue;
            }
        };
        if !comes_back
            && endpoints.memberships.membership.borrow().view.networks.contains_key(&network)
        {
            // Until the view shows the removal, it would be made again.
            waits = true;
            continue;
        }
        store.strike(vec![DockerKey::Removal(network)]).await;
    }

    waits
}

async fn perform(
    store: &PluginStore,
    endpoints: &Endpoints,
    engine: &DockerClient,
    listed: &[EngineNetwork],
    view: &Arc<View>,
    plugin_state: &PluginState,
    step: &Action,
) -> Result<(), (About, String)> {
    match step {
        Action::Adopt(docker, network) => {
            tracing::info!(%network, docker, "Docker's network stands for one of the cluster");
            store
                .bind(docker, Some(*network))
                .await
                .map(drop)
                .map_err(|r| (About::Docker(docker.clone()), r.to_string()))
        }
        Action::Publish(docker, id) => {
            let told = publish(store, endpoints, listed, plugin_state, docker, *id).await;
            told.map_err(|error| (About::Docker(docker.clone()), error.to_string()))
        }
        Action::Remove(docker) => remove(store, endpoints, engine, plugin_state, docker)
            .await
            .map_err(|text| (About::Docker(docker.clone()), text)),
        Action::Replicate(id) => {
            let Some(network) = view.networks.get(id) else { return Ok(()) };
            let made = engine.create_network(publish::replica(network)).await;
            made.map(drop).map_err(|error| (About::Network(*id), explain(&error)))
        }
    }
}

/// Removes a network from Docker; says why it stays where it does.
async fn remove(
    store: &PluginStore,
    endpoints: &Endpoints,
    engine: &DockerClient,
    plugin_state: &PluginState,
    docker: &str,
) -> Result<(), String> {
    let of =
        |record: &EndpointRecord| record.sandbox.managed().is_some_and(|d| d.network == docker);
    let entries = endpoints.journal.entries();
    let lost = entries.values().filter(|record| of(record)).map(|record| record.endpoint.id);
    // What is left on it was cut off by force.
    let removed = endpoints.remove(lost.collect(), "its network was removed by force").await;
    removed.map_err(|error| error.to_string())?;
    let network = plugin_state.networks.get(docker).and_then(|known| known.network);
    // Docker's call for it must not count as a person's.
    store.bind(docker, None).await.map_err(|error| error.to_string())?;
    let Err(error) = engine.remove_network(docker).await else { return Ok(()) };
    // It stays what it was, and must not pass for one that a person made.
    store.bind(docker, network).await.map_err(|error| error.to_string())?;
    let membership = endpoints.memberships.membership.borrow();

    Err(match network.and_then(|network| membership.put_out.get(&network)) {
        Some(title) => format!(
            "this node may not enter it any more: stop its containers here, or let this node in \
             (`overlayctl network set {title} --nodes SELECTOR` on an admin node): {}",
            explain(&error)
        ),
        None => explain(&error),
    })
}

/// Why a network that Docker has was not made.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    /// Control does not make it.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A field of control's answer is malformed.
    #[error(transparent)]
    Answer(#[from] ConversionError),
    /// What it stands for cannot be written down.
    #[error(transparent)]
    Store(#[from] StoreFailure),
}

/// Asks control to make a network that Docker has.
async fn publish(
    store: &PluginStore,
    endpoints: &Endpoints,
    listed: &[EngineNetwork],
    plugin_state: &PluginState,
    docker: &str,
    id: Option<NetworkId>,
) -> Result<(), PublishError> {
    let engine = listed.iter().find(|network| network.id == docker);
    let Some((engine, known)) = engine.zip(plugin_state.networks.get(docker)) else {
        return Ok(());
    };
    let Some(request) = publish::request(engine, known, endpoints.node(), id) else {
        return Ok(());
    };
    let mut client = endpoints.control().connection.client()?;
    let answer = match connection::call(client.create_network(request)).await {
        // Somebody else was faster; the next pass sees it.
        Err(error) if error.code() == Code::NameTaken => return Ok(()),
        answer => answer?,
    };
    let network = answer.network.map(|network| network.id).unwrap_or_default();
    let network: NetworkId = convert::field("network.id", &network)?;
    if !store.bind(docker, Some(network)).await? {
        // A person removed it meanwhile.
        return Ok(store.write(vec![DockerRow::Removal(network)], Vec::new()).await?);
    }
    tracing::info!(%network, name = %engine.name, "Made a network that Docker has");
    let arrived = async {
        let mut membership = endpoints.memberships.membership.subscribe();
        membership
            .wait_for(|membership| membership.view.networks.contains_key(&network))
            .await
            .map(drop)
    };
    // Whoever made it will use it; if the view does not show it soon, the first container enters
    // it.
    if matches!(tokio::time::timeout(std::time::Duration::from_secs(2), arrived).await, Ok(Ok(())))
    {
        let _ = endpoints.memberships.enter(network, 1).await;
    }

    Ok(())
}

/// Removes this node's networks from Docker, because it leaves the cluster.
pub(crate) async fn withdraw(
    store: &PluginStore,
    socket: &std::path::Path,
) -> Result<(), EngineError> {
    if let Err(error) = set_reserved(&BTreeSet::new()).await {
        tracing::warn!(error = %explain(&error), "Prefixes stay reserved");
    }
    if !socket.exists() {
        return Ok(());
    }
    let engine = DockerClient::connect(socket).await?;
    let networks = engine.networks().await?;
    let mut outcome = Ok(());
    for network in networks.iter().filter(|network| network.is_ours()) {
        if store.bind(&network.id, None).await.is_ok() {
            outcome = outcome.and(engine.remove_network(&network.id).await);
        }
    }

    outcome.and(gwbridge::remove(&engine).await)
}
