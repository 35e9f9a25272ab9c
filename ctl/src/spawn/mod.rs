//! Starts, awaits and ends control and the agent: under systemd where it runs the host, else as background processes.

mod background;
mod foreground;
mod pause;
mod program;
mod systemd;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use overlay_proto::{Code, Refusal};

use crate::failure::{Failure, Outcome, storage};
use crate::pidfd::{self, Process};
use crate::state::{Service, StateDir};
use crate::wait::{self, Probe};

pub(crate) use foreground::supervise;
pub(crate) use pause::{is_unit, pause};
pub(crate) use program::find as find_program;

/// How long a service may take until it answers.
const READY: Duration = Duration::from_secs(20);
/// How long a service may take to end when asked to.
const GRACE: Duration = Duration::from_secs(10);
/// Lines of a log that are shown with a failure.
const LAST_LINES: usize = 8;

/// Whose child a service becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Ours, until we end.
    Foreground,
    /// Nobody's.
    Background,
    /// systemd's.
    Systemd,
}

impl Manner {
    /// Chooses what fits the host.
    pub(crate) fn choose(foreground: bool) -> Self {
        if foreground {
            Self::Foreground
        } else if systemd::runs_this_host() {
            Self::Systemd
        } else {
            Self::Background
        }
    }
}

/// The command line of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Launch {
    service: Service,
    argv: Vec<OsString>,
}

impl Launch {
    /// Makes control's command line.
    pub(crate) fn control(state: &StateDir) -> Result<Self, Refusal> {
        let mut argv = vec![program::find(Service::Control)?.into(), "serve".into(), "--state".into()];
        argv.push(state.of(Service::Control).into());

        Ok(Self { service: Service::Control, argv })
    }

    /// Makes the agent's command line.
    pub(crate) fn agent(state: &StateDir, socket: &Path) -> Result<Self, Refusal> {
        let socket = std::path::absolute(socket).map_err(|error| storage(socket.display(), &error))?;
        let mut argv = vec![program::find(Service::Agent)?.into(), "--state".into()];
        argv.push(state.of(Service::Agent).into());
        argv.extend(["--socket".into(), socket.into()]);

        Ok(Self { service: Service::Agent, argv })
    }

    /// Starts the service unless it runs already.
    pub(crate) fn start(&self, state: &StateDir, manner: Manner) -> Outcome<Started> {
        let pid_file = state.pid_file(self.service);
        if let Some(process) = running(self.service, state) {
            process.note(&pid_file).map_err(|error| storage(pid_file.display(), &error))?;
            return Ok(self.started(Manner::Background, None, Some(process), Origin::Found));
        }
        if manner == Manner::Systemd {
            systemd::start(self)?;
            return Ok(self.started(manner, None, None, Origin::Ours));
        }
        let child = match manner {
            Manner::Foreground => foreground::spawn(self),
            Manner::Background | Manner::Systemd => background::spawn(self, &state.log(self.service)),
        };
        let child = child.map_err(|error| storage(self.program().to_string_lossy(), &error))?;
        let process = i32::try_from(child.id()).ok().and_then(Process::of_pid);
        if let Some(process) = &process {
            process.note(&pid_file).map_err(|error| storage(pid_file.display(), &error))?;
        }

        Ok(self.started(manner, Some(child), process, Origin::Ours))
    }

    fn program(&self) -> &OsStr {
        self.argv.first().map_or(OsStr::new(""), |word| word)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program());
        command.args(self.argv.iter().skip(1)).current_dir("/");

        command
    }

    fn started(&self, manner: Manner, child: Option<Child>, process: Option<Process>, origin: Origin) -> Started {
        Started { service: self.service, manner, child, process, origin }
    }
}

/// Whether this command started the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It did.
    Ours,
    /// It ran already.
    Found,
}

/// A service that has been started, or was found running.
#[derive(Debug)]
pub(crate) struct Started {
    service: Service,
    manner: Manner,
    child: Option<Child>,
    process: Option<Process>,
    origin: Origin,
}

impl Started {
    /// Tells whether this command started it.
    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    /// Asks until the service answers; if it ends or stays silent, what was started is stopped and its last words are told.
    pub(crate) async fn ready<T>(
        &mut self,
        state: &StateDir,
        mut probe: impl AsyncFnMut() -> Result<T, Refusal>,
    ) -> Outcome<T> {
        let program = self.service.program();
        let waited = wait::until(READY, async || match probe().await {
            Ok(answer) => Probe::Done(answer),
            Err(_) if self.has_ended() => {
                Probe::Never(Refusal::new(Code::Fault, format!("{program} ended right after its start")))
            }
            Err(refusal) => {
                let text = format!("{program} does not answer within {} s of its start: {refusal}", READY.as_secs());
                Probe::NotYet(Refusal::new(refusal.code, text))
            }
        });

        match waited.await {
            Ok(answer) => Ok(answer),
            Err(refusal) => Err(self.give_up(state, refusal).await),
        }
    }

    fn has_ended(&mut self) -> bool {
        match &mut self.child {
            Some(child) => child.try_wait().is_ok_and(|status| status.is_some()),
            None => self.manner == Manner::Systemd && systemd::has_failed(self.service),
        }
    }

    async fn give_up(&self, state: &StateDir, refusal: Refusal) -> Failure {
        let log = match self.manner {
            Manner::Foreground => Vec::new(),
            Manner::Background => last_lines(&state.log(self.service)),
            Manner::Systemd => systemd::last_lines(self.service),
        };
        if self.origin == Origin::Ours {
            // The refusal matters more than a process that resists; the next start finds it.
            let _ = stop(self.service, state).await;
        }

        Failure::Startup(refusal, log)
    }
}

/// Ends a service that `init` or `join` started, however it was started; tells whether there was one.
pub(crate) async fn stop(service: Service, state: &StateDir) -> Outcome<bool> {
    let mut found = systemd::remove(service, state)?;
    let pid_file = state.pid_file(service);
    // More than one only where a start was cut short; a supervisor of somebody else's is not fought.
    for process in std::iter::from_fn(|| running(service, state)).take(3) {
        process.stop(GRACE).await.map_err(|error| {
            let text = format!("{} (pid {}) does not end: {error}", service.program(), process.pid());
            Refusal::new(Code::Fault, text)
        })?;
        found = true;
    }
    match fs::remove_file(&pid_file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(storage(pid_file.display(), &error).into()),
        Ok(()) | Err(_) => Ok(found),
    }
}

/// Finds the service's process: a start that was cut short, or a supervisor, may have left one without its note.
fn running(service: Service, state: &StateDir) -> Option<Process> {
    Process::of_file(&state.pid_file(service)).or_else(|| pidfd::find(service.program(), &state.of(service)))
}

fn last_lines(log: &Path) -> Vec<String> {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();

    lines[lines.len().saturating_sub(LAST_LINES)..].to_vec()
}

/// Says where somebody can read what a service writes.
pub(crate) fn log_place(service: Service, state: &StateDir, manner: Manner) -> PathBuf {
    match manner {
        Manner::Systemd => PathBuf::from(format!("journalctl -u {}", service.program())),
        Manner::Foreground | Manner::Background => state.log(service),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent that does as the script says, instead.
    fn launch(dir: &tempfile::TempDir, script: &str) -> Launch {
        let program = dir.path().join("overlayd");
        std::os::unix::fs::symlink("/bin/sh", &program).expect("a link");
        let state = state(dir).of(Service::Agent);

        Launch { service: Service::Agent, argv: vec![program.into(), "-c".into(), script.into(), state.into()] }
    }

    fn state(dir: &tempfile::TempDir) -> StateDir {
        let state = StateDir::new(dir.path()).expect("a path");
        state.make().expect("made");

        state
    }

    #[tokio::test]
    async fn a_service_is_started_once_and_stopped() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = state(&dir);
        let service = launch(&dir, "while :; do sleep 0.02; done");

        let first = service.start(&state, Manner::Background).expect("started");
        let second = service.start(&state, Manner::Background).expect("found");
        fs::remove_file(state.pid_file(Service::Agent)).expect("removed");
        let third = service.start(&state, Manner::Background).expect("found without its note");

        assert_eq!(first.origin(), Origin::Ours);
        assert_eq!([second.origin(), third.origin()], [Origin::Found; 2]);
        assert!(state.pid_file(Service::Agent).exists());
        assert!(stop(Service::Agent, &state).await.expect("stopped"));
        assert!(!stop(Service::Agent, &state).await.expect("nothing to stop"));
        assert!(!state.pid_file(Service::Agent).exists());
    }

    #[tokio::test]
    async fn a_service_that_ends_is_told_with_its_last_words() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = state(&dir);
        let service = launch(&dir, "echo the port is taken >&2; exit 3");

        let mut started = service.start(&state, Manner::Background).expect("started");
        let failure = started
            .ready(&state, async || -> Result<(), Refusal> { Err(Refusal::new(Code::AgentAway, "nobody listens")) })
            .await
            .expect_err("it has ended");

        let Failure::Startup(refusal, log) = failure else { panic!("{failure:?}") };
        assert!(refusal.message.contains("overlayd ended right after its start"), "{refusal}");
        assert_eq!(log, ["the port is taken"]);
        assert!(!state.pid_file(Service::Agent).exists());
    }
}
