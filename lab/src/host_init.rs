//! The first process of a host: makes the host's file tree, then holds its namespaces and reaps its
//! orphans.

use std::io::Write as _;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::waitpid;
use nix::unistd::sethostname;
use serde::{Deserialize, Serialize};

use crate::namespace::drop_standard_streams;
use crate::rootfs;

/// The hidden subcommand that runs [`run`].
pub(crate) const COMMAND: &str = "__hold";
/// What the process prints on standard output when the host is ready.
pub(crate) const READY: &[u8] = b"ready\n";

/// What the first process needs to know about its host.
#[derive(Serialize, Deserialize)]
pub(crate) struct HostSetup {
    /// The host's name.
    pub(crate) host: String,
    /// The host's `/etc/hosts`.
    pub(crate) hosts_file: String,
}

/// Makes the host described by `setup`, reports that it is ready, and holds it until killed.
///
/// # Errors
///
/// If the host cannot be made. Once it is made this does not return.
pub(crate) fn run(setup: &str) -> Result<()> {
    let setup: HostSetup = serde_json::from_str(setup).context("a host is started by its lab")?;
    SigSet::from(Signal::SIGCHLD).thread_block()?;
    sethostname(&setup.host).context("cannot set the host's name")?;
    rootfs::make(&setup.host, &setup.hosts_file)?;
    std::env::set_current_dir("/")?;
    skip_duplicate_detection();

    std::io::stdout().write_all(READY)?;
    std::io::stdout().flush()?;
    drop_standard_streams()?;
    reap()
}

/// Makes the host's own addresses usable at once: otherwise duplicate address detection would delay
/// each IPv6 address for a second or two. A system without IPv6 has no such setting.
fn skip_duplicate_detection() {
    for scope in ["all", "default"] {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad"), "0");
    }
}

fn reap() -> Result<()> {
    loop {
        match waitpid(None, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => {
                SigSet::from(Signal::SIGCHLD).wait()?;
            }
            Err(errno) => return Err(errno).context("cannot wait for children"),
        }
    }
}
