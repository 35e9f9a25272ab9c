//! Takes all file descriptors from a process, and returns them.

use anyhow::Result;

use crate::host::Host;

/// Prevents the process from opening any further file.
pub(super) fn use_up(host: &Host, pid: i32) -> Result<()> {
    // A new descriptor gets the lowest free number.
    let lowest = format!("n=0; while [ -e /proc/{pid}/fd/$n ]; do n=$((n+1)); done");

    host.shell(&format!("{lowest}; prlimit --pid {pid} --nofile=$n:")).map(drop)
}

/// Raises the soft limit to the hard limit again, as our daemons do when they start.
pub(super) fn give_back(host: &Host, pid: i32) -> Result<()> {
    let hard = format!("$(prlimit --pid {pid} --nofile -o HARD --noheadings | tr -d ' ')");

    host.shell(&format!("prlimit --pid {pid} --nofile={hard}:")).map(drop)
}
