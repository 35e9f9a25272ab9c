//! Connections for gRPC: to control over TLS, to the agent over its local socket. One connection each; who loses it dials again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::identity::CONTROL_NAME;
use crate::tls;

/// How long one address of control may take to accept a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the TLS handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// The TCP segments of connections to control, in bytes: what a path of 1,280 bytes carries of either family, with time stamps.
/// Such a path, with routers that do not tell, would swallow the first snapshot.
const SEGMENT: u32 = 1200;
/// A connection that carries nothing is asked for life after this long, and given up after the same again.
pub const KEEPALIVE: Duration = Duration::from_secs(10);
/// The largest message a client takes: a snapshot of some 100,000 rows.
pub const MAX_MESSAGE: usize = 64 << 20;

/// No connection came about.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody answers there, or not in time.
    #[error("{address} cannot be reached: {source}")]
    Unreachable {
        /// What was dialled.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The server is not the control that the join line pins; nothing was sent to it.
    #[error("{address} is not the control of this join line: {source}; nothing was sent to it")]
    WrongPin {
        /// What was dialled.
        address: String,
        /// Which check failed.
        source: tls::WrongPin,
    },
    /// The server's certificate or ours was refused.
    #[error("TLS with {address} failed: {source}")]
    Tls {
        /// What was dialled.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// No address is known.
    #[error("no address of control is known")]
    NoAddress,
    /// HTTP/2 did not start.
    #[error("{address} does not speak gRPC: {source}")]
    Http {
        /// What was dialled.
        address: String,
        /// Why.
        source: tonic::transport::Error,
    },
}

/// Connects to the first address of control that answers; returns which one that was.
///
/// # Errors
///
/// A wrong pin at once; otherwise the error of the last address.
pub async fn control(addresses: &[String], tls: Arc<ClientConfig>) -> Result<(Channel, String), DialError> {
    let mut last = DialError::NoAddress;
    for address in addresses {
        match dial(address, Arc::clone(&tls)).await {
            Ok(channel) => return Ok((channel, address.clone())),
            Err(error @ DialError::WrongPin { .. }) => return Err(error),
            Err(error) => last = error,
        }
    }

    Err(last)
}

async fn dial(address: &str, tls: Arc<ClientConfig>) -> Result<Channel, DialError> {
    let unreachable = |source| DialError::Unreachable { address: address.to_owned(), source };
    let tcp = timeout(CONNECT_TIMEOUT, connect(address)).await.map_err(timed_out).flatten().map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    let name = ServerName::try_from(CONTROL_NAME)
        .map_err(|error| DialError::Tls { address: address.to_owned(), source: io::Error::other(error) })?;
    let stream = timeout(HANDSHAKE_TIMEOUT, TlsConnector::from(tls).connect(name, tcp))
        .await
        .map_err(timed_out)
        .flatten()
        .map_err(|source| tls_error(address, source))?;
    let endpoint = Endpoint::from_static("https://control.overlay.internal")
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true);

    over(endpoint, stream).await.map_err(|source| DialError::Http { address: address.to_owned(), source })
}

/// Connects to the first address of a name that answers, for segments that every path carries.
async fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in lookup_host(address).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        SockRef::from(&socket).set_tcp_mss(SEGMENT)?;
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }

    Err(last)
}

fn timed_out(_: tokio::time::error::Elapsed) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

fn tls_error(address: &str, source: io::Error) -> DialError {
    let address = address.to_owned();
    let wrong_pin =
        source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some_and(tls::is_wrong_pin);

    if wrong_pin { DialError::WrongPin { address, source: tls::WrongPin } } else { DialError::Tls { address, source } }
}

/// Connects to the agent's local socket.
///
/// # Errors
///
/// [`DialError::Unreachable`] when nobody listens there.
pub async fn agent(socket: &Path) -> Result<Channel, DialError> {
    let address = socket.display().to_string();
    let path: PathBuf = socket.to_owned();
    let stream = timeout(CONNECT_TIMEOUT, UnixStream::connect(path))
        .await
        .map_err(timed_out)
        .flatten()
        .map_err(|source| DialError::Unreachable { address: address.clone(), source })?;

    over(Endpoint::from_static("http://agent.overlay.internal"), stream)
        .await
        .map_err(|source| DialError::Http { address, source })
}

/// Speaks HTTP/2 over a stream that is already there; the channel ends with the stream.
async fn over<S>(endpoint: Endpoint, stream: S) -> Result<Channel, tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stream = Arc::new(Mutex::new(Some(TokioIo::new(stream))));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::future::ready(stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
    });

    endpoint.connect_with_connector(connector).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_listening_is_named_with_the_address() {
        let tls = Arc::new(tls::pinned_client([0; 32]).expect("a config"));

        let error = control(&["127.0.0.1:1".to_owned()], tls).await.expect_err("nobody listens on port 1");

        assert!(error.to_string().starts_with("127.0.0.1:1 cannot be reached"), "{error}");
    }

    #[tokio::test]
    async fn segments_fit_every_path() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");

        let ours = connect(&address.to_string()).await.expect("connected");
        let (theirs, _) = listener.accept().await.expect("accepted");

        for stream in [&ours, &theirs] {
            assert!(SockRef::from(stream).tcp_mss().expect("a size") <= SEGMENT);
        }
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_is_named() {
        let error = agent(Path::new("/nonexistent/agent.sock")).await.expect_err("there is no socket");

        assert!(error.to_string().contains("/nonexistent/agent.sock"), "{error}");
    }
}
