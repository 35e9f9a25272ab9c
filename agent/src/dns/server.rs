//! The servers: one per network, on its gateway addresses, in its namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use overlay_core::NetworkId;
use overlay_daemon::reserve::Reserve;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::answer::{Disposition, Question, Transport, judge};
use super::forward::{Forwarder, write_message};
use super::limits::{InFlight, Permit};
use super::names::{Asker, Names};
use super::resolvers::Resolvers;
use super::served_sockets::{ServedSockets, note};
use crate::hand_over::SharedDescriptors;

const DNS_PORT: u16 = 53;
/// Connections waiting to be accepted.
const BACKLOG: i32 = 64;
/// The largest query that is read; a question with every option there is has a few hundred bytes.
const MAX_QUERY: usize = 4096;
/// Pending questions to the host's resolvers for one container: a page with that many names loads
/// at once.
const FORWARDS_PER_SOURCE: u32 = 64;
/// The same for one network: 1,024 sockets, 8 MiB.
const FORWARDS: u32 = 1024;
/// Connections of one container.
const STREAMS_PER_SOURCE: u32 = 8;
/// Connections in one network: 2 MiB.
const STREAMS: u32 = 256;
/// How long a connection may be idle, and a write may take.
const STREAM_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait when the process has no file descriptor left; until one is free, accepting
/// fails at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The pause before a server that panicked is restarted: whatever made it panic may be repeated.
const BEGIN_AGAIN: Duration = Duration::from_millis(100);

/// The sockets of one network's server.
#[derive(Debug)]
pub struct DnsSockets {
    sockets: Vec<(IpAddr, StdUdpSocket, StdTcpListener)>,
}

impl DnsSockets {
    /// Opens the sockets on `addresses` in the namespace of the calling thread, which must be the
    /// network's. The addresses need not exist yet.
    ///
    /// # Errors
    ///
    /// The kernel's error, for example that another server has the port.
    pub fn bind(addresses: impl IntoIterator<Item = IpAddr>) -> io::Result<Self> {
        Self::bind_port(addresses, DNS_PORT, &Reserve::default())
    }

    pub(crate) fn bind_port(
        addresses: impl IntoIterator<Item = IpAddr>,
        port: u16,
        reserve: &Reserve,
    ) -> io::Result<Self> {
        let open = |ip, port, kind, protocol| reserve.spend(|| open(ip, port, kind, protocol));
        let open = |ip| {
            let udp: StdUdpSocket = open(ip, port, Type::DGRAM, Protocol::UDP)?.into();
            // If the kernel chose the port, both sockets get the same one.
            let port = udp.local_addr()?.port();
            let tcp = open(ip, port, Type::STREAM, Protocol::TCP)?;
            tcp.listen(BACKLOG)?;

            Ok((ip, udp, tcp.into()))
        };
        let sockets = addresses.into_iter().map(open).collect::<io::Result<_>>()?;

        Ok(Self { sockets })
    }

    /// Goes on with the sockets that [`ServedSockets`] share, if they are on these addresses.
    pub(crate) fn adopt(earlier: SharedDescriptors, addresses: &BTreeSet<IpAddr>) -> Option<Self> {
        if earlier.note != note(addresses.iter().copied())
            || earlier.list.len() != 2 * addresses.len()
        {
            return None;
        }
        let mut descriptors = earlier.list.into_iter();
        let mut socket =
            |ip: &IpAddr| Some((*ip, descriptors.next()?.into(), descriptors.next()?.into()));

        Some(Self { sockets: addresses.iter().map(&mut socket).collect::<Option<_>>()? })
    }

    fn addresses(&self) -> BTreeSet<IpAddr> {
        self.sockets.iter().map(|(ip, ..)| *ip).collect()
    }

    /// Returns the port of the first socket, which the kernel may have chosen.
    pub(super) fn port(&self) -> io::Result<u16> {
        self.sockets
            .first()
            .map_or(Ok(DNS_PORT), |(_, udp, _)| udp.local_addr().map(|address| address.port()))
    }

    #[cfg(test)]
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.sockets[0].1.local_addr().expect("a bound socket")
    }
}

fn open(ip: IpAddr, port: u16, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let address = SocketAddr::new(ip, port);
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    match ip {
        IpAddr::V4(_) => socket.set_freebind_v4(true)?,
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;

    Ok(socket)
}

/// All DNS servers of this node; dropping this ends them.
#[derive(Debug)]
pub struct DnsServers {
    names: watch::Sender<Arc<Names>>,
    resolvers: Arc<Resolvers>,
    servers: BTreeMap<NetworkId, Server>,
}

#[derive(Debug)]
struct Server {
    addresses: BTreeSet<IpAddr>,
    /// Ends its tasks when dropped.
    _tasks: JoinSet<()>,
}

impl DnsServers {
    /// Starts without servers and names. `resolv_conf` is the host's `/etc/resolv.conf`.
    pub fn start(resolv_conf: PathBuf) -> Self {
        let (names, _) = watch::channel(Arc::default());

        Self { names, resolvers: Arc::new(Resolvers::new(resolv_conf)), servers: BTreeMap::new() }
    }

    /// Replaces the names.
    pub fn publish(&self, names: Arc<Names>) {
        self.names.send_replace(names);
    }

    /// Serves a network on these sockets, replacing earlier ones.
    ///
    /// # Errors
    ///
    /// When the runtime cannot register the sockets: too many open files.
    pub fn add(&mut self, network: NetworkId, sockets: DnsSockets) -> io::Result<()> {
        self.serve(network, sockets).map(drop)
    }

    /// As [`DnsServers::add`]; returns the sockets, for whoever serves the network next.
    pub(crate) fn serve(
        &mut self,
        network: NetworkId,
        sockets: DnsSockets,
    ) -> io::Result<Arc<ServedSockets>> {
        let addresses = sockets.addresses();
        let service = DnsService {
            scope: ServerScope::Network(network),
            names: self.names.subscribe(),
            forwarder: Forwarder::new(Arc::clone(&self.resolvers)),
            forwards: InFlight::new(FORWARDS_PER_SOURCE, FORWARDS),
            streams: InFlight::new(STREAMS_PER_SOURCE, STREAMS),
        };
        let (tasks, served) = service.serve(sockets)?;
        self.servers.insert(network, Server { addresses, _tasks: tasks });
        self.exclude_own();

        Ok(served)
    }

    /// Stops serving a network.
    pub fn remove(&mut self, network: NetworkId) {
        self.servers.remove(&network);
        self.exclude_own();
    }

    /// Lists the networks that are served.
    pub fn networks(&self) -> impl Iterator<Item = NetworkId> + '_ {
        self.servers.keys().copied()
    }

    fn exclude_own(&self) {
        self.resolvers.exclude(
            self.servers.values().flat_map(|server| server.addresses.iter().copied()).collect(),
        );
    }
}

/// The clients of a server.
#[derive(Debug, Clone)]
pub(super) enum ServerScope {
    /// All endpoints of a network, identified by address.
    Network(NetworkId),
    /// One sandbox, on these networks.
    Sandbox(watch::Receiver<BTreeSet<NetworkId>>),
}

/// What every task of one server shares.
#[derive(Debug, Clone)]
pub(super) struct DnsService {
    scope: ServerScope,
    names: watch::Receiver<Arc<Names>>,
    forwarder: Forwarder,
    forwards: InFlight,
    streams: InFlight,
}

impl DnsService {
    /// Serves one sandbox, with the limits of a single container.
    pub(super) fn of_sandbox(
        scope: watch::Receiver<BTreeSet<NetworkId>>,
        names: watch::Receiver<Arc<Names>>,
        forwarder: Forwarder,
    ) -> Self {
        Self {
            scope: ServerScope::Sandbox(scope),
            names,
            forwarder,
            forwards: InFlight::new(FORWARDS_PER_SOURCE, FORWARDS_PER_SOURCE),
            streams: InFlight::new(STREAMS_PER_SOURCE, STREAMS_PER_SOURCE),
        }
    }

    /// Serves these sockets; the tasks end when the set is dropped.
    pub(super) fn serve(
        self,
        sockets: DnsSockets,
    ) -> io::Result<(JoinSet<()>, Arc<ServedSockets>)> {
        let mut tasks = JoinSet::new();
        let mut served = ServedSockets::default();
        for (ip, udp, tcp) in sockets.sockets {
            let (udp, tcp) =
                (Arc::new(UdpSocket::from_std(udp)?), Arc::new(TcpListener::from_std(tcp)?));
            served.push(ip, Arc::clone(&udp), Arc::clone(&tcp));
            let service = self.clone();
            tasks.spawn(begun_again(move || service.clone().serve_udp(Arc::clone(&udp))));
            let service = self.clone();
            tasks.spawn(begun_again(move || service.clone().serve_tcp(Arc::clone(&tcp))));
        }

        Ok((tasks, Arc::new(served)))
    }

    async fn serve_udp(self, socket: Arc<UdpSocket>) {
        let mut forwards = JoinSet::new();
        let mut buffer = vec![0; MAX_QUERY];
        loop {
            while forwards.try_join_next().is_some() {}
            let (len, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(scope = ?self.scope, %error, "Failed to receive a query");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            match self.judge(&buffer[..len], Transport::Udp, from.ip()) {
                Disposition::Silence => {}
                // A full send buffer drops the answer, as the network might; the client asks again.
                Disposition::Reply(reply) => drop(socket.try_send_to(&reply, from)),
                Disposition::Forward(question) => match self.forwards.begin(from.ip()) {
                    Some(permit) => {
                        let (forwarder, socket) = (self.forwarder.clone(), Arc::clone(&socket));
                        forwards.spawn(answer_later(forwarder, socket, question, from, permit));
                    }
                    None => drop(socket.try_send_to(&overloaded(&question), from)),
                },
            }
        }
    }

    async fn serve_tcp(self, listener: Arc<TcpListener>) {
        let mut streams = JoinSet::new();
        loop {
            while streams.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, from)) => {
                    if let Some(permit) = self.streams.begin(from.ip()) {
                        streams.spawn(self.clone().serve_stream(stream, from.ip(), permit));
                    }
                }
                Err(error) => {
                    tracing::debug!(scope = ?self.scope, %error, "Failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve_stream(self, mut stream: TcpStream, from: IpAddr, _permit: Permit) {
        while let Ok(Ok(query)) = timeout(STREAM_TIMEOUT, read_query(&mut stream)).await {
            let reply = match self.judge(&query, Transport::Tcp, from) {
                Disposition::Silence => return,
                Disposition::Reply(reply) => reply,
                Disposition::Forward(question) => match self.forwards.begin(from) {
                    Some(_permit) => self.forwarder.forward(&question).await,
                    None => overloaded(&question),
                },
            };
            if !matches!(
                timeout(STREAM_TIMEOUT, write_message(&mut stream, &reply)).await,
                Ok(Ok(()))
            ) {
                return;
            }
        }
    }

    fn judge(&self, query: &[u8], transport: Transport, source: IpAddr) -> Disposition {
        let names = Arc::clone(&self.names.borrow());

        match &self.scope {
            ServerScope::Network(network) => {
                let asker = Asker::Address { network: *network, source };
                judge(query, transport, asker, &names, rand::random())
            }
            ServerScope::Sandbox(scope) => {
                judge(query, transport, Asker::Sandbox(&scope.borrow()), &names, rand::random())
            }
        }
    }
}

/// Runs work without end, and restarts it if a query makes it panic.
async fn begun_again<W: Future<Output = ()> + Send + 'static>(work: impl Fn() -> W) {
    let mut running = JoinSet::new();
    loop {
        running.spawn(work());
        if let Some(Err(error)) = running.join_next().await
            && error.is_panic()
        {
            tracing::error!("A DNS server broke, beginning it again");
        }
        tokio::time::sleep(BEGIN_AGAIN).await;
    }
}

async fn answer_later(
    forwarder: Forwarder,
    socket: Arc<UdpSocket>,
    question: Box<Question>,
    to: SocketAddr,
    _permit: Permit,
) {
    let reply = forwarder.forward(&question).await;

    drop(socket.try_send_to(&reply, to));
}

fn overloaded(question: &Question) -> Vec<u8> {
    question.unanswered(hickory_proto::op::ResponseCode::ServFail)
}

async fn read_query(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let len = usize::from(stream.read_u16().await?);
    if len > MAX_QUERY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut query = vec![0; len];
    stream.read_exact(&mut query).await?;

    Ok(query)
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
