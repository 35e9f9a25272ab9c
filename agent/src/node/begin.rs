//! How the node begins: afresh, or in the place of a running agent.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use overlay_daemon::log::Log;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::hand_over::LOCK;
use super::phases::{Node, NodeError};
use crate::call_gate::CallGate;
use crate::config::Config;
use crate::descriptor_reserves::DescriptorReserves;
use crate::docker;
use crate::hand_over::{DescriptorStore, Predecessor, Program};
use crate::local_api;
use crate::lock::{LockError, StateLock};
use crate::node_handle::{NodeHandle, Request};
use crate::problem::Problems;
use crate::process_health::ProcessHealth;
use crate::state::StateStore;

/// Brings everything up: afresh, or in the place of a running agent, which stops when this is done.
pub(super) async fn begin(
    program: Program,
    config: Config,
    log: Log,
    reserves: DescriptorReserves,
    predecessor: Option<&Predecessor>,
) -> Result<(Node, mpsc::Receiver<Request>), NodeError> {
    let kept = DescriptorStore::default();
    let handed = match predecessor {
        Some(predecessor) => Some(predecessor.receive(&kept).await?),
        None => None,
    };
    let lock = match kept.take(LOCK).and_then(|lock| lock.list.into_iter().next()) {
        Some(descriptor) => StateLock::take_over(&config.state, descriptor)?,
        None => take_lock(&config.state).await?,
    };
    let (store, mut loaded) = StateStore::open(&config.state.join("agent.redb"))?;
    let reserves = Arc::new(reserves);
    let own =
        ProcessHealth { log, descriptors: Arc::clone(&reserves.descriptors), store: store.clone() };
    let gate = CallGate::new(predecessor.is_none());
    let (handle, inbox) = NodeHandle::new(config, Arc::new(Problems::new(own)), gate, kept);
    let handle = Arc::new(handle);
    let instance = match &handed {
        Some(handed) => handed.instance.as_str().into(),
        None => instance().map_err(NodeError::Random)?,
    };
    let mut node = Node {
        handle: Arc::clone(&handle),
        reserves: Arc::clone(&reserves),
        program,
        lock,
        store,
        instance,
        userspace: None,
        kept_time: loaded.unix_time,
        unkept_expulsion: None,
        joining: loaded.joining.take(),
        tasks: JoinSet::new(),
        services: JoinSet::new(),
        handed,
        is_handed_over: false,
    };
    let server = local_api::open(&handle.config.socket(), &handle.descriptors).await?;
    if let Some(predecessor) = predecessor {
        node.adopt_lanes(predecessor)?;
    }
    if let Some(identity) = loaded.identity.take() {
        node.resume(identity, loaded)?;
    }
    node.services.spawn(server.serve(Arc::clone(&handle), Arc::clone(&reserves.descriptors)));
    if handle.config.docker().is_some() {
        let plugin = handle.config.docker_plugin.clone();
        node.services.spawn(docker::plugin_service::serve(Arc::clone(&handle), plugin, reserves));
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), state = %handle.config.state.display(), "Agent started");

    if let Some(predecessor) = predecessor {
        node.take_place(predecessor).await?;
        handle.gate.open();
    }

    Ok((node, inbox))
}

/// How long an agent that was killed may take to let go of what it had: a supervisor may start the
/// next one before.
const DYING: Duration = Duration::from_secs(2);

async fn take_lock(state: &Path) -> Result<StateLock, LockError> {
    let deadline = Instant::now() + DYING;
    loop {
        match StateLock::take(state) {
            Err(LockError::Held { .. }) if Instant::now() < deadline => sleep(DYING / 100).await,
            taken => return taken,
        }
    }
}

/// Draws the name of this process.
fn instance() -> Result<Arc<str>, getrandom::Error> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)?;

    Ok(hex::encode(bytes).into())
}
