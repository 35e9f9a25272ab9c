//! `overlay-lab pids` and `overlay-lab kill`: the processes of a host, for hosts without procps.

use std::fs;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Prints the ids of the processes that run the program `name`.
///
/// # Errors
///
/// If `/proc` cannot be read.
#[expect(clippy::print_stdout, reason = "this is a command line")]
pub(crate) fn print_pids(name: &str) -> Result<()> {
    for pid in of_program(name)? {
        println!("{pid}");
    }

    Ok(())
}

/// Sends a signal, given by name or number, to a process.
///
/// # Errors
///
/// If there is no such signal or process.
pub(crate) fn send(signal: &str, pid: i32) -> Result<()> {
    let number = signal.parse::<i32>().ok().and_then(|number| Signal::try_from(number).ok());
    let named = || format!("SIG{}", signal.trim_start_matches("SIG")).parse().ok();
    let Some(signal) = number.or_else(named) else { bail!("there is no signal {signal}") };

    kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot signal process {pid}"))
}

/// Returns the processes that run the program `name`, in order.
pub(crate) fn of_program(name: &str) -> Result<Vec<i32>> {
    let runs = |pid: &i32| program(*pid).as_deref() == Some(name);

    Ok(pids()?.into_iter().filter(runs).collect())
}

/// Returns all processes of this PID namespace except the calling one, in order.
pub(crate) fn pids() -> Result<Vec<i32>> {
    let own = i32::try_from(std::process::id())?;
    let entries = fs::read_dir("/proc").context("cannot read /proc")?;
    let mut pids: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .collect();
    pids.sort_unstable();

    Ok(pids)
}

/// Returns the file name of the program that a process runs, even if the file has been replaced
/// since.
pub(crate) fn program(pid: i32) -> Option<String> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = path.file_name()?.to_str()?;

    Some(name.trim_end_matches(" (deleted)").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_its_program() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();

        assert!(pids().unwrap().contains(&pid));
        send("KILL", pid).unwrap();
        child.wait().unwrap();
        assert!(!pids().unwrap().contains(&pid));
        assert!(send("KILL", pid).is_err());
        assert!(send("NONSENSE", pid).is_err());
    }
}
