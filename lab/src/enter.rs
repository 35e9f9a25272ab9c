//! `overlay-lab enter PID -- CMD…`: runs a command in the namespaces of another process; forwards
//! signals to it and returns its exit code.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::namespace::{Namespaces, fork};

/// The hidden subcommand that runs [`run`].
pub(crate) const COMMAND: &str = "enter";
/// The exit code if the namespaces cannot be entered, as with other tools of this kind.
pub(crate) const CANNOT_ENTER: i32 = 125;
const CANNOT_EXECUTE: i32 = 126;
const NOT_FOUND: i32 = 127;

/// The signals that are forwarded to the command.
const FORWARDED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// Runs the command line `PID -- CMD…` and returns the exit code to end with.
///
/// # Errors
///
/// If the namespaces cannot be entered.
pub(crate) fn run(args: &[OsString]) -> Result<i32> {
    let [pid, dashes, command @ ..] = args else {
        anyhow::bail!("usage: overlay-lab enter PID -- CMD…")
    };
    let pid = pid.to_str().and_then(|pid| pid.parse().ok()).context("PID is a number")?;
    anyhow::ensure!(dashes == "--" && !command.is_empty(), "usage: overlay-lab enter PID -- CMD…");

    let folder = std::env::current_dir().ok();
    Namespaces::of(pid)?.enter()?;
    let inside = folder.is_some_and(|folder| std::env::set_current_dir(folder).is_ok());
    if !inside {
        std::env::set_current_dir("/")?;
    }

    let (signals, before) = block_signals()?;
    match fork()? {
        Some(child) => Ok(attend(child, &signals)?),
        None => {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            before.thread_set_mask()?;
            Ok(replace_by(command))
        }
    }
}

#[expect(clippy::print_stderr, reason = "this is a command line")]
fn replace_by(command: &[OsString]) -> i32 {
    let error = Command::new(&command[0]).args(&command[1..]).exec();
    eprintln!("overlay-lab: cannot run {}: {error}", command[0].display());

    if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_EXECUTE }
}

fn block_signals() -> Result<(SignalFd, SigSet)> {
    let mut set = SigSet::from(Signal::SIGCHLD);
    FORWARDED.iter().for_each(|signal| set.add(*signal));
    let before = SigSet::thread_get_mask()?;
    set.thread_block()?;

    Ok((SignalFd::new(&set)?, before))
}

/// Forwards signals to `child` until it ends; returns its exit code.
fn attend(child: Pid, signals: &SignalFd) -> Result<i32> {
    loop {
        let info = match signals.read_signal() {
            Ok(Some(info)) => info,
            Ok(None) | Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno).context("cannot wait for signals"),
        };
        let signal = Signal::try_from(i32::try_from(info.ssi_signo)?)?;
        if signal == Signal::SIGCHLD {
            if let Some(code) = exit_code(child)? {
                return Ok(code);
            }
        } else if info.ssi_code != libc::SI_KERNEL {
            // Signals from the terminal go to the whole foreground group, so the child has received
            // them already.
            let _ = kill(child, signal);
        }
    }
}

fn exit_code(child: Pid) -> Result<Option<i32>> {
    match waitpid(child, Some(WaitPidFlag::WNOHANG))? {
        WaitStatus::Exited(_, code) => Ok(Some(code)),
        WaitStatus::Signaled(_, signal, _) => Ok(Some(128 + signal as i32)),
        WaitStatus::Stopped(..)
        | WaitStatus::PtraceEvent(..)
        | WaitStatus::PtraceSyscall(_)
        | WaitStatus::Continued(_)
        | WaitStatus::StillAlive => Ok(None),
    }
}
