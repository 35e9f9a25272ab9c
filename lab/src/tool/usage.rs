//! `overlay-lab usage`: what processes have cost so far.

use std::collections::BTreeMap;
use std::fs;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::processes::of_program;

/// Processor time and memory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Processor seconds so far, by the clock of the process: `/proc/PID/stat` counts ticks of
    /// 10 ms, in which a process that is nearly idle for seconds cannot be measured.
    pub(crate) cpu_seconds: f64,
    /// Resident memory, in MiB. Pages of files, which processes of one program share, are counted
    /// once.
    pub(crate) memory_mib: f64,
    /// How often each thread that runs now has waited for something, by its id: unlike processor
    /// time, it does not grow with what else the machine does.
    pub(crate) waits: BTreeMap<i32, u64>,
}

impl Usage {
    /// Returns how often threads have waited since, those that have ended meanwhile left out.
    pub(crate) fn waits_since(&self, before: &Self) -> u64 {
        let waited = self.waits.iter().map(|(thread, count)| {
            count.saturating_sub(before.waits.get(thread).copied().unwrap_or_default())
        });

        waited.sum()
    }
}

/// Resident memory of one process, in KiB: the fields of `/proc/PID/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Resident {
    /// Of its own (`RssAnon`, `RssShmem`).
    own: f64,
    /// Of files: above all its program (`RssFile`).
    files: f64,
}

/// Prints what one process, or all processes that run a program, have cost, as JSON.
///
/// # Errors
///
/// If `/proc` cannot be read, or the one process is gone.
#[expect(clippy::print_stdout, reason = "this is a command line")]
pub(crate) fn print(name: Option<&str>, pid: Option<i32>) -> Result<()> {
    let usage = match pid {
        Some(pid) => of(&[pid]).with_context(|| format!("there is no process {pid}"))?,
        None => {
            let running = name.map(of_program).transpose()?.unwrap_or_default();
            of(&running).unwrap_or_default()
        }
    };

    println!("{}", serde_json::to_string(&usage)?);
    Ok(())
}

/// Returns what these processes of one program have cost together, without those that are gone;
/// `None` if all are.
fn of(pids: &[i32]) -> Option<Usage> {
    let mut found = None;
    let mut files = 0.0_f64;
    for pid in pids {
        let (Ok(time), Some(resident)) = (processor_time(*pid), resident(*pid)) else { continue };
        let sum = found.get_or_insert_with(Usage::default);
        sum.cpu_seconds += time.as_secs_f64();
        sum.memory_mib += resident.own / 1024.0;
        sum.waits.extend(waits(*pid));
        files = files.max(resident.files);
    }
    if let Some(sum) = &mut found {
        sum.memory_mib += files / 1024.0;
    }

    found
}

/// Returns the processor time that a process has used in all its threads, those that ended
/// included.
fn processor_time(pid: i32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid))?;

    Ok(clock_gettime(clock)?.into())
}

/// Returns how often each thread of a process gave up the processor to wait.
fn waits(pid: i32) -> BTreeMap<i32, u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let waits = threads.filter_map(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).ok()?;
        Some((status_field(&status, "Pid")?, status_field(&status, "voluntary_ctxt_switches")?))
    });

    waits.collect()
}

fn resident(pid: i32) -> Option<Resident> {
    parse_resident(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// Reads the fields of a process that has memory; one that has ended has none.
fn parse_resident(status: &str) -> Option<Resident> {
    let kib = |field| status_field::<f64>(status, field);

    Some(Resident { own: kib("RssAnon")? + kib("RssShmem")?, files: kib("RssFile")? })
}

/// Reads the number in a field of `/proc/PID/status`; those of memory are in KiB.
pub(crate) fn status_field<T: FromStr>(status: &str, field: &str) -> Option<T> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;

    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_is_not_own_memory() {
        let status =
            "VmRSS:\t  2049 kB\nRssAnon:\t  1024 kB\nRssFile:\t 1000 kB\nRssShmem:\t25 kB\n";

        assert_eq!(parse_resident(status), Some(Resident { own: 1049.0, files: 1000.0 }));
        assert_eq!(parse_resident("Name:\tzombie\nState:\tZ (zombie)\n"), None);
    }

    #[test]
    fn a_process_counted_twice_shares_its_files() {
        let own = i32::try_from(std::process::id()).unwrap();
        let (one, two) = (of(&[own]).unwrap(), of(&[own, own]).unwrap());

        assert!(two.memory_mib < 2.0 * one.memory_mib);
        assert!(two.memory_mib > one.memory_mib);
        assert!(two.cpu_seconds > one.cpu_seconds);
    }

    #[test]
    fn processor_time_is_finer_than_a_tick() {
        let own = i32::try_from(std::process::id()).unwrap();
        let before = processor_time(own).unwrap();
        let after = processor_time(own).unwrap();

        assert!(after > before);
    }

    #[test]
    fn what_waits_is_counted_by_thread() {
        let own = i32::try_from(std::process::id()).unwrap();
        let before = of(&[own]).unwrap();

        overlay_traffic::wait::rest(Duration::from_millis(1));

        assert!(of(&[own]).unwrap().waits_since(&before) > 0);
        assert_eq!(before.waits_since(&before), 0);
    }

    #[test]
    fn a_process_that_is_gone_costs_nothing() {
        assert!(of(&[i32::MAX]).is_none());
    }
}
