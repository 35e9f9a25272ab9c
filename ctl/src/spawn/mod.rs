//! Starts, awaits and ends control and the agent: under systemd where it runs the host, else as background processes.

mod background;
mod door;
mod foreground;
mod notify;
mod options;
mod pause;
mod program;
mod systemd;
mod units;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use overlay_proto::{Code, Refusal};

use self::notify::Notifications;
use crate::failure::{Failure, Outcome, storage};
use crate::pidfd::{self, Process};
use crate::state::{Service, StateDir};
use crate::wait::{self, Attempt};

pub(crate) use foreground::{Ending, supervise};
pub(crate) use options::{AgentOptions, ControlOptions, ServiceOptions};
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
    /// What it writes to.
    state: PathBuf,
}

impl Launch {
    /// Makes control's command line.
    pub(crate) fn control(state: &StateDir, options: &ControlOptions) -> Result<Self, Refusal> {
        let folder = state.of(Service::Control);
        let mut argv = vec![program::find(Service::Control)?.into(), "serve".into(), "--state".into()];
        argv.push(folder.clone().into());
        if let Some(path) = &options.config {
            argv.extend(["--config".into(), path.into()]);
        }

        Ok(Self { service: Service::Control, argv, state: folder })
    }

    /// Makes the agent's command line.
    pub(crate) fn agent(state: &StateDir, socket: &Path, options: &AgentOptions) -> Result<Self, Refusal> {
        let socket = std::path::absolute(socket).map_err(|error| storage(socket.display(), &error))?;
        let folder = state.of(Service::Agent);
        let mut argv = vec![program::find(Service::Agent)?.into(), "--state".into()];
        argv.push(folder.clone().into());
        argv.extend(["--socket".into(), socket.into()]);
        if let Some(port) = options.port {
            argv.extend(["--port".into(), port.to_string().into()]);
        }
        if let Some(path) = &options.config {
            argv.extend(["--config".into(), path.into()]);
        }
        argv.extend(["--docker-plugin".into(), door::BEHIND.into()]);

        Ok(Self { service: Service::Agent, argv, state: folder })
    }

    /// Starts the service unless it runs already. Before the agent there is the door.
    pub(crate) async fn start(&self, state: &StateDir, manner: Manner) -> Outcome<Started> {
        let pid_file = state.pid_file(self.service);
        let found = running(self.service, state);
        if found.is_none() && manner == Manner::Systemd {
            systemd::start(self).await?;
            return Ok(self.started(manner, Origin::Ours));
        }
        let doorless = match self.service {
            // Where units of ours are, theirs is the door, even when this start is not by them.
            Service::Agent if manner != Manner::Systemd && !systemd::is_installed(self.service, state) => {
                door::open(self.program(), state, manner, found.as_ref()).await.err()
            }
            Service::Agent | Service::Control => None,
        };
        if let Some(process) = found {
            process.note(&pid_file).map_err(|error| storage(pid_file.display(), &error))?;
            let started = self.started(Manner::Background, Origin::Found);
            return Ok(Started { process: Some(process), doorless, ..started });
        }
        let named = |error: &std::io::Error| storage(self.program().to_string_lossy(), error);
        let notifications = Notifications::open(state.notify_socket(self.service)).map_err(|error| named(&error))?;
        let log = state.log(self.service);
        let log_begins = fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let mut command = self.command();
        command.env(notify::VARIABLE, notifications.address());
        let child = match manner {
            Manner::Foreground => foreground::spawn(command),
            Manner::Background | Manner::Systemd => background::spawn(command, &log),
        };
        let child = child.map_err(|error| named(&error))?;
        let process = i32::try_from(child.id()).ok().and_then(Process::of_pid);
        if let Some(process) = &process {
            process.note(&pid_file).map_err(|error| storage(pid_file.display(), &error))?;
        }

        Ok(Started {
            child: Some(child),
            process,
            notifications: Some(notifications),
            log_begins,
            doorless,
            ..self.started(manner, Origin::Ours)
        })
    }

    fn program(&self) -> &OsStr {
        self.argv.first().map_or(OsStr::new(""), |word| word)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program());
        command.args(self.argv.iter().skip(1)).current_dir("/");

        command
    }

    fn started(&self, manner: Manner, origin: Origin) -> Started {
        Started {
            service: self.service,
            manner,
            origin,
            child: None,
            process: None,
            notifications: None,
            log_begins: 0,
            doorless: None,
        }
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
    origin: Origin,
    child: Option<Child>,
    process: Option<Process>,
    /// Where it says that it is ready; none where systemd hears it, or nobody does any more.
    notifications: Option<Notifications>,
    /// How long its log was before it was started.
    log_begins: u64,
    /// Why there is no door before it.
    doorless: Option<Refusal>,
}

impl Started {
    /// Tells whether this command started it.
    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    /// Returns which service it is.
    pub(crate) fn service(&self) -> Service {
        self.service
    }

    /// Returns why no door is before the agent, for people; none where there is one.
    pub(crate) fn doorless(&self) -> Option<String> {
        let reason = self.doorless.as_ref()?;

        Some(format!("no door before the agent: {reason};\n  Docker waits for an agent that is down"))
    }

    /// Waits until the service says that it is ready and answers; if it ends or stays silent, its last words are told.
    /// What was started stays: whoever started it knows what to do about it.
    pub(crate) async fn ready<T>(
        &mut self,
        state: &StateDir,
        mut probe: impl AsyncFnMut() -> Result<T, Refusal>,
    ) -> Outcome<T> {
        let program = self.service.program();
        let waited = wait::until(READY, async || {
            let ready = self.notifications.as_mut().is_none_or(Notifications::is_ready);
            match probe().await {
                Ok(answer) if ready => Attempt::Done(answer),
                Ok(_) | Err(_) if self.has_ended() => {
                    Attempt::Never(Refusal::new(Code::Fault, format!("{program} ended right after its start")))
                }
                Ok(_) => Attempt::NotYet(self.not_ready()),
                Err(refusal) => {
                    let text =
                        format!("{program} does not answer within {} s of its start: {refusal}", READY.as_secs());
                    Attempt::NotYet(Refusal::new(refusal.code, text))
                }
            }
        });

        match waited.await {
            Ok(answer) => Ok(answer),
            Err(refusal) => Err(self.failure(state, refusal)),
        }
    }

    fn not_ready(&self) -> Refusal {
        let status = self.notifications.as_ref().and_then(Notifications::status).unwrap_or("it does not say why");
        let text = format!(
            "{} runs, but is not ready {} s after its start: {status}",
            self.service.program(),
            READY.as_secs()
        );

        Refusal::new(Code::Fault, text)
    }

    fn has_ended(&mut self) -> bool {
        match &mut self.child {
            Some(child) => child.try_wait().is_ok_and(|status| status.is_some()),
            None => self.manner == Manner::Systemd && systemd::has_failed(self.service),
        }
    }

    /// Makes a failure with the service's last words; what it says of itself takes the place of what we guess.
    fn failure(&self, state: &StateDir, refusal: Refusal) -> Failure {
        let log = match self.manner {
            Manner::Foreground => Vec::new(),
            Manner::Background => last_lines(&state.log(self.service), self.log_begins),
            Manner::Systemd => systemd::last_lines(self.service),
        };

        startup(self.service, refusal, log)
    }
}

/// Makes a failure of a service's start out of what it wrote last.
fn startup(service: Service, refusal: Refusal, mut log: Vec<String>) -> Failure {
    let prefix = format!("{}: ", service.program());
    let Some(last) = log.iter().rposition(|line| line.starts_with(&prefix)) else {
        return Failure::Startup(refusal, log);
    };
    let details = log.split_off(last + 1);
    let reason = log.pop().unwrap_or_default();
    let text = format!("{} did not start: {}", service.program(), reason.trim_start_matches(&prefix));

    Failure::Startup(Refusal::new(refusal.code, text), details)
}

/// Ends a service that `init` or `join` started, however it was started, and with the agent the door; tells whether there
/// was one.
pub(crate) async fn stop(service: Service, state: &StateDir) -> Outcome<bool> {
    let mut found = systemd::remove(service, state).await?;
    // More than one only where a start was cut short; a supervisor of somebody else's is not fought.
    for process in std::iter::from_fn(|| running(service, state)).take(3) {
        process.stop(GRACE).await.map_err(|error| {
            let text = format!("{} (pid {}) does not end: {error}", service.program(), process.pid());
            Refusal::new(Code::Fault, text)
        })?;
        found = true;
    }
    has_ended(service, state).await?;

    Ok(found)
}

/// Removes what a service has beside it while it runs.
async fn has_ended(service: Service, state: &StateDir) -> Outcome {
    if service == Service::Agent {
        door::close(state).await?;
    }

    Ok(remove_note(&state.pid_file(service))?)
}

/// Removes the note of a process that is gone, if there is one.
fn remove_note(pid_file: &Path) -> Result<(), Refusal> {
    match fs::remove_file(pid_file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(storage(pid_file.display(), &error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Finds the service's process: a start that was cut short, or a supervisor, may have left one without its note.
fn running(service: Service, state: &StateDir) -> Option<Process> {
    Process::of_file(&state.pid_file(service)).or_else(|| pidfd::find(service.program(), &state.of(service)))
}

/// Tells whether the service runs.
pub(crate) fn runs(service: Service, state: &StateDir) -> bool {
    running(service, state).is_some()
}

/// Reads the last lines of a log from an offset on.
fn last_lines(log: &Path, begins: u64) -> Vec<String> {
    let mut bytes = Vec::new();
    let read = File::open(log).and_then(|mut file| {
        file.seek(SeekFrom::Start(begins))?;
        file.read_to_end(&mut bytes)
    });
    if read.is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&bytes);
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
        let argv = vec![program.into(), "-c".into(), script.into(), state.clone().into()];

        Launch { service: Service::Agent, argv, state }
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

        let first = service.start(&state, Manner::Background).await.expect("started");
        let second = service.start(&state, Manner::Background).await.expect("found");
        fs::remove_file(state.pid_file(Service::Agent)).expect("removed");
        let third = service.start(&state, Manner::Background).await.expect("found without its note");

        assert_eq!(first.origin(), Origin::Ours);
        assert_eq!([second.origin(), third.origin()], [Origin::Found; 2]);
        assert!(state.pid_file(Service::Agent).exists());
        assert!(stop(Service::Agent, &state).await.expect("stopped"));
        assert!(!stop(Service::Agent, &state).await.expect("nothing to stop"));
        assert!(!state.pid_file(Service::Agent).exists());
    }

    async fn failure_of(script: &str) -> (Refusal, Vec<String>) {
        let dir = tempfile::tempdir().expect("a directory");
        let state = state(&dir);
        let service = launch(&dir, script);
        fs::write(state.log(Service::Agent), "overlayd: of another day\n").expect("written");

        let mut started = service.start(&state, Manner::Background).await.expect("started");
        let failure = started
            .ready(&state, async || -> Result<(), Refusal> { Err(Refusal::new(Code::AgentAway, "nobody listens")) })
            .await
            .expect_err("it has ended");
        let Failure::Startup(refusal, log) = failure else { panic!("{failure:?}") };

        (refusal, log)
    }

    #[tokio::test]
    async fn a_service_that_ends_is_told_with_its_last_words() {
        let (refusal, log) = failure_of("echo the port is taken >&2; exit 3").await;

        assert!(refusal.message.contains("overlayd ended right after its start"), "{refusal}");
        assert_eq!(log, ["the port is taken"]);
    }

    #[tokio::test]
    async fn what_a_service_says_of_itself_is_the_reason() {
        let (refusal, log) = failure_of("echo 'overlayd: two mistakes' >&2; echo ' line 1' >&2; exit 3").await;

        assert_eq!(refusal.message, "overlayd did not start: two mistakes");
        assert_eq!(log, [" line 1"]);
    }

    #[tokio::test]
    async fn a_service_that_answers_is_not_ready_before_it_says_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = state(&dir);
        let service = launch(&dir, "while :; do sleep 0.02; done");
        let mut started = service.start(&state, Manner::Background).await.expect("started");

        let ready = tokio::time::timeout(Duration::from_millis(200), started.ready(&state, async || Ok(()))).await;

        assert!(ready.is_err(), "nobody said that it is ready");
        stop(Service::Agent, &state).await.expect("stopped");
    }
}
