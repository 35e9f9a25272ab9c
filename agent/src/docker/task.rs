//! The tasks: the plugin socket for as long as the process lives, and for a joined node networks, containers and names.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

use super::client::{DockerClient, EngineError, EngineEvent};
use super::container_watcher::{self, ContainerWatcher};
use super::driver::OverlayDriver;
use super::plugin::{self, PluginSocket};
use super::sync::Sync;
use super::{dns_interceptors, door_watch, lifetime, recovery};

use crate::joined_node::JoinedNode;
use crate::node_handle::NodeHandle;
use crate::problem::explain;

/// How often an engine that is not there is looked for.
const SEARCH: Duration = Duration::from_millis(500);
/// How often everything is looked at though nothing was heard.
const LOOK: Duration = Duration::from_secs(3);
/// How long an engine may go on starting containers after it began to serve.
const BOOT: Duration = Duration::from_secs(60);
/// The pause before a pass that follows another.
const AGAIN: Duration = Duration::from_millis(20);
/// Containers that were heard of and not looked at yet; past that, all are looked at.
const HEARD: usize = 1_024;

/// Serves the plugin socket, and says when nobody keeps the door before it. Without Docker on this host it waits for it.
pub(crate) async fn serve_plugin(handle: Arc<NodeHandle>, plugin: PathBuf) {
    tokio::join!(serve_at(&handle, &plugin), door_watch::watch(&handle, &plugin));
}

async fn serve_at(handle: &Arc<NodeHandle>, plugin: &Path) {
    let about = "docker plugin";
    loop {
        match PluginSocket::open(plugin).await {
            Ok(socket) => {
                handle.problems.clear(about);
                tracing::info!(socket = %plugin.display(), inherited = socket.is_inherited(), "Serving Docker");
                plugin::serve(socket, Arc::new(OverlayDriver::new(Arc::clone(handle)))).await;
            }
            Err(error) => handle.problems.raise(about, "docker", explain(&error)),
        }
        sleep(LOOK).await;
    }
}

/// Follows the engine while the node is joined.
pub(crate) async fn follow(joined: &JoinedNode, socket: &Path) {
    tokio::join!(dns_interceptors::run(joined), async {
        loop {
            match DockerClient::connect(socket).await {
                Ok(engine) => {
                    let ended = accompany(joined, &engine).await;
                    tracing::debug!(error = %explain(&ended), "Lost Docker's engine");
                }
                // A host need not have one.
                Err(error) => tracing::trace!(error = %explain(&error), "No engine of Docker's"),
            }
            sleep(SEARCH).await;
        }
    });
}

/// Goes along with one life of the engine.
async fn accompany(joined: &JoinedNode, engine: &DockerClient) -> EngineError {
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
        error = start_stranded(joined, engine) => error,
        error = keep_networks(joined, engine, &networks) => error,
        error = keep_containers(joined, engine, &mut containers, &all) => error,
        error = keep_lifetimes(joined, engine) => error,
    }
}

/// Starts what the engine could not start for want of us: it may still be trying when it begins to serve.
async fn start_stranded(joined: &JoinedNode, engine: &DockerClient) -> EngineError {
    let boot = Instant::now() + BOOT;
    loop {
        match container_watcher::start_stranded(joined, engine).await {
            Ok(false) if Instant::now() > boot => return std::future::pending().await,
            Ok(_) => {}
            Err(error) => return error,
        }
        sleep(LOOK).await;
    }
}

async fn keep_networks(joined: &JoinedNode, engine: &DockerClient, heard: &Notify) -> EngineError {
    match engine.kind().await {
        Ok(kind) => joined.docker.set_engine(kind),
        Err(error) => return error,
    }
    let mut sync = Sync::default();
    let mut membership = joined.membership.subscribe();
    let mut store = joined.docker.subscribe();
    let mut regular = Instant::now();
    loop {
        membership.mark_unchanged();
        store.mark_unchanged();
        let is_regular = Instant::now() >= regular;
        if is_regular {
            regular = Instant::now() + LOOK;
        }
        let again = match sync.pass(joined, engine, is_regular).await {
            Ok(again) => again,
            Err(error) => return error,
        };
        let due = if again { Instant::now() + AGAIN } else { regular };
        tokio::select! {
            () = heard.notified() => {}
            _ = membership.changed() => {}
            _ = store.changed() => {}
            () = sleep_until(due) => {}
        }
    }
}

async fn keep_containers(
    joined: &JoinedNode,
    engine: &DockerClient,
    heard: &mut mpsc::Receiver<String>,
    all: &Notify,
) -> EngineError {
    let mut watcher = ContainerWatcher::default();
    loop {
        match watcher.look(joined, engine).await {
            Ok(true) => joined.docker.request_gc(),
            Ok(false) => {}
            Err(error) => return error,
        }
        let due = Instant::now() + LOOK;
        loop {
            tokio::select! {
                Some(container) = heard.recv() => {
                    if let Err(error) = container_watcher::look_at(joined, engine, &container).await {
                        return error;
                    }
                }
                () = all.notified() => break,
                () = sleep_until(due) => break,
            }
        }
    }
}

/// Finds out what becomes of endpoints and addresses that nobody seems to have. Beside the names of
/// containers, which must not wait for a container that does not answer.
async fn keep_lifetimes(joined: &JoinedNode, engine: &DockerClient) -> EngineError {
    loop {
        joined.docker.gc_requested().await;
        let passed = async {
            lifetime::pass(joined, engine).await?;
            recovery::pass(joined, engine).await
        };
        if let Err(error) = passed.await {
            return error;
        }
    }
}
