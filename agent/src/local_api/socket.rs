//! The local socket, and who is let in.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use overlay_daemon::descriptors::Descriptors;
use overlay_proto::catch_panic::CatchPanicLayer;
use overlay_proto::v1::agent_server::AgentServer;
use overlay_proto::{Code, Refusal};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Status};

use super::gate_layer::GateLayer;
use super::service::LocalApi;
use crate::call_gate::CallGate;
use crate::hand_over::{DescriptorStore, Kept};
use crate::node_handle::NodeHandle;
use crate::unix_socket::{self, Accepted, SocketError, accept, listen};

/// Connections at once; each may cost a few hundred KiB. One more is closed at once.
const MAX_CONNECTIONS: usize = 256;
/// Calls at once on one connection.
const MAX_CALLS: usize = 32;

/// The open socket, not served yet.
#[derive(Debug)]
pub(crate) struct LocalServer {
    listener: UnixListener,
    _kept: Kept,
}

/// The name under which a socket is kept while the agent is handed over.
pub(crate) const KEPT: &str = "local-api";

/// Opens the socket, or goes on with the one that an earlier session had.
pub(crate) async fn open(path: &Path, store: &DescriptorStore) -> Result<LocalServer, SocketError> {
    let unusable = |source| SocketError::Unusable { path: path.to_owned(), source };
    let listener = match unix_socket::earlier(store, KEPT).map_err(unusable)? {
        Some((listener, _)) => listener,
        None => listen(path).await?,
    };
    let kept = unix_socket::keep(store, KEPT, &listener, String::new()).map_err(unusable)?;

    Ok(LocalServer { listener, _kept: kept })
}

impl LocalServer {
    /// Serves until the task is dropped.
    pub(crate) async fn serve(self, handle: Arc<NodeHandle>, descriptors: Arc<Descriptors>) {
        let own = nix::unistd::geteuid().as_raw();
        let gate = handle.gate.clone();
        let service = AgentServer::with_interceptor(LocalApi::new(handle), move |request| {
            admit(request, own)
        });
        let served = Server::builder()
            .concurrency_limit_per_connection(MAX_CALLS)
            .layer(CatchPanicLayer)
            .layer(GateLayer(gate.clone()))
            .add_service(service)
            .serve_with_incoming(admitted(self.listener, descriptors, gate))
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "Local socket is no longer served");
        }
    }
}

fn admit(request: Request<()>, own: u32) -> Result<Request<()>, Status> {
    match request.extensions().get::<Caller>() {
        Some(Caller { uid: Some(uid) }) if *uid == 0 || *uid == own => Ok(request),
        Some(_) | None => Err(Refusal::new(
            Code::NotAllowed,
            "only root and the agent's own user may use this socket",
        )
        .into()),
    }
}

fn admitted(
    listener: UnixListener,
    descriptors: Arc<Descriptors>,
    gate: CallGate,
) -> impl Stream<Item = io::Result<Admitted>> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));

    futures_util::stream::unfold(
        (listener, descriptors, places, gate),
        |(listener, descriptors, places, gate)| async move {
            loop {
                let stream = gate.accept(|| accept(&listener, descriptors.reserve())).await;
                if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                    let admitted = Admitted { stream, _place: place, _connected: gate.connected() };
                    return Some((Ok(admitted), (listener, descriptors, places, gate)));
                }
            }
        },
    )
}

/// Who calls, as the kernel says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    uid: Option<u32>,
}

/// A connection with its place among all.
struct Admitted {
    stream: Accepted,
    _place: OwnedSemaphorePermit,
    _connected: Option<OwnedSemaphorePermit>,
}

impl Connected for Admitted {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        Caller { uid: self.stream.peer_uid() }
    }
}

impl AsyncRead for Admitted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Admitted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
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
    use std::time::Duration;

    use overlay_daemon::reserve::testing::NoDescriptors;
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn without_descriptors_who_asks_what_is_wrong_is_let_in() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.sock");
        let descriptors = Descriptors::new();
        let server = open(&path, &DescriptorStore::default()).await.expect("a new socket");
        let _client = UnixStream::connect(&path).await.expect("it listens");

        let lack = NoDescriptors::new().expect("lowered");
        let accepted = tokio::time::timeout(
            Duration::from_secs(5),
            accept(&server.listener, descriptors.reserve()),
        )
        .await;
        let condition = descriptors.condition();
        drop(lack);

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
