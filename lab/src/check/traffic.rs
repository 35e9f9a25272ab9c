//! Traffic that continues while something happens to the hosts that it passes: echoes and a TCP
//! stream from one container to another, and the disturbances that they saw.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{Notes, PATIENCE, PingSummary, median};
use crate::cluster::Cluster;
use crate::command::Running;
use crate::wait_until;

/// The network and the name of a throughput server's container.
pub(super) struct Sink<'a> {
    pub(super) network: &'a str,
    pub(super) name: &'a str,
}

/// The rate of the traffic.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// Milliseconds between two echoes.
    pub(super) interval_ms: u32,
    /// The rate of the stream in Mbit/s; as fast as possible if `None`.
    pub(super) mbit: Option<u32>,
}

/// A thousand packets a second, and a stream that is as fast as possible.
pub(super) const HEAVY: Pace = Pace { interval_ms: 1, mbit: None };

/// Traffic that continues until it is ended.
pub(super) struct Traffic {
    ping: Running,
    transfer: Running,
}

/// What the traffic saw.
pub(super) struct Noticed {
    pub(super) echoes: PingSummary,
    pub(super) transfer: Transfer,
}

/// The result of the TCP stream.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Transfer {
    /// Bytes that arrived unaltered.
    pub(super) bytes: u64,
    /// The longest time in which the receiver got nothing, in milliseconds.
    pub(super) longest_pause_ms: f64,
}

impl Traffic {
    /// Starts traffic from a container of host `from`, and waits until it flows.
    pub(super) fn start(cluster: &Cluster, from: usize, to: &Sink<'_>, pace: Pace) -> Result<Self> {
        let interval = pace.interval_ms.to_string();
        let ping = ["ping", "--json", "--count=0", "--interval-ms", &interval, to.name];
        let ping = cluster.container(from, to.network, "pinger")?.args(ping).spawn()?;
        let transfer = ["throughput", "client", "--json", "--verify", "--seconds=100000", to.name];
        let rate = pace.mbit.map(|mbit| format!("--rate={mbit}"));
        let transfer =
            cluster.container(from, to.network, "sender")?.args(transfer).args(rate).spawn()?;

        let mut traffic = Self { ping, transfer };
        wait_until(PATIENCE, "the traffic is under way", || {
            let attached = cluster.lists(from, "pinger") && cluster.lists(from, "sender");

            attached || !traffic.ping.is_running() || !traffic.transfer.is_running()
        })?;
        Ok(traffic)
    }

    /// Ends the traffic. The stream must be whole, whatever happened.
    pub(super) fn end(self) -> Result<Noticed> {
        self.ping.signal(Signal::SIGTERM)?;
        self.transfer.signal(Signal::SIGTERM)?;
        let ping = self.ping.wait(PATIENCE)?;
        let transfer = self.transfer.wait(PATIENCE)?;
        ensure!(transfer.status.success(), "the TCP stream broke: {}", transfer.stderr);

        Ok(Noticed {
            echoes: serde_json::from_str(&ping.stdout)
                .with_context(|| format!("no figures from the ping: {}", ping.stderr))?,
            transfer: serde_json::from_str(&transfer.stdout)
                .context("no figures from the stream")?,
        })
    }
}

/// The times at which something was done to the hosts.
#[derive(Default)]
pub(super) struct Marks(Vec<f64>);

impl Marks {
    /// Adds the current time.
    pub(super) fn mark(&mut self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.0.push(now.as_secs_f64() * 1000.0);
    }

    /// Returns the longest silence, in milliseconds, between each mark and the next one.
    pub(super) fn gaps(&self, echoes: &PingSummary) -> Vec<f64> {
        let ends = self.0.iter().skip(1).copied().chain([f64::INFINITY]);
        let within = |from: f64, until: f64| {
            let silences = echoes.silences.iter();
            let some =
                silences.filter(|s| s.since_unix_ms < until && s.since_unix_ms + s.ms > from);

            some.map(|silence| silence.ms).fold(0.0, f64::max)
        };

        self.0.iter().zip(ends).map(|(from, until)| within(*from, until)).collect()
    }
}

/// Reports what was seen each time, and checks that no gap was longer than `bar_ms`, and no pause
/// of the stream longer than twice that.
pub(super) fn judge(
    what: &str,
    marks: &Marks,
    noticed: &Noticed,
    bar_ms: f64,
    notes: &mut Notes,
) -> Result<()> {
    let mut gaps = marks.gaps(&noticed.echoes);
    let worst = gaps.iter().copied().fold(0.0, f64::max);
    let echoes = &noticed.echoes;
    notes.say(&format!(
        "{what}, {} times: gap median {:.0} ms, worst {worst:.0} ms; {} of {} echoes answered; \
         TCP whole, {} MB, longest pause {:.0} ms",
        gaps.len(),
        median(&mut gaps),
        echoes.received,
        echoes.sent,
        noticed.transfer.bytes / 1_000_000,
        noticed.transfer.longest_pause_ms,
    ));

    ensure!(worst <= bar_ms, "{what}: a gap of {worst:.0} ms");
    // A sender that repeats into a gap, each time after twice as long, notices its end that late.
    let pause = noticed.transfer.longest_pause_ms;
    ensure!(pause <= 2.0 * bar_ms, "{what}: the TCP stream paused for {pause:.0} ms");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use overlay_traffic::ping::Silence;

    #[test]
    fn each_silence_counts_for_what_was_done_before_or_during_it() {
        let silences = [(90.0, 20.0), (250.0, 5.0), (260.0, 30.0), (450.0, 1000.0)];
        let silence = |(since_unix_ms, ms)| Silence { since_unix_ms, ms };
        let echoes = PingSummary {
            sent: 9,
            received: 9,
            longest_silence_ms: 1000.0,
            silences: silences.map(silence).into(),
        };
        let marks = Marks(vec![100.0, 200.0, 400.0, 440.0]);

        assert_eq!(marks.gaps(&echoes), [20.0, 30.0, 0.0, 1000.0]);
    }
}
