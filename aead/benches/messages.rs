//! The time to seal and to open messages of several sizes, with this crate and with `ring` alone.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use overlay_aead::{Key, NONCE_LEN, TAG_LEN, Work, seal_two};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// Sizes in bytes, among them the shortest for the vector code, a full packet of a tunnel, and one
/// of an underlay with an MTU of 9,000.
const SIZES: [usize; 7] = [64, 128, 256, 320, 512, 1_424, 8_928];
const NONCE: [u8; NONCE_LEN] = [3; NONCE_LEN];

fn messages(criterion: &mut Criterion) {
    let key = Key::new(&[7; 32]);
    let mut group = criterion.benchmark_group("messages");
    for size in SIZES {
        let plaintext = vec![1; size];
        let mut sealed = vec![0; size + TAG_LEN];
        let mut opened = vec![0; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("seal", size), |bencher| {
            bencher.iter(|| key.seal(&NONCE, &plaintext, &mut sealed));
        });
        group.bench_function(BenchmarkId::new("open", size), |bencher| {
            bencher.iter(|| key.open(&NONCE, &sealed, &mut opened));
        });
        let mut other = sealed.clone();
        group.throughput(Throughput::Bytes(2 * size as u64));
        group.bench_function(BenchmarkId::new("seal two", size), |bencher| {
            bencher.iter(|| {
                seal_two([&mut sealed, &mut other].map(|to| Work {
                    key: &key,
                    nonce: NONCE,
                    from: &plaintext,
                    to,
                }))
            });
        });
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("ring seals", size), |bencher| {
            bencher.iter(|| {
                opened.copy_from_slice(&plaintext);
                let key = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).map(LessSafeKey::new)?;
                key.seal_in_place_separate_tag(
                    Nonce::assume_unique_for_key(NONCE),
                    Aad::empty(),
                    &mut opened,
                )
            });
        });
    }
    group.finish();
}

criterion_group!(benches, messages);
criterion_main!(benches);
