//! `overlay-lab fill`: takes the free file descriptors of a process with idle connections to it.
//!
//! To lower the limit alone is not the same: descriptors above it stay open, but those that the
//! process closes are lost to it.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use overlay_traffic::signal::{is_stopped, stop_on_signal};
use overlay_traffic::wait::rest;

/// The output once no descriptor is free.
pub(crate) const FULL: &str = "full";
/// The pause between two looks at the process.
const LOOK: Duration = Duration::from_millis(5);
/// How often no descriptor was free when it counts: some are open for a moment only.
const LOOKS: u32 = 5;
/// How long the process may take to accept a connection.
const ACCEPTANCE: Duration = Duration::from_secs(1);

/// Options of `fill`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// The process
    #[arg(long)]
    pid: i32,
    /// The Unix socket that it listens on
    #[arg(long)]
    socket: PathBuf,
}

/// Lowers the soft limit to what the process has open, fills the gaps, and keeps them filled until
/// it is stopped.
///
/// # Errors
///
/// If there is no such process, or nobody listens.
#[expect(clippy::print_stdout, reason = "this is a command line")]
pub(crate) fn run(options: &Options) -> Result<()> {
    stop_on_signal()?;
    let limit = open(options.pid)?.into_iter().max().map_or(1, |highest| highest + 1);
    let limited = Command::new("prlimit")
        .args(["--pid", &options.pid.to_string(), &format!("--nofile={limit}:")])
        .status();
    ensure!(limited.context("prlimit cannot be started")?.success(), "prlimit failed");
    let mut connections = Vec::new();
    let mut looks = 0;
    while looks < LOOKS && !is_stopped() {
        let free = free(options.pid, limit)?;
        looks = if free == 0 { looks + 1 } else { 0 };
        if free > 0 {
            connections.push(UnixStream::connect(&options.socket).context("nobody listens")?);
            let deadline = Instant::now() + ACCEPTANCE;
            while self::free(options.pid, limit)? >= free && Instant::now() < deadline {
                rest(LOOK);
            }
        }
        rest(LOOK);
    }
    println!("{FULL}");
    while !is_stopped() {
        rest(LOOK);
    }

    Ok(())
}

/// Counts the descriptors that the process may still open.
fn free(pid: i32, limit: usize) -> Result<usize> {
    let open = open(pid)?.into_iter().filter(|number| *number < limit).count();

    Ok(limit.saturating_sub(open))
}

fn open(pid: i32) -> Result<Vec<usize>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).context("there is no such process")?;

    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}
