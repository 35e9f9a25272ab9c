//! `overlayctl start`: what `init` or `join` set up, again, after a crash or a reboot.

use std::path::PathBuf;

use clap::Args;
use overlay_proto::{Code, Refusal, v1};
use serde::Serialize;

use super::{Context, connected, require_root};
use crate::failure::Outcome;
use crate::output::{Page, Report, list};
use crate::spawn::{self, Launch, Manner, Origin, Started};
use crate::state::{DEFAULT_STATE, Service, StateDir};

const EXAMPLE: &str = "\
Under systemd the services come back by themselves; elsewhere this brings them back after a reboot. What runs is left alone.

Example:
  overlayctl start";

/// Start again what init or join set up on this machine
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Start {
    /// Where init or join put the state
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    state: PathBuf,
    /// Stay and keep them as children; Ctrl-C ends them
    #[arg(long)]
    foreground: bool,
}

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
struct Running {
    started: Vec<&'static str>,
    running: Vec<&'static str>,
}

impl Report for Running {
    fn text(&self, _: Page) -> String {
        match (self.started.is_empty(), self.running.is_empty()) {
            (true, _) => format!("{} run already", list(&self.running)),
            (false, true) => format!("started {}", list(&self.started)),
            (false, false) => format!("started {}; {} ran already", list(&self.started), list(&self.running)),
        }
    }
}

impl Start {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        require_root("start")?;
        let state = StateDir::new(&self.state)?;
        let manner = Manner::choose(self.foreground);
        if state.services().next().is_none() {
            let text = format!("nothing is set up in {}: use `init` or `join`", state.root().display());
            return Err(Refusal::new(Code::NotFound, text).into());
        }
        let mut services = Vec::new();
        let mut running = Running::default();
        for service in state.services() {
            let started = start(service, &state, manner, context).await?;
            let list = if started.origin() == Origin::Ours { &mut running.started } else { &mut running.running };
            list.push(service.program());
            services.push(started);
        }
        if state.has(Service::Agent)
            && context.status().await?.phase() == v1::NodePhase::Joined
            && let Err(refusal) = connected(context).await
        {
            context.output.warn(format_args!("overlayctl: {refusal}"));
        }
        context.output.show(&running)?;

        spawn::supervise(&services.iter().collect::<Vec<_>>(), &state, &context.output).await
    }
}

async fn start(service: Service, state: &StateDir, manner: Manner, context: &Context) -> Outcome<Started> {
    context.output.step(format_args!("Starting {}", service.word()));
    match service {
        // Whoever needs control waits for it; nobody here has a line to try it by.
        Service::Control => Launch::control(state)?.start(state, manner),
        Service::Agent => {
            let mut agent = Launch::agent(state, &context.socket)?.start(state, manner)?;
            agent.ready(state, async || context.status().await.map(drop)).await?;
            Ok(agent)
        }
    }
}
