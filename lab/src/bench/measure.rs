//! The measurements: each runs once on one competitor and returns samples.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use overlay_traffic::flood;
use serde::de::DeserializeOwned;

use super::competitor::Competitor;
use super::machine::Moment;
use super::metric::Metric;
use super::sample::Sample;
use crate::cluster::Cluster;
use crate::command::{HostCommand, Running};
use crate::tool::usage::Usage;
use crate::wait_until;

/// How long a competitor may take to carry its first packet, and a server to listen.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long any one measurement may take.
const DEADLINE: Duration = Duration::from_secs(90);
/// The UDP payload in bytes that fills a packet of every competitor.
const FULL: &str = "1372";
/// Options for echoes on an idle path, 1 ms apart.
const IDLE: [&str; 3] = ["--count=1500", "--interval-ms=1", "--timeout-ms=500"];
/// Options for echoes under load, 2 ms apart.
const LOADED: [&str; 3] = ["--count=1000", "--interval-ms=2", "--timeout-ms=500"];
/// Options for echoes before those that count, until the stream next to them has reached its speed.
const WARM_UP: [&str; 3] = ["--count=400", "--interval-ms=2", "--timeout-ms=100"];
/// How many seconds the stream next to the echoes lasts; they end before it.
const LOAD_SECONDS: &str = "5";

/// One kind of measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Measure {
    /// One TCP stream, and its cost.
    Tcp1,
    /// Four TCP streams.
    Tcp4,
    /// Small datagrams.
    Small,
    /// Full datagrams.
    Full,
    /// Full datagrams, sent in trains.
    Trains,
    /// Round trips on an idle path.
    Idle,
    /// Round trips next to a TCP stream.
    Loaded,
}

/// The servers on the far side; they end with this value.
#[derive(Debug)]
pub(super) struct Servers {
    _running: Vec<Running>,
}

impl Servers {
    /// Starts the servers, on the far host and in containers of these networks there.
    pub(super) fn start(cluster: &Cluster, networks: &[&str]) -> Result<Self> {
        let mut running = Vec::new();
        for (role, tool) in [("sink", ["throughput", "serve"]), ("counter", ["flood", "serve"])] {
            for network in networks {
                running.push(cluster.serve(1, network, role, &tool, "listening")?);
            }
            let bare = cluster.host(1).try_command("overlay-lab")?.args(tool).spawn()?;
            wait_until(PATIENCE, "a server listens", || bare.stdout().contains("listening"))?;
            running.push(bare);
        }

        Ok(Self { _running: running })
    }
}

/// Waits until a competitor carries packets.
pub(super) fn reach(competitor: &Competitor, cluster: &Cluster) -> Result<()> {
    let ping = || {
        ping(competitor, cluster, "reach", &["--count=3", "--interval-ms=100", "--timeout-ms=500"])
    };

    wait_until(PATIENCE, &format!("{} carries packets", competitor.name()), || ping().is_ok())
        .map(drop)
}

impl Measure {
    /// All measurements, in the order in which they are made.
    pub(super) const ALL: [Self; 7] =
        [Self::Tcp1, Self::Tcp4, Self::Small, Self::Full, Self::Trains, Self::Idle, Self::Loaded];

    /// Returns the metrics that it measures.
    pub(super) fn metrics(self) -> &'static [Metric] {
        match self {
            Self::Tcp1 => &[Metric::Tcp1, Metric::Cost, Metric::EndsCost],
            Self::Tcp4 => &[Metric::Tcp4, Metric::Memory],
            Self::Small => &[Metric::Small],
            Self::Full => &[Metric::Full],
            Self::Trains => &[Metric::Trains],
            Self::Idle => &[Metric::IdleMedian, Metric::IdleTail],
            Self::Loaded => &[Metric::LoadMedian, Metric::LoadTail],
        }
    }

    /// Measures one competitor once.
    pub(super) fn run(
        self,
        competitor: &Competitor,
        cluster: &Cluster,
        seconds: f64,
    ) -> Result<BTreeMap<Metric, Sample>> {
        let found = match self {
            Self::Tcp1 => tcp(competitor, cluster, 1, seconds),
            Self::Tcp4 => tcp(competitor, cluster, 4, seconds),
            Self::Small => datagrams(competitor, cluster, Metric::Small, &["--size=64"]),
            Self::Full => datagrams(competitor, cluster, Metric::Full, &["--size", FULL]),
            Self::Trains => {
                datagrams(competitor, cluster, Metric::Trains, &["--trains", "--size", FULL])
            }
            Self::Idle => idle(competitor, cluster),
            Self::Loaded => loaded(competitor, cluster),
        };

        found.with_context(|| format!("{}: {self:?}", competitor.name()))
    }
}

/// The output of `throughput client --json`, as far as it is needed.
#[derive(serde::Deserialize)]
struct Carried {
    bytes: f64,
    gbit_per_second: f64,
    cpu_seconds: f64,
}

fn tcp(
    competitor: &Competitor,
    cluster: &Cluster,
    streams: u8,
    seconds: f64,
) -> Result<BTreeMap<Metric, Sample>> {
    let to = competitor.address(cluster, "sink");
    let (streams_text, seconds) = (streams.to_string(), seconds.to_string());
    let args =
        ["throughput", "client", "--json", "--streams", &streams_text, "--seconds", &seconds, &to];
    let command = competitor.tool(cluster, "load")?.args(args);
    let before = usage(competitor, cluster)?;
    let start = Moment::now()?;
    let carried: Carried = json(command)?;
    let after = usage(competitor, cluster)?;

    let sample = |value| start.sample(value);
    let giga = carried.bytes / 1e9;
    let mut found = BTreeMap::new();
    let metric = if streams == 1 { Metric::Tcp1 } else { Metric::Tcp4 };
    found.insert(metric, sample(carried.gbit_per_second)?);
    if streams == 1 {
        found.insert(Metric::EndsCost, sample(carried.cpu_seconds / giga)?);
    }
    if let (Some(before), Some(after)) = (before, after) {
        let (metric, value) = if streams == 1 {
            (Metric::Cost, (after.cpu_seconds - before.cpu_seconds) / giga)
        } else {
            (Metric::Memory, after.memory_mib)
        };
        found.insert(metric, sample(value)?);
    }
    Ok(found)
}

fn datagrams(
    competitor: &Competitor,
    cluster: &Cluster,
    metric: Metric,
    args: &[&str],
) -> Result<BTreeMap<Metric, Sample>> {
    let to = competitor.address(cluster, "counter");
    let command =
        competitor.tool(cluster, "load")?.args(["flood", "client", "--json", &to]).args(args);
    let start = Moment::now()?;
    let found: flood::Summary = json(command)?;
    let value = if metric == Metric::Trains {
        found.gbit_per_second
    } else {
        found.datagrams_per_second / 1000.0
    };

    Ok(BTreeMap::from([(metric, start.sample(value)?)]))
}

/// The output of `ping --json`, as far as it is needed.
#[derive(serde::Deserialize)]
struct RoundTrips {
    rtt_p50_ms: f64,
    rtt_p99_ms: f64,
}

fn idle(competitor: &Competitor, cluster: &Cluster) -> Result<BTreeMap<Metric, Sample>> {
    let start = Moment::now()?;
    let trips = ping(competitor, cluster, "echo", &IDLE)?;

    times(&start, &trips, Metric::IdleMedian, Metric::IdleTail)
}

fn loaded(competitor: &Competitor, cluster: &Cluster) -> Result<BTreeMap<Metric, Sample>> {
    let to = competitor.address(cluster, "sink");
    let args = ["throughput", "client", "--json", "--seconds", LOAD_SECONDS, &to];
    let load = competitor.tool(cluster, "load")?.args(args).spawn()?;
    ping(competitor, cluster, "echo", &WARM_UP)?;
    let start = Moment::now()?;
    let trips = ping(competitor, cluster, "echo", &LOADED)?;
    let found = times(&start, &trips, Metric::LoadMedian, Metric::LoadTail)?;
    load.wait(DEADLINE)?;

    Ok(found)
}

fn times(
    start: &Moment,
    trips: &RoundTrips,
    median: Metric,
    tail: Metric,
) -> Result<BTreeMap<Metric, Sample>> {
    let (p50, p99) =
        (start.sample(trips.rtt_p50_ms * 1000.0)?, start.sample(trips.rtt_p99_ms * 1000.0)?);

    Ok(BTreeMap::from([(median, p50), (tail, p99)]))
}

fn ping(
    competitor: &Competitor,
    cluster: &Cluster,
    role: &str,
    args: &[&str],
) -> Result<RoundTrips> {
    let to = competitor.address(cluster, "sink");

    json(competitor.tool(cluster, role)?.args(["ping", "--json", &to]).args(args))
}

/// Returns what the programs of a competitor have cost so far, on both hosts together.
fn usage(competitor: &Competitor, cluster: &Cluster) -> Result<Option<Usage>> {
    let Some(program) = competitor.program() else { return Ok(None) };
    let mut sum = Usage::default();
    for host in cluster.lab().hosts() {
        let one: Usage = json(host.try_command("overlay-lab")?.args(["usage", program]))?;
        sum.cpu_seconds += one.cpu_seconds;
        sum.memory_mib += one.memory_mib;
    }

    Ok(Some(sum))
}

fn json<T: DeserializeOwned>(command: HostCommand) -> Result<T> {
    let output = command.deadline(DEADLINE).run()?;

    serde_json::from_str(&output.stdout).with_context(|| format!("no figures: {}", output.stdout))
}
