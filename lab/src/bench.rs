//! `overlay-lab bench`: compares Overlay with other userspace tunnels, measured in turn in one run.
//!
//! Overlay is measured from container to container, through namespaces, routes and source checks;
//! the others are measured from host to host, over the same two hosts and with queues of the same
//! length. Samples during which the hypervisor took processor time away are marked and not used,
//! and rounds are added until there are enough others.

mod bars;
mod cipher;
mod competitor;
mod machine;
mod measure;
mod metric;
mod nebula;
mod plot;
mod policy;
mod report;
mod sample;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use cipher::Cipher;
use competitor::Competitor;
use measure::Measure;
use metric::Metric;
use report::{BenchReport, Row};
use sample::Samples;

use crate::cluster::Cluster;
use crate::competitor_tunnel::CompetitorTunnel;

/// How many rounds there may be to replace unusable samples, as a multiple of the rounds asked for.
const PATIENCE: u32 = 2;

/// Options of `bench`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Number of clean samples of each figure
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each TCP measurement
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Measure only these, besides Overlay: bare, wireguard-go, boringtun-cli, gotatun, nebula
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Measure Overlay in a network with a policy of 500 rules, too
    #[arg(long)]
    policy: bool,
    /// Make only these measurements
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    measure: Vec<Measure>,
    /// Print all figures as JSON
    #[arg(long)]
    json: bool,
    /// Draw throughput and cost into this file (SVG)
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Fail if a bar is missed
    #[arg(long)]
    gate: bool,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    fn measures(&self) -> Vec<Measure> {
        if self.measure.is_empty() { Measure::ALL.to_vec() } else { self.measure.clone() }
    }
}

/// Measures, and prints the results.
///
/// # Errors
///
/// If the hosts cannot be made, a competitor carries nothing, or `--gate` is given and a bar is
/// missed.
#[expect(clippy::print_stdout, reason = "this is a command line")]
pub(crate) fn run(options: &Options) -> Result<()> {
    let report = measure_all(options)?;
    if let Some(path) = &options.plot {
        std::fs::write(path, plot::draw(&report))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }

    let missed = report.bars.iter().filter(|bar| !bar.holds).count();
    ensure!(!options.gate || missed == 0, "{missed} bars are missed");
    Ok(())
}

fn measure_all(options: &Options) -> Result<BenchReport> {
    let cluster = Cluster::new(2)?;
    cluster.ctl(0, &["network", "create", competitor::NETWORK])?;
    let mut networks = vec![competitor::NETWORK];
    if options.policy {
        policy::apply(&cluster)?;
        networks.push(policy::NETWORK);
    }
    let servers = measure::Servers::start(&cluster, &networks)?;
    let (mut competitors, missing) = Competitor::start_all(&cluster, |name| options.wants(name))?;
    if options.policy {
        competitors.push(Competitor::WithPolicy);
    }
    for competitor in &competitors {
        measure::reach(competitor, &cluster)?;
    }

    let mut ciphers = Vec::new();
    let mut rows: Vec<Row> =
        competitors.iter().map(|competitor| Row::new(competitor, &cluster)).collect();
    for round in 1..=options.rounds * PATIENCE {
        if rows.iter().all(|row| {
            options.measures().iter().all(|measure| has_enough(row, *measure, options.rounds))
        }) {
            break;
        }
        ciphers.push(Cipher::measure()?);
        for measure in options.measures() {
            for (competitor, row) in competitors.iter().zip(&mut rows) {
                if has_enough(row, measure, options.rounds) {
                    continue;
                }
                let found = measure.run(competitor, &cluster, options.seconds)?;
                tell(round, row.name, &found);
                found.into_iter().for_each(|(metric, sample)| {
                    row.samples.entry(metric).or_default().push(sample)
                });
            }
        }
    }

    if options.policy {
        policy::remove(&cluster)?;
    }
    drop((competitors, servers));
    for host in cluster.lab().hosts() {
        CompetitorTunnel::forget(host)?;
        nebula::forget(host)?;
    }
    cluster.finish()?;
    Ok(BenchReport::new(rows, missing, &ciphers))
}

fn has_enough(row: &Row, measure: Measure, rounds: u32) -> bool {
    let clean = |metric: &Metric| row.samples.get(metric).map_or(0, Samples::clean);

    measure
        .metrics()
        .iter()
        .filter(|metric| row.has(**metric))
        .all(|metric| clean(metric) >= rounds as usize)
}

/// Prints the result of a measurement on standard error, because the run takes long.
#[expect(clippy::print_stderr, reason = "this is a command line")]
fn tell(round: u32, name: &str, found: &BTreeMap<Metric, sample::Sample>) {
    let figures: Vec<_> = found
        .iter()
        .map(|(metric, sample)| {
            let mark = if sample.is_clean() { "" } else { " (stolen, not used)" };
            format!("{} {}{mark}", metric.title(), metric.show(sample.value))
        })
        .collect();

    eprintln!("round {round}: {name}: {}", figures.join(", "));
}
