//! Services as our own children: they end when we end, whatever ends us.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

/// Starts the service as a child whose words go to our standard error.
#[expect(unsafe_code, reason = "the parent's death signal is set between fork and exec")]
pub(super) fn spawn(mut command: Command) -> io::Result<Child> {
    command.stdin(Stdio::null()).stdout(io::stderr());
    // SAFETY: prctl is async-signal-safe and touches no memory of the parent.
    unsafe {
        command
            .pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).map_err(io::Error::from));
    }

    command.spawn()
}
