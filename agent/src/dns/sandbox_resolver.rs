//! The resolver inside a sandbox, which is asked from there.
//!
//! All questions go through one socket, which is opened in the sandbox's namespace once: to enter
//! it for each would cost a thread its turn there. Their ids tell the answers apart. When the
//! resolver is not heard any more, the socket is opened again, at most once a second: the rules
//! that led to the resolver may have been replaced, which the kernel does not apply to a flow that
//! it knows.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use overlay_core::token_bucket::TokenBucket;
use overlay_daemon::reserve::Reserve;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::answer::{Question, Relayed};
use crate::kernel::Netns;

/// The largest UDP answer that is read; larger than any that is requested.
const MAX_UDP_ANSWER: usize = 4096;
/// How soon the socket is opened again.
const REOPEN: (u32, Duration) = (1, Duration::from_secs(1));
/// Connections at once, and how soon there may be one more: only what does not fit into a datagram
/// is fetched by TCP, and each connection has to enter the namespace.
const CONNECT: (u32, Duration) = (8, Duration::from_millis(200));

/// Where the resolver is.
#[derive(Debug, Clone)]
pub(super) struct ResolverPlace {
    /// The sandbox's namespace.
    pub(super) netns: Netns,
    /// Its resolver.
    pub(super) resolver: SocketAddr,
    /// The mark that keeps questions from being redirected back to us.
    pub(super) mark: u32,
}

/// A resolver inside a namespace.
#[derive(Debug)]
pub(super) struct SandboxResolver {
    place: ResolverPlace,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    current: Option<Arc<Exchange>>,
    reopen: TokenBucket,
    connect: TokenBucket,
}

/// A socket, and the questions that wait for an answer on it.
#[derive(Debug)]
struct Exchange {
    socket: Arc<UdpSocket>,
    waiting: Arc<Waiting>,
    /// Ends with the exchange.
    _reader: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Waiting {
    answers: Mutex<BTreeMap<u16, oneshot::Sender<Vec<u8>>>>,
    /// Whether a question was not answered, or the socket failed.
    is_stale: AtomicBool,
}

/// A question that waits; it is forgotten when this is dropped.
struct Pending<'a> {
    waiting: &'a Waiting,
    id: u16,
    is_answered: bool,
}

impl ResolverPlace {
    /// Opens a socket for questions in this thread's namespace, which must be the sandbox's.
    pub(super) fn open_udp(&self, reserve: &Reserve) -> io::Result<Socket> {
        reserve.spend(|| self.open(Type::DGRAM, Protocol::UDP))
    }

    /// Opens a socket that is connected, or about to be, to the resolver.
    fn open(&self, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.resolver), kind, Some(protocol))?;
        socket.set_mark(self.mark)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&self.resolver.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            Ok(()) | Err(_) => Ok(socket),
        }
    }
}

impl SandboxResolver {
    /// Asks the resolver by a socket that [`ResolverPlace::open_udp`] opened.
    pub(super) fn new(place: ResolverPlace, socket: Socket) -> io::Result<Self> {
        let now = Instant::now().into_std();
        let current = Some(Arc::new(Exchange::new(socket)?));
        let reopen = TokenBucket::new(REOPEN.0, REOPEN.1, now);
        let connect = TokenBucket::new(CONNECT.0, CONNECT.1, now);

        Ok(Self { place, state: Mutex::new(State { current, reopen, connect }) })
    }

    /// Returns the resolver's address.
    pub(super) fn address(&self) -> SocketAddr {
        self.place.resolver
    }

    /// Asks the resolver, and waits for its answer as long as the caller does.
    pub(super) async fn ask(&self, question: &Question) -> io::Result<Relayed> {
        let exchange = self.exchange().await?;
        match exchange.ask(question).await {
            // The resolver was told to be gone, or the socket was of an earlier one.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.exchange().await?.ask(question).await
            }
            answered => answered,
        }
    }

    /// Opens a connection to the resolver.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        if !self.lock().connect.take(Instant::now().into_std()) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let socket = self.enter(|place| place.open(Type::STREAM, Protocol::TCP)).await?;
        let stream = TcpStream::from_std(socket.into())?;
        stream.writable().await?;

        stream.take_error()?.map_or(Ok(stream), Err)
    }

    /// Returns the socket to ask by.
    async fn exchange(&self) -> io::Result<Arc<Exchange>> {
        let known = {
            let mut state = self.lock();
            let known = state.current.clone();
            let is_stale = known.as_ref().is_none_or(|known| known.is_stale());
            match known {
                Some(known) if !is_stale || !state.reopen.take(Instant::now().into_std()) => {
                    Some(known)
                }
                _ => None,
            }
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let socket = self.enter(|place| place.open(Type::DGRAM, Protocol::UDP)).await?;
        let exchange = Arc::new(Exchange::new(socket)?);
        self.lock().current = Some(Arc::clone(&exchange));

        Ok(exchange)
    }

    async fn enter(
        &self,
        open: impl FnOnce(&ResolverPlace) -> io::Result<Socket> + Send + 'static,
    ) -> io::Result<Socket> {
        let place = self.place.clone();

        self.place.netns.enter(move || open(&place)).await.map_err(io::Error::other)?
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exchange {
    fn new(socket: Socket) -> io::Result<Self> {
        let socket = Arc::new(UdpSocket::from_std(socket.into())?);
        let waiting = Arc::<Waiting>::default();
        let mut reader = JoinSet::new();
        reader.spawn(read(Arc::clone(&socket), Arc::clone(&waiting)));

        Ok(Self { socket, waiting, _reader: reader })
    }

    fn is_stale(&self) -> bool {
        self.waiting.is_stale.load(Ordering::Relaxed)
    }

    async fn ask(&self, question: &Question) -> io::Result<Relayed> {
        let (sender, answer) = oneshot::channel();
        let mut pending = self.waiting.add(sender);
        self.socket.send(&question.ask(pending.id)).await?;
        let answer = answer.await.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        pending.is_answered = true;
        self.waiting.is_stale.store(false, Ordering::Relaxed);

        question.relay(pending.id, answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

impl Waiting {
    /// Adds a question under an id that no other has; there are far fewer questions than ids.
    fn add(&self, sender: oneshot::Sender<Vec<u8>>) -> Pending<'_> {
        let mut answers = self.lock();
        let mut id: u16 = rand::random();
        while answers.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        answers.insert(id, sender);

        Pending { waiting: self, id, is_answered: false }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, oneshot::Sender<Vec<u8>>>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.id);
        if !self.is_answered {
            self.waiting.is_stale.store(true, Ordering::Relaxed);
        }
    }
}

/// Hands answers to those who wait for them.
async fn read(socket: Arc<UdpSocket>, waiting: Arc<Waiting>) {
    let mut buffer = vec![0; MAX_UDP_ANSWER];
    loop {
        match socket.recv(&mut buffer).await {
            Ok(len) => {
                let answer = buffer.get(..len).unwrap_or_default();
                let Some(id) = answer.first_chunk().map(|id| u16::from_be_bytes(*id)) else {
                    continue;
                };
                let sender = waiting.lock().remove(&id);
                if let Some(sender) = sender {
                    // Who gave up meanwhile does not need it.
                    let _ = sender.send(answer.to_vec());
                }
            }
            Err(error) => {
                tracing::debug!(%error, "A sandbox's resolver is not there");
                waiting.is_stale.store(true, Ordering::Relaxed);
                // All who wait ask anew, or learn that nobody answers.
                waiting.lock().clear();
                tokio::task::yield_now().await;
            }
        }
    }
}
