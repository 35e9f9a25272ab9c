//! What it costs the agent that one endpoint of a large network changes:
//! `cargo bench -p overlay-agent --features bench --bench change`.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use overlay_agent::change::{LargeNetwork, Move, Parts, Size};

const SIZE: Size = Size { lanes: 8, members: 1_000, endpoints: 10 };

type Part = fn(&Parts) -> Duration;

const PARTS: [(&str, Part); 7] = [
    ("whole", Parts::whole),
    ("view", |parts| parts.view),
    ("wanted", |parts| parts.wanted),
    ("tables", |parts| parts.tables),
    ("engines", |parts| parts.engines),
    ("kernel", |parts| parts.kernel),
    ("names", |parts| parts.names),
];

fn change(criterion: &mut Criterion) {
    let mut network = LargeNetwork::new(SIZE);
    for (name, how) in [("within its block", Move::WithinBlock), ("out of it", Move::OutOfBlock)] {
        let mut group = criterion.benchmark_group(format!("change of one endpoint {name}"));
        group.sample_size(10).measurement_time(Duration::from_secs(2));
        for (part, of) in PARTS {
            group.bench_function(part, |bencher| {
                // An even number of changes ends where it began.
                bencher.iter_custom(|count| {
                    (0..count * 2).map(|_| of(&network.change(how))).sum::<Duration>() / 2
                });
            });
        }
    }
}

criterion_group!(changes, change);
criterion_main!(changes);
