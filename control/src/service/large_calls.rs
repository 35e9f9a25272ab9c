//! Large calls of one node, and calls over one connection without a certificate, one after another:
//! a request of megabytes and a list of everything are in memory while they are read, decided and
//! sent, and a client may have hundreds of calls under way.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Frame, SizeHint};
use overlay_core::NodeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use super::ClientInfo;
use super::turns::Turns;

/// Bytes of a message from which on a request is large: those of containers that start one after
/// another are not.
const LARGE: usize = 16 << 10;
/// The calls whose answers may be large.
const LISTS: [&str; 5] =
    ["ListEndpoints", "ListNetworks", "ListNodes", "ListPolicies", "ShowPolicy"];
/// Bytes of an answer that are handed on at a time: HTTP/2 keeps what is not read yet.
const PIECE: usize = 16 << 10;
/// How long the reader of a list may take before its connection is closed.
const READING: Duration = Duration::from_secs(10);

/// Wraps the services of a gRPC server in [`Ordered`].
#[derive(Debug, Clone)]
pub(crate) struct LargeCallLayer(Arc<Turns<Caller>>);

impl Default for LargeCallLayer {
    fn default() -> Self {
        Self(Arc::new(Turns::new(1)))
    }
}

impl<S> Layer<S> for LargeCallLayer {
    type Service = Ordered<S>;

    fn layer(&self, inner: S) -> Ordered<S> {
        Ordered { inner, turns: Arc::clone(&self.0) }
    }
}

/// Whose calls wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Caller {
    /// A node, over however many connections.
    Node(NodeId),
    /// Whoever has a connection without a certificate. Not all at one address: those who guess
    /// there would have an honest host wait for them.
    Stranger(SocketAddr),
}

/// The turn of one call, taken when it proves to be large, and given back when nothing is left of
/// the call.
#[derive(Debug)]
struct Turn {
    of: Arc<Semaphore>,
    taken: OnceLock<OwnedSemaphorePermit>,
}

impl Turn {
    async fn take(self: Arc<Self>) {
        if self.taken.get().is_none()
            && let Ok(permit) = Arc::clone(&self.of).acquire_owned().await
        {
            // A call takes it in one place at a time.
            let _ = self.taken.set(permit);
        }
    }
}

/// A service whose large calls wait for those before of the same client.
#[derive(Debug, Clone)]
pub(crate) struct Ordered<S> {
    inner: S,
    turns: Arc<Turns<Caller>>,
}

impl<S> Service<Request<Body>> for Ordered<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let waiting = self.inner.clone();
        // The one that was asked whether it is ready.
        let mut inner = std::mem::replace(&mut self.inner, waiting);
        let Some(client) = request.extensions().get::<ClientInfo>().cloned() else {
            return Box::pin(inner.call(request));
        };
        let caller =
            client.presented_node().map_or(Caller::Stranger(client.address()), Caller::Node);
        let turn = Arc::new(Turn { of: self.turns.of(caller), taken: OnceLock::new() });
        let path = request.uri().path();
        let is_list = LISTS.iter().any(|list| path.ends_with(list));
        let waits = is_list || matches!(caller, Caller::Stranger(_));

        Box::pin(async move {
            if waits {
                Arc::clone(&turn).take().await;
            }
            let upload = |body| Body::new(Upload::new(body, Arc::clone(&turn)));
            let answer = inner.call(request.map(upload)).await?;
            if !is_list {
                return Ok(answer);
            }

            Ok(answer.map(|body| Body::new(Download::new(body, turn, client.cut()))))
        })
    }
}

/// A request that waits for its turn when it proves to be large.
struct Upload {
    inner: Body,
    turn: Arc<Turn>,
    read: usize,
    held: Option<Frame<Bytes>>,
    wait: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Upload {
    fn new(inner: Body, turn: Arc<Turn>) -> Self {
        Self { inner, turn, read: 0, held: None, wait: None }
    }

    /// Returns whether the message is large, by what its first frame says or by what came.
    fn is_large(&mut self, frame: &Frame<Bytes>) -> bool {
        let Some(data) = frame.data_ref() else { return false };
        // Whether it is compressed, and how long it is, come first.
        let told = data.get(1..5).filter(|_| self.read == 0);
        let told = told.and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
        self.read = self.read.saturating_add(data.len());

        self.read > LARGE || usize::try_from(told).is_ok_and(|told| told > LARGE)
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        if let Some(frame) = self.held.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            end => return Poll::Ready(end),
        };
        if self.turn.taken.get().is_some() || !self.is_large(&frame) {
            return Poll::Ready(Some(Ok(frame)));
        }
        self.held = Some(frame);
        self.wait = Some(Box::pin(Arc::clone(&self.turn).take()));

        self.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// An answer that is handed on in pieces, and has its turn until it has been read.
struct Download {
    inner: Body,
    rest: Bytes,
    _turn: Arc<Turn>,
    _read: DropGuard,
}

impl Download {
    fn new(inner: Body, turn: Arc<Turn>, cut: CancellationToken) -> Self {
        let read = CancellationToken::new();
        let is_read = read.clone();
        tokio::spawn(async move {
            if timeout(READING, is_read.cancelled()).await.is_err() {
                tracing::debug!("Closing the connection of a list that is not read");
                cut.cancel();
            }
        });

        Self { inner, rest: Bytes::new(), _turn: turn, _read: read.drop_guard() }
    }
}

impl http_body::Body for Download {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let length = self.rest.len().min(PIECE);

        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }
}
