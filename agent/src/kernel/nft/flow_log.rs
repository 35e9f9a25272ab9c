//! Flows that a rule logs, as lines of the agent's log.
//!
//! The kernel gives the first packet of each to a log group of the network's namespace, which one
//! socket hears at a time: after a hand-over, the next process hears it when the one before is
//! gone.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{self, MsgFlags};
use overlay_core::NetworkId;
use overlay_daemon::supervise::spawn_noticed;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::encoding;
use super::filter_script::LOG_GROUP;
use super::requests::Requests;
use crate::kernel::Netns;
use crate::kernel::error::KernelError;

/// `NFULNL_MSG_CONFIG` and `NFULNL_MSG_PACKET`.
const CONFIG: u16 = 4 << 8 | 1;
const PACKET: u16 = 4 << 8;
/// `NFULA_CFG_CMD`, `NFULA_CFG_MODE` and `NFULA_CFG_QTHRESH`: the group is ours, the beginning of
/// each packet is wanted, and none waits for others.
const SETTINGS: [(u16, [u8; 6], usize); 3] =
    [(1, [1, 0, 0, 0, 0, 0], 1), (2, [0, 0, 0, COPIED, 2, 0], 6), (5, [0, 0, 0, 1, 0, 0], 4)];
/// Bytes of a packet that are wanted: its addresses and ports.
const COPIED: u8 = 64;
/// `NFULA_PAYLOAD` and `NFULA_PREFIX`.
const PAYLOAD: u16 = 9;
const PREFIX: u16 = 10;
/// Room for a few messages, in bytes.
const BUFFER: usize = 16 << 10;
/// The most lines of a network in so much time: containers choose what they send.
const LINES: u32 = 100;
const WINDOW: Duration = Duration::from_secs(10);

/// Writes the flows of one network to the agent's log, until dropped.
#[derive(Debug)]
pub(crate) struct FlowLog(AbortHandle);

impl FlowLog {
    /// Begins to hear what rules log.
    ///
    /// # Errors
    ///
    /// When the kernel has no such log, or another socket hears the group.
    pub(crate) async fn open(netns: &Netns, network: NetworkId) -> Result<Self, KernelError> {
        let opened = netns.enter(open).await?;
        let registered = opened.and_then(register);
        let socket = registered.map_err(|source| KernelError::Refused {
            action: "open",
            object: format!("log group {LOG_GROUP}"),
            namespace: netns.label().to_owned(),
            source,
        })?;
        Ok(Self(spawn_noticed("flow log", hear(socket, network))))
    }

    /// Returns whether it still hears.
    pub(crate) fn is_heard(&self) -> bool {
        !self.0.is_finished()
    }
}

impl Drop for FlowLog {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A flow's first packet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LoggedFlow {
    rule: String,
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    /// Of the sender and of the receiver, for protocols that have any.
    ports: Option<(u16, u16)>,
}

/// The protocol, and the port that is asked for.
impl fmt::Display for LoggedFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            1 | 58 => f.write_str("icmp")?,
            6 => f.write_str("tcp")?,
            17 => f.write_str("udp")?,
            other => write!(f, "protocol {other}")?,
        }

        self.ports.map_or(Ok(()), |(_, port)| write!(f, "/{port}"))
    }
}

/// Opens the socket in the calling thread's namespace.
fn open() -> io::Result<OwnedFd> {
    let log = Requests::open()?;
    for (attribute, value, len) in SETTINGS {
        log.ask(&encoding::set_log(CONFIG, LOG_GROUP, (attribute, &value[..len])))?;
    }

    Ok(log.into())
}

#[expect(unsafe_code, reason = "tokio offers no safe way to wait on a descriptor")]
fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, owned by nobody else, and stays the same descriptor until it is
    // dropped.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Hears until the socket is of no more use.
async fn hear(log: AsyncFd<OwnedFd>, network: NetworkId) {
    let mut limit = LineLimit::new(Instant::now());
    let mut buffer = vec![0; BUFFER];
    loop {
        let Ok(mut guard) = log.readable().await else { return };
        let read = guard.try_io(|log| {
            let flags = MsgFlags::MSG_DONTWAIT;
            socket::recv(log.get_ref().as_raw_fd(), &mut buffer, flags).map_err(io::Error::from)
        });
        match read {
            Ok(Ok(len)) => {
                for flow in flows(buffer.get(..len).unwrap_or_default()) {
                    tell(&flow, network, &mut limit);
                }
            }
            // It would block, was interrupted, or more came than there was room for.
            Err(_) => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, %network, "The flows of a network are not logged any more");
                return;
            }
        }
    }
}

fn tell(flow: &LoggedFlow, network: NetworkId, limit: &mut LineLimit) {
    let Some(withheld) = limit.handle_line(Instant::now()) else { return };
    if withheld > 0 {
        tracing::info!(%network, withheld, "More flows were logged than there are lines for");
    }
    tracing::info!(
        rule = flow.rule,
        %network,
        from = %flow.from,
        to = %flow.to,
        traffic = %flow,
        "Policy logs a flow"
    );
}

/// How many lines there may be. Pure.
#[derive(Debug)]
struct LineLimit {
    since: Instant,
    told: u32,
    withheld: u64,
}

impl LineLimit {
    fn new(now: Instant) -> Self {
        Self { since: now, told: 0, withheld: 0 }
    }

    /// Returns how many were withheld before, if this line may be written.
    fn handle_line(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.since) >= WINDOW {
            (self.since, self.told) = (now, 0);
        }
        if self.told >= LINES {
            self.withheld = self.withheld.saturating_add(1);
            return None;
        }
        self.told += 1;

        Some(std::mem::take(&mut self.withheld))
    }
}

/// Reads the messages of the kernel.
fn flows(mut bytes: &[u8]) -> Vec<LoggedFlow> {
    let mut flows = Vec::new();
    while let Some((len, kind, body)) = encoding::header(bytes) {
        if kind == PACKET {
            flows.extend(flow(body.get(4..).unwrap_or_default()));
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }

    flows
}

/// Reads one message's attributes.
fn flow(attributes: &[u8]) -> Option<LoggedFlow> {
    let (mut rule, mut packet) = (None, None);
    for (kind, value) in encoding::read_attributes(attributes) {
        match kind {
            PREFIX => rule = value.split(|byte| *byte == 0).next(),
            PAYLOAD => packet = Some(value),
            _ => {}
        }
    }
    let rule = String::from_utf8_lossy(rule?).into_owned();
    let (from, to, protocol, rest) = addresses(packet?)?;
    let port = |at: usize| rest.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
    let ports = matches!(protocol, 6 | 17).then(|| Some((port(0)?, port(2)?))).flatten();

    Some(LoggedFlow { rule, from, to, protocol, ports })
}

/// Reads the header of a packet; returns its addresses, its protocol and what follows.
fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    let first = *packet.first()?;
    match first >> 4 {
        4 => {
            let address = |at: usize| {
                let bytes: [u8; 4] = *packet.get(at..)?.first_chunk()?;
                Some(IpAddr::from(Ipv4Addr::from(bytes)))
            };
            let rest = packet.get(usize::from(first & 0xf) * 4..).unwrap_or_default();
            Some((address(12)?, address(16)?, *packet.get(9)?, rest))
        }
        6 => {
            let address = |at: usize| {
                let bytes: [u8; 16] = *packet.get(at..)?.first_chunk()?;
                Some(IpAddr::from(Ipv6Addr::from(bytes)))
            };
            let rest = packet.get(40..).unwrap_or_default();
            Some((address(8)?, address(24)?, *packet.get(6)?, rest))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A message about a packet, as the kernel writes it.
    fn message(rule: &str, packet: &[u8]) -> Vec<u8> {
        let prefix = encoding::attribute(PREFIX, &[rule.as_bytes(), &[0]].concat());
        let body = [vec![2, 0, 0, 0], prefix, encoding::attribute(PAYLOAD, packet)].concat();
        let len = u32::try_from(16 + body.len()).expect("short");
        let header = [&len.to_ne_bytes()[..], &PACKET.to_ne_bytes(), &[0; 10]].concat();

        [header, body].concat()
    }

    fn tcp_v4() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 0, 0, 3];
        packet.extend([0x9c, 0x40, 0x15, 0x38, 0, 0, 0, 0]);
        packet
    }

    #[test]
    fn a_flow_has_rule_addresses_and_ports() {
        let mut icmp_v6 = vec![0x60, 0, 0, 0, 0, 8, 58, 64];
        icmp_v6.extend([[0xfd; 16], [0xfe; 16]].concat());
        icmp_v6.extend([128, 0, 0, 0]);
        let bytes = [message("web-to-db", &tcp_v4()), message("ping", &icmp_v6)].concat();

        let all = flows(&bytes);

        assert_eq!(all.len(), 2);
        assert_eq!((&*all[0].rule, all[0].ports), ("web-to-db", Some((40_000, 5432))));
        assert_eq!((all[0].from, all[0].to), ([10, 0, 0, 2].into(), [10, 0, 0, 3].into()));
        assert_eq!(all[0].to_string(), "tcp/5432");
        assert_eq!((&*all[1].rule, all[1].from), ("ping", [0xfd; 16].into()));
        assert_eq!(all[1].to_string(), "icmp");
    }

    #[test]
    fn a_flood_of_flows_is_a_hundred_lines_and_a_number() {
        let begun = Instant::now();
        let mut limit = LineLimit::new(begun);

        let told = (0..250).filter(|_| limit.handle_line(begun).is_some()).count();

        assert_eq!(told, 100);
        assert_eq!(limit.handle_line(begun + WINDOW), Some(150));
        assert_eq!(limit.handle_line(begun + WINDOW), Some(0));
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
    fn what_the_kernel_logs_is_understood() {
        let Ok(netns) = Netns::unnamed("log") else {
            eprintln!("SKIPPED: needs root for a network namespace");
            return;
        };
        let rules = format!(
            "table inet t {{ chain out {{ type filter hook output priority 0; udp dport 9 log \
             prefix \"a-rule\" group {LOG_GROUP}; }}; }}"
        );
        let run = || {
            let program = |name: &str, words: &[&str]| {
                let ran = std::process::Command::new(name).args(words).status();
                assert!(ran.expect("it runs").success(), "{name} {words:?}");
            };
            program("ip", &["link", "set", "lo", "up"]);
            program("nft", &[&rules]);
            let log = open().expect("the group is ours");
            assert!(open().is_err(), "somebody has it");
            let sender = std::net::UdpSocket::bind("[::1]:0").expect("bound");
            sender.send_to(b"hello", "[::1]:9").expect("sent");
            let mut buffer = vec![0; BUFFER];
            let len = socket::recv(log.as_raw_fd(), &mut buffer, MsgFlags::empty());

            (flows(&buffer[..len.expect("a message")]), sender.local_addr().expect("bound"))
        };

        let (flows, sender) = netns.within(run).expect("a namespace");

        let there = IpAddr::from(Ipv6Addr::LOCALHOST);
        let flow = LoggedFlow {
            rule: "a-rule".to_owned(),
            from: there,
            to: there,
            protocol: 17,
            ports: Some((sender.port(), 9)),
        };
        assert_eq!(flows, [flow]);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = flows(&bytes);
            let _ = flows(&message("a", &bytes));
        }
    }
}
