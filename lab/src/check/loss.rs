//! An underlay that loses datagrams in both directions: what arrives is whole, and sessions are
//! made and kept nevertheless. Other faults of a wire are tested with whole engines in virtual time
//! (`dataplane/src/sim/wire.rs`).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{MARKER, Notes, PATIENCE, PingSummary, ms, sealed};
use crate::cluster::Cluster;
use crate::wait_until;

/// The loss in percent, in each direction.
const LOSSES: [u32; 5] = [1, 5, 10, 20, 30];
/// With more loss, TCP takes longer to end than is sensible: only transfers with their own
/// repetition are tested.
const TCP_UP_TO: u32 = 10;
/// How many seconds each transfer takes.
const SECONDS: &str = "2";
/// The number of echoes that measure the loss.
const ECHOES: &str = "600";
/// By how many percentage points the answers that arrive may differ from what the loss in both
/// directions leaves: four standard deviations and more.
const MARGIN: f64 = 12.0;

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let mut cluster = Cluster::new(2)?;
    cluster.ctl(0, &["network", "create", "net"])?;
    let sink = cluster.serve(1, "net", "sink", &["throughput", "serve"], "listening")?;
    let datagrams =
        cluster.serve(1, "net", "datagram-sink", &["datagrams", "serve"], "listening")?;
    for _ in 0..rounds {
        for percent in LOSSES {
            lose(&cluster, percent)?;
            let made = restart(&mut cluster).with_context(|| format!("{percent} % loss"))?;
            let line = sealed(cluster.lab(), notes, |_| carry(&cluster, percent))
                .with_context(|| format!("{percent} % loss"))?;
            notes.say(&format!(
                "{percent} % lost each way: {line}; after a restart a session after {}",
                ms(made)
            ));
        }
    }
    lose(&cluster, 0)?;
    drop((sink, datagrams));
    cluster.finish()
}

/// Makes both hosts drop a share of the incoming tunnel datagrams.
fn lose(cluster: &Cluster, percent: u32) -> Result<()> {
    let rules = format!(
        "table inet lab_loss {{ chain incoming {{ type filter hook prerouting priority -300; \
         udp dport 51820-51899 numgen random mod 100 < {percent} drop; }}; }}"
    );
    for host in [0, 1] {
        let nft = || cluster.host(host).try_command("nft");
        nft()?
            .arg("table inet lab_loss; delete table inet lab_loss")
            .run()
            .context("this needs the nft program")?;
        if percent > 0 {
            nft()?.arg(&rules).run()?;
        }
    }

    Ok(())
}

/// Makes a transfer with a checksum, and sends echoes that show how much is lost.
fn carry(cluster: &Cluster, percent: u32) -> Result<String> {
    let client = |words: &[&str]| {
        let load = cluster.container(0, "net", "load")?.args(words).deadline(PATIENCE * 6).run()?;
        serde_json::from_str::<Value>(&load.stdout).context("no figures")
    };
    let udp = client(&["datagrams", "client", "--json", "--seconds", SECONDS, "datagram-sink"])?;
    let mut whole = format!("{} datagrams", udp["datagrams"]);
    ensure!(udp["datagrams"].as_u64().is_some_and(|count| count > 0), "nothing arrived: {udp}");
    if percent <= TCP_UP_TO {
        let tcp = client(&[
            "throughput",
            "client",
            "--json",
            "--verify",
            "--seconds",
            SECONDS,
            "--marker",
            MARKER,
            "sink",
        ])?;
        let rate = tcp["gbit_per_second"].as_f64().context("no figure")?;
        ensure!(rate > 0.0, "nothing arrived");
        whole = format!("{whole} and {:.0} Mbit/s of TCP", rate * 1_000.0);
    }
    // A lane's first handshakes may be lost as well; what is measured is what a session loses.
    let echoes = cluster
        .container(0, "net", "load")?
        .args(["ping", "--json", "--from-first-answer", "--count", ECHOES, "--interval-ms", "5"])
        .args(["--marker", MARKER, "sink"])
        .run()?;
    let echoes: PingSummary = serde_json::from_str(&echoes.stdout).context("no figures")?;
    let (left, answered) =
        (f64::from(100 - percent), 100.0 * echoes.received as f64 / echoes.sent as f64);
    let expected = left * left / 100.0;
    ensure!(
        (answered - expected).abs() < MARGIN,
        "{answered:.0} % of echoes answered, {expected:.0} % expected"
    );

    Ok(format!(
        "{whole} whole, {answered:.0} % of echoes answered (two crossings leave {expected:.0} %)"
    ))
}

/// Returns how soon a restarted agent has a session again.
fn restart(cluster: &mut Cluster) -> Result<Duration> {
    let agent = cluster.agent(0)?;
    agent.kill()?;
    let start = Instant::now();
    cluster.restart(&agent)?;
    wait_until(PATIENCE, "a session", || {
        let ping = ["ping", "--count", "1", "--timeout-ms", "100", "sink"];
        cluster.container(0, "net", "probe").is_ok_and(|probe| probe.args(ping).run().is_ok())
    })?;

    Ok(start.elapsed())
}
