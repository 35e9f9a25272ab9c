//! A flood of handshake initiations from random addresses: honest handshakes succeed, memory stays
//! constant, traffic goes on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{Notes, PATIENCE, ms, percentile};
use crate::cluster::Cluster;
use crate::command::Running;
use crate::lab::Lab;
use crate::wait_until;

/// Initiations a second.
const PPS: &str = "100000";
/// How long an honest handshake may take, and how many percent of them must be as fast.
const HANDSHAKE: Duration = Duration::from_secs(5);
const HONEST_PERCENT: usize = 99;
/// How much the agent's memory may grow, in KiB.
const GROWTH: u64 = 16 << 10;
/// The share that must remain of the throughput with one core less.
const LEFT: f64 = 0.8;
/// How many seconds a throughput measurement takes.
const SECONDS: &str = "2";

/// The destination of the flood: one lane of the victim.
struct Target {
    key: String,
    address: String,
}

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let mut cluster = Cluster::on(Lab::builder(3).routed().start()?)?;
    cluster.ctl(0, &["network", "create", "net"])?;
    let sink = cluster.serve(1, "net", "sink", &["throughput", "serve"], "listening")?;
    let server = cluster.serve_http(1, "net", "server")?;
    cluster.fetch(2, "net", "attacker", "server")?;
    cluster.fetch(0, "net", "first", "server")?;
    let target = target(&cluster)?;

    throughput(&cluster, &target, notes)?;
    honest(&mut cluster, &target, rounds, notes)?;
    drop((server, sink));
    cluster.finish()
}

/// Returns a lane of host2, as host3 knows it because it is a member.
fn target(cluster: &Cluster) -> Result<Target> {
    let peers = cluster.ctl_json(2, &["peers", "--lanes"])?;
    let rows = peers.as_array().context("peers --json is no list")?;
    let row = rows
        .iter()
        .find(|row| row["node"] == "host2" && row["state"] == "up")
        .context("host2 is no peer")?;
    let text =
        |key: &str| row[key].as_str().map(str::to_owned).with_context(|| format!("no {key}"));

    Ok(Target { key: text("public_key")?, address: text("underlay_addr")? })
}

fn flood(cluster: &Cluster, target: &Target) -> Result<Running> {
    let words = [
        "initiations",
        "--key",
        &target.key,
        "--to",
        &target.address,
        "--pps",
        PPS,
        "--seconds",
        "600",
    ];
    let before = heard(cluster)?;
    let flood = cluster.host(2).try_command("overlay-lab")?.args(words).spawn()?;
    // It takes a moment to make the packets.
    wait_until(PATIENCE, "the flood arrives", || {
        heard(cluster).is_ok_and(|now| now > before + 10_000)
    })?;

    Ok(flood)
}

/// Returns how many datagrams host2 has received.
fn heard(cluster: &Cluster) -> Result<u64> {
    let status = cluster.ctl_json(1, &["status"])?;

    status["counters"]["udp_datagrams"].as_u64().context("status does not count datagrams")
}

/// Measures the throughput without a flood, with one core taken away, and with the flood; and the
/// memory before and after.
fn throughput(cluster: &Cluster, target: &Target, notes: &mut Notes) -> Result<()> {
    let victim = cluster.agent(1)?;
    let before = victim.memory("VmRSS")?;
    let quiet = measure(cluster)?;
    let spinner = cluster.host(2).try_command("sh")?.args(["-c", "while :; do :; done"]).spawn()?;
    let with_a_core_less = measure(cluster)?;
    drop(spinner);
    let flood = flood(cluster, target)?;
    let flooded = measure(cluster)?;
    let after = victim.memory("VmRSS")?;
    drop(flood);
    let growth = after.saturating_sub(before);
    notes.say(&format!(
        "throughput {quiet:.2} Gbit/s; with one core less {with_a_core_less:.2}; under {PPS} initiations a second {flooded:.2} ({:.0} % of that)",
        100.0 * flooded / with_a_core_less
    ));
    notes.say(&format!("the agent's memory: {before} KiB before, {after} KiB under the flood"));
    ensure!(growth <= GROWTH, "the agent grew by {growth} KiB");
    if cfg!(debug_assertions) {
        notes.say("not a release build: the throughput means nothing");
    } else {
        ensure!(flooded >= LEFT * with_a_core_less, "the flood costs more than a core");
    }

    Ok(())
}

fn measure(cluster: &Cluster) -> Result<f64> {
    super::throughput(cluster.container(0, "net", "load")?, "sink", SECONDS)
}

/// Measures handshakes of an agent that is restarted again and again during the flood: the time
/// from its start to its first echo.
fn honest(cluster: &mut Cluster, target: &Target, rounds: u32, notes: &mut Notes) -> Result<()> {
    let to = cluster.address_of(0, "server")?;
    // The container survives its agent.
    let ping = ["ping", "--json", "--count", "0", "--interval-ms", "20", &to];
    let mut flow = cluster.container(0, "net", "honest")?.args(ping).spawn()?;
    let flood = flood(cluster, target)?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let agent = cluster.agent(0)?;
        agent.kill()?;
        let start = Instant::now();
        cluster.restart(&agent)?;
        let made = wait_until(PATIENCE, "a session with host2", || {
            handshakes(cluster).is_ok_and(|up| up > 0)
        });
        times.push(made.map_or(PATIENCE, |_| start.elapsed()));
        ensure!(flow.is_running(), "the container ended: {}", flow.stderr());
    }
    drop(flood);
    flow.signal(Signal::SIGINT)?;
    flow.wait(PATIENCE)?;
    let slow = percentile(&times, HONEST_PERCENT);
    notes.say(&format!(
        "{rounds} starts of an agent under the flood: session after {} (median), {} ({HONEST_PERCENT} %), {} (worst)",
        ms(percentile(&times, 50)),
        ms(slow),
        ms(percentile(&times, 100))
    ));
    ensure!(slow <= HANDSHAKE, "{HONEST_PERCENT} of 100 honest handshakes take {}", ms(slow));

    Ok(())
}

/// Returns how many lanes of host1 have a session with host2.
fn handshakes(cluster: &Cluster) -> Result<usize> {
    let peers = cluster.ctl_json(0, &["peers", "--lanes"])?;
    let rows = peers.as_array().context("peers --json is no list")?;

    Ok(rows.iter().filter(|row| row["node"] == "host2" && row["state"] == "up").count())
}
