//! Starts a service, and before the agent the door.

use std::fs;

use overlay_proto::Refusal;

use super::launch::Launch;
use super::manner::Manner;
use super::notify::{self, Notifications};
use super::running::running;
use super::started::{Origin, Started};
use super::{background, door, foreground, systemd};
use crate::failure::{Outcome, storage};
use crate::pidfd::Process;
use crate::state::{Service, StateDir};

impl Launch {
    /// Starts the service unless it runs already, and waits until it is ready and `probe` succeeds.
    ///
    /// One that was found running may be about to end, because it was just killed; then it is
    /// started after all.
    pub(crate) async fn bring_up(
        &self,
        state: &StateDir,
        manner: Manner,
        mut probe: impl AsyncFnMut() -> Result<(), Refusal>,
    ) -> Outcome<Started> {
        loop {
            let mut started = self.start(state, manner).await?;
            match started.ready(state, &mut probe).await {
                Err(_) if started.origin() == Origin::Found && started.has_ended() => {}
                ready => return ready.map(|()| started),
            }
        }
    }

    /// Starts the service unless it runs already. Before the agent there is the door.
    async fn start(&self, state: &StateDir, manner: Manner) -> Outcome<Started> {
        let pid_file = state.pid_file(self.service);
        let found = running(self.service, state);
        if found.is_none() && manner == Manner::Systemd {
            let as_root = systemd::start(self).await?;
            return Ok(Started { as_root, ..self.started(manner, Origin::Ours) });
        }
        let doorless = match self.service {
            // Where units of ours are, theirs is the door, even when this start is not by them.
            Service::Agent
                if manner != Manner::Systemd && !systemd::is_installed(self.service, state) =>
            {
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
        let notifications = Notifications::open(state.notify_socket(self.service))
            .map_err(|error| named(&error))?;
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
            as_root: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::signal::Signal;
    use overlay_proto::Code;

    use super::super::stop::stop;
    use super::*;
    use crate::failure::Failure;

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
        let third =
            service.start(&state, Manner::Background).await.expect("found without its note");

        assert_eq!(first.origin(), Origin::Ours);
        assert_eq!([second.origin(), third.origin()], [Origin::Found; 2]);
        assert!(state.pid_file(Service::Agent).exists());
        assert!(stop(Service::Agent, &state).await.expect("stopped"));
        assert!(!stop(Service::Agent, &state).await.expect("nothing to stop"));
        assert!(!state.pid_file(Service::Agent).exists());
    }

    /// A script's end that waits for ever, without a child that would be taken for the service.
    fn wait_for_ever(dir: &tempfile::TempDir) -> String {
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");

        format!("exec 3<>{}; read line <&3", pipe.display())
    }

    #[tokio::test]
    async fn one_that_was_killed_does_not_count_as_running_though_nobody_took_note_of_its_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = state(&dir);
        let service = launch(&dir, &wait_for_ever(&dir));
        let killed = service.start(&state, Manner::Background).await.expect("started");
        let process = killed.process.as_ref().expect("a process");
        process.signal(Signal::SIGKILL).expect("killed");
        process.ended().await.expect("it ends");

        let next = service.start(&state, Manner::Background).await.expect("started");

        assert_eq!(next.origin(), Origin::Ours);
        stop(Service::Agent, &state).await.expect("stopped");
    }

    #[tokio::test]
    async fn one_that_ends_while_it_is_waited_for_is_started_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = state(&dir);
        // Says that it is ready as sd_notify(3) does.
        let ready = "python3 -c 'import os,socket; s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM); \
                     a=os.environ[\"NOTIFY_SOCKET\"]; s.sendto(b\"READY=1\",a.replace(\"@\",chr(0),1))'";
        let service = launch(&dir, &format!("{ready}; {}", wait_for_ever(&dir)));
        let dying =
            service.bring_up(&state, Manner::Background, async || Ok(())).await.expect("started");

        let next = service.bring_up(&state, Manner::Background, async || {
            let process = dying.process.as_ref().expect("a process");
            if process.has_ended() {
                return Ok(());
            }
            process.signal(Signal::SIGKILL).expect("killed");
            Err(Refusal::new(Code::AgentAway, "nobody listens"))
        });
        let next = next.await.expect("started anew");

        assert_eq!(next.origin(), Origin::Ours);
        stop(Service::Agent, &state).await.expect("stopped");
    }

    async fn failure_of(script: &str) -> (Refusal, Vec<String>) {
        let dir = tempfile::tempdir().expect("a directory");
        let state = state(&dir);
        let service = launch(&dir, script);
        fs::write(state.log(Service::Agent), "overlayd: of another day\n").expect("written");

        let mut started = service.start(&state, Manner::Background).await.expect("started");
        let failure = started
            .ready(&state, async || -> Result<(), Refusal> {
                Err(Refusal::new(Code::AgentAway, "nobody listens"))
            })
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
        let (refusal, log) =
            failure_of("echo 'overlayd: two mistakes' >&2; echo ' line 1' >&2; exit 3").await;

        assert_eq!(refusal.message, "overlayd did not start: two mistakes");
        assert_eq!(log, [" line 1"]);
    }

    #[tokio::test]
    async fn a_service_that_answers_is_not_ready_before_it_says_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = state(&dir);
        let service = launch(&dir, "while :; do sleep 0.02; done");
        let mut started = service.start(&state, Manner::Background).await.expect("started");

        let ready = tokio::time::timeout(
            Duration::from_millis(200),
            started.ready(&state, async || Ok(())),
        )
        .await;

        assert!(ready.is_err(), "nobody said that it is ready");
        stop(Service::Agent, &state).await.expect("stopped");
    }
}
