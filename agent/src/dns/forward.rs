//! Forwards questions for other names: to the host's resolvers from the host's namespace, or to a
//! sandbox's original resolver from inside the sandbox.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::{Question, Relayed, Transport};
use super::resolvers::Resolvers;
use crate::kernel::Netns;

/// How long a client waits for a forwarded question: as long as the C library would.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long one resolver has to answer before the next is asked.
const TURN: Duration = Duration::from_millis(1500);
/// The largest UDP answer that is read; larger than any that is requested.
const MAX_UDP_ANSWER: usize = 4096;

/// Forwards questions.
#[derive(Debug, Clone)]
pub(crate) struct Forwarder {
    target: Target,
}

/// The resolvers to ask, and from where.
#[derive(Debug, Clone)]
enum Target {
    Host(Arc<Resolvers>),
    Sandbox(SandboxResolver),
}

/// A resolver inside a namespace. Questions carry a mark that keeps them from being redirected back
/// to us.
#[derive(Debug, Clone)]
pub(crate) struct SandboxResolver {
    /// The namespace.
    pub(crate) netns: Netns,
    /// Its resolver.
    pub(crate) resolver: SocketAddr,
    /// The mark.
    pub(crate) mark: u32,
}

impl Forwarder {
    /// Forwards to these resolvers.
    pub(crate) fn new(resolvers: Arc<Resolvers>) -> Self {
        Self { target: Target::Host(resolvers) }
    }

    /// Forwards to the resolver of a sandbox.
    pub(crate) fn inside(inside: SandboxResolver) -> Self {
        Self { target: Target::Sandbox(inside) }
    }

    fn resolvers(&self) -> Vec<SocketAddr> {
        match &self.target {
            Target::Host(resolvers) => resolvers.list(),
            Target::Sandbox(inside) => vec![inside.resolver],
        }
    }

    fn turn(&self) -> Duration {
        match &self.target {
            Target::Host(_) => TURN,
            // It is the only one, and may itself ask several.
            Target::Sandbox(_) => TIMEOUT,
        }
    }

    /// Returns an answer for the client in any case.
    pub(crate) async fn forward(&self, question: &Question) -> Vec<u8> {
        let resolvers = self.resolvers();
        if resolvers.is_empty() && question.is_single_label() {
            return question.unanswered(ResponseCode::NXDomain);
        }
        let deadline = Instant::now() + TIMEOUT;
        let mut failure = None;
        for resolver in resolvers {
            let turn = deadline.min(Instant::now() + self.turn());
            match timeout_at(turn, self.target.ask(question, resolver)).await {
                Ok(Ok(answer)) if !answer.failed => return answer.bytes,
                Ok(Ok(answer)) => failure = Some(answer.bytes),
                Ok(Err(error)) => tracing::debug!(%resolver, %error, "Failed to ask resolver"),
                Err(_) => tracing::debug!(%resolver, "Resolver did not answer in time"),
            }
        }

        failure.unwrap_or_else(|| question.unanswered(ResponseCode::ServFail))
    }

    #[cfg(test)]
    pub(crate) async fn ask_one(
        &self,
        question: &Question,
        resolver: SocketAddr,
    ) -> io::Result<Vec<u8>> {
        self.target.ask(question, resolver).await.map(|answer| answer.bytes)
    }
}

impl Target {
    async fn ask(&self, question: &Question, resolver: SocketAddr) -> io::Result<Relayed> {
        let answer = ask_udp(question, self.udp(resolver).await?).await?;
        if !answer.truncated || question.transport() == Transport::Udp {
            return Ok(answer);
        }
        let by_tcp = async { ask_tcp(question, self.tcp(resolver).await?).await };

        // A truncated answer is better than none.
        Ok(timeout(TURN, by_tcp).await.ok().and_then(Result::ok).unwrap_or(answer))
    }

    /// Opens a socket, and so a port, for every question; it is connected, so that only the
    /// resolver can answer.
    async fn udp(&self, resolver: SocketAddr) -> io::Result<UdpSocket> {
        match self {
            Self::Host(_) => {
                let any = match resolver {
                    SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                    SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
                };
                let socket = UdpSocket::bind(any).await?;
                socket.connect(resolver).await?;
                Ok(socket)
            }
            Self::Sandbox(inside) => {
                UdpSocket::from_std(inside.open(Type::DGRAM, Protocol::UDP).await?.into())
            }
        }
    }

    async fn tcp(&self, resolver: SocketAddr) -> io::Result<TcpStream> {
        match self {
            Self::Host(_) => TcpStream::connect(resolver).await,
            Self::Sandbox(inside) => {
                let stream =
                    TcpStream::from_std(inside.open(Type::STREAM, Protocol::TCP).await?.into())?;
                stream.writable().await?;
                stream.take_error()?.map_or(Ok(stream), Err)
            }
        }
    }
}

impl SandboxResolver {
    /// Opens a socket that is connected, or about to be, to the resolver.
    async fn open(&self, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let (resolver, mark) = (self.resolver, self.mark);
        let opened = self.netns.enter(move || {
            let socket = Socket::new(Domain::for_address(resolver), kind, Some(protocol))?;
            socket.set_mark(mark)?;
            socket.set_nonblocking(true)?;
            match socket.connect(&resolver.into()) {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
                Ok(()) | Err(_) => Ok(socket),
            }
        });

        opened.await.map_err(io::Error::other)?
    }
}

async fn ask_udp(question: &Question, socket: UdpSocket) -> io::Result<Relayed> {
    let id = rand::random();
    socket.send(&question.ask(id)).await?;
    let mut buffer = vec![0; MAX_UDP_ANSWER];
    loop {
        let len = socket.recv(&mut buffer).await?;
        if let Some(answer) = question.relay(id, buffer[..len].to_vec()) {
            return Ok(answer);
        }
    }
}

async fn ask_tcp(question: &Question, mut stream: TcpStream) -> io::Result<Relayed> {
    let id = rand::random();
    write_message(&mut stream, &question.ask(id)).await?;
    let len = usize::from(stream.read_u16().await?);
    let mut answer = vec![0; len];
    stream.read_exact(&mut answer).await?;

    question.relay(id, answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Writes a message with its length prefix in a single write.
pub(crate) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let len =
        u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut framed = Vec::with_capacity(2 + message.len());
    framed.extend(len.to_be_bytes());
    framed.extend(message);

    stream.write_all(&framed).await
}
