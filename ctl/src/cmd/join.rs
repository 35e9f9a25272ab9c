//! `overlayctl join`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use overlay_core::Name;
use overlay_proto::{JoinLine, Refusal, v1};
use serde::Serialize;

use super::{Context, connected, require_root};
use crate::args::values::advertise;
use crate::failure::{Failure, Outcome};
use crate::join_text;
use crate::output::{Page, Report};
use crate::spawn::{self, Launch, Manner, Origin, Started};
use crate::state::{DEFAULT_STATE, Service, StateDir};

const EXAMPLE: &str = "\
The line's pin is checked before its secret leaves this machine. An argument can be seen by other users of this machine \
while the command runs; a file or standard input cannot.

Examples:
  overlayctl join ovl1-…@192.0.2.1:7443
  overlayctl join ./line
  ssh host-a sudo overlayctl token create | sudo overlayctl join -";

/// Make this machine a node of a cluster; starts the agent if none runs
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Join {
    /// What `init` or `token create` printed, or a file that holds it, or - for standard input
    #[arg(value_name = "JOIN-LINE|FILE|-", hide_possible_values = true)]
    line: String,
    /// Where state, log and pid file are kept
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    state: PathBuf,
    /// An address at which other hosts reach this one; may be repeated; without it, all of the host's
    #[arg(long = "advertise", value_name = "ADDRESS", value_parser = advertise)]
    advertise: Vec<IpAddr>,
    /// This node's name; without it, the host's
    #[arg(long)]
    name: Option<Name>,
    /// Stay and keep the agent as a child; Ctrl-C ends it
    #[arg(long)]
    foreground: bool,
}

/// What this machine became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Joined {
    cluster: String,
    node: String,
    node_id: String,
    /// It was a node of this cluster before.
    already: bool,
}

impl Report for Joined {
    fn text(&self, _: Page) -> String {
        let Self { cluster, node, already, .. } = self;

        if *already {
            format!("this machine is node {node} of cluster {cluster} already; nothing is changed")
        } else {
            format!("this machine is node {node} of cluster {cluster}")
        }
    }
}

impl Join {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let line = join_text::read(&self.line)?;
        require_root("join")?;
        let state = StateDir::new(&self.state)?;
        let manner = Manner::choose(self.foreground);
        let fresh = !state.has(Service::Agent);
        let agent = match context.agent().await {
            Ok(_) => None,
            Err(_) => {
                let launch = Launch::agent(&state, &context.socket)?;
                state.make()?;
                Some(start_agent(&launch, &state, manner, context).await?)
            }
        };
        let joined = match self.join(&line, context).await {
            Ok(joined) => joined,
            Err(refusal) => return Err(undo(refusal, agent, fresh, &state, context).await),
        };
        if let Err(refusal) = connected(context).await {
            context.output.warn(format_args!("overlayctl: {refusal}"));
        }
        context.output.show(&joined)?;

        match &agent {
            Some(agent) => spawn::supervise(&[agent], &state, &context.output).await,
            None => Ok(()),
        }
    }

    async fn join(&self, line: &JoinLine, context: &Context) -> Result<Joined, Refusal> {
        context.output.step(format_args!("Joining by {}", line.addresses.join(", ")));
        let request = v1::AgentJoinRequest {
            join_line: line.expose(),
            name: self.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            advertise: self.advertise.iter().map(ToString::to_string).collect(),
        };
        let mut agent = context.agent().await?;
        // The agent decides by the pin whether the line is of the cluster that this machine is in.
        let already = agent.status(v1::StatusRequest {}).await?.phase() == v1::NodePhase::Joined;
        let joined = agent.join(request).await?;

        Ok(Joined { cluster: joined.cluster, node: joined.node_name, node_id: joined.node, already })
    }
}

/// Starts the agent and waits until it answers.
pub(super) async fn start_agent(
    launch: &Launch,
    state: &StateDir,
    manner: Manner,
    context: &Context,
) -> Outcome<Started> {
    context.output.step("Starting the agent");
    let mut agent = launch.start(state, manner)?;
    agent.ready(state, async || context.status().await.map(drop)).await?;

    Ok(agent)
}

/// Takes back what a refused join has started and made.
async fn undo(refusal: Refusal, agent: Option<Started>, fresh: bool, state: &StateDir, context: &Context) -> Failure {
    if agent.is_some_and(|agent| agent.origin() == Origin::Ours) {
        let undone = match spawn::stop(Service::Agent, state).await {
            Ok(_) if fresh && !state.has(Service::Control) => state.remove().map(drop),
            Ok(_) => Ok(()),
            Err(failure) => Err(failure),
        };
        if undone.is_err() {
            context.output.warn("overlayctl: the agent that was started for this is still there: `overlayctl leave`");
        }
    }

    refusal.into()
}
