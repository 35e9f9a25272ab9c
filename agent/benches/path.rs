//! What the agent does at its border with the kernel:
//! `cargo bench -p overlay-agent --features bench --bench path`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use overlay_agent::path::bench::{Merger, Splitter};

/// Payload of the segments of a tunnel with an MTU of 1,408, with TCP timestamps.
const SEGMENT: u16 = 1356;
const HEADERS: usize = 52;

/// A TCP super-packet as a TUN device hands it out: virtio header, IPv4, TCP with timestamps,
/// 64,000 bytes of payload.
fn super_packet() -> Vec<u8> {
    const PAYLOAD: u16 = 64_000;

    let mut read = vec![1, 1, 52, 0, 0, 0, 20, 0, 16, 0];
    read[4..6].copy_from_slice(&SEGMENT.to_le_bytes());
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet[2..4].copy_from_slice(&(PAYLOAD + 52).to_be_bytes());
    packet.extend([
        0x1F, 0x90, 0x1F, 0x91, 0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0x10, 0xFF, 0xFF, 0, 0, 0, 0,
    ]);
    packet.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1]);
    assert_eq!(packet.len(), HEADERS);
    packet.extend((0..PAYLOAD).map(|at| u8::try_from(at % 251).unwrap_or(0)));
    read.extend(packet);

    read
}

fn split(criterion: &mut Criterion) {
    let (mut splitter, read) = (Splitter::default(), super_packet());
    let mut group = criterion.benchmark_group("split");
    group.throughput(Throughput::Bytes(read.len() as u64));
    group.bench_function("tcp", |bencher| bencher.iter(|| splitter.split(black_box(&read))));
}

fn coalesce(criterion: &mut Criterion) {
    let mut splitter = Splitter::default();
    let count = splitter.split(&super_packet());
    let (bytes, ranges) = splitter.packets();
    let mut merger = Merger::default();
    assert!(merger.merge(&bytes, &ranges) < count, "nothing is merged");

    let mut group = criterion.benchmark_group("coalesce");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group
        .bench_function("tcp", |bencher| bencher.iter(|| merger.merge(black_box(&bytes), &ranges)));
}

criterion_group!(path, split, coalesce);
criterion_main!(path);
