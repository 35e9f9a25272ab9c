//! Asks the host's resolvers what is none of our names. Its sockets live in the host's namespace.

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

/// How long a client waits for an answer from elsewhere: as long as the C library would.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one resolver has before the next is asked.
const TURN: Duration = Duration::from_millis(1500);
/// The largest answer by UDP that is read; larger than any that is asked for.
const MAX_UDP_ANSWER: usize = 4096;

/// Asks elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct Forwarder {
    resolvers: Arc<Resolvers>,
}

impl Forwarder {
    /// Asks these resolvers.
    pub(crate) fn new(resolvers: Arc<Resolvers>) -> Self {
        Self { resolvers }
    }

    /// Returns the answer for the client, whatever happens.
    pub(crate) async fn forward(&self, question: &Question) -> Vec<u8> {
        let resolvers = self.resolvers.list();
        if resolvers.is_empty() && question.is_single_label() {
            return question.unanswered(ResponseCode::NXDomain);
        }
        let deadline = Instant::now() + PATIENCE;
        let mut failure = None;
        for resolver in resolvers {
            let turn = deadline.min(Instant::now() + TURN);
            match timeout_at(turn, ask(question, resolver)).await {
                Ok(Ok(answer)) if !answer.failed => return answer.bytes,
                Ok(Ok(answer)) => failure = Some(answer.bytes),
                Ok(Err(error)) => tracing::debug!(%resolver, %error, "Failed to ask resolver"),
                Err(_) => tracing::debug!(%resolver, "Resolver did not answer in time"),
            }
        }

        failure.unwrap_or_else(|| question.unanswered(ResponseCode::ServFail))
    }

    #[cfg(test)]
    pub(crate) async fn ask_one(&self, question: &Question, resolver: SocketAddr) -> io::Result<Vec<u8>> {
        ask(question, resolver).await.map(|answer| answer.bytes)
    }
}

async fn ask(question: &Question, resolver: SocketAddr) -> io::Result<Relayed> {
    let answer = ask_udp(question, resolver).await?;
    if !answer.truncated || question.transport() == Transport::Udp {
        return Ok(answer);
    }

    // What is not whole is better than nothing.
    Ok(timeout(TURN, ask_tcp(question, resolver)).await.ok().and_then(Result::ok).unwrap_or(answer))
}

async fn ask_udp(question: &Question, resolver: SocketAddr) -> io::Result<Relayed> {
    let any = match resolver {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    // A socket, so a port, for every question; connected, so that only the resolver can answer.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
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

async fn ask_tcp(question: &Question, resolver: SocketAddr) -> io::Result<Relayed> {
    let mut stream = TcpStream::connect(resolver).await?;
    let id = rand::random();
    write_message(&mut stream, &question.ask(id)).await?;
    let len = usize::from(stream.read_u16().await?);
    let mut answer = vec![0; len];
    stream.read_exact(&mut answer).await?;

    question.relay(id, answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Writes a message with its length in front, in one piece.
pub(crate) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut framed = Vec::with_capacity(2 + message.len());
    framed.extend(len.to_be_bytes());
    framed.extend(message);

    stream.write_all(&framed).await
}
