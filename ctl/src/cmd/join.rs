//! `overlayctl join`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use overlay_core::Name;
use overlay_proto::{Code, JoinLine, Refusal, v1};
use serde::Serialize;

use super::{Context, connected, require_root};
use crate::addresses;
use crate::failure::Outcome;
use crate::join_text;
use crate::output::{Page, Report};
use crate::setup::{self, Setup, SetupKind};
use crate::spawn::{
    self, AgentOptions, ControlOptions, Ending, Launch, Manner, ServiceOptions, Started,
};
use crate::state::{DEFAULT_STATE, StateDir};
use crate::values::advertise;
use crate::wait::{self, Attempt};

const EXAMPLE: &str = "\
The line's pin is checked before its secret leaves this machine. An argument can be seen by other users of this machine \
while the command runs; a file or standard input cannot. What fails or is interrupted leaves nothing on this machine.

Examples:
  overlayctl join ovl1-…@192.0.2.1:7443
  overlayctl join ./line
  ssh host-a sudo overlayctl token create | sudo overlayctl join -";

/// Make this machine a node of a cluster; starts the agent if none runs
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct JoinArgs {
    /// What `init` or `token create` printed, or a file that holds it, or - for standard input
    #[arg(value_name = "JOIN-LINE|FILE|-", hide_possible_values = true)]
    line: String,
    /// Where state, log and pid file are kept
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    state: PathBuf,
    /// An address at which other hosts reach this one; may be repeated; without it, all of the
    /// host's
    #[arg(long = "advertise", value_name = "ADDRESS", value_parser = advertise)]
    advertise: Vec<IpAddr>,
    /// This node's name; without it, the host's
    #[arg(long)]
    name: Option<Name>,
    /// Stay and keep the agent as a child; Ctrl-C ends it
    #[arg(long)]
    foreground: bool,
    /// Take also an address that this host does not have: a router forwards it here
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    agent: AgentOptions,
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

    fn names(&self) -> Option<Vec<String>> {
        Some(vec![self.node.clone()])
    }

    fn ids(&self) -> Option<Vec<String>> {
        Some(vec![self.node_id.clone()])
    }
}

impl JoinArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let line = join_text::read(&self.line)?;
        require_root("join")?;
        if !self.force {
            addresses::check_advertised(&self.advertise)?;
        }
        let state = StateDir::new(&self.state)?;
        let manner = Manner::choose(self.foreground);
        let (joined, mut agent) = if self.needs_agent(&state, context).await? {
            let setup = Setup::begin(SetupKind::Join, &state, context).await?;
            let (joined, agent) = setup.run(self.set_up(&line, &state, manner, context)).await?;
            (joined, Some(agent))
        } else {
            (self.join(&line, context).await?, None)
        };
        if let Err(refusal) = setup::interruptible(connected(context)).await? {
            context.output.warn(format_args!("overlayctl: {refusal}"));
        }
        warn_of_clashes(context).await;
        let ending = Ending::listen()?;
        context.output.show(&joined)?;

        match &mut agent {
            Some(agent) => {
                let agent = std::slice::from_mut(agent);
                spawn::supervise(agent, ending, &state, &context.output).await
            }
            None => Ok(()),
        }
    }

    /// Tells whether an agent must be started for this; one that runs keeps the options that it was
    /// started with.
    async fn needs_agent(&self, state: &StateDir, context: &Context) -> Outcome<bool> {
        let status = match context.status().await {
            Ok(status) => status,
            Err(refusal) if refusal.code == Code::AgentAway => return Ok(true),
            Err(refusal) => return Err(refusal.into()),
        };
        let joined = status.phase() == v1::NodePhase::Joined;
        if setup::is_unfinished(state)
            && StateDir::of_agent(status.state_dir.as_ref()).as_ref() == Some(state)
        {
            return Ok(true);
        }
        if !joined && !self.agent.is_empty() {
            let text = "an agent runs already: --port and --agent-config are its own options, --port and --config; \
                        end it, or leave them out";
            return Err(Refusal::new(Code::WrongState, text).into());
        }

        Ok(false)
    }

    /// Starts an agent and makes it a node; whoever calls takes back what was made when this fails.
    async fn set_up(
        &self,
        line: &JoinLine,
        state: &StateDir,
        manner: Manner,
        context: &Context,
    ) -> Outcome<(Joined, Started)> {
        let options = ServiceOptions::load(state)?.with(&self.agent, &ControlOptions::default());
        let launch = Launch::agent(state, &context.socket, &options.agent)?;
        let agent = start_agent(&launch, state, manner, context).await?;
        let joined = self.join(line, context).await?;
        options.save(state)?;

        Ok((joined, agent))
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

        Ok(Joined {
            cluster: joined.cluster,
            node: joined.node_name,
            node_id: joined.node,
            already,
        })
    }
}

/// How long the cluster's networks may take to be known here once control is connected.
const NEWS: Duration = Duration::from_secs(2);
/// The code of a prefix that this host and a network both have.
const CLASH: &str = "prefix-clash";

/// Reports at once what the first container on both would otherwise find out.
async fn warn_of_clashes(context: &Context) {
    let known = wait::until(NEWS, async || match context.status().await {
        // A node knows at least itself.
        Ok(status) if status.revision > 0 => Attempt::Done(status.problems),
        Ok(_) => {
            Attempt::NotYet(Refusal::new(Code::ControlAway, "nothing is known of the cluster yet"))
        }
        Err(refusal) => Attempt::NotYet(refusal),
    });
    // While nothing is known yet, it is left to `status`.
    for problem in known.await.unwrap_or_default().iter().filter(|problem| problem.code == CLASH) {
        context.output.warn(format_args!("overlayctl: warning: {}", problem.text));
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
    let agent = launch.bring_up(state, manner, async || context.status().await.map(drop)).await?;
    if let Some(warning) = agent.doorless() {
        context.output.warn(warning);
    }

    Ok(agent)
}
