//! Whole batches through whole engines: `cargo bench -p overlay-dataplane --bench engine`.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ipnet::IpNet;
use overlay_core::{Candidate, NetworkId, NodeId, PrivateKey};
use overlay_dataplane::{
    Engine, EngineConfig, LaneId, NetworkTable, PeerLane, PeerTable, Tables, public_key,
};

/// The time since 1970 at which engines start.
const UNIX_TIME: Duration = Duration::from_secs(1_800_000_000);
const SECOND: Duration = Duration::from_secs(1);
/// Small packets, and those that fill a tunnel over an underlay of 1,500 bytes.
const SIZES: [u16; 2] = [64, 1408];
/// The number of packets that one super-packet of 64 KiB is cut into.
const BATCH: usize = 45;

/// The datagrams of one batch, as `UDP_GRO` would deliver them.
struct GsoBatch {
    bytes: Vec<u8>,
    segment: usize,
}

/// Two engines that know each other.
struct Pair {
    engines: [Engine; 2],
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "an engine has a clock; only differences matter"
        )]
        let now = Instant::now();
        let mut pair = Self { engines: [0, 1].map(|index| engine(index, now, UNIX_TIME)), now };
        // The first packet starts the handshake, which is complete when no datagrams are left.
        pair.engines[0].handle_tun(NetworkId::FIRST, [&packet(100)[..]], now);
        while (0..2).any(|index| pair.carry(index)) {}

        pair
    }

    /// Carries what one engine has to send to the other. Returns whether there was anything.
    fn carry(&mut self, from: usize) -> bool {
        let batches = self.batches(from);
        for batch in &batches {
            self.engines[1 - from].handle_udp(
                underlay(from),
                &batch.bytes,
                batch.segment,
                self.now,
            );
            while self.engines[1 - from].poll_tun().is_some() {}
        }

        !batches.is_empty()
    }

    fn batches(&mut self, from: usize) -> Vec<GsoBatch> {
        let engine = &mut self.engines[from];

        std::iter::from_fn(|| {
            engine
                .poll_transmit()
                .map(|batch| GsoBatch { bytes: batch.bytes.to_vec(), segment: batch.segment })
        })
        .collect()
    }
}

fn underlay(index: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, if index == 0 { 1 } else { 2 }], 51820))
}

fn prefix(index: usize) -> IpNet {
    let net = if index == 0 { "10.42.0.0/24" } else { "10.42.1.0/24" };

    net.parse().expect("a prefix")
}

fn key(index: usize) -> PrivateKey {
    PrivateKey::from(if index == 0 { [7; 32] } else { [9; 32] })
}

fn engine(index: usize, now: Instant, unix_time: Duration) -> Engine {
    let mut engine =
        Engine::new(EngineConfig { lane: LaneId(0), lanes: 1, seed: [3; 32], now, unix_time });
    let other = 1 - index;
    let peer = PeerTable {
        node: NodeId::FIRST,
        lanes: vec![PeerLane {
            public_key: public_key(&key(other)),
            candidates: vec![Candidate::host(underlay(other), 0)],
        }],
        allowed_ips: vec![prefix(other)],
    };
    let id = NetworkId::FIRST;
    let (peers, local) = (Arc::new(vec![Arc::new(peer)]), vec![prefix(index)]);
    let table = NetworkTable {
        id,
        private_key: key(index),
        peers,
        local,
        links: Arc::default(),
        mtu: 1408,
    };
    engine.publish(&Tables { networks: [(id, Arc::new(table))].into(), ..Tables::default() }, now);

    engine
}

/// A UDP-like packet from the first engine's container to the second's.
fn packet(len: u16) -> Vec<u8> {
    let mut bytes = vec![5; usize::from(len)];
    bytes[..20].fill(0);
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&len.to_be_bytes());
    bytes[8..10].copy_from_slice(&[64, 17]);
    bytes[12..16].copy_from_slice(&Ipv4Addr::new(10, 42, 0, 2).octets());
    bytes[16..20].copy_from_slice(&Ipv4Addr::new(10, 42, 1, 2).octets());

    bytes
}

fn from_tun(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tun to udp");
    for size in SIZES {
        let (mut pair, packet, mut has_run) = (Pair::new(), packet(size), false);
        let batch = vec![&packet[..]; BATCH];
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                pair.engines[0].handle_tun(NetworkId::FIRST, batch.iter().copied(), pair.now);
                while let Some(batch) = pair.engines[0].poll_transmit() {
                    black_box(batch.bytes);
                }
            });
            has_run = true;
        });
        let counters = pair.engines[0].counters();
        assert!(!has_run || counters.forwarded > 1000, "nothing was carried: {counters:?}");
    }
}

fn from_udp(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("udp to tun");
    for size in SIZES {
        let (pair, packet) = (std::cell::RefCell::new(Pair::new()), packet(size));
        let mut has_run = false;
        let batch = vec![&packet[..]; BATCH];
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            // A datagram is accepted only once, so every batch is sealed anew, outside the measured
            // time.
            bencher.iter_batched_ref(
                || {
                    let mut pair = pair.borrow_mut();
                    let now = pair.now;
                    pair.engines[0].handle_tun(NetworkId::FIRST, batch.iter().copied(), now);
                    pair.batches(0)
                },
                |batches| {
                    let mut pair = pair.borrow_mut();
                    let now = pair.now;
                    for batch in batches {
                        pair.engines[1].handle_udp(underlay(0), &batch.bytes, batch.segment, now);
                        while let Some(received) = pair.engines[1].poll_tun() {
                            black_box(received.packets);
                        }
                    }
                },
                BatchSize::PerIteration,
            );
            has_run = true;
        });
        let delivered = pair.borrow().engines[1].counters().delivered;
        assert!(!has_run || delivered > 1000, "nothing was carried: {delivered}");
    }
}

/// What an answer to the initiation of a peer costs that has just started.
fn handshake(criterion: &mut Criterion) {
    let mut answering = Pair::new();
    let (begun, mut now) = (answering.now, answering.now);
    let (mut answers, mut has_run) = (0_u64, false);
    criterion.bench_function("handshake answered", |bencher| {
        let pair = std::cell::RefCell::new(&mut answering);
        bencher.iter_batched(
            || {
                now += SECOND;
                let mut pair = pair.borrow_mut();
                pair.now = now;
                pair.engines[0] = engine(0, now, UNIX_TIME + (now - begun));
                pair.engines[0].handle_tun(NetworkId::FIRST, [&packet(100)[..]], now);
                pair.batches(0)
            },
            |initiations| {
                let mut pair = pair.borrow_mut();
                let now = pair.now;
                for initiation in &initiations {
                    pair.engines[1].handle_udp(
                        underlay(0),
                        &initiation.bytes,
                        initiation.segment,
                        now,
                    );
                }
                while pair.engines[1].poll_transmit().is_some() {
                    answers += 1;
                }
            },
            BatchSize::PerIteration,
        );
        has_run = true;
    });
    assert!(!has_run || answers > 1000, "{answers} handshakes were answered");
}

criterion_group!(engines, from_tun, from_udp, handshake);
criterion_main!(engines);
