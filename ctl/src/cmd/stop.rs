//! `overlayctl stop`: what `start` starts, ended; what was set up stays.

use std::path::PathBuf;

use clap::Args;
use overlay_proto::{Code, Refusal};
use serde::Serialize;

use super::{Context, require_root};
use crate::failure::Outcome;
use crate::output::{Page, Report};
use crate::spawn;
use crate::state::{DEFAULT_STATE, StateDir};

const EXAMPLE: &str = "\
Endpoints, networks and identity stay; traffic over the overlay rests until `overlayctl start`. Under systemd the \
services come back at the next boot. `overlayctl leave` undoes everything instead.

Examples:
  overlayctl stop
  overlayctl stop && overlayctl start        once again, as after an upgrade";

/// Stop what init or join started on this machine, without undoing it
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct StopArgs {
    /// Where init or join put the state
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    state: PathBuf,
}

/// What was stopped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
struct Stopped {
    stopped: Vec<&'static str>,
}

impl Report for Stopped {
    fn text(&self, _: Page) -> String {
        if self.stopped.is_empty() {
            "nothing was running".to_owned()
        } else {
            format!("stopped {}", self.stopped.join(" and "))
        }
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.stopped.iter().map(ToString::to_string).collect())
    }
}

impl StopArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        require_root("stop")?;
        let state = StateDir::new(&self.state)?;
        let services: Vec<_> = state.services().collect();
        if services.is_empty() {
            let text =
                format!("nothing is set up in {}: use `init` or `join`", state.root().display());
            return Err(Refusal::new(Code::NotFound, text).into());
        }
        let mut stopped = Stopped::default();
        // The agent first, so that it does not miss control.
        for service in services.into_iter().rev() {
            context.output.step(format_args!("Stopping {}", service.word()));
            if spawn::pause(service, &state).await? {
                stopped.stopped.push(service.program());
            }
        }

        context.output.show(&stopped)
    }
}
