//! Takes the descriptors of a process away, and gives them back.

use anyhow::Result;

use crate::host::Host;

/// Lets the process open no further file.
pub(super) fn use_up(host: &Host, pid: i32) -> Result<()> {
    // Every new descriptor gets the lowest number that is free.
    let lowest = format!("n=0; while [ -e /proc/{pid}/fd/$n ]; do n=$((n+1)); done");

    host.shell(&format!("{lowest}; prlimit --pid {pid} --nofile=$n:")).map(drop)
}

/// Lets it open as many as it may ask for, which is what our daemons do as they start.
pub(super) fn give_back(host: &Host, pid: i32) -> Result<()> {
    let hard = format!("$(prlimit --pid {pid} --nofile -o HARD --noheadings | tr -d ' ')");

    host.shell(&format!("prlimit --pid {pid} --nofile={hard}:")).map(drop)
}
