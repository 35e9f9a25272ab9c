//! What it costs the agent that one endpoint of a large network changes:
//! `cargo bench -p overlay-agent --features bench --bench change`. As root it also counts what the
//! kernel takes, in a namespace that goes with the benchmark.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use overlay_agent::change::{
    KernelCost, KernelNetwork, LargeNetwork, Move, Parts, Placement, Size,
};

const SIZE: Size = Size { lanes: 8, members: 1_000, endpoints: 10, placement: Placement::InBlocks };
/// Changes of which the benchmark with the kernel takes the mean.
const CHANGES: u32 = 40;

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

/// Shows the processor time of the whole process, the kernel's part included, until all is quiet.
#[expect(clippy::print_stdout, reason = "this is what the benchmark is for")]
fn kernel(_criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (name, placement, how) in [
        ("within its block", Placement::InBlocks, Move::WithinBlock),
        ("out of it", Placement::InBlocks, Move::OutOfBlock),
        ("where each has a route", Placement::Outside, Move::OutOfBlock),
    ] {
        let Some(mut network) = KernelNetwork::new(Size { placement, ..SIZE }, dir.path()) else {
            return println!("SKIPPED: needs root and network namespaces");
        };
        let sum = (0..CHANGES).map(|_| network.change(how)).sum::<KernelCost>();
        println!(
            "change of one endpoint {name}, with the kernel ({} routes): {:.2} ms of CPU ({:.2} \
             of them in passes over the network), {:.1} passes",
            network.routes(),
            1e3 * sum.cpu.as_secs_f64() / f64::from(CHANGES),
            1e3 * sum.passing.as_secs_f64() / f64::from(CHANGES),
            f64::from(sum.passes) / f64::from(CHANGES),
        );
    }
}

criterion_group!(changes, change, kernel);
criterion_main!(changes);
