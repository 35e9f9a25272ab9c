//! Forwards questions for other names: to the host's resolvers from the host's namespace, or to a
//! sandbox's original resolver from inside the sandbox.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::{Question, Relayed, Transport};
use super::resolvers::Resolvers;
use super::sandbox_resolver::SandboxResolver;

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
    Sandbox(Arc<SandboxResolver>),
}

impl Forwarder {
    /// Forwards to these resolvers.
    pub(crate) fn new(resolvers: Arc<Resolvers>) -> Self {
        Self { target: Target::Host(resolvers) }
    }

    /// Forwards to the resolver of a sandbox.
    pub(crate) fn inside(inside: SandboxResolver) -> Self {
        Self { target: Target::Sandbox(Arc::new(inside)) }
    }

    fn resolvers(&self) -> Vec<SocketAddr> {
        match &self.target {
            Target::Host(resolvers) => resolvers.list(),
            Target::Sandbox(inside) => vec![inside.address()],
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
        let answer = match self {
            Self::Host(_) => ask_udp(question, udp(resolver).await?).await?,
            Self::Sandbox(inside) => inside.ask(question).await?,
        };
        if !answer.truncated || question.transport() == Transport::Udp {
            return Ok(answer);
        }
        let by_tcp = async { ask_tcp(question, self.tcp(resolver).await?).await };

        // A truncated answer is better than none.
        Ok(timeout(TURN, by_tcp).await.ok().and_then(Result::ok).unwrap_or(answer))
    }

    async fn tcp(&self, resolver: SocketAddr) -> io::Result<TcpStream> {
        match self {
            Self::Host(_) => TcpStream::connect(resolver).await,
            Self::Sandbox(inside) => inside.connect().await,
        }
    }
}

/// Opens a socket, and so a port, for every question to one of the host's resolvers; it is
/// connected, so that only the resolver can answer.
async fn udp(resolver: SocketAddr) -> io::Result<UdpSocket> {
    let any = match resolver {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;

    Ok(socket)
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
