//! The listener: opens the port, even before its address is there, accepts connections, completes
//! their TLS handshakes within a deadline, and hands them to gRPC.
//!
//! Neither an error of one connection nor a lack of file descriptors ends the loop.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use overlay_proto::channel::{HANDSHAKE_TIMEOUT, set_keepalive};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::connection_limits::{Admitted, Client, ConnectionLimits};
use crate::service::ClientInfo;
use crate::start_error::StartError;

/// Handshakes in progress: 64 MiB at some 16 KiB each. Further connections wait in the kernel's
/// queue.
const MAX_HALF_OPEN: usize = 4_096;
/// Handshakes in progress from one address, or one /64 of IPv6: a quarter, so that one host cannot
/// lock out the others.
const MAX_HALF_OPEN_PER_SOURCE: usize = MAX_HALF_OPEN / 4;
/// Open connections: two per node.
const MAX_CONNECTIONS: usize = 2 * crate::registry::limits::MAX_NODES;
/// How long a connection without a client certificate may last: joining takes one call.
const ANONYMOUS_LIFETIME: Duration = Duration::from_secs(60);
/// How long to wait when the system has no file descriptor or memory for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that gRPC has not accepted yet.
const HANDOVER: usize = 64;

/// Connections that the kernel holds until they are accepted; it cuts this to what it allows.
const BACKLOG: u32 = 4_096;

/// Opens the port. While a host boots it may not have the address yet; control then serves it from
/// the moment it appears.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let no_ipv6 = |error: &io::Error| {
        matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
    };
    match bind(address) {
        // A host without IPv6 still has every IPv4 address.
        Err(error) if no_ipv6(&error) && address.ip().is_unspecified() && address.is_ipv6() => {
            let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            bind(address).map_err(|source| StartError::Listen { address, source })
        }
        bound => bound.map_err(|source| StartError::Listen { address, source }),
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // The option applies to both families.
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    socket.bind(address)?;
    if !is_here(address.ip()) {
        tracing::warn!(%address, "This host does not have the address to listen on yet");
    }

    socket.listen(BACKLOG)
}

/// Returns whether this host has an address; if that cannot be determined, it counts as present.
pub(crate) fn is_here(address: IpAddr) -> bool {
    // Nothing is sent, and any free port will do.
    !std::net::UdpSocket::bind((address, 0))
        .is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// The queue that gRPC accepts connections from.
pub(crate) type Incoming = mpsc::Receiver<io::Result<Connection>>;

/// Returns the queue of connections, and what accepts them until that queue is dropped.
pub(crate) fn accept(
    listener: TcpListener,
    tls: ServerConfig,
) -> (impl Future<Output = ()> + Send + 'static, Incoming) {
    let (out, incoming) = mpsc::channel(HANDOVER);
    let acceptor = Arc::new(Acceptor {
        tls: TlsAcceptor::from(Arc::new(tls)),
        half_open: Arc::new(Semaphore::new(MAX_HALF_OPEN)),
        open: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        sources: Mutex::default(),
        limits: Arc::default(),
        out,
    });

    (acceptor.run(listener), incoming)
}

struct Acceptor {
    tls: TlsAcceptor,
    half_open: Arc<Semaphore>,
    open: Arc<Semaphore>,
    sources: Mutex<BTreeMap<Client, usize>>,
    limits: Arc<ConnectionLimits>,
    out: mpsc::Sender<io::Result<Connection>>,
}

impl Acceptor {
    async fn run(self: Arc<Self>, listener: TcpListener) {
        tokio::select! {
            () = self.out.closed() => {}
            () = self.accept_all(&listener) => {}
        }
    }

    async fn accept_all(self: &Arc<Self>, listener: &TcpListener) {
        // Neither semaphore is ever closed.
        while let (Ok(half_open), Ok(open)) = (
            Arc::clone(&self.half_open).acquire_owned().await,
            Arc::clone(&self.open).acquire_owned().await,
        ) {
            match listener.accept().await {
                Ok((tcp, address)) => self.admit(tcp, address, half_open, open),
                Err(error) if is_passing(&error) => {
                    tracing::debug!(%error, "Failed to accept a connection")
                }
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
        let Some(source) = Source::enter(self, Client::at(address.ip())) else {
            tracing::debug!(%address, "Dropped a connection: too many handshakes from its address");
            return;
        };
        let acceptor = Arc::clone(self);
        tokio::spawn(async move {
            let connected =
                timeout(HANDSHAKE_TIMEOUT, acceptor.handshake(tcp, address, open)).await;
            drop((source, half_open));
            match connected {
                Ok(Ok(connection)) => drop(acceptor.out.send(Ok(connection)).await),
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
        set_keepalive(&tcp)?;
        let local = tcp.local_addr()?;
        let tls = self.tls.accept(tcp).await?;
        let client = ClientInfo::new(
            address,
            local,
            tls.get_ref().1.peer_certificates().and_then(<[_]>::first),
        );
        let admitted = self.limits.admit(client.whose());
        let client = client.cut_by(admitted.cut());
        let (ended, is_anonymous) = (admitted.ended(), !client.has_certificate());
        let end = Box::pin(async move {
            tokio::select! {
                () = ended => {}
                () = sleep(ANONYMOUS_LIFETIME), if is_anonymous => {}
            }
        });

        Ok(Connection { tls, client, end, is_over: false, _admitted: admitted, _open: open })
    }
}

/// Returns whether an error concerns only the connection that was being accepted.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// A handshake in progress, counted for its source address.
struct Source {
    acceptor: Arc<Acceptor>,
    client: Client,
}

impl Source {
    fn enter(acceptor: &Arc<Acceptor>, client: Client) -> Option<Self> {
        let mut sources = acceptor.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sources.entry(client).or_default();
        if *count >= MAX_HALF_OPEN_PER_SOURCE {
            return None;
        }
        *count += 1;

        Some(Self { acceptor: Arc::clone(acceptor), client })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let mut sources = self.acceptor.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.client);
            }
        }
    }
}

/// A connection after its handshake; counted while it lasts.
pub(crate) struct Connection {
    tls: TlsStream<TcpStream>,
    client: ClientInfo,
    /// Completes when it must end.
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_over: bool,
    _admitted: Admitted,
    _open: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = ClientInfo;

    fn connect_info(&self) -> ClientInfo {
        self.client.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over || self.end.as_mut().poll(cx).is_ready() {
            self.is_over = true;
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }

        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_comes_later_is_listened_on() {
        for address in ["203.0.113.77:0", "[2001:db8::77]:0"] {
            let address: SocketAddr = address.parse().expect("an address");

            let listener = listen(address).expect("it is listened on");

            assert_eq!(listener.local_addr().expect("an address").ip(), address.ip());
            assert!(!is_here(address.ip()));
        }
        assert!(is_here(Ipv4Addr::LOCALHOST.into()));
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_not_listened_on_twice() {
        let first = listen("127.0.0.1:0".parse().expect("an address")).expect("a port");

        let second = listen(first.local_addr().expect("an address"));

        assert!(
            matches!(second, Err(StartError::Listen { source, .. }) if source.kind() == io::ErrorKind::AddrInUse)
        );
    }
}
