//! Control is killed while changes are made: every acknowledged change is there afterwards.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use overlay_traffic::wait::rest;

use super::{Notes, PATIENCE};
use crate::cluster::Cluster;
use crate::wait_until;

/// How many changes are acknowledged for each kill.
const CHANGES: u32 = 50;
/// How long all changes of one round may take.
const ROUND: Duration = Duration::from_secs(120);
/// Makes networks until enough of them are acknowledged. What fails while control is away is
/// retried under another name, because nobody knows whether it was made.
const SCRIPT: &str = "i=0; n=0; while [ $i -lt $2 ]; do n=$((n+1)); \
     if overlayctl network create $1-$n --subnet 10.200.0.0/24 >/dev/null 2>>/run/refused; then \
     echo $1-$n >> /run/acknowledged; i=$((i+1)); fi; done";

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let mut cluster = Cluster::new(1)?;
    let start = Instant::now();

    for round in 1..=rounds {
        let changes = ["-c", SCRIPT, "sh", &format!("r{round}"), &CHANGES.to_string()];
        let changes = cluster.host(0).try_command("sh")?.args(changes).spawn()?;
        rest(Duration::from_millis(rand::random_range(50..800)));
        let control = cluster.control()?;
        control.kill()?;
        cluster.restart(&control)?;
        let output = changes.wait(ROUND).with_context(|| format!("round {round}"))?;
        ensure!(output.status.success(), "the script failed: {}", output.stderr);

        wait_until(PATIENCE, "control answers", || cluster.ctl(0, &["network", "ls"]).is_ok())?;
        let acknowledged =
            cluster.host(0).try_command("cat")?.arg("/run/acknowledged").run()?.stdout;
        let there = networks(&cluster)?;
        let lost: Vec<_> = acknowledged.lines().filter(|name| !there.contains(*name)).collect();
        ensure!(lost.is_empty(), "acknowledged and lost after kill {round}: {}", lost.join(", "));
    }

    notes.say(&format!(
        "{} acknowledged changes, {rounds} kills of control, 0 lost, in {:.0} s",
        rounds * CHANGES,
        start.elapsed().as_secs_f64()
    ));
    cluster.host(0).try_command("rm")?.args(["-f", "/run/acknowledged", "/run/refused"]).run()?;
    cluster.finish()
}

fn networks(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let list = cluster.ctl_json(0, &["network", "ls"])?;
    let rows = list.as_array().context("network ls --json is no list")?;

    Ok(rows.iter().filter_map(|row| Some(row["name"].as_str()?.to_owned())).collect())
}
