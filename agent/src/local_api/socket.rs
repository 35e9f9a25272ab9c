//! The socket: made so that nobody else gets in, and replaced only when nobody listens on it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use overlay_daemon::descriptors::{Descriptors, are_exhausted};
use overlay_proto::catch_panic::CatchPanicLayer;
use overlay_proto::v1::agent_server::AgentServer;
use overlay_proto::{Code, Refusal};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Status};

use super::service::LocalApi;
use crate::node::NodeHandle;

/// Connections at once; each may cost a few hundred KiB. One more is closed at once.
const MAX_CONNECTIONS: usize = 256;
/// Calls at once on one connection.
const MAX_CALLS: usize = 32;
/// The pause after an accept that failed: a lack of descriptors or memory lasts a while.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The local socket cannot be opened.
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

/// The open socket, not served yet.
#[derive(Debug)]
pub(crate) struct LocalServer {
    listener: UnixListener,
}

/// Opens the socket.
pub(crate) async fn open(path: &Path) -> Result<LocalServer, SocketError> {
    Ok(LocalServer { listener: listen(path).await? })
}

/// Makes a socket of mode 0600 and listens on it. A stale one, on which nobody listens, is replaced.
pub(crate) async fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let unusable = |source| SocketError::Unusable { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(unusable)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).await.is_ok() => return Err(SocketError::InUse(path.to_owned())),
        Ok(_) => fs::remove_file(path).map_err(unusable)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(unusable(error)),
    }
    let listener = UnixListener::bind(path).map_err(unusable)?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(unusable)?;

    Ok(listener)
}

impl LocalServer {
    /// Serves until the task is dropped.
    pub(crate) async fn serve(self, handle: Arc<NodeHandle>, descriptors: Arc<Descriptors>) {
        let own = nix::unistd::geteuid().as_raw();
        let service = AgentServer::with_interceptor(LocalApi::new(handle), move |request| admit(request, own));
        let served = Server::builder()
            .concurrency_limit_per_connection(MAX_CALLS)
            .layer(CatchPanicLayer)
            .add_service(service)
            .serve_with_incoming(admitted(self.listener, descriptors))
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "Local socket is no longer served");
        }
    }
}

fn admit(request: Request<()>, own: u32) -> Result<Request<()>, Status> {
    match request.extensions().get::<Caller>() {
        Some(Caller { uid: Some(uid) }) if *uid == 0 || *uid == own => Ok(request),
        Some(_) | None => {
            Err(Refusal::new(Code::NotAllowed, "only root and the agent's own user may use this socket").into())
        }
    }
}

fn admitted(listener: UnixListener, descriptors: Arc<Descriptors>) -> impl Stream<Item = io::Result<Admitted>> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));

    futures_util::stream::unfold((listener, descriptors, places), |(listener, descriptors, places)| async move {
        loop {
            let stream = accept(&listener, &descriptors).await;
            if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                return Some((Ok(Admitted { stream, _place: place }), (listener, descriptors, places)));
            }
        }
    })
}

/// Waits for a connection. Where descriptors are used up, one that was kept back serves: who calls may want to know why
/// nothing works.
async fn accept(listener: &UnixListener, descriptors: &Descriptors) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                descriptors.replenish();
                return stream;
            }
            Err(error) if are_exhausted(&error) && descriptors.release() => {}
            // It concerns one connection, or passes; it must not end the server.
            Err(error) => {
                tracing::debug!(%error, "Failed to accept a connection on the local socket");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Who calls, as the kernel says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    uid: Option<u32>,
}

/// A connection with its place among all.
struct Admitted {
    stream: UnixStream,
    _place: OwnedSemaphorePermit,
}

impl Connected for Admitted {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        Caller { uid: self.stream.peer_cred().ok().map(|credentials| credentials.uid()) }
    }
}

impl AsyncRead for Admitted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Admitted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("run/agent.sock");
        drop(open(&path).await.expect("a new socket"));

        let live = open(&path).await.expect("nobody listened");

        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(matches!(open(&path).await, Err(SocketError::InUse(_))));
        drop(live);
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.sock");
        fs::write(&path, "precious").expect("written");

        assert!(matches!(open(&path).await, Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&path).expect("there"), b"precious");

        let link = dir.path().join("link.sock");
        std::os::unix::fs::symlink(&path, &link).expect("linked");
        assert!(matches!(open(&link).await, Err(SocketError::NotASocket(_))));
    }

    #[tokio::test]
    async fn without_descriptors_who_asks_what_is_wrong_is_let_in() {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        use std::os::fd::AsRawFd as _;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.sock");
        let descriptors = Descriptors::new();
        let server = open(&path).await.expect("a new socket");
        let _client = UnixStream::connect(&path).await.expect("it listens");
        let lowest = fs::File::open("/dev/null").expect("one is left").as_raw_fd();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");

        setrlimit(Resource::RLIMIT_NOFILE, u64::try_from(lowest).expect("a descriptor"), hard).expect("lowered");
        let accepted = tokio::time::timeout(Duration::from_secs(5), accept(&server.listener, &descriptors)).await;
        let condition = descriptors.condition();
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("raised");

        assert!(accepted.is_ok(), "nobody was let in");
        assert!(condition.is_some_and(|condition| condition.text.contains("Too many open files")));
        assert_eq!(descriptors.condition(), None);
    }

    #[test]
    fn only_root_and_the_own_user_are_let_in() {
        let call = |uid| {
            let mut request = Request::new(());
            request.extensions_mut().insert(Caller { uid });
            admit(request, 1000).is_ok()
        };

        assert!(call(Some(0)) && call(Some(1000)));
        assert!(!call(Some(1001)) && !call(None));
        assert!(admit(Request::new(()), 1000).is_err());
    }
}
