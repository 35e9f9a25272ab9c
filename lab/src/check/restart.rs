//! Agents are killed at random moments and restarted at once, during a ping and a TCP transfer.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use overlay_traffic::wait::rest;

use super::{MARKER, Notes, PATIENCE, PingSummary, kernel, kernel_at_rest, unreadable};
use crate::cluster::Cluster;

/// The longest silence of the ping, in milliseconds: for 95 of 100 kills, and for all.
const P95_MS: f64 = 1000.0;
const WORST_MS: f64 = 3000.0;
/// Two intervals of the ping: the shortest silence that it reports, in milliseconds.
const FLOOR_MS: f64 = 200.0;
/// How long both ends may take to agree that a transfer has ended.
const SETTLE: Duration = Duration::from_secs(60);

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let mut cluster = Cluster::new(2)?;
    cluster.ctl(0, &["network", "create", "net"])?;
    let sink = cluster.serve(1, "net", "sink", &["throughput", "serve"], "listening")?;
    cluster
        .container(0, "net", "first")?
        .args(["ping", "--count=3", "--interval-ms=100", "sink"])
        .run()?;

    let capture = cluster.lab().capture(Some(MARKER))?;
    let ping = ["ping", "--json", "--count=0", "--interval-ms=100", "--marker", MARKER, "sink"];
    let ping = cluster.container(0, "net", "pinger")?.args(ping).spawn()?;
    let transfer = [
        "throughput",
        "client",
        "sink",
        "--json",
        "--verify",
        "--seconds=100000",
        "--rate=40",
        "--marker",
        MARKER,
    ];
    let transfer = cluster.container(0, "net", "sender")?.args(transfer).spawn()?;
    rest(Duration::from_millis(500));
    let before = [kernel_at_rest(&cluster, 0)?, kernel_at_rest(&cluster, 1)?];

    for round in 0..rounds {
        rest(Duration::from_millis(rand::random_range(0..500)));
        let agent = cluster.agent(rand::random_range(0..2))?;
        agent.kill()?;
        cluster.restart(&agent)?;
        for host in [0, 1] {
            cluster.wait_for_agent(host).with_context(|| format!("after kill {}", round + 1))?;
        }
    }
    rest(Duration::from_secs(1));

    for (host, before) in before.iter().enumerate() {
        before
            .assert_unchanged(|| kernel(&cluster, host))
            .with_context(|| format!("leaked on host {}", host + 1))?;
    }
    ping.signal(Signal::SIGTERM)?;
    transfer.signal(Signal::SIGTERM)?;
    let summary: PingSummary =
        serde_json::from_str(&ping.wait(PATIENCE)?.stdout).context("no figures from the ping")?;
    let output = transfer.wait(SETTLE)?;
    ensure!(output.status.success(), "the transfer broke: {}", output.stderr);

    notes.say(&format!("transfer whole: {}", output.stdout.trim()));
    unreadable(capture, notes)?;
    judge(&summary, rounds, notes)?;
    drop(sink);
    cluster.finish()
}

fn judge(summary: &PingSummary, rounds: u32, notes: &mut Notes) -> Result<()> {
    let mut silences: Vec<_> = summary.silences.iter().map(|silence| silence.ms).collect();
    silences.sort_by(f64::total_cmp);
    // Less than two intervals does not count as a silence.
    let count = usize::try_from(rounds)?;
    let over = count.div_ceil(20);
    let p95 = silences.len().checked_sub(over + 1).map_or(FLOOR_MS, |index| silences[index]);
    let (sent, received) = (summary.sent, summary.received);
    notes.say(&format!(
        "{rounds} kills: {received} of {sent} echoes answered; silence p95 {p95:.0} ms or less, worst {:.0} ms",
        summary.longest_silence_ms
    ));

    ensure!(p95 <= P95_MS, "the silence p95 is {p95:.0} ms");
    ensure!(
        summary.longest_silence_ms <= WORST_MS,
        "the worst silence is {:.0} ms",
        summary.longest_silence_ms
    );
    Ok(())
}
