//! The commands of honest hosts, one after another, and how long each takes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use overlay_traffic::wait::rest;

use crate::check::{Notes, ms, percentile};
use crate::cluster::Cluster;

/// The pause between two turns: the commands are to be a load of honest hosts, not another flood.
const PAUSE: Duration = Duration::from_millis(200);

/// How long commands took, by kind.
#[derive(Default)]
pub(super) struct Commands {
    times: BTreeMap<&'static str, Vec<Duration>>,
    failures: Vec<String>,
}

impl Commands {
    /// Runs them on each of the hosts in turn until it is over.
    pub(super) fn run(cluster: &Cluster, hosts: usize, is_over: &AtomicBool) -> Result<Self> {
        let mut commands = Self::default();
        for turn in 0.. {
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            commands.turn(cluster, turn % hosts, hosts);
            rest(PAUSE);
        }
        ensure!(!commands.all().is_empty(), "no command ran");

        Ok(commands)
    }

    fn turn(&mut self, cluster: &Cluster, host: usize, hosts: usize) {
        let ctl = |args: &[&str]| cluster.ctl(host, args).map(drop);
        let (made, page) = (format!("of-host{host}"), format!("service{}", (host + 1) % hosts));
        self.time("endpoint ls", || ctl(&["endpoint", "ls"]));
        self.time("network create", || ctl(&["network", "create", &made]));
        self.time("network ls", || ctl(&["network", "ls"]));
        self.time("run and fetch", || cluster.fetch(host, "net", "client", &page));
        self.time("network rm", || ctl(&["network", "rm", &made]));
    }

    fn time(&mut self, kind: &'static str, command: impl FnOnce() -> Result<()>) {
        let start = Instant::now();
        let outcome = command().with_context(|| kind);
        self.times.entry(kind).or_default().push(start.elapsed());
        self.failures.extend(outcome.err().map(|error| format!("{error:#}")));
    }

    fn all(&self) -> Vec<Duration> {
        self.times.values().flatten().copied().collect()
    }

    /// Prints the times of each kind and of all, and the first failure.
    pub(super) fn say(&self, when: &str, notes: &mut Notes) {
        let figures = |times: &[Duration]| {
            let [median, slow, worst] = [50, 99, 100].map(|percent| ms(percentile(times, percent)));
            format!("{median} (median), {slow} (99 %), {worst} (worst)")
        };
        let all = self.all();
        notes.say(&format!("{when}: {} commands: {}", all.len(), figures(&all)));
        for (kind, times) in &self.times {
            notes.say(&format!("  {} {kind}: {}", times.len(), figures(times)));
        }
        if let Some(first) = self.failures.first() {
            notes.say(&format!("  {} failed, first: {first}", self.failures.len()));
        }
    }

    /// Checks that none failed, and that 99 of 100 were fast enough; of fewer than a hundred, 19 of
    /// 20, since 99 of 100 would be all of them.
    pub(super) fn judge(&self, bar: Duration) -> Result<()> {
        let all = self.all();
        let percent = if all.len() < 100 { 95 } else { 99 };
        let slow = percentile(&all, percent);
        ensure!(self.failures.is_empty(), "commands failed: {:?}", self.failures.first());
        ensure!(slow <= bar, "{percent} of 100 commands take up to {}", ms(slow));

        Ok(())
    }
}
