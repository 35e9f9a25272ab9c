//! One command as our child: it gets our signals, gives its exit code, and does not outlive us.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getppid};
use overlay_proto::{Code, Refusal};

/// Signals that are meant for the command.
const FORWARDED: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// Runs a command to its end and returns its exit code, as a shell would: 128 + n after signal n,
/// 127 when it is not found, 126 when it cannot be executed.
pub(crate) fn run(words: &[OsString]) -> Result<u8, (u8, Refusal)> {
    let Some((program, arguments)) = words.split_first() else {
        return Err((127, Refusal::new(Code::InvalidInput, "there is no command to run")));
    };
    let mut signals = SigSet::empty();
    FORWARDED.into_iter().chain([Signal::SIGCHLD]).for_each(|signal| signals.add(signal));
    let kernel = |errno: Errno| {
        (126, Refusal::new(Code::Kernel, format!("signals cannot be awaited: {}", errno.desc())))
    };
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None).map_err(kernel)?;
    let queue = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).map_err(kernel)?;
    let pid = spawn(Command::new(program).args(arguments)).map_err(|error| {
        let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
        (code, Refusal::new(Code::NotFound, format!("{}: {error}", program.display())))
    })?;

    loop {
        let Ok(Some(signal)) = queue.read_signal() else { continue };
        match Signal::try_from(signal.ssi_signo.cast_signed()) {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = ended(pid) {
                    return Ok(code);
                }
            }
            // What the terminal sends reaches the command without us: it is in the same process
            // group.
            Ok(other) if signal.ssi_code != libc::SI_KERNEL => {
                let _ = kill(pid, other);
            }
            Ok(_) | Err(_) => {}
        }
    }
}

#[expect(
    unsafe_code,
    reason = "the signal mask and the parent's death signal are set between fork and exec"
)]
fn spawn(command: &mut Command) -> io::Result<Pid> {
    let parent = Pid::this();
    // SAFETY: the three system calls are async-signal-safe and touch no memory of the parent.
    let child = unsafe {
        command.pre_exec(move || {
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // We may have died before the line above.
            if getppid() == parent {
                Ok(())
            } else {
                Err(io::Error::from(io::ErrorKind::BrokenPipe))
            }
        })
    }
    .spawn()?;

    i32::try_from(child.id()).map(Pid::from_raw).map_err(io::Error::other)
}

fn ended(pid: Pid) -> Option<u8> {
    match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(_, code)) => Some(u8::try_from(code & 0xff).unwrap_or(1)),
        Ok(WaitStatus::Signaled(_, signal, _)) => {
            Some(u8::try_from(128 + signal as i32).unwrap_or(255))
        }
        Ok(
            WaitStatus::Stopped(..)
            | WaitStatus::Continued(_)
            | WaitStatus::StillAlive
            | WaitStatus::PtraceEvent(..)
            | WaitStatus::PtraceSyscall(_),
        ) => None,
        // Nobody else reaps it, so an error can only mean that it is gone.
        Err(_) => Some(1),
    }
}
