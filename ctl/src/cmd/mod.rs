//! One file for each command.

pub(crate) mod attach;
pub(crate) mod audit;
pub(crate) mod completions;
pub(crate) mod control;
pub(crate) mod detach;
mod each;
pub(crate) mod endpoint;
pub(crate) mod events;
pub(crate) mod init;
pub(crate) mod join;
pub(crate) mod leave;
pub(crate) mod logs;
pub(crate) mod man;
mod naming;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod peers;
pub(crate) mod ping;
pub(crate) mod policy;
pub(crate) mod run;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod token;
pub(crate) mod upgrade;
pub(crate) mod version;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use overlay_proto::{Code, Refusal, v1};

use crate::client::Agent;
use crate::failure::Outcome;
use crate::output::{ListArgs, Output, Report};
use crate::wait;

/// What every command works with.
#[derive(Debug)]
pub(crate) struct Context {
    /// Where the agent listens.
    pub(crate) socket: PathBuf,
    /// Where results go.
    pub(crate) output: Output,
}

impl Context {
    /// Connects to the agent.
    pub(crate) async fn agent(&self) -> Result<Agent, Refusal> {
        Agent::connect(&self.socket).await
    }

    /// Asks a newly made connection for the agent's state.
    pub(crate) async fn status(&self) -> Result<v1::StatusResponse, Refusal> {
        self.agent().await?.status(v1::StatusRequest {}).await
    }

    /// Shows what `ask` answers, once or, with `--watch`, again and again.
    pub(crate) async fn list<R: Report>(
        &self,
        args: &ListArgs,
        mut ask: impl AsyncFnMut() -> Result<R, Refusal>,
    ) -> Outcome {
        let output = self.output.formatted(args.show.format.clone())?;

        match args.watch {
            None => output.show(&ask().await?),
            Some(period) => watch::run(&output, period, ask).await,
        }
    }
}

/// How long a node that has joined may take until it is connected to control.
const CONNECTED: Duration = Duration::from_secs(15);

/// Waits until the agent is connected to control: before that, commands about the whole network
/// would be refused.
async fn connected(context: &Context) -> Result<(), Refusal> {
    let connected = async || {
        let control = context.status().await?.control.unwrap_or_default();
        let away = || {
            Refusal::new(
                Code::ControlAway,
                format!("the agent is not connected to control: {}", control.reason),
            )
        };

        if control.connected { Ok(()) } else { Err(away()) }
    };

    wait::until(CONNECTED, async || connected().await.into()).await
}

/// Refuses what only root can do.
fn require_root(what: &str) -> Result<(), Refusal> {
    if nix::unistd::geteuid().is_root() {
        Ok(())
    } else {
        Err(Refusal::new(Code::NotAllowed, format!("{what} needs root: try with sudo")))
    }
}
