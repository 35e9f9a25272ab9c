//! Serves the sockets of one server: receives questions, and answers, forwards, refuses or drops
//! them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use overlay_core::NetworkId;
use overlay_daemon::supervise::begun_again;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::{Disposition, Question, Transport, judge};
use super::counts::{DnsCounts, DnsRefusal};
use super::flood_guard::{FloodGuard, FloodReports, ShutOut};
use super::forward::{Forwarder, write_message};
use super::limits::{InFlight, Permit};
use super::names::{Asker, Names};
use super::outside::SandboxScope;
use super::rates::{ClientKey, ClientRates};
use super::served_sockets::ServedSockets;
use super::sockets::DnsSockets;

/// The largest query that is read; a question with every option there is has a few hundred bytes.
const MAX_QUERY: usize = 4096;
/// Pending questions to other resolvers for one container: a page with that many names loads at
/// once.
const FORWARDS_PER_SOURCE: u32 = 64;
/// The same for one network: 1,024 sockets, 8 MiB.
const FORWARDS: u32 = 1024;
/// Connections of one container.
pub(super) const STREAMS_PER_SOURCE: u32 = 8;
/// Connections in one network: 2 MiB.
const STREAMS: u32 = 256;
/// How long a connection may be idle, and a write may take.
pub(super) const STREAM_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait when the process has no file descriptor left; until one is free, accepting
/// fails at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The pause before a server that panicked is restarted: whatever made it panic may be repeated.
const BEGIN_AGAIN: Duration = Duration::from_millis(100);
/// How long a question waits until it is known whether another resolver may be asked.
const SETTLE: Duration = Duration::from_secs(2);
/// How long it waits, once that is known, for names that are about to be.
const NAMES_LAG: Duration = Duration::from_millis(250);

/// The clients of a server.
#[derive(Debug, Clone)]
pub(super) enum ServerScope {
    /// All endpoints of a network, identified by address.
    Network(NetworkId),
    /// One sandbox.
    Sandbox(watch::Receiver<SandboxScope>),
}

/// What a server answers with, and where it counts what it refuses.
#[derive(Debug, Clone)]
pub(crate) struct NameSource {
    /// The names of all networks.
    pub(crate) names: watch::Receiver<Arc<Names>>,
    /// The counts of this process.
    pub(crate) counts: Arc<DnsCounts>,
}

/// What every task of one server shares.
#[derive(Debug, Clone)]
pub(super) struct DnsService {
    scope: ServerScope,
    names: watch::Receiver<Arc<Names>>,
    forwarder: Forwarder,
    forwards: InFlight,
    streams: InFlight,
    rates: Arc<Mutex<ClientRates>>,
    floods: FloodReports,
    counts: Arc<DnsCounts>,
}

/// What becomes of a question.
enum Fate {
    Dropped,
    Answered(Vec<u8>),
    Forwarded(Box<Question>, Permit),
    Unsettled(Box<Question>, Permit),
}

/// The tasks of a server, which end when the set is dropped, and the sockets that they serve.
pub(super) type Serving = (JoinSet<()>, Arc<ServedSockets>);

impl DnsService {
    /// Serves the clients of a scope: a sandbox has the limits of a single container.
    pub(super) fn serve(
        scope: ServerScope,
        source: NameSource,
        forwarder: Forwarder,
        sockets: DnsSockets,
    ) -> io::Result<Serving> {
        let (shut_out, forwards, streams) = match &scope {
            ServerScope::Network(_) => (ShutOut::Clients, FORWARDS, STREAMS),
            ServerScope::Sandbox(_) => (ShutOut::All, FORWARDS_PER_SOURCE, STREAMS_PER_SOURCE),
        };
        let (floods, reported) = FloodReports::channel();
        let NameSource { names, counts } = source;
        let service = Self {
            scope,
            names,
            forwarder,
            forwards: InFlight::new(FORWARDS_PER_SOURCE, forwards),
            streams: InFlight::new(STREAMS_PER_SOURCE, streams),
            rates: Arc::default(),
            floods,
            counts,
        };

        service.begin(sockets, shut_out, reported)
    }

    fn begin(
        self,
        sockets: DnsSockets,
        shut_out: ShutOut,
        reported: mpsc::Receiver<IpAddr>,
    ) -> io::Result<Serving> {
        let mut tasks = JoinSet::new();
        let mut served = ServedSockets::default();
        for (ip, udp, tcp) in sockets.sockets {
            let (udp, tcp) =
                (Arc::new(UdpSocket::from_std(udp)?), Arc::new(TcpListener::from_std(tcp)?));
            served.push(ip, Arc::clone(&udp), Arc::clone(&tcp));
            let service = self.clone();
            let serve = move || service.clone().serve_udp(Arc::clone(&udp));
            tasks.spawn(begun_again("dns udp", BEGIN_AGAIN, serve));
            let service = self.clone();
            let serve = move || service.clone().serve_tcp(Arc::clone(&tcp));
            tasks.spawn(begun_again("dns tcp", BEGIN_AGAIN, serve));
        }
        let served = Arc::new(served);
        let guard = FloodGuard::new(Arc::clone(&served), shut_out, self.counts);
        let reported = Arc::new(tokio::sync::Mutex::new(reported));
        let run = move || {
            let (guard, reported) = (guard.clone(), Arc::clone(&reported));
            async move { guard.run(&mut *reported.lock().await).await }
        };
        tasks.spawn(begun_again("dns flood guard", BEGIN_AGAIN, run));

        Ok((tasks, served))
    }

    async fn serve_udp(self, socket: Arc<UdpSocket>) {
        let mut pending = JoinSet::new();
        let mut buffer = vec![0; MAX_QUERY];
        loop {
            while pending.try_join_next().is_some() {}
            let (len, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(scope = ?self.scope, %error, "Failed to receive a query");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            match self.decide(&buffer[..len], Transport::Udp, from.ip()) {
                Fate::Dropped => {}
                // A full send buffer drops the answer, as the network might; the client asks again.
                Fate::Answered(reply) => drop(socket.try_send_to(&reply, from)),
                fate @ (Fate::Forwarded(..) | Fate::Unsettled(..)) => {
                    let later = self.clone().answer_later(Arc::clone(&socket), fate, from);
                    pending.spawn(later);
                }
            }
        }
    }

    async fn answer_later(self, socket: Arc<UdpSocket>, fate: Fate, to: SocketAddr) {
        if let Some(reply) = self.finish(fate, to.ip()).await {
            drop(socket.try_send_to(&reply, to));
        }
    }

    async fn serve_tcp(self, listener: Arc<TcpListener>) {
        let mut streams = JoinSet::new();
        loop {
            while streams.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, from)) => {
                    // A connection takes as much as a question.
                    if !self.may_ask(from.ip()) {
                        continue;
                    }
                    match self.streams.begin(from.ip()) {
                        Some(permit) => {
                            streams.spawn(self.clone().serve_stream(stream, from.ip(), permit));
                        }
                        None => self.counts.count(DnsRefusal::StreamsLimited),
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
            let fate = self.decide(&query, Transport::Tcp, from);
            let Some(reply) = self.finish(fate, from).await else { return };
            let written = timeout(STREAM_TIMEOUT, write_message(&mut stream, &reply)).await;
            if !matches!(written, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// Decides what becomes of a question.
    fn decide(&self, query: &[u8], transport: Transport, source: IpAddr) -> Fate {
        if !self.may_ask(source) {
            return Fate::Dropped;
        }
        let names = Arc::clone(&self.names.borrow());
        let disposition = match &self.scope {
            ServerScope::Network(network) => {
                let asker = Asker::Address { network: *network, source };
                judge(query, transport, asker, &names, rand::random())
            }
            ServerScope::Sandbox(scope) => {
                judge(query, transport, Asker::Sandbox(&scope.borrow()), &names, rand::random())
            }
        };

        self.fate(disposition, source)
    }

    fn fate(&self, disposition: Disposition, source: IpAddr) -> Fate {
        match disposition {
            Disposition::Silence => Fate::Dropped,
            Disposition::Reply(reply) => Fate::Answered(reply),
            Disposition::Elsewhere(question) => {
                let client = self.client(source);
                self.rates().note_refused(client, question.name(), now());
                Fate::Answered(question.unanswered(ResponseCode::NXDomain))
            }
            Disposition::Forward(question) => self.forwarding(question, source),
            Disposition::Unsettled(question) => match self.forwards.begin(source) {
                Some(permit) => Fate::Unsettled(question, permit),
                None => self.refused(&question, DnsRefusal::ForwardsPending),
            },
        }
    }

    fn forwarding(&self, question: Box<Question>, source: IpAddr) -> Fate {
        let client = self.client(source);
        let mut rates = self.rates();
        if rates.continues_refused(client, &question.name(), now()) {
            return Fate::Answered(question.unanswered(ResponseCode::NXDomain));
        }
        if !rates.forward(client, now()) {
            return self.refused(&question, DnsRefusal::ForwardsLimited);
        }
        match self.forwards.begin(source) {
            Some(permit) => Fate::Forwarded(question, permit),
            None => self.refused(&question, DnsRefusal::ForwardsPending),
        }
    }

    /// Refuses a question. The C library of GNU asks its next server then, and that of musl waits
    /// as if nothing had come: a failure of the server would have it ask again at once.
    fn refused(&self, question: &Question, why: DnsRefusal) -> Fate {
        self.counts.count(why);

        Fate::Answered(question.unanswered(ResponseCode::Refused))
    }

    /// Answers what takes time to answer.
    async fn finish(&self, fate: Fate, source: IpAddr) -> Option<Vec<u8>> {
        let settled = match fate {
            Fate::Unsettled(question, permit) => {
                let settled = self.settle(question).await;
                drop(permit);
                self.fate(settled, source)
            }
            settled @ (Fate::Dropped | Fate::Answered(_) | Fate::Forwarded(..)) => settled,
        };

        match settled {
            Fate::Dropped => None,
            Fate::Answered(reply) => Some(reply),
            Fate::Forwarded(question, _permit) => Some(self.forwarder.forward(&question).await),
            Fate::Unsettled(question, _) => Some(question.unanswered(ResponseCode::ServFail)),
        }
    }

    /// Waits until it is known whether another resolver may be asked.
    async fn settle(&self, question: Box<Question>) -> Disposition {
        let ServerScope::Sandbox(mut scope) = self.scope.clone() else {
            return Disposition::Unsettled(question);
        };
        let mut names = self.names.clone();
        let judged = |names: &Names, scope: &SandboxScope| {
            question.clone().judge(Asker::Sandbox(scope), names, rand::random())
        };
        let mut deadline = Instant::now() + SETTLE;
        let mut is_settled = false;
        loop {
            let disposition =
                judged(&names.borrow_and_update().clone(), &scope.borrow_and_update().clone());
            let is_final = match &disposition {
                Disposition::Forward(_) | Disposition::Silence => true,
                Disposition::Reply(_) | Disposition::Elsewhere(_) => {
                    // Names come a moment later than the news that they are known.
                    if !std::mem::replace(&mut is_settled, true) {
                        deadline = Instant::now() + NAMES_LAG;
                    }
                    disposition.is_found()
                }
                Disposition::Unsettled(_) => false,
            };
            if is_final {
                return disposition;
            }
            let news = async {
                tokio::select! {
                    changed = names.changed() => changed,
                    changed = scope.changed() => changed,
                }
            };
            if !matches!(timeout_at(deadline, news).await, Ok(Ok(()))) {
                return disposition;
            }
        }
    }

    /// Takes note of a question or connection; a client that has too many is reported.
    fn may_ask(&self, source: IpAddr) -> bool {
        let client = self.client(source);
        if self.rates().ask(client, now()) {
            return true;
        }
        self.counts.count(DnsRefusal::Flooded);
        // Of strangers, none is known to be the one.
        if client != ClientKey::Strangers {
            self.floods.report(source);
        }

        false
    }

    fn client(&self, source: IpAddr) -> ClientKey {
        match &self.scope {
            ServerScope::Sandbox(_) => ClientKey::Sandbox,
            ServerScope::Network(network) if self.names.borrow().is_local(*network, source) => {
                ClientKey::Endpoint(source)
            }
            ServerScope::Network(_) => ClientKey::Strangers,
        }
    }

    fn rates(&self) -> MutexGuard<'_, ClientRates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

pub(super) async fn read_query(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let len = usize::from(stream.read_u16().await?);
    if len > MAX_QUERY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut query = vec![0; len];
    stream.read_exact(&mut query).await?;

    Ok(query)
}
