//! A service as a process of its own session, writing to a log file.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::libc;

use crate::state::open_log;

/// Starts the service; it outlives us, our terminal and our open files.
#[expect(unsafe_code, reason = "a new session begins between fork and exec")]
pub(super) fn spawn(mut command: Command, log: &Path) -> io::Result<Child> {
    let log = open_log(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // SAFETY: setsid and close_range are async-signal-safe and touch no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            // A pipe of the caller kept open would make it wait for our end.
            let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
            Errno::result(libc::close_range(3, u32::MAX, flags))?;

            Ok(())
        });
    }

    command.spawn()
}
