//! Serves the plugin socket for as long as the process lives.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::door_watch;
use super::driver::OverlayDriver;
use super::plugin::{self, Gated, PluginSocket};
use crate::descriptor_reserves::DescriptorReserves;
use crate::node_handle::NodeHandle;
use crate::problem::explain;
use crate::problem_code::ProblemCode;
use crate::problem_key::ProblemKey;

/// How soon a socket that could not be served is tried again.
const RETRY: Duration = Duration::from_secs(3);

/// Serves the plugin socket, and raises a problem while no plugin proxy runs in front of it. Where
/// Docker is not installed, it waits for it.
pub(crate) async fn serve(
    handle: Arc<NodeHandle>,
    plugin: PathBuf,
    reserves: Arc<DescriptorReserves>,
) {
    tokio::join!(serve_at(&handle, &plugin, &reserves), door_watch::watch(&handle, &plugin));
}

async fn serve_at(handle: &Arc<NodeHandle>, plugin: &Path, reserves: &DescriptorReserves) {
    loop {
        match PluginSocket::open_kept(plugin, &handle.descriptors, handle.gate.clone()).await {
            Ok(socket) => {
                handle.problems.clear(&ProblemKey::Plugin);
                tracing::info!(socket = %plugin.display(), inherited = socket.is_inherited(), "Serving Docker");
                let driver =
                    OverlayDriver::new(Arc::clone(handle), Arc::clone(&reserves.interceptors));
                let driver = Gated::new(driver, handle.gate.clone(), plugin.to_owned());
                plugin::serve(socket, Arc::new(driver), Arc::clone(&reserves.plugin)).await;
            }
            Err(error) => {
                handle.problems.raise(ProblemKey::Plugin, ProblemCode::Docker, explain(&error))
            }
        }
        sleep(RETRY).await;
    }
}
