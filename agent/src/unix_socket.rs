//! A Unix socket: made so that nobody else gets in, and replaced only when nobody listens on it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use overlay_daemon::descriptors::are_exhausted;
use overlay_daemon::reserve::Reserve;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;

use crate::hand_over::{DescriptorStore, Kept, SharedDescriptors};

/// The pause after an accept that failed: a lack of descriptors or memory lasts a while.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process listens on it.
    #[error("{} is in use by another agent; stop it, or use another --socket", .0.display())]
    InUse(PathBuf),
    /// Something else is at its place.
    #[error("{} exists and is no socket; move it away, or use another --socket", .0.display())]
    NotASocket(PathBuf),
    /// The kernel refuses.
    #[error("{} cannot be opened", path.display())]
    Unusable {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes a socket of mode 0600 and listens on it. A stale one, on which nobody listens, is
/// replaced.
pub(crate) async fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let unusable = |source| SocketError::Unusable { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(unusable)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) if UnixStream::connect(path).await.is_ok() => {
            return Err(SocketError::InUse(path.to_owned()));
        }
        Ok(_) => fs::remove_file(path).map_err(unusable)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(unusable(error)),
    }
    let listener = UnixListener::bind(path).map_err(unusable)?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(unusable)?;

    Ok(listener)
}

/// Goes on with the socket that an earlier session of the agent kept under a name. Returns what it
/// noted, too.
///
/// # Errors
///
/// When the descriptor is no listening socket.
pub(crate) fn earlier(
    store: &DescriptorStore,
    name: &str,
) -> io::Result<Option<(UnixListener, String)>> {
    let Some(SharedDescriptors { list, note }) = store.take(name) else { return Ok(None) };
    let Some(descriptor) = list.into_iter().next() else { return Ok(None) };

    Ok(Some((UnixListener::from_std(descriptor.into())?, note)))
}

/// Keeps a socket, with a note, for the next session.
///
/// # Errors
///
/// When the process may have no more descriptors.
pub(crate) fn keep(
    store: &DescriptorStore,
    name: &str,
    listener: &UnixListener,
    note: String,
) -> io::Result<Kept> {
    let list = vec![listener.as_fd().try_clone_to_owned()?];

    Ok(store.keep(name, Arc::new(SharedDescriptors { list, note })))
}

/// Waits for a connection. Where descriptors are used up, one of the reserve serves: who calls is
/// to be told why nothing works.
pub(crate) async fn accept(listener: &UnixListener, reserve: &Arc<Reserve>) -> Accepted {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                reserve.replenish();
                return Accepted { stream: Some(stream), reserve: Arc::clone(reserve) };
            }
            Err(error) if are_exhausted(&error) && reserve.release() => {}
            // It concerns one connection, or passes; it must not end the server.
            Err(error) => {
                tracing::debug!(%error, "Failed to accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection that was accepted. Its descriptor goes into the reserve when it ends, where that
/// lacks one: whoever waits for a descriptor would be faster than a reserve that opens another.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// There until it is dropped.
    stream: Option<UnixStream>,
    reserve: Arc<Reserve>,
}

impl Accepted {
    /// Returns the user who connected, as the kernel says.
    pub(crate) fn peer_uid(&self) -> Option<u32> {
        self.stream.as_ref()?.peer_cred().ok().map(|credentials| credentials.uid())
    }

    fn stream(&mut self) -> Pin<&mut UnixStream> {
        Pin::new(self.stream.as_mut().expect("it is there until it is dropped"))
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        if let Some(Ok(stream)) = self.stream.take().map(UnixStream::into_std) {
            // It may have ended already.
            let _ = stream.shutdown(Shutdown::Both);
            self.reserve.keep(stream.into());
        }
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("run/agent.sock");
        drop(listen(&path).await.expect("a new socket"));

        let live = listen(&path).await.expect("nobody listened");

        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(matches!(listen(&path).await, Err(SocketError::InUse(_))));
        drop(live);
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.sock");
        fs::write(&path, "precious").expect("written");

        assert!(matches!(listen(&path).await, Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&path).expect("there"), b"precious");

        let link = dir.path().join("link.sock");
        std::os::unix::fs::symlink(&path, &link).expect("linked");
        assert!(matches!(listen(&link).await, Err(SocketError::NotASocket(_))));
    }

    #[tokio::test]
    async fn the_descriptor_of_a_connection_that_ends_is_kept_for_the_next() {
        use overlay_daemon::reserve::testing::NoDescriptors;

        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.sock");
        let listener = listen(&path).await.expect("a new socket");
        let reserve = Arc::new(Reserve::new(1));
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(UnixStream::connect(&path).await.expect("it listens"));
        }

        let lack = NoDescriptors::new().expect("lowered");
        let mut accepted = 0;
        for _ in 0..3 {
            let connection =
                tokio::time::timeout(Duration::from_secs(5), accept(&listener, &reserve)).await;
            accepted += usize::from(connection.is_ok());
            drop(connection);
            assert!(fs::File::open("/dev/null").is_err(), "somebody else may take it");
        }
        drop(lack);

        assert_eq!(accepted, 3);
    }
}
