//! A service that has been started: waits until it is ready, or says why it is not.

use std::process::Child;
use std::time::Duration;

use overlay_proto::{Code, Refusal};

use super::last_words::{last_lines, startup};
use super::manner::Manner;
use super::notify::Notifications;
use super::systemd;
use crate::failure::{Failure, Outcome};
use crate::pidfd::Process;
use crate::state::{Service, StateDir};
use crate::wait::{self, Attempt};

/// How long a service may take until it answers: longer than the agent waits for its networks.
const READY: Duration = Duration::from_secs(30);

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
    /// The service.
    pub(super) service: Service,
    /// Whose child it is.
    pub(super) manner: Manner,
    /// Whether this command started it.
    pub(super) origin: Origin,
    /// The child, where it is ours.
    pub(super) child: Option<Child>,
    /// Its process.
    pub(super) process: Option<Process>,
    /// Where it says that it is ready; none where systemd hears it, or nobody does any more.
    pub(super) notifications: Option<Notifications>,
    /// How long its log was before it was started.
    pub(super) log_begins: u64,
    /// Why there is no door before it.
    pub(super) doorless: Option<Refusal>,
    /// Why it runs as root under systemd, though it has a user of its own.
    pub(super) as_root: Option<String>,
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

        Some(format!(
            "no door before the agent: {reason};\n  Docker waits for an agent that is down"
        ))
    }

    /// Returns why control runs as root under systemd, for people; none where it does not.
    pub(crate) fn as_root(&self) -> Option<String> {
        let reason = self.as_root.as_ref()?;

        Some(format!(
            "control runs as root: {reason};\n  \
             its program, options and state must be within reach of the user overlay-control"
        ))
    }

    /// Waits until the service says that it is ready and answers; if it ends or stays silent, its
    /// last words are told. What was started stays: whoever started it knows what to do about it.
    pub(super) async fn ready<T>(
        &mut self,
        state: &StateDir,
        mut probe: impl AsyncFnMut() -> Result<T, Refusal>,
    ) -> Outcome<T> {
        let program = self.service.program();
        let waited = wait::until(READY, async || {
            let ready = self.notifications.as_mut().is_none_or(Notifications::is_ready);
            let answer = probe().await;
            if self.has_ended() {
                let text = format!("{program} ended right after its start");
                return Attempt::Never(Refusal::new(Code::Fault, text));
            }
            match answer {
                Ok(answer) if ready => Attempt::Done(answer),
                Ok(_) => Attempt::NotYet(self.not_ready()),
                Err(refusal) => {
                    let text = format!(
                        "{program} does not answer within {} s of its start: {refusal}",
                        READY.as_secs()
                    );
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
        let status = self
            .notifications
            .as_ref()
            .and_then(Notifications::status)
            .unwrap_or("it does not say why");
        let text = format!(
            "{} runs, but is not ready {} s after its start: {status}",
            self.service.program(),
            READY.as_secs()
        );

        Refusal::new(Code::Fault, text)
    }

    /// Tells whether it ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        match (&mut self.child, &self.process) {
            (Some(child), _) => child.try_wait().is_ok_and(|status| status.is_some()),
            (None, Some(process)) => process.has_ended(),
            (None, None) => self.manner == Manner::Systemd && systemd::has_failed(self.service),
        }
    }

    /// Makes a failure with the service's last words; what it says of itself takes the place of
    /// what we guess.
    fn failure(&self, state: &StateDir, refusal: Refusal) -> Failure {
        let log = match self.manner {
            Manner::Foreground => Vec::new(),
            Manner::Background => last_lines(&state.log(self.service), self.log_begins),
            Manner::Systemd => systemd::last_lines(self.service),
        };

        startup(self.service, refusal, log)
    }
}
