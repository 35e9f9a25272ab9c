//! The plugin socket: taken from systemd where it holds it already, made where Docker looks for it
//! otherwise.
//!
//! Docker waits for a socket that nobody has accepted on yet, but starts without a plugin whose
//! socket is missing. Held by systemd, it is there before either of them.

use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use listenfd::ListenFd;
use overlay_daemon::reserve::Reserve;
use tokio::net::UnixListener;

use crate::call_gate::CallGate;
use crate::hand_over::{DescriptorStore, Kept};
use crate::unix_socket::{self, Accepted, SocketError};

/// The name under which the agent's socket is kept while it is handed over.
const KEPT: &str = "docker-plugin";
/// Folders above the socket that are Docker's alone: `plugins` and `docker`.
const FOLDERS: usize = 2;

/// The plugin socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum PluginSocketError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] SocketError),
    /// What systemd handed over is no listening socket.
    #[error("the socket that was handed over cannot be used")]
    Inherited(#[source] io::Error),
}

/// The open socket.
#[derive(Debug)]
pub struct PluginSocket {
    listener: UnixListener,
    /// What is to be removed at the end; nothing where somebody else holds the socket.
    made: Option<PathBuf>,
    /// The agent's is handed over with it.
    kept: Option<(CallGate, Kept)>,
}

impl PluginSocket {
    /// Takes the socket that this process was started with, if it is bound to `path`; opens it
    /// otherwise.
    ///
    /// # Errors
    ///
    /// When somebody else listens there, or the kernel refuses.
    pub async fn open(path: &Path) -> Result<Self, PluginSocketError> {
        if let Some(listener) = inherited(path) {
            listener.set_nonblocking(true).map_err(PluginSocketError::Inherited)?;
            let listener =
                UnixListener::from_std(listener).map_err(PluginSocketError::Inherited)?;
            return Ok(Self { listener, made: None, kept: None });
        }
        let listener = unix_socket::listen(path).await?;

        Ok(Self { listener, made: Some(path.to_owned()), kept: None })
    }

    /// As [`PluginSocket::open`], or goes on with the socket that an earlier session of the agent
    /// had. It accepts though the gate is closed: the calls wait there.
    pub(crate) async fn open_kept(
        path: &Path,
        store: &DescriptorStore,
        gate: CallGate,
    ) -> Result<Self, PluginSocketError> {
        let earlier = unix_socket::earlier(store, KEPT).map_err(PluginSocketError::Inherited)?;
        let mut socket = match earlier {
            Some((listener, made)) => {
                Self { listener, made: (!made.is_empty()).then(|| made.into()), kept: None }
            }
            None => Self::open(path).await?,
        };
        let note = socket.made.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let kept = unix_socket::keep(store, KEPT, &socket.listener, note)
            .map_err(PluginSocketError::Inherited)?;
        socket.kept = Some((gate, kept));

        Ok(socket)
    }

    /// Says whether the process that started this one holds the socket.
    pub fn is_inherited(&self) -> bool {
        self.made.is_none()
    }

    /// Waits for a connection; out of the reserve where descriptors are used up: the engine is to
    /// be told so.
    pub(super) async fn accept(&self, reserve: &Arc<Reserve>) -> Accepted {
        let accept = || unix_socket::accept(&self.listener, reserve);
        match &self.kept {
            Some((gate, _)) => gate.accept_before_it(accept).await,
            None => accept().await,
        }
    }
}

impl Drop for PluginSocket {
    fn drop(&mut self) {
        if let Some(path) = &self.made {
            let _ = std::fs::remove_file(path);
            // An earlier process of ours may have made the folders. Where Docker keeps something in
            // them they stay.
            for folder in path.ancestors().skip(1).take(FOLDERS) {
                let _ = std::fs::remove_dir(folder);
            }
        }
    }
}

/// Finds the socket among those that this process was started with (sd_listen_fds(3)).
fn inherited(path: &Path) -> Option<StdUnixListener> {
    let mut handed = ListenFd::from_env();

    (0..handed.len()).filter_map(|index| handed.take_unix_listener(index).ok().flatten()).find(
        |listener| listener.local_addr().is_ok_and(|address| address.as_pathname() == Some(path)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_was_made_goes_with_its_owner() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("docker/plugins/overlay-wg.sock");

        let socket = PluginSocket::open(&path).await.expect("opened");

        assert!(!socket.is_inherited() && path.exists());
        assert!(matches!(
            PluginSocket::open(&path).await,
            Err(PluginSocketError::Open(SocketError::InUse(_)))
        ));
        drop(socket);
        assert!(!dir.path().join("docker").exists());
    }
}
