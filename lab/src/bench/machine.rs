//! The machine that is measured on, and what its processors' time was spent on.

use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

use super::sample::Sample;

/// The machine that the figures were measured on.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    /// The name of the processor, as it reports it.
    pub(super) processor: String,
    /// The number of processors.
    pub(super) cores: usize,
    /// The kernel's release.
    pub(super) kernel: String,
}

impl Machine {
    /// Describes this machine.
    pub(super) fn this() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();

        Self {
            processor: name
                .map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned()),
            cores: cores(),
            kernel: kernel.trim().to_owned(),
        }
    }
}

/// Returns how many processors this machine has.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// The time that all processors together have spent so far, in ticks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Moment {
    busy: f64,
    idle: f64,
    stolen: f64,
}

impl Moment {
    /// Reads the processors' time now.
    pub(super) fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;

        Self::parse(&stat).context("/proc/stat has an unknown format")
    }

    /// Parses the first line: user, nice, system, idle, iowait, irq, softirq, steal (proc(5)).
    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<f64> =
            stat.lines().next()?.split_whitespace().skip(1).flat_map(str::parse).collect();
        let [user, nice, system, idle, iowait, irq, softirq, stolen, ..] = fields[..] else {
            return None;
        };

        Some(Self { busy: user + nice + system + irq + softirq, idle: idle + iowait, stolen })
    }

    /// Makes a sample of what was measured since this moment.
    pub(super) fn sample(&self, value: f64) -> Result<Sample> {
        Ok(Sample { value, stolen: self.stolen_until(&Self::now()?) })
    }

    fn stolen_until(&self, end: &Self) -> f64 {
        let (stolen, rest) =
            (end.stolen - self.stolen, end.busy - self.busy + end.idle - self.idle);

        if stolen + rest > 0.0 { stolen / (stolen + rest) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stolen_is_a_share_of_all_time() {
        let start = Moment::parse("cpu  100 0 100 100 0 0 0 10 0 0\ncpu0 1 2 3\n").unwrap();
        let end = Moment::parse("cpu  140 5 110 110 5 5 5 30 0 0\n").unwrap();

        assert!((start.stolen_until(&end) - 0.2).abs() < 1e-9);
        assert!(start.stolen_until(&start).abs() < 1e-9);
    }

    #[test]
    fn this_machine_is_described() {
        let machine = Machine::this();

        assert!(
            machine.cores >= 1 && !machine.kernel.is_empty() && !machine.processor.is_empty(),
            "{machine:?}"
        );
        assert!(Moment::now().is_ok());
    }
}
