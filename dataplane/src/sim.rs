//! Whole engines in virtual time: a world of hosts, and an underlay that loses, duplicates, delays
//! and reorders datagrams.
//!
//! Each host has one engine (one lane). The world checks what must always hold: a handled timeout
//! is no longer due, and every packet is in exactly one counter.

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod chaos;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod foreign;
#[cfg(test)]
mod gateways;
#[cfg(test)]
mod hand_over;
#[cfg(test)]
mod hearing;
pub(crate) mod history;
#[cfg(test)]
mod life;
#[cfg(test)]
mod narrow;
#[cfg(test)]
mod networks;
#[cfg(test)]
mod notices;
mod packet;
pub(crate) mod raw_peer;
pub(crate) mod sound;
#[cfg(test)]
mod storm;
#[cfg(test)]
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlay_core::{Candidate, NetworkId, NodeId, PrivateKey, PublicKey};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(crate) use self::packet::{number_of, numbered, packet};
use crate::{
    Counters, Direction, DropReason, Engine, EngineConfig, Event, LaneId, LinkTable, NetworkTable,
    PeerLane, PeerStatus, PeerTable, Tables, public_key,
};

/// Returns the moment at which virtual time starts, the same throughout a test.
pub(crate) fn start() -> Instant {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();

    #[expect(
        clippy::disallowed_methods,
        reason = "an instant cannot be made of nothing; only differences matter"
    )]
    *START.get_or_init(Instant::now)
}

/// The network of tests that need only one.
pub(crate) const NET: u64 = 1;
/// The MTU of all networks.
pub(crate) const MTU: u16 = 1408;
/// The IPv4 and UDP headers of each datagram, in bytes.
const OUTER_HEADERS: usize = 28;
const MAX_STEPS: usize = 3_000_000;
const EPOCH: Duration = Duration::from_secs(1_800_000_000);

/// What the underlay does to datagrams.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) loss_percent: u32,
    pub(crate) twice_percent: u32,
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
}

impl Faults {
    pub(crate) const NONE: Self = Self {
        loss_percent: 0,
        twice_percent: 0,
        delay: Duration::from_millis(1),
        jitter: Duration::ZERO,
    };
}

/// A datagram on its way.
#[derive(Debug, Clone)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

/// One host with one engine.
pub(crate) struct Host {
    pub(crate) engine: Engine,
    pub(crate) addr: SocketAddr,
    /// The packets that reached its containers.
    pub(crate) received: Vec<(NetworkId, Vec<u8>)>,
    pub(crate) events: Vec<Event>,
    tables: Tables,
}

/// A router that lets a host call others, and admits only answers.
pub(crate) struct Translation {
    /// The address at which others see the host.
    pub(crate) public: SocketAddr,
    /// The addresses that the host has called, and when it last did.
    pub(crate) called: BTreeMap<SocketAddr, Instant>,
}

/// How long a translation remembers a call; Linux keeps a flow that was answered once as long.
const TRANSLATION_TIME: Duration = Duration::from_secs(30);

/// Hosts and the underlay between them.
pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) faults: Faults,
    pub(crate) hosts: Vec<Host>,
    /// The largest IP packets that pass from one host to another, in bytes, where there is a limit.
    /// Larger ones are lost without an error.
    pub(crate) narrow: BTreeMap<(usize, usize), usize>,
    /// Paths from one host to another on which everything is lost.
    pub(crate) blocked: BTreeSet<(usize, usize)>,
    /// The translations in front of hosts.
    pub(crate) translations: BTreeMap<usize, Translation>,
    /// Every datagram ever sent, if a test wants them.
    pub(crate) tap: Option<Vec<Datagram>>,
    wire: BTreeMap<(Instant, u64), Datagram>,
    sent: u64,
    dice: StdRng,
}

pub(crate) fn network(id: u64) -> NetworkId {
    NetworkId::from_random(id)
}

pub(crate) fn node(host: usize) -> NodeId {
    NodeId::from_random(host as u64 + 1)
}

/// The key of a host in a network.
pub(crate) fn key(network: u64, host: usize) -> PrivateKey {
    let mut bytes = [7; 32];
    // Not in the first byte, because X25519 ignores its lowest bits.
    bytes[1] = u8::try_from(network).expect("small");
    bytes[2] = u8::try_from(host).expect("small");
    PrivateKey::from(bytes)
}

pub(crate) fn pub_key(network: u64, host: usize) -> PublicKey {
    public_key(&key(network, host))
}

pub(crate) fn underlay(host: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, u8::try_from(host).expect("small") + 1], 51820))
}

/// The address of a container; hosts hold 10.42.HOST.0/24 in every network.
pub(crate) fn inner(host: usize) -> IpAddr {
    Ipv4Addr::new(10, 42, u8::try_from(host).expect("small"), 2).into()
}

pub(crate) fn inner6(host: usize) -> IpAddr {
    Ipv6Addr::from_bits(0xFD42 << 112 | (host as u128) << 16 | 2).into()
}

pub(crate) fn prefixes(host: usize) -> Vec<ipnet::IpNet> {
    vec![
        format!("10.42.{host}.0/24").parse().expect("valid"),
        format!("fd42::{host:x}:0/112").parse().expect("valid"),
    ]
}

pub(crate) fn peer(network: u64, host: usize) -> PeerTable {
    PeerTable {
        node: node(host),
        lanes: vec![PeerLane {
            public_key: pub_key(network, host),
            candidates: vec![Candidate::host(underlay(host), 0)],
        }],
        allowed_ips: prefixes(host),
    }
}

/// The table of a network with these members, for one host.
pub(crate) fn table(network_id: u64, host: usize, members: &[usize]) -> NetworkTable {
    let others = members.iter().filter(|member| **member != host);

    NetworkTable {
        id: network(network_id),
        private_key: key(network_id, host),
        peers: Arc::new(others.map(|member| Arc::new(peer(network_id, *member))).collect()),
        local: prefixes(host),
        links: Arc::default(),
        mtu: MTU,
    }
}

/// Returns the first peer of a table, for changes.
pub(crate) fn first_peer(table: &mut NetworkTable) -> &mut PeerTable {
    Arc::make_mut(&mut Arc::make_mut(&mut table.peers)[0])
}

impl World {
    /// Makes hosts that know no network.
    pub(crate) fn new(hosts: usize) -> Self {
        let mut world = Self {
            now: start(),
            faults: Faults::NONE,
            hosts: Vec::new(),
            narrow: BTreeMap::new(),
            blocked: BTreeSet::new(),
            translations: BTreeMap::new(),
            tap: None,
            wire: BTreeMap::new(),
            sent: 0,
            dice: StdRng::seed_from_u64(1),
        };
        for host in 0..hosts {
            let engine = world.engine(EPOCH);
            let addr = underlay(host);
            world.hosts.push(Host {
                engine,
                addr,
                received: Vec::new(),
                events: Vec::new(),
                tables: Tables::default(),
            });
        }
        world
    }

    /// Makes hosts that are all members of one network.
    pub(crate) fn connected(hosts: usize) -> Self {
        let mut world = Self::new(hosts);
        let members: Vec<_> = (0..hosts).collect();
        for host in 0..hosts {
            world.publish(host, table(NET, host, &members));
        }
        world
    }

    /// Adds or replaces a network of a host.
    pub(crate) fn publish(&mut self, host: usize, table: NetworkTable) {
        let host = &mut self.hosts[host];
        host.tables.networks.insert(table.id, Arc::new(table));
        host.engine.publish(&host.tables, self.now);
        self.collect();
    }

    /// Tells a host its own addresses.
    pub(crate) fn know_own(&mut self, host: usize) {
        let host = &mut self.hosts[host];
        host.engine.know_own(Arc::new([host.addr.ip()].into()));
    }

    /// Removes a network from a host.
    pub(crate) fn withdraw(&mut self, host: usize, id: u64) {
        let host = &mut self.hosts[host];
        host.tables.networks.remove(&network(id));
        host.engine.publish(&host.tables, self.now);
    }

    /// Replaces a host's engine by a new one with the same keys, whose clock is off by
    /// `clock_error_secs`.
    pub(crate) fn restart(&mut self, host: usize, clock_error_secs: i64) {
        let elapsed = EPOCH + (self.now - start());
        let seconds = elapsed.as_secs().checked_add_signed(clock_error_secs).expect("after 1970");
        let engine = self.engine(Duration::new(seconds, elapsed.subsec_nanos()));
        let host = &mut self.hosts[host];
        host.engine = engine;
        host.engine.publish(&host.tables, self.now);
    }

    pub(crate) fn wake(&mut self, host: usize) {
        self.hosts[host].engine.wake_peers(self.now);
        self.collect();
    }

    /// Sends a packet from a container of a host.
    pub(crate) fn send(&mut self, host: usize, network_id: u64, packet: &[u8]) {
        self.hosts[host].engine.handle_tun(network(network_id), [packet], self.now);
        self.collect();
    }

    /// Sends a numbered packet from a container of one host to one of another.
    pub(crate) fn say(&mut self, from: usize, to: usize, number: u32) {
        self.send(from, NET, &numbered(inner(from), inner(to), number));
    }

    /// Puts a datagram on the wire as it is.
    pub(crate) fn inject(&mut self, datagram: Datagram) {
        self.sent += 1;
        self.wire.insert((self.now, self.sent), datagram);
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..MAX_STEPS {
            let arrival = self.wire.keys().next().map(|(at, _)| *at);
            let timeout = self.hosts.iter().filter_map(|host| host.engine.poll_timeout()).min();
            let Some(next) = arrival.into_iter().chain(timeout).min().filter(|next| *next <= end)
            else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            if arrival.is_some_and(|at| at <= next) {
                self.arrive();
            } else {
                self.expire();
            }
        }
        panic!("the world does not come to rest");
    }

    /// Takes the numbers of all packets that reached a host's containers.
    pub(crate) fn numbers(&mut self, host: usize) -> Vec<u32> {
        self.hosts[host].received.drain(..).map(|(_, packet)| number_of(&packet)).collect()
    }

    pub(crate) fn counters(&self, host: usize) -> &Counters {
        self.hosts[host].engine.counters()
    }

    pub(crate) fn dropped(&self, host: usize, reason: DropReason) -> u64 {
        self.counters(host).dropped(reason)
    }

    /// Returns the status of a host's only peer.
    pub(crate) fn status(&self, host: usize) -> PeerStatus {
        self.hosts[host].engine.status(self.now).into_iter().next().expect("a peer")
    }

    /// Checks that every packet is in exactly one counter.
    pub(crate) fn assert_accounted(&self) {
        self.hosts.iter().for_each(|host| assert_accounted(&host.engine));
    }

    fn engine(&mut self, unix_time: Duration) -> Engine {
        Engine::new(EngineConfig {
            lane: LaneId(0),
            lanes: 1,
            seed: self.dice.random(),
            now: self.now,
            unix_time,
        })
    }

    fn arrive(&mut self) {
        let Some((_, datagram)) = self.wire.pop_first() else { return };
        let now = self.now;
        if let Some(host) = self.recipient(&datagram) {
            let host = &mut self.hosts[host];
            host.engine.handle_udp(datagram.from, &datagram.bytes, datagram.bytes.len(), now);
        }
        self.collect();
    }

    fn expire(&mut self) {
        for host in &mut self.hosts {
            if host.engine.poll_timeout().is_some_and(|at| at <= self.now) {
                host.engine.handle_timeout(self.now);
                assert!(
                    host.engine.poll_timeout().is_none_or(|at| at > self.now),
                    "a handled timeout is still due"
                );
            }
        }
        self.collect();
    }

    pub(crate) fn collect(&mut self) {
        let mut sent = Vec::new();
        for host in &mut self.hosts {
            while let Some(batch) = host.engine.poll_transmit() {
                assert!(
                    batch.bytes.len() <= 65_507 && batch.bytes.len().div_ceil(batch.segment) <= 64
                );
                let datagrams = batch.bytes.chunks(batch.segment);
                sent.extend(datagrams.map(|bytes| Datagram {
                    from: host.addr,
                    to: batch.to,
                    bytes: bytes.to_vec(),
                }));
            }
            while let Some(run) = host.engine.poll_tun() {
                let packets = run
                    .packets
                    .iter()
                    .map(|range| (run.network, run.bytes[range.clone()].to_vec()));
                host.received.extend(packets);
            }
            host.events.extend(std::iter::from_fn(|| host.engine.poll_event()));
        }
        sent.into_iter().for_each(|datagram| self.transport(datagram));
    }

    fn recipient(&self, datagram: &Datagram) -> Option<usize> {
        let lets_in = |translation: &&Translation| {
            let called = translation.called.get(&datagram.from);
            translation.public == datagram.to
                && called.is_some_and(|at| self.now - *at < TRANSLATION_TIME)
        };
        let translated = self.translations.iter().find(|(_, translation)| lets_in(translation));
        let open = |host: usize| {
            self.hosts[host].addr == datagram.to && !self.translations.contains_key(&host)
        };

        translated.map(|(host, _)| *host).or_else(|| (0..self.hosts.len()).find(|host| open(*host)))
    }

    /// Returns whether the underlay drops the datagram.
    fn is_blocked(&self, datagram: &Datagram) -> bool {
        let host = |addr| self.hosts.iter().position(|host| host.addr == addr);

        host(datagram.from).zip(host(datagram.to)).is_some_and(|path| self.blocked.contains(&path))
    }

    fn is_too_large(&self, datagram: &Datagram) -> bool {
        let host = |addr| self.hosts.iter().position(|host| host.addr == addr);
        let path = host(datagram.from).zip(host(datagram.to));
        let most = path.and_then(|path| self.narrow.get(&path));

        most.is_some_and(|most| datagram.bytes.len() + OUTER_HEADERS > *most)
    }

    fn transport(&mut self, mut datagram: Datagram) {
        if let Some(tap) = &mut self.tap {
            tap.push(datagram.clone());
        }
        if self.is_too_large(&datagram) || self.is_blocked(&datagram) {
            return;
        }
        let sender = self.hosts.iter().position(|host| host.addr == datagram.from);
        if let Some(translation) = sender.and_then(|host| self.translations.get_mut(&host)) {
            translation.called.insert(datagram.to, self.now);
            datagram.from = translation.public;
        }
        if self.dice.random_range(0..100) < self.faults.loss_percent {
            return;
        }
        let copies = 1 + u32::from(self.dice.random_range(0..100) < self.faults.twice_percent);
        for _ in 0..copies {
            let jitter = self.dice.random_range(Duration::ZERO..=self.faults.jitter);
            self.sent += 1;
            self.wire.insert((self.now + self.faults.delay + jitter, self.sent), datagram.clone());
        }
    }
}

/// Checks that every packet an engine was given is in exactly one counter.
pub(crate) fn assert_accounted(engine: &Engine) {
    let counters = engine.counters();
    assert_eq!(
        counters.tun_packets + counters.fragments,
        counters.forwarded + counters.waiting + counters.dropped_in(Direction::Outbound),
        "{counters:?}"
    );
    assert_eq!(
        counters.udp_datagrams,
        counters.delivered + counters.control + counters.dropped_in(Direction::Inbound),
        "{counters:?}"
    );
}
