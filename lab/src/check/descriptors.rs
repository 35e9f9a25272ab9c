//! Takes all file descriptors from a process, and returns them.

use anyhow::{Result, ensure};

use super::PATIENCE;
use crate::command::Running;
use crate::host::Host;
use crate::tool::fill::FULL;
use crate::wait_until;

/// Prevents the process from opening any further file.
pub(super) fn use_up(host: &Host, pid: i32) -> Result<()> {
    // A new descriptor gets the lowest free number.
    let lowest = format!("n=0; while [ -e /proc/{pid}/fd/$n ]; do n=$((n+1)); done");

    host.shell(&format!("{lowest}; prlimit --pid {pid} --nofile=$n:")).map(drop)
}

/// Takes the descriptors that a process which listens on a Unix socket may still open, and leaves
/// it those that it has: what it closes it can open again. They are taken until the answer is
/// dropped.
pub(super) fn fill(host: &Host, pid: i32, socket: &str) -> Result<Running> {
    let fill = ["fill", "--pid", &pid.to_string(), "--socket", socket];
    let mut running = host.try_command("overlay-lab")?.args(fill).spawn()?;
    wait_until(PATIENCE, "descriptors are used up", || {
        running.stdout().contains(FULL) || !running.is_running()
    })?;
    ensure!(running.is_running(), "descriptors were not used up: {}", running.stderr());

    Ok(running)
}

/// Raises the soft limit to the hard limit again, as our daemons do when they start.
pub(super) fn give_back(host: &Host, pid: i32) -> Result<()> {
    let hard = format!("$(prlimit --pid {pid} --nofile -o HARD --noheadings | tr -d ' ')");

    host.shell(&format!("prlimit --pid {pid} --nofile={hard}:")).map(drop)
}
