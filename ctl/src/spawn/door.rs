//! The door before the agent's plugin socket, as a background process: Docker is answered at once
//! while the agent is down. Under systemd units do this ([`super::units`]). A host has one door.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use overlay_proto::{Code, Refusal};

use super::last_words::last_lines;
use super::manner::Manner;
use super::running::{GRACE, remove_note};
use super::{background, foreground};
use crate::failure::storage;
use crate::pidfd::{self, Process};
use crate::state::{Service, StateDir};
use crate::wait::{self, Attempt};

/// Where Docker looks for the plugin.
pub(super) const LISTEN: &str = "/run/docker/plugins/overlay-wg.sock";
/// Where the agent serves it.
pub(super) const BEHIND: &str = "/run/overlay/docker.sock";
/// The word by which the agent's program is the door.
pub(super) const WORD: &str = "door";
/// How long it may take to open.
const READY: Duration = Duration::from_secs(5);

/// Opens the door unless it is open; a socket that a killed one left is replaced.
///
/// # Errors
///
/// Says why there is none.
pub(super) async fn open(
    program: &OsStr,
    state: &StateDir,
    manner: Manner,
    agent: Option<&Process>,
) -> Result<(), Refusal> {
    let pid_file = state.door_file("pid");
    let noted = |process: &Process| {
        process.note(&pid_file).map_err(|error| storage(pid_file.display(), &error))
    };
    if let Some(door) = running(state) {
        return noted(&door);
    }
    if agent.is_some_and(|agent| !agent.has_word(BEHIND)) {
        let text = "the agent that runs was started without one: `overlayctl stop`, then `overlayctl start`";
        return Err(Refusal::new(Code::WrongState, text));
    }
    if is_listened_on(Path::new(LISTEN)) {
        return Err(Refusal::new(
            Code::InUse,
            format!("another program listens at {LISTEN}: end it"),
        ));
    }
    let named = |error: &io::Error| storage("overlayd door", error);
    let log = state.door_file("log");
    let log_begins = fs::metadata(&log).map_or(0, |metadata| metadata.len());
    let mut command = Command::new(program);
    command.args([WORD, "--listen", LISTEN, "--agent", BEHIND]).current_dir("/");
    without_privileges(&mut command);
    let spawned = match manner {
        Manner::Foreground => foreground::spawn(command),
        Manner::Background | Manner::Systemd => background::spawn(command, &log),
    };
    let mut child = spawned.map_err(|error| named(&error))?;
    if let Some(process) = i32::try_from(child.id()).ok().and_then(Process::of_pid) {
        noted(&process)?;
    }
    let opened = wait::until(READY, async || {
        if is_listened_on(Path::new(LISTEN)) {
            return Attempt::Done(());
        }
        if child.try_wait().is_ok_and(|status| status.is_some()) {
            let words = last_lines(&log, log_begins).pop().unwrap_or_default();
            return Attempt::Never(Refusal::new(
                Code::Fault,
                format!("it ended right after its start: {words}"),
            ));
        }
        Attempt::NotYet(Refusal::new(
            Code::Fault,
            format!("it did not open within {} s", READY.as_secs()),
        ))
    });

    opened.await
}

/// Takes from the program, before it begins, all that root may do beyond its own files: the door
/// has two sockets.
#[expect(unsafe_code, reason = "privileges are given up between fork and exec")]
fn without_privileges(command: &mut Command) {
    let give_up = || {
        // The kernel says where its list of capabilities ends.
        for capability in 0..libc::c_ulong::from(u8::MAX) {
            // SAFETY: prctl with these arguments reads no memory of ours.
            match Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) })
            {
                Ok(_) => {}
                Err(Errno::EINVAL) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        nix::sys::prctl::set_no_new_privs()?;

        Ok(())
    };
    // SAFETY: prctl is async-signal-safe and the closure touches no memory of the parent.
    unsafe { command.pre_exec(give_up) };
}

/// Closes the door; what a killed one, or a killed agent, left is removed. Where somebody else
/// keeps it, it stays.
pub(super) async fn close(state: &StateDir) -> Result<(), Refusal> {
    if let Some(door) = running(state) {
        let resists = |error| storage(format!("overlayd door (pid {})", door.pid()), &error);
        door.stop(GRACE).await.map_err(resists)?;
    }
    remove_note(&state.door_file("pid"))?;
    // Two folders above Docker's socket are for plugins alone, one above the agent's is the
    // agent's.
    remove_stale(Path::new(LISTEN), 2);
    remove_stale(Path::new(BEHIND), 1);

    Ok(())
}

/// Finds the door's process, also where a start that was cut short has not noted it.
fn running(state: &StateDir) -> Option<Process> {
    Process::of_file(&state.door_file("pid"))
        .or_else(|| pidfd::find(Service::Agent.program(), Path::new(WORD)))
}

/// Tells whether somebody listens on a socket; one that cannot be asked counts as such.
fn is_listened_on(socket: &Path) -> bool {
    match UnixStream::connect(socket) {
        Ok(_) => true,
        Err(error) => {
            !matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
        }
    }
}

/// Removes a socket that nobody listens on, and so many folders above it unless something else is
/// in them.
fn remove_stale(socket: &Path, folders: usize) {
    let is_socket = fs::symlink_metadata(socket).is_ok_and(|found| found.file_type().is_socket());
    if !is_socket || is_listened_on(socket) || fs::remove_file(socket).is_err() {
        return;
    }
    for folder in socket.ancestors().skip(1).take(folders) {
        let _ = fs::remove_dir(folder);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_goes_only_when_nobody_listens_on_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("docker/plugins/x.sock");
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        let listener = UnixListener::bind(&path).expect("a socket");

        remove_stale(&path, 2);
        assert!(path.exists());
        drop(listener);
        remove_stale(&path, 2);

        assert!(!dir.path().join("docker").exists() && dir.path().exists());
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(&path, "no socket").expect("written");
        remove_stale(&path, 2);
        assert!(path.exists());
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
    fn the_door_has_no_privileges() {
        let mut command = Command::new("cat");
        command.arg("/proc/self/status");
        without_privileges(&mut command);

        if !nix::unistd::geteuid().is_root() {
            return eprintln!("SKIPPED: needs root");
        }
        let output = command.output().expect("it runs");

        let said = String::from_utf8_lossy(&output.stdout);
        let value = |name: &str| {
            said.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
        };
        assert_eq!(value("CapBnd:").as_deref(), Some("0000000000000000"), "{said}");
        assert_eq!(value("CapEff:").as_deref(), Some("0000000000000000"), "{said}");
        assert_eq!(value("NoNewPrivs:").as_deref(), Some("1"), "{said}");
    }
}
