//! Measurements that several checks share.

use std::time::Duration;

use anyhow::{Context, Result};
use overlay_traffic::ping::Silence;

use super::notes::Notes;
use crate::capture::Capture;
use crate::cluster::Cluster;
use crate::command::HostCommand;
use crate::lab::Lab;
use crate::snapshot::Snapshot;

/// A payload that must not be readable between hosts.
pub(crate) const MARKER: &str = "this-must-not-be-readable";
/// How long anything without a bar of its own may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Returns the given percentile of the times.
pub(crate) fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);

    sorted.get(index).copied().unwrap_or_default()
}

/// Returns the median of the figures.
pub(crate) fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);

    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

/// Sends one TCP stream with `command` to a `throughput serve` at `to`, and returns Gbit/s.
pub(crate) fn throughput(command: HostCommand, to: &str, seconds: &str) -> Result<f64> {
    let output =
        command.args(["throughput", "client", "--json", "--seconds", seconds, to]).run()?;
    let summary: serde_json::Value = serde_json::from_str(&output.stdout).context("no figures")?;

    summary["gbit_per_second"].as_f64().context("no figure")
}

/// Returns the kernel state of a host.
pub(crate) fn kernel(cluster: &Cluster, host: usize) -> Result<Snapshot> {
    Ok(cluster.host(host).snapshot(&[])?.of_kernel())
}

/// Returns the kernel state of a host once nothing in it is under way.
pub(crate) fn kernel_at_rest(cluster: &Cluster, host: usize) -> Result<Snapshot> {
    Ok(cluster.host(host).snapshot_at_rest(&[])?.of_kernel())
}

/// Formats a time in milliseconds.
pub(crate) fn ms(duration: Duration) -> String {
    format!("{:.0} ms", duration.as_secs_f64() * 1000.0)
}

/// The summary of a `ping --json`.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct PingSummary {
    /// Echoes sent.
    pub(crate) sent: usize,
    /// Answers received.
    pub(crate) received: usize,
    /// The longest time without an answer, in milliseconds.
    pub(crate) longest_silence_ms: f64,
    /// Times without an answer that were longer than two intervals.
    pub(crate) silences: Vec<Silence>,
}

/// Captures on the switch while `work` runs, and checks that the marker was never readable.
pub(crate) fn sealed<T>(
    lab: &Lab,
    notes: &mut Notes,
    work: impl FnOnce(&mut Notes) -> Result<T>,
) -> Result<T> {
    let capture = lab.capture(Some(MARKER))?;
    let value = work(notes)?;
    unreadable(capture, notes)?;

    Ok(value)
}

/// Ends a capture, and checks that something was seen and the marker was never readable.
pub(crate) fn unreadable(capture: Capture, notes: &mut Notes) -> Result<()> {
    let report = capture.stop()?;
    notes.say(&format!("on the wire: {report}"));

    anyhow::ensure!(report.frames > 0, "nothing was seen on the wire");
    anyhow::ensure!(report.marked == 0, "READABLE ON THE WIRE: {report}");
    Ok(())
}
