//! The task of a joined node: the networks, containers and names of this host's engine.

use std::io::ErrorKind;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use overlay_proto::v1;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::client::{DockerClient, EngineError};
use super::container_watcher::{self, ContainerWatcher};
use super::dns_interceptors::{self, InterceptorSources};
use super::engine::EngineEvent;
use super::interceptor_reserves::InterceptorReserves;
use super::plugin_store::PluginStore;
use super::sync::Sync;
use super::{lifetime, recovery};

use crate::dns::{DnsCounts, NameSource, Names};
use crate::endpoint::lifecycle::Endpoints;
use crate::hand_over::DescriptorStore;
use crate::membership::Membership;
use crate::problem::explain;

/// How often an engine that is not there is looked for.
const SEARCH: Duration = Duration::from_millis(500);
/// How often everything is looked at though nothing was heard.
const LOOK: Duration = Duration::from_secs(3);
/// How long an engine may go on starting containers after it began to serve.
const BOOT: Duration = Duration::from_secs(60);
/// The pause before a pass that follows another.
const AGAIN: Duration = Duration::from_millis(20);
/// The most containers that wait to be looked at; beyond that, all are looked at.
const HEARD: usize = 1_024;

/// What a joined node has for Docker.
#[derive(Debug)]
pub(crate) struct DockerWork {
    /// What Docker was promised.
    pub(crate) store: Arc<PluginStore>,
    /// The endpoints of this node.
    pub(crate) endpoints: Arc<Endpoints>,
    /// The DNS names of all its networks.
    pub(crate) names: watch::Sender<Arc<Names>>,
    /// Counts the questions of containers that are refused.
    pub(crate) dns_counts: Arc<DnsCounts>,
    /// Sees a change of them from the first names on.
    pub(crate) first_names: watch::Receiver<Arc<Names>>,
    /// The networks that differ in this host's Docker.
    pub(crate) differences: watch::Sender<Vec<v1::Difference>>,
    /// What outlives a session while the agent is handed over.
    pub(crate) descriptors: DescriptorStore,
}

/// Follows the engine while the node is joined.
pub(crate) async fn follow(work: &DockerWork, reserves: &InterceptorReserves, socket: &Path) {
    let DockerWork { store, endpoints, names, dns_counts, first_names, differences, descriptors } =
        work;
    let intercepted = async {
        let mut first_names = first_names.clone();
        // Without names each question would go to Docker, which does not know them: until there are
        // some, whoever had the interceptors before goes on with them, or Docker answers anyway.
        // The sender is this node's.
        let _ = first_names.changed().await;
        let Endpoints { journal, problems, .. } = &**endpoints;
        let source = NameSource { names: names.subscribe(), counts: Arc::clone(dns_counts) };
        let others = store.container_networks.subscribe();
        let sources = InterceptorSources { journal, others, source, problems };
        dns_interceptors::run(sources, reserves, descriptors).await;
    };
    tokio::join!(intercepted, async {
        loop {
            match DockerClient::connect(socket).await {
                Ok(engine) => {
                    let ended = accompany(store, endpoints, differences, &engine).await;
                    tracing::debug!(error = %explain(&ended), "Lost Docker's engine");
                }
                // A host need not have one.
                Err(error) => {
                    tracing::trace!(error = %explain(&error), "No engine of Docker's");
                    if is_absent(socket).await {
                        recovery::conclude(endpoints);
                    }
                }
            }
            sleep(SEARCH).await;
        }
    });
}

/// Tells whether no engine runs here, because nobody listens on its socket.
async fn is_absent(socket: &Path) -> bool {
    let refused = UnixStream::connect(socket).await.err();

    refused.is_some_and(|error| {
        matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
    })
}

/// Follows one run of the engine.
async fn accompany(
    store: &PluginStore,
    endpoints: &Endpoints,
    differences: &watch::Sender<Vec<v1::Difference>>,
    engine: &DockerClient,
) -> EngineError {
    let sync = Sync::new(differences.clone());
    // First events, then the lists: what happens in between is heard.
    let (heard, mut containers) = mpsc::channel(HEARD);
    let (networks, all) = (Notify::new(), Notify::new());
    let listen = async {
        let mut events = pin!(engine.events());
        while let Some(event) = events.next().await {
            match event {
                Ok(EngineEvent::Networks) => networks.notify_one(),
                Ok(EngineEvent::Container(id)) => {
                    if heard.try_send(id).is_err() {
                        all.notify_one();
                    }
                }
                Err(error) => return error,
            }
        }
        EngineError::Slow
    };
    tokio::select! {
        error = listen => error,
        error = start_stranded(store, engine) => error,
        error = keep_networks(store, endpoints, engine, sync, &networks) => error,
        error = keep_containers(store, endpoints, engine, &mut containers, &all) => error,
        error = keep_lifetimes(store, endpoints, engine) => error,
    }
}

/// Starts the containers that the engine could not start because the agent was absent: it may still
/// be trying when it begins to serve.
async fn start_stranded(store: &PluginStore, engine: &DockerClient) -> EngineError {
    let boot = Instant::now() + BOOT;
    loop {
        match container_watcher::start_stranded(store, engine).await {
            Ok(false) if Instant::now() > boot => return std::future::pending().await,
            Ok(_) => {}
            Err(error) => return error,
        }
        sleep(LOOK).await;
    }
}

async fn keep_networks(
    store: &PluginStore,
    endpoints: &Endpoints,
    engine: &DockerClient,
    mut sync: Sync,
    heard: &Notify,
) -> EngineError {
    match engine.kind().await {
        Ok(kind) => store.set_engine(kind),
        Err(error) => return error,
    }
    let mut membership = endpoints.memberships.membership.subscribe();
    let mut plugin_state = store.subscribe();
    let mut regular = Instant::now();
    loop {
        membership.mark_unchanged();
        plugin_state.mark_unchanged();
        let is_regular = Instant::now() >= regular;
        if is_regular {
            regular = Instant::now() + LOOK;
        }
        let again = match sync.pass(store, endpoints, engine, is_regular).await {
            Ok(again) => again,
            Err(error) => return error,
        };
        let due = if again { Instant::now() + AGAIN } else { regular };
        tokio::select! {
            () = heard.notified() => {}
            _ = membership.changed() => {}
            _ = plugin_state.changed() => {}
            () = sleep_until(due) => {}
        }
    }
}

async fn keep_containers(
    store: &PluginStore,
    endpoints: &Endpoints,
    engine: &DockerClient,
    heard: &mut mpsc::Receiver<String>,
    all: &Notify,
) -> EngineError {
    let mut watcher = ContainerWatcher::default();
    let mut membership = endpoints.memberships.membership.subscribe();
    loop {
        let is_early = !membership.borrow_and_update().live;
        match watcher.look(store, endpoints, engine).await {
            Ok(true) => store.request_gc(),
            Ok(false) => recovery::conclude(endpoints),
            Err(error) => return error,
        }
        let due = Instant::now() + LOOK;
        loop {
            tokio::select! {
                Some(container) = heard.recv() => {
                    let looked =
                        container_watcher::look_at(store, endpoints, engine, &container);
                    if let Err(error) = looked.await {
                        return error;
                    }
                }
                () = all.notified() => break,
                // Endpoints may be removed from now on, but only after a look that began since
                // then.
                () = control_heard(&mut membership), if is_early => break,
                () = sleep_until(due) => break,
            }
        }
    }
}

async fn control_heard(membership: &mut watch::Receiver<Membership>) {
    // The sender is the joined node's.
    drop(membership.wait_for(|membership| membership.live).await);
}

/// Finds out what becomes of endpoints and addresses that nobody seems to have; in parallel to the
/// names of containers, which must not wait for a container that does not answer.
async fn keep_lifetimes(
    store: &PluginStore,
    endpoints: &Endpoints,
    engine: &DockerClient,
) -> EngineError {
    loop {
        store.gc_requested().await;
        let passed = async {
            lifetime::pass(store, endpoints, engine).await?;
            recovery::pass(store, endpoints, engine).await
        };
        if let Err(error) = passed.await {
            return error;
        }
    }
}
