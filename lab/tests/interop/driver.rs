//! The engine behind a UDP socket on a host, which sends and answers echoes; its clock can be moved
//! forward.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sched::{CloneFlags, setns};
use overlay_core::{Candidate, NetworkId, NodeId, PublicKey};
use overlay_dataplane::{Engine, EngineConfig, LaneId, NetworkTable, PeerLane, PeerTable, Tables};
use overlay_lab::Host;

use super::{OUR_KEY, OURS, PORT, THEIRS};

const NETWORK: NetworkId = NetworkId::FIRST;
pub(crate) const ECHO_REQUEST: u8 = 8;
pub(crate) const ECHO_REPLY: u8 = 0;
/// The length of an IPv4 and of an ICMP header, in bytes.
pub(crate) const IP: usize = 20;
const ICMP: usize = 8;

/// The engine, its socket and its clock.
pub(crate) struct Driver {
    engine: Engine,
    socket: UdpSocket,
    skipped: Duration,
    /// The echoes that were answered.
    pub(crate) answers: BTreeSet<u16>,
}

impl Driver {
    /// Makes an engine on `host` with one peer, which is called at `underlay` or waited for.
    pub(crate) fn new(host: &Host, peer: PublicKey, underlay: Option<SocketAddr>) -> Self {
        let now = Instant::now();
        let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let config =
            EngineConfig { lane: LaneId(0), lanes: 1, seed: rand::random(), now, unix_time };
        let mut engine = Engine::new(config);
        let lane = PeerLane {
            public_key: peer,
            candidates: underlay.map(|address| Candidate::host(address, 0)).into_iter().collect(),
        };
        let peer = PeerTable {
            node: NodeId::from_random(2),
            lanes: vec![lane],
            allowed_ips: vec![format!("{THEIRS}/32").parse().expect("a prefix")],
        };
        let table = NetworkTable {
            id: NETWORK,
            private_key: OUR_KEY.into(),
            peers: Arc::new(vec![Arc::new(peer)]),
            local: vec![format!("{OURS}/32").parse().expect("a prefix")],
            links: Arc::default(),
            mtu: 1408,
        };
        engine.publish(
            &Tables { networks: [(NETWORK, Arc::new(table))].into(), ..Tables::default() },
            now,
        );

        Self { engine, socket: socket_on(host), skipped: Duration::ZERO, answers: BTreeSet::new() }
    }

    /// Moves the engine's clock forward.
    pub(crate) fn skip(&mut self, time: Duration) {
        self.skipped += time;
        let now = self.now();
        self.engine.handle_timeout(now);
        self.flush();
    }

    /// Sends an echo request of `size` bytes of payload through the tunnel.
    pub(crate) fn ping(&mut self, number: u16, size: usize) {
        let packet = echo(ECHO_REQUEST, (OURS, THEIRS), number, &vec![b'x'; size]);
        let now = self.now();
        self.engine.handle_tun(NETWORK, [&packet[..]], now);
        self.flush();
    }

    /// Drives the engine until `done`; returns `false` if that does not happen `within` the time.
    pub(crate) fn run_until(
        &mut self,
        within: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        let deadline = Instant::now() + within;
        let mut buffer = vec![0; 65_536];
        while !done(self) {
            if Instant::now() > deadline {
                return false;
            }
            if let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
                let now = self.now();
                self.engine.handle_udp(from, &buffer[..length], length, now);
            }
            let now = self.now();
            if self.engine.poll_timeout().is_some_and(|due| due <= now) {
                self.engine.handle_timeout(now);
            }
            self.flush();
        }

        true
    }

    /// Continues from another port.
    pub(crate) fn roam(&mut self, host: &Host) {
        self.socket = bound_on(host, PORT + 1);
    }

    /// Returns the address at which the engine reaches its peer.
    pub(crate) fn underlay(&self) -> Option<SocketAddr> {
        self.engine.status(self.now())[0].underlay
    }

    /// Returns how many packets the engine has dropped, for any reason.
    pub(crate) fn dropped(&self) -> u64 {
        self.engine.counters().drops().map(|(_, count)| count).sum()
    }

    /// Returns how long ago, by the engine's clock, the last handshake was.
    pub(crate) fn last_handshake(&self) -> Duration {
        self.engine.status(self.now())[0].last_handshake.expect("a handshake")
    }

    fn now(&self) -> Instant {
        Instant::now() + self.skipped
    }

    /// Takes the engine's output: sends datagrams, answers echo requests, notes answers.
    fn flush(&mut self) {
        loop {
            let mut replies = Vec::new();
            while let Some(delivery) = self.engine.poll_tun() {
                for range in delivery.packets {
                    let packet = &delivery.bytes[range.clone()];
                    match packet[IP] {
                        ECHO_REQUEST => replies.push(reply_to(packet)),
                        ECHO_REPLY => {
                            self.answers
                                .insert(u16::from_be_bytes([packet[IP + 6], packet[IP + 7]]));
                        }
                        _ => {}
                    }
                }
            }
            let now = self.now();
            self.engine.handle_tun(NETWORK, replies.iter().map(Vec::as_slice), now);
            while let Some(transmit) = self.engine.poll_transmit() {
                for datagram in transmit.bytes.chunks(transmit.segment) {
                    self.socket.send_to(datagram, transmit.to).expect("the underlay takes it");
                }
            }
            if replies.is_empty() {
                return;
            }
        }
    }
}

/// Makes a socket in the network of `host`. The thread that made it does not return to its own
/// network.
pub(crate) fn socket_on(host: &Host) -> UdpSocket {
    bound_on(host, PORT)
}

fn bound_on(host: &Host, port: u16) -> UdpSocket {
    let namespace =
        File::open(format!("/proc/{}/ns/net", host.init_pid())).expect("the host is up");
    let socket = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter");
        UdpSocket::bind(("0.0.0.0", port)).expect("the port is free")
    });

    let socket = socket.join().expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(5))).expect("a socket takes a timeout");
    socket
}

pub(crate) fn echo(kind: u8, (from, to): (&str, &str), number: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(IP + ICMP + payload.len()).expect("a packet");
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0];
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    for address in [from, to] {
        let Ok(IpAddr::V4(address)) = address.parse() else { panic!("an IPv4 address") };
        packet.extend(address.octets());
    }
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend([kind, 0, 0, 0, 0, 1]);
    packet.extend(number.to_be_bytes());
    packet.extend(payload);
    let sum = checksum(&packet[IP..]);
    packet[IP + 2..IP + 4].copy_from_slice(&sum.to_be_bytes());

    packet
}

/// Returns the answer to an echo request: addresses swapped, the type changed.
pub(crate) fn reply_to(request: &[u8]) -> Vec<u8> {
    let mut reply = request.to_vec();
    reply[12..16].copy_from_slice(&request[16..20]);
    reply[16..20].copy_from_slice(&request[12..16]);
    reply[IP] = ECHO_REPLY;
    reply[IP + 2..IP + 4].fill(0);
    let sum = checksum(&reply[IP..]);
    reply[IP + 2..IP + 4].copy_from_slice(&sum.to_be_bytes());

    reply
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }

    !u16::try_from(sum).expect("folded")
}
