//! `overlay-lab usage`: what the processes that run a program have cost so far.

use std::fs;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::processes::{pids, program};

/// Processor time and memory.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Processor seconds so far, with a resolution of 10 ms.
    pub(crate) cpu_seconds: f64,
    /// Resident memory, in MiB.
    pub(crate) memory_mib: f64,
}

/// Prints what all processes that run `name` have cost, as JSON.
///
/// # Errors
///
/// If `/proc` cannot be read.
#[expect(clippy::print_stdout, reason = "this is a command line")]
pub(crate) fn print(name: &str) -> Result<()> {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock")?;
    let mut sum = Usage::default();
    for pid in pids()?.into_iter().filter(|pid| program(*pid).as_deref() == Some(name)) {
        // A process that has just ended costs nothing more.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        sum.cpu_seconds +=
            cpu_ticks(&stat).context("/proc/PID/stat has an unknown format")? / as_f64(ticks);
        sum.memory_mib += resident_kib(&status).unwrap_or(0.0) / 1024.0;
    }

    println!("{}", serde_json::to_string(&sum)?);
    Ok(())
}

/// Returns the ticks in user and kernel mode: fields 14 and 15, counted from the end of the name,
/// which may contain spaces.
pub(crate) fn cpu_ticks(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, kernel): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);

    Some(user + kernel)
}

fn resident_kib(status: &str) -> Option<f64> {
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[expect(clippy::cast_precision_loss, reason = "a hundred or a thousand")]
pub(crate) fn as_f64(ticks: i64) -> f64 {
    ticks as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 5 1 1";

        assert_eq!(cpu_ticks(stat), Some(200.0));
    }

    #[test]
    fn memory_is_what_is_resident() {
        assert_eq!(resident_kib("VmPeak:\t 9 kB\nVmRSS:\t    2048 kB\n"), Some(2048.0));
    }
}
