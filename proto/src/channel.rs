//! Connections for gRPC: to control over TLS, and to the agent over its local socket. There is one
//! connection each; a caller that loses it dials again.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Shutdown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::identity::CONTROL_NAME;
use crate::tls;

/// How long one address of control may take to accept a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the TLS handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// The TCP segment size of connections to control, in bytes: what fits a path of 1,280 bytes in
/// either family, with timestamps. Such a path, with routers that send no ICMP errors, would drop
/// the first snapshot.
const MSS: u32 = 1200;
/// How long an address may stay silent before the next one is tried in parallel (RFC 8305
/// recommends 250 ms).
pub const STAGGER: Duration = Duration::from_millis(250);
/// How soon a failed address is tried again while others are still silent.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// After how much idle time the kernel probes a connection.
const TCP_IDLE: Duration = Duration::from_secs(2);
/// How often it then probes.
const TCP_PROBE: Duration = Duration::from_secs(1);
/// After how many unanswered probes it ends the connection.
const TCP_PROBES: u32 = 4;
/// How long packets may stay unacknowledged: as long as the above takes.
pub const TCP_DEAD: Duration = Duration::from_secs(6);
/// An idle connection is probed after this long, and given up after the same time again.
pub const KEEPALIVE: Duration = Duration::from_secs(10);
/// How long an agent may take to answer a probe, during a call: its host may be busy with many
/// starts.
const AGENT_SILENCE: Duration = Duration::from_secs(30);
/// The largest message a client takes: a snapshot of some 100,000 rows.
pub const MAX_MESSAGE: usize = 64 << 20;

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nothing answers there, or not in time.
    #[error("{address} cannot be reached: {source}")]
    Unreachable {
        /// What was dialled.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The server is not the one that the join line pins; nothing was sent to it.
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

/// A connection to control, with its addresses.
#[derive(Debug)]
pub struct Dialled {
    /// The channel for calls.
    pub channel: Channel,
    /// What was dialled.
    pub address: String,
    /// The local address of the connection; once the host no longer has it, the connection is dead.
    pub local: IpAddr,
    /// Ends the connection for everybody who has the channel.
    pub cutter: Cutter,
}

/// Ends a connection that is known to be dead before the kernel gives it up: calls that wait for an
/// answer over it fail at once.
#[derive(Debug)]
pub struct Cutter(Option<Socket>);

impl Cutter {
    /// Where descriptors are used up, a dead connection ends when the kernel gives it up.
    fn of(tcp: &TcpStream) -> Self {
        Self(SockRef::from(tcp).try_clone().ok())
    }

    /// Ends the connection.
    pub fn cut(self) {
        // A connection that has ended already cannot be shut down.
        let _ = self.0.map(|socket| socket.shutdown(Shutdown::Both));
    }
}

/// Connects to control: to the first address that proves to be control.
///
/// The addresses are tried in order, each as soon as the one before has failed or been silent for
/// [`STAGGER`], so that dead addresses cost little time. While one is still silent, those that
/// failed are tried again: control may just be starting.
///
/// # Errors
///
/// When none is control: that a wrong server answered at one of them, otherwise the error of the
/// first address.
pub async fn control(addresses: &[String], tls: Arc<ClientConfig>) -> Result<Dialled, DialError> {
    let mut waiting = addresses.iter().enumerate();
    let mut attempts = JoinSet::new();
    let mut failures = BTreeMap::new();
    let attempt = |index: usize, address: &str, after: Duration| {
        let (tls, address) = (Arc::clone(&tls), address.to_owned());
        async move {
            sleep(after).await;
            dial(&address, tls).await.map_err(|error| (index, error))
        }
    };
    loop {
        if let Some((index, address)) = waiting.next() {
            attempts.spawn(attempt(index, address, Duration::ZERO));
        }
        let more = waiting.len() > 0;
        let ended = tokio::select! {
            ended = attempts.join_next() => ended,
            () = sleep(STAGGER), if more => continue,
        };
        match ended {
            Some(Ok(Ok(dialled))) => return Ok(dialled),
            Some(Ok(Err((index, error)))) => {
                failures.insert(index, error);
                if failures.len() == addresses.len() {
                    return Err(worst(failures));
                }
                if let Some(address) = addresses.get(index) {
                    attempts.spawn(attempt(index, address, RETRY_DELAY));
                }
            }
            // A task that panicked counts as a failed attempt.
            Some(Err(_)) => {}
            None => return Err(worst(failures)),
        }
    }
}

/// Picks the most informative of several failures.
fn worst(mut failures: BTreeMap<usize, DialError>) -> DialError {
    let pinned = failures
        .iter()
        .find(|(_, error)| matches!(error, DialError::WrongPin { .. }))
        .map(|(at, _)| *at);
    let told = pinned.or_else(|| failures.keys().next().copied());

    told.and_then(|at| failures.remove(&at)).unwrap_or(DialError::NoAddress)
}

async fn dial(address: &str, tls: Arc<ClientConfig>) -> Result<Dialled, DialError> {
    let unreachable = |source| DialError::Unreachable { address: address.to_owned(), source };
    let tcp = timeout(CONNECT_TIMEOUT, connect(address))
        .await
        .map_err(timed_out)
        .flatten()
        .map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    set_keepalive(&tcp).map_err(unreachable)?;
    let local = tcp.local_addr().map_err(unreachable)?.ip().to_canonical();
    let cutter = Cutter::of(&tcp);
    let name = ServerName::try_from(CONTROL_NAME).map_err(|error| DialError::Tls {
        address: address.to_owned(),
        source: io::Error::other(error),
    })?;
    let stream = timeout(HANDSHAKE_TIMEOUT, TlsConnector::from(tls).connect(name, tcp))
        .await
        .map_err(timed_out)
        .flatten()
        .map_err(|source| tls_error(address, source))?;
    let endpoint = Endpoint::from_static("https://control.overlay.internal")
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true);
    let channel = over(endpoint, stream)
        .await
        .map_err(|source| DialError::Http { address: address.to_owned(), source })?;

    Ok(Dialled { channel, address: address.to_owned(), local, cutter })
}

/// Makes the kernel notice within [`TCP_DEAD`] that the other host no longer answers, at no cost to
/// either program; a program that is merely busy does not count as dead.
///
/// # Errors
///
/// When the kernel refuses, as for a socket that is not TCP.
pub fn set_keepalive(tcp: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(tcp);
    let keepalive =
        TcpKeepalive::new().with_time(TCP_IDLE).with_interval(TCP_PROBE).with_retries(TCP_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;

    // Unacknowledged data gives up a connection as early as idleness does.
    socket.set_tcp_user_timeout(Some(TCP_DEAD))
}

/// Tells whether anything accepts connections at an address within `patience`: that the host is
/// reachable, not who it is.
pub async fn is_reachable(address: &str, patience: Duration) -> bool {
    matches!(timeout(patience, connect(address)).await, Ok(Ok(_)))
}

/// Connects to the first address of a name that answers, with segments that fit every path.
async fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in lookup_host(address).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        SockRef::from(&socket).set_tcp_mss(MSS)?;
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
    let wrong_pin = source
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .is_some_and(tls::is_wrong_pin);

    if wrong_pin {
        DialError::WrongPin { address, source: tls::WrongPin }
    } else {
        DialError::Tls { address, source }
    }
}

/// Connects to the agent's local socket.
///
/// # Errors
///
/// [`DialError::Unreachable`] when nothing listens there.
pub async fn agent(socket: &Path) -> Result<Channel, DialError> {
    let address = socket.display().to_string();
    let path: PathBuf = socket.to_owned();
    let stream = timeout(CONNECT_TIMEOUT, UnixStream::connect(path))
        .await
        .map_err(timed_out)
        .flatten()
        .map_err(|source| DialError::Unreachable { address: address.clone(), source })?;

    over(probing_agent(KEEPALIVE, AGENT_SILENCE), stream)
        .await
        .map_err(|source| DialError::Http { address, source })
}

/// Describes the agent, such that a call to one that hangs ends: it is probed every `interval` and
/// may take `silence` to answer. A call to one that answers probes may take any time.
fn probing_agent(interval: Duration, silence: Duration) -> Endpoint {
    Endpoint::from_static("http://agent.overlay.internal")
        .http2_keep_alive_interval(interval)
        .keep_alive_timeout(silence)
}

/// Starts HTTP/2 over an existing stream; the channel ends with the stream.
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::v1;
    use crate::v1::agent_client::AgentClient;

    #[tokio::test]
    async fn nobody_listening_is_named_with_the_address() {
        let tls = Arc::new(tls::pinned_client([0; 32]).expect("a config"));

        let error =
            control(&["127.0.0.1:1".to_owned()], tls).await.expect_err("nobody listens on port 1");

        assert!(error.to_string().starts_with("127.0.0.1:1 cannot be reached"), "{error}");
    }

    #[tokio::test]
    async fn segments_fit_every_path() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");

        let ours = connect(&address.to_string()).await.expect("connected");
        let (theirs, _) = listener.accept().await.expect("accepted");

        for stream in [&ours, &theirs] {
            assert!(SockRef::from(stream).tcp_mss().expect("a size") <= MSS);
        }
    }

    #[tokio::test]
    async fn a_connection_that_is_cut_ends_what_waits_for_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut ours = connect(&listener.local_addr().expect("an address").to_string())
            .await
            .expect("connected");
        let cutter = Cutter::of(&ours);
        let waits = tokio::spawn(async move { ours.read(&mut [0]).await });

        cutter.cut();

        let read = timeout(CONNECT_TIMEOUT, waits).await.expect("it ends").expect("no panic");
        assert_eq!(read.expect("the end of the stream"), 0);
    }

    #[tokio::test]
    async fn the_kernel_gives_up_a_silent_host_within_seconds() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stream = connect(&listener.local_addr().expect("an address").to_string())
            .await
            .expect("connected");

        set_keepalive(&stream).expect("TCP");

        let socket = SockRef::from(&stream);
        let probed = TCP_IDLE + TCP_PROBE * socket.tcp_keepalive_retries().expect("a number");
        assert!(socket.keepalive().expect("a setting"));
        assert_eq!(
            (socket.tcp_user_timeout().expect("a time"), probed),
            (Some(TCP_DEAD), TCP_DEAD)
        );
    }

    const PING: u8 = 6;
    const SETTINGS: u8 = 4;
    const ACKNOWLEDGED: u8 = 1;

    /// Begins HTTP/2 (RFC 9113).
    async fn greet(stream: &mut UnixStream) -> io::Result<()> {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await?;

        stream.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await
    }

    /// Answers so many probes, and no call.
    async fn answer_probes(stream: &mut UnixStream, probes: usize) -> io::Result<()> {
        let mut answered = 0;
        while answered < probes {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await?;
            let [a, b, c, kind, flags, ..] = head;
            let mut payload =
                vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX)];
            stream.read_exact(&mut payload).await?;
            if kind == SETTINGS && flags == 0 {
                stream.write_all(&[0, 0, 0, SETTINGS, ACKNOWLEDGED, 0, 0, 0, 0]).await?;
            } else if kind == PING && flags == 0 {
                head[4] = ACKNOWLEDGED;
                stream.write_all(&[&head, &*payload].concat()).await?;
                answered += 1;
            }
        }

        Ok(())
    }

    #[tokio::test]
    async fn a_call_waits_for_an_agent_that_is_busy_and_not_for_one_that_hangs() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let agent = probing_agent(Duration::from_millis(20), Duration::from_millis(200));
        let (channel, greeted) = tokio::join!(over(agent, ours), greet(&mut theirs));
        greeted.expect("it began");
        let mut client = AgentClient::new(channel.expect("connected"));
        let mut call = Box::pin(client.status(v1::StatusRequest {}));

        tokio::select! {
            answered = answer_probes(&mut theirs, 20) => answered.expect("it answers probes"),
            outcome = &mut call => panic!("nobody answered, and the call ended: {outcome:?}"),
        }

        // From now on the probes are not answered.
        call.await.expect_err("the agent hangs");
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_is_named() {
        let error =
            agent(Path::new("/nonexistent/agent.sock")).await.expect_err("there is no socket");

        assert!(error.to_string().contains("/nonexistent/agent.sock"), "{error}");
    }
}
