//! Each stage of the engine by itself.
//!
//! `cargo bench -p overlay-dataplane --features bench --bench stages`

use std::hint::black_box;
use std::time::Instant;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use overlay_dataplane::bench::{Called, Routes, Session};

/// Small packets, and those that fill a tunnel over an underlay of 1,500 bytes.
const SIZES: [usize; 2] = [64, 1408];
/// The number of packets that one super-packet of 64 KiB is cut into.
const BATCH: usize = 45;

#[expect(clippy::disallowed_methods, reason = "a session has a clock; only differences matter")]
fn start() -> Instant {
    Instant::now()
}

fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal");
    for size in SIZES {
        let (mut session, packet) = (Session::new(start()), vec![5; size]);
        let mut datagrams = vec![0; Session::sealed_len(size) * BATCH];
        group.throughput(Throughput::Bytes((size * BATCH) as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                for datagram in datagrams.chunks_exact_mut(Session::sealed_len(size)) {
                    session.seal(black_box(&packet), datagram);
                }
            });
        });
    }
}

fn open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open");
    for size in SIZES {
        let (session, packet) = (std::cell::RefCell::new(Session::new(start())), vec![5; size]);
        let mut room = vec![0; Session::sealed_len(size)];
        group.throughput(Throughput::Bytes((size * BATCH) as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            // A datagram opens only once, so every batch is sealed anew, outside the measured time.
            bencher.iter_batched_ref(
                || {
                    let mut datagrams = vec![0; Session::sealed_len(size) * BATCH];
                    for datagram in datagrams.chunks_exact_mut(Session::sealed_len(size)) {
                        session.borrow_mut().seal(&packet, datagram);
                    }
                    datagrams
                },
                |datagrams| {
                    for datagram in datagrams.chunks_exact(Session::sealed_len(size)) {
                        black_box(session.borrow_mut().open(datagram, &mut room));
                    }
                },
                BatchSize::PerIteration,
            );
        });
    }
}

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup");
    for prefixes in [10, 1000] {
        let routes = Routes::new(prefixes);
        group.bench_function(BenchmarkId::from_parameter(prefixes), |bencher| {
            let mut number = 0;
            bencher.iter(|| {
                number = (number + 7) % prefixes;
                routes.lookup(black_box(Routes::address(number).into()))
            });
        });
    }
}

/// What a lane does for each initiation that is admitted.
fn answer(criterion: &mut Criterion) {
    let called = std::cell::RefCell::new(Called::new(start()));
    criterion.bench_function("answer", |bencher| {
        let (call, answer) =
            (|| called.borrow_mut().call(), |call: Vec<u8>| called.borrow_mut().answer(&call));
        bencher.iter_batched(call, answer, BatchSize::PerIteration);
    });
}

criterion_group!(stages, seal, open, lookup, answer);
criterion_main!(stages);
