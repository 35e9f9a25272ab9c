//! Stays with services in the foreground until one of them, or we, are to end.

use futures_util::future::select_all;
use overlay_proto::{Code, Refusal};
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};

use super::manner::Manner;
use super::started::Started;
use super::stop::stop;
use crate::failure::{Failure, Outcome, storage};
use crate::output::Output;
use crate::pidfd::Process;
use crate::state::StateDir;

/// The signals that end us. Listened to before anybody is told that the services run: they may come
/// at once.
pub(crate) struct Ending {
    interrupt: Listener,
    terminate: Listener,
}

impl Ending {
    /// Listens from now on.
    pub(crate) fn listen() -> Outcome<Self> {
        let listen =
            |kind| signal(kind).map_err(|error| storage("signals cannot be awaited", &error));

        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }
}

/// Stays until a signal asks us to end or a service ends by itself, and ends the services, the last
/// started first.
pub(crate) async fn supervise(
    services: &mut [Started],
    mut ending: Ending,
    state: &StateDir,
    output: &Output,
) -> Outcome {
    let mut ours: Vec<_> = services
        .iter_mut()
        .filter(|service| service.manner == Manner::Foreground)
        .filter_map(|service| Some((service.service, service.process.as_mut()?)))
        .collect();
    if ours.is_empty() {
        return Ok(());
    }
    output.step("Running; Ctrl-C ends it");

    let ended = loop {
        let which = tokio::select! {
            _ = ending.interrupt.recv() => break None,
            _ = ending.terminate.recv() => break None,
            (_, which, _) = select_all(ours.iter().map(|(_, process)| Box::pin(process.ended()))) => which,
        };
        let Some((service, process)) = ours.get_mut(which) else { break None };
        // An agent that was upgraded is another process from then on.
        match Process::of_file(&state.pid_file(*service)) {
            Some(next) => **process = next,
            None => break Some(*service),
        }
    };
    for (service, _) in ours.iter().rev() {
        stop(*service, state).await?;
    }

    match ended {
        None => Ok(()),
        Some(service) => Err(Failure::Refused(Refusal::new(
            Code::Fault,
            format!("{} ended by itself", service.program()),
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::started::Origin;
    use super::*;
    use crate::output::Form;
    use crate::state::Service;

    #[tokio::test]
    async fn a_service_that_ended_before_anybody_stayed_with_it_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::new(dir.path()).expect("a path");
        state.make().expect("made");
        let mut child = Command::new("sleep").arg("600").spawn().expect("a process");
        let process = Process::of_pid(child.id().cast_signed());
        child.kill().and_then(|()| child.wait()).expect("it ends");
        let mut service = Started {
            service: Service::Agent,
            manner: Manner::Foreground,
            origin: Origin::Ours,
            child: Some(child),
            process,
            notifications: None,
            log_begins: 0,
            doorless: None,
            as_root: None,
        };
        let ending = Ending::listen().expect("signals");
        let services = std::slice::from_mut(&mut service);

        let outcome = supervise(services, ending, &state, &Output::plain(Form::Json)).await;

        let Err(Failure::Refused(refusal)) = &outcome else { panic!("{outcome:?}") };
        assert!(refusal.message.contains("ended by itself"), "{refusal}");
    }
}
