//! Containers come and go, some are killed while they start: no address is assigned twice, and
//! nothing is left.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use overlay_traffic::wait::rest;

use super::{MARKER, Notes, PATIENCE, kernel, kernel_at_rest, sealed};
use crate::cluster::Cluster;
use crate::command::Running;
use crate::wait_until;

/// How many containers come and go at a time.
const AT_A_TIME: u32 = 8;
/// One in so many is killed while it starts.
const KILLED: u32 = 10;

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let cluster = Cluster::new(2)?;
    cluster.ctl(0, &["network", "create", "net"])?;
    let servers =
        [cluster.serve_http(0, "net", "anchor1")?, cluster.serve_http(1, "net", "anchor2")?];
    cluster.fetch(0, "net", "first", "anchor2")?;
    let before = [kernel_at_rest(&cluster, 0)?, kernel_at_rest(&cluster, 1)?];
    let start = Instant::now();

    let seen = sealed(cluster.lab(), notes, |_| {
        let mut seen = 0;
        for first in (0..rounds).step_by(usize::try_from(AT_A_TIME)?) {
            seen += batch(&cluster, first, rounds.min(first + AT_A_TIME))?;
        }
        Ok(seen)
    })?;
    let rate = f64::from(rounds) / start.elapsed().as_secs_f64();

    wait_until(PATIENCE, "only the anchors are listed", || {
        cluster.endpoint_names(0).is_ok_and(|names| names.len() == 2)
    })?;
    for (host, before) in before.iter().enumerate() {
        before
            .assert_unchanged(|| kernel(&cluster, host))
            .with_context(|| format!("leaked on host {}", host + 1))?;
    }
    cluster.fetch(0, "net", "last", "anchor2")?;
    notes.say(&format!(
        "{rounds} containers, {} killed midway, {rate:.0} a second; {seen} live addresses compared, none twice",
        rounds / KILLED
    ));
    drop(servers);
    cluster.finish()
}

/// Starts containers on both hosts, compares the addresses that live at the same time, and ends
/// them.
fn batch(cluster: &Cluster, first: u32, end: u32) -> Result<usize> {
    let mut running: Vec<(u32, Running)> = Vec::new();
    for number in first..end {
        let ping = [
            "ping",
            "--count=2",
            "--interval-ms=30",
            "--timeout-ms=200",
            "--marker",
            MARKER,
            "anchor1",
        ];
        let host = usize::try_from(number % 2)?;
        running.push((
            number,
            cluster.container(host, "net", &format!("c{number}"))?.args(ping).spawn()?,
        ));
    }
    rest(Duration::from_millis(rand::random_range(0..60)));
    for (_, container) in running.iter().filter(|(number, _)| number % KILLED == 0) {
        // It may have ended already.
        let _ = container.signal(Signal::SIGKILL);
    }
    let seen = cluster.distinct_addresses(0)?;
    for (number, container) in running {
        let output = container.wait(PATIENCE)?;
        let killed = number % KILLED == 0;
        ensure!(
            killed || output.status.success(),
            "container {number} failed: {}{}",
            output.stdout,
            output.stderr
        );
    }

    Ok(seen)
}
