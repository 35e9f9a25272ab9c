//! ICMP echo from inside a network's namespace, from the node's own address there.
//!
//! Finding the address that a name means, and telling the user, are done elsewhere.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::kernel::{KernelError, Netns};

/// ICMP and ICMPv6 message types (RFC 792, RFC 4443).
const ECHO_REPLY_V4: u8 = 0;
const ECHO_V4: u8 = 8;
const ECHO_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
/// Bytes before an echo's payload.
const HEADER: usize = 8;
/// Bytes of payload, as `ping` sends.
const PAYLOAD: usize = 56;

/// Why a probe brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum PingError {
    /// The namespace refused the socket.
    #[error("cannot open a socket in the network's namespace")]
    Namespace(#[from] KernelError),
    /// The kernel refused to send, or told that nobody is there.
    #[error(transparent)]
    Socket(#[from] io::Error),
    /// No answer in time.
    #[error("no answer in {} ms", .0.as_millis())]
    Timeout(Duration),
}

/// Asks one address for echoes.
#[derive(Debug)]
pub struct Pinger {
    /// A raw ICMP socket; tokio knows it as a datagram socket, for what else could send and
    /// receive.
    socket: UdpSocket,
    target: IpAddr,
    id: u16,
}

impl Pinger {
    /// Opens a socket inside `netns`; `id` tells this pinger's answers from others'.
    ///
    /// # Errors
    ///
    /// When the namespace or the kernel refuses.
    pub async fn open(netns: &Netns, target: IpAddr, id: u16) -> Result<Self, PingError> {
        let socket = netns.enter(move || open(target)).await??;

        Ok(Self { socket: UdpSocket::from_std(socket.into())?, target, id })
    }

    /// Sends one echo and waits for its answer; returns the round trip.
    ///
    /// # Errors
    ///
    /// [`PingError::Timeout`] without an answer, [`PingError::Socket`] when there is no way to the
    /// target.
    pub async fn probe(&self, sequence: u16, wait: Duration) -> Result<Duration, PingError> {
        let sent = Instant::now();
        self.socket.send(&request(self.target, self.id, sequence)).await?;

        match timeout(wait, self.answer(sequence)).await {
            Ok(answer) => answer.map(|()| sent.elapsed()).map_err(Into::into),
            Err(_) => Err(PingError::Timeout(wait)),
        }
    }

    async fn answer(&self, sequence: u16) -> io::Result<()> {
        let mut buffer = [0; 2048];
        loop {
            let length = self.socket.recv(&mut buffer).await?;
            if is_answer(self.target, &buffer[..length], self.id, sequence) {
                return Ok(());
            }
        }
    }
}

fn open(target: IpAddr) -> io::Result<Socket> {
    let (domain, protocol) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol))?;
    socket.connect(&SockAddr::from(SocketAddr::new(target, 0)))?;

    Ok(socket)
}

/// Writes an echo request. The kernel fills in the checksum of ICMPv6 (RFC 3542, section 3.1).
fn request(target: IpAddr, id: u16, sequence: u16) -> Vec<u8> {
    let kind = if target.is_ipv4() { ECHO_V4 } else { ECHO_V6 };
    let mut message = vec![0; HEADER + PAYLOAD];
    message[0] = kind;
    message[4..6].copy_from_slice(&id.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    for (byte, fill) in message[HEADER..].iter_mut().zip(b'a'..=b'w') {
        *byte = fill;
    }
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    message
}

/// The internet checksum (RFC 1071) of a message of even length.
fn checksum(message: &[u8]) -> u16 {
    let words =
        message.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }

    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// Tells whether a received message answers the probe. Raw IPv4 sockets hand over the IP header
/// too.
fn is_answer(target: IpAddr, message: &[u8], id: u16, sequence: u16) -> bool {
    let (icmp, reply) = match target {
        IpAddr::V4(_) => {
            let header = message.first().map_or(0, |first| usize::from(first & 0x0F) * 4);
            (message.get(header..), ECHO_REPLY_V4)
        }
        IpAddr::V6(_) => (Some(message), ECHO_REPLY_V6),
    };
    let Some([kind, _, _, _, id0, id1, seq0, seq1, ..]) = icmp else { return false };

    *kind == reply
        && u16::from_be_bytes([*id0, *id1]) == id
        && u16::from_be_bytes([*seq0, *seq1]) == sequence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_a_right_checksum() {
        let message = request("192.0.2.1".parse().expect("an address"), 7, 9);

        assert_eq!(message.len(), HEADER + PAYLOAD);
        assert_eq!(checksum(&message), 0);
    }

    #[test]
    fn only_the_answer_to_the_probe_counts() {
        let target: IpAddr = "2001:db8::1".parse().expect("an address");
        let mut message = request(target, 7, 9);
        assert!(!is_answer(target, &message, 7, 9));

        message[0] = ECHO_REPLY_V6;

        assert!(is_answer(target, &message, 7, 9));
        assert!(!is_answer(target, &message, 7, 10));
        assert!(!is_answer(target, &message, 8, 9));
        assert!(!is_answer(target, &message[..7], 7, 9));
        assert!(!is_answer("192.0.2.1".parse().expect("an address"), &[], 7, 9));
    }

    #[test]
    fn what_the_kernel_says_is_told_once() {
        let error = PingError::from(io::Error::from_raw_os_error(101));

        assert_eq!(crate::problem::explain(&error), "Network is unreachable");
    }

    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    #[tokio::test]
    async fn the_loopback_of_a_namespace_answers() {
        let Ok(netns) = Netns::host() else { return };
        for target in ["127.0.0.1", "::1"] {
            let target = target.parse().expect("an address");
            let pinger = match Pinger::open(&netns, target, 77).await {
                Ok(pinger) => pinger,
                Err(error) => {
                    eprintln!("SKIPPED: raw sockets need root: {error}");
                    return;
                }
            };

            let answer = pinger.probe(1, Duration::from_secs(2)).await;

            assert!(answer.is_ok(), "{target}: {answer:?}");
        }
    }
}
