//! How a running control gives a backup: over a socket in its state directory, to whoever may read
//! that.

use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::{BackupError, Contents};
use crate::clock;
use crate::pki::AuthorityPem;
use crate::watch::Hub;

/// The name of the socket in the state directory.
const SOCKET: &str = "backup.sock";
/// How long whoever asked may take to read all of it, and control to begin.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause after a failure to accept.
const PAUSE: Duration = Duration::from_secs(1);

/// The socket, removed when control ends.
#[derive(Debug)]
pub(crate) struct BackupSocket {
    listener: UnixListener,
    state: PathBuf,
}

impl BackupSocket {
    /// Opens it. Whoever calls this has the store open, so one that is there is left over.
    ///
    /// # Errors
    ///
    /// If there can be no such socket, as where the directory's path is too long.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let path = state.join(SOCKET);
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;

        Ok(Self { listener, state: state.to_owned() })
    }

    /// Gives backups, one at a time, until it is dropped.
    pub(crate) async fn serve(self, hub: Arc<Hub>) {
        loop {
            let mut stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "Failed to accept a request for a backup");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let (hub, state) = (Arc::clone(&hub), self.state.clone());
            let made = tokio::task::spawn_blocking(move || make(&hub, &state)).await;
            match made {
                Ok(Ok(bytes)) => {
                    // What is not read whole is known as such by its reader.
                    let sent = timeout(PATIENCE, stream.write_all(&bytes)).await;
                    tracing::info!(
                        bytes = bytes.len(),
                        whole = matches!(sent, Ok(Ok(()))),
                        "Gave a backup"
                    );
                }
                Ok(Err(error)) => tracing::error!(%error, "Failed to make a backup"),
                Err(_) => tracing::error!("Failed to make a backup"),
            }
        }
    }
}

impl Drop for BackupSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.state.join(SOCKET));
    }
}

fn make(hub: &Hub, state: &Path) -> Result<Zeroizing<Vec<u8>>, BackupError> {
    let authority = AuthorityPem::read(state).map_err(|error| BackupError::State(error.into()))?;

    hub.look(|state| Contents::of(state, authority, clock::now_unix())).encode()
}

/// Asks a running control for a backup; `None` when none runs.
///
/// # Errors
///
/// [`BackupError::Silent`].
pub(super) fn fetch(state: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, BackupError> {
    let silent = |source| BackupError::Silent { state: state.to_owned(), source };
    let mut stream = match std::os::unix::net::UnixStream::connect(state.join(SOCKET)) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::InvalidInput
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(silent(error)),
    };
    stream.set_read_timeout(Some(PATIENCE)).map_err(silent)?;
    let mut bytes = Zeroizing::new(Vec::new());
    stream.read_to_end(&mut bytes).map_err(silent)?;

    Ok(Some(bytes))
}
