//! Setting up as a transaction: what `init` or `join` begins is finished or taken back, by the
//! command itself when it fails or is interrupted, and by the next one when it was killed.

use std::fs::{self, File};
use std::future::Future;
use std::io;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use overlay_proto::{Code, Refusal, v1};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cmd::Context;
use crate::failure::{Failure, Outcome, storage};
use crate::runtime_files;
use crate::spawn;
use crate::state::{self, Service, StateDir};
use crate::wait::{self, Attempt};

/// How long a join that is under way may take to come to an end when its command is interrupted.
const SETTLE: Duration = Duration::from_secs(3);

/// Which command sets up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SetupKind {
    Init,
    Join,
}

/// What the state directory says while somebody sets up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    kind: SetupKind,
    /// What had been set up before, and stays whatever happens.
    before: Vec<Service>,
    /// Whether the state directory was there.
    root: bool,
}

/// A set-up under way; nobody else can begin one on the same state directory.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    note: Note,
    /// What ran before.
    ran: Vec<Service>,
    state: &'a StateDir,
    context: &'a Context,
    _lock: Flock<File>,
}

/// Tells whether a set-up was cut short here.
pub(crate) fn is_unfinished(state: &StateDir) -> bool {
    state.setup_file().exists()
}

impl<'a> Setup<'a> {
    /// Begins; what an earlier command was killed over is taken back first, or gone on with where
    /// that is the same.
    pub(crate) async fn begin(
        kind: SetupKind,
        state: &'a StateDir,
        context: &'a Context,
    ) -> Outcome<Self> {
        let root = state.root().exists();
        state.make()?;
        let lock = lock(state)?;
        let note = Note { kind, before: state.services().collect(), root };
        let mut setup = Self { note, ran: Vec::new(), state, context, _lock: lock };
        if let Some(earlier) = read(state)? {
            setup.note = earlier;
            setup.take_over(kind).await?;
        }
        setup.ran = setup
            .note
            .before
            .iter()
            .copied()
            .filter(|service| spawn::runs(*service, state))
            .collect();
        setup.note.kind = kind;
        setup.write()?;

        Ok(setup)
    }

    /// Does the work, and keeps what came of it if that is everything.
    pub(crate) async fn run<T>(self, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        let mut signals = Signals::new()?;
        let done = tokio::select! {
            done = work => done,
            name = signals.any() => Err(interrupted(name)),
        };

        match done {
            Ok(done) => {
                self.finish()?;
                Ok(done)
            }
            Err(failure) => Err(self.undo(failure).await),
        }
    }

    /// Goes on from where a killed command stood.
    async fn take_over(&self, kind: SetupKind) -> Outcome {
        match (self.note.kind, kind) {
            // A token may be good for one join only: its key is in the agent's state, by which it
            // works again.
            (SetupKind::Join, SetupKind::Join) => {
                spawn::pause(Service::Agent, self.state).await.map(drop)
            }
            (SetupKind::Init | SetupKind::Join, SetupKind::Init | SetupKind::Join) => {
                self.context.output.step("Taking back what was cut short");
                self.take_back().await?;
                self.state.make()
            }
        }
    }

    fn write(&self) -> Outcome {
        let path = self.state.setup_file();
        let text =
            serde_json::to_vec(&self.note).map_err(|error| Refusal::new(Code::Fault, error))?;

        state::write(&path, &text).map_err(|error| storage(path.display(), &error).into())
    }

    fn finish(&self) -> Outcome {
        let path = self.state.setup_file();

        fs::remove_file(&path).map_err(|error| storage(path.display(), &error).into())
    }

    async fn undo(&self, failure: Failure) -> Failure {
        if self.note.kind == SetupKind::Join && self.has_joined().await {
            // The token may be used up by it, so it cannot be undone unseen.
            if let Err(failure) = self.finish() {
                return failure;
            }
            self.context
                .output
                .warn("this machine has become a node all the same; `overlayctl leave` undoes it");
            return failure;
        }
        self.context.output.step("Taking back what was begun");
        if let Err(resisting) = self.take_back().await {
            self.context.output.fail(&resisting);
            self.context.output.warn(
                "overlayctl: not everything could be taken back: `overlayctl leave` does the rest",
            );
        }

        failure
    }

    /// Waits until the agent has no join under way; tells whether it is a node.
    async fn has_joined(&self) -> bool {
        let phase = wait::until(SETTLE, async || match self.context.status().await {
            Ok(status) if status.phase() == v1::NodePhase::Joining => {
                Attempt::NotYet(Refusal::new(Code::WrongState, "the agent is joining"))
            }
            Ok(status) => Attempt::Done(status.phase()),
            Err(away) => Attempt::Never(away),
        });

        phase.await == Ok(v1::NodePhase::Joined)
    }

    async fn take_back(&self) -> Outcome {
        let fresh = |service: &Service| !self.note.before.contains(service);
        if fresh(&Service::Agent) && self.is_ours().await {
            // Whether control can be told or not, the agent ends.
            let _ = self.context.agent().await?.leave(v1::AgentLeaveRequest { force: true }).await;
        }
        for service in [Service::Agent, Service::Control] {
            if fresh(&service) {
                spawn::stop(service, self.state).await?;
                self.state.remove_service(service)?;
            } else if !self.ran.contains(&service) {
                spawn::pause(service, self.state).await?;
            }
        }
        if fresh(&Service::Agent) {
            runtime_files::remove(&self.context.socket);
        }
        self.finish()?;
        if !self.note.root {
            self.state.remove_root();
        }

        Ok(())
    }

    /// Tells whether the agent that answers is the one of this state directory, and a node.
    async fn is_ours(&self) -> bool {
        self.context.status().await.is_ok_and(|status| {
            let here = StateDir::of_agent(status.state_dir.as_ref()).as_ref() == Some(self.state);

            here && status.phase() == v1::NodePhase::Joined
        })
    }
}

fn read(state: &StateDir) -> Outcome<Option<Note>> {
    let path = state.setup_file();
    match fs::read(&path) {
        // A note of another version: nothing is known of what stood before, so everything there is
        // kept.
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(storage(path.display(), &error).into()),
    }
}

/// Keeps others from setting up or leaving meanwhile.
pub(crate) fn lock(state: &StateDir) -> Outcome<Flock<File>> {
    let unusable = |error: &io::Error| storage(state.root().display(), error);
    let directory = File::open(state.root()).map_err(|error| unusable(&error))?;

    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == nix::errno::Errno::EWOULDBLOCK {
            let text =
                format!("another init, join or leave is at work on {}", state.root().display());
            Refusal::new(Code::InUse, text).into()
        } else {
            unusable(&errno.into()).into()
        }
    })
}

fn interrupted(name: &str) -> Failure {
    Failure::Refused(Refusal::new(Code::WrongState, format!("interrupted by {name}")))
}

/// Does what may take long and changes nothing; ends early when the command is interrupted.
pub(crate) async fn interruptible<T>(work: impl Future<Output = T>) -> Outcome<T> {
    let mut signals = Signals::new()?;

    tokio::select! {
        done = work => Ok(done),
        name = signals.any() => Err(interrupted(name)),
    }
}

/// The signals by which people and systems end a command.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Outcome<Self> {
        let listen =
            |kind| signal(kind).map_err(|error| storage("signals cannot be awaited", &error));

        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}
