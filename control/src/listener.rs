//! The port: connections are accepted, pass the TLS handshake within a deadline, and are handed to gRPC.
//!
//! No error of one connection, and no lack of descriptors, ends the loop.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use overlay_proto::channel::{HANDSHAKE_TIMEOUT, watch_over};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::service::Peer;

/// Handshakes under way: 64 MiB at some 16 KiB each. Past it, connections wait in the kernel's queue.
const MAX_HALF_OPEN: usize = 4_096;
/// Handshakes under way from one address: a quarter, so that one host cannot shut out the others.
const MAX_HALF_OPEN_PER_SOURCE: usize = MAX_HALF_OPEN / 4;
/// Open connections: one a node and as many again.
const MAX_CONNECTIONS: usize = 2 * crate::registry::limits::MAX_NODES;
/// How long a connection without a certificate may last: joining takes one call.
const STRANGER_LIFE: Duration = Duration::from_secs(60);
/// How long to wait when the system has no descriptor or memory for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that gRPC has not taken yet.
const HANDOVER: usize = 64;

/// What gRPC takes its connections from.
pub(crate) type Incoming = mpsc::Receiver<io::Result<Connection>>;

/// Accepts connections until the other side of the returned queue is dropped.
pub(crate) fn accept(listener: TcpListener, tls: ServerConfig) -> Incoming {
    let (out, incoming) = mpsc::channel(HANDOVER);
    let gate = Arc::new(Gate {
        tls: TlsAcceptor::from(Arc::new(tls)),
        half_open: Arc::new(Semaphore::new(MAX_HALF_OPEN)),
        open: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        sources: Mutex::default(),
        out,
    });
    tokio::spawn(gate.run(listener));

    incoming
}

struct Gate {
    tls: TlsAcceptor,
    half_open: Arc<Semaphore>,
    open: Arc<Semaphore>,
    sources: Mutex<BTreeMap<IpAddr, usize>>,
    out: mpsc::Sender<io::Result<Connection>>,
}

impl Gate {
    async fn run(self: Arc<Self>, listener: TcpListener) {
        tokio::select! {
            () = self.out.closed() => {}
            () = self.accept_all(&listener) => {}
        }
    }

    async fn accept_all(self: &Arc<Self>, listener: &TcpListener) {
        // Neither semaphore is ever closed.
        while let (Ok(half_open), Ok(open)) =
            (Arc::clone(&self.half_open).acquire_owned().await, Arc::clone(&self.open).acquire_owned().await)
        {
            match listener.accept().await {
                Ok((tcp, address)) => self.admit(tcp, address, half_open, open),
                Err(error) if is_passing(&error) => tracing::debug!(%error, "Failed to accept a connection"),
                Err(error) => {
                    tracing::warn!(%error, "Failed to accept a connection, trying again");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(
        self: &Arc<Self>,
        tcp: TcpStream,
        address: SocketAddr,
        half_open: OwnedSemaphorePermit,
        open: OwnedSemaphorePermit,
    ) {
        let Some(source) = Source::enter(self, address.ip().to_canonical()) else {
            tracing::debug!(%address, "Dropped a connection: too many handshakes from there");
            return;
        };
        let gate = Arc::clone(self);
        tokio::spawn(async move {
            let connected = timeout(HANDSHAKE_TIMEOUT, gate.handshake(tcp, address, open)).await;
            drop((source, half_open));
            match connected {
                Ok(Ok(connection)) => drop(gate.out.send(Ok(connection)).await),
                Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%address, "TLS handshake took too long"),
            }
        });
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
        open: OwnedSemaphorePermit,
    ) -> io::Result<Connection> {
        tcp.set_nodelay(true)?;
        watch_over(&tcp)?;
        let local = tcp.local_addr()?;
        let tls = self.tls.accept(tcp).await?;
        let peer = Peer::new(address, local, tls.get_ref().1.peer_certificates().and_then(<[_]>::first));
        let end = (!peer.has_certificate()).then(|| Box::pin(sleep(STRANGER_LIFE)));

        Ok(Connection { tls, peer, end, _open: open })
    }
}

/// Tells whether an error concerns only the connection that was to be accepted.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// A handshake under way, counted for its source.
struct Source {
    gate: Arc<Gate>,
    ip: IpAddr,
}

impl Source {
    fn enter(gate: &Arc<Gate>, ip: IpAddr) -> Option<Self> {
        let mut sources = gate.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sources.entry(ip).or_default();
        if *count >= MAX_HALF_OPEN_PER_SOURCE {
            return None;
        }
        *count += 1;

        Some(Self { gate: Arc::clone(gate), ip })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let mut sources = self.gate.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.ip);
            }
        }
    }
}

/// A connection past its handshake; counted while it lasts.
pub(crate) struct Connection {
    tls: TlsStream<TcpStream>,
    peer: Peer,
    end: Option<Pin<Box<Sleep>>>,
    _open: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }

        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}
