//! `overlayctl leave`: the way back from `join` and `init`, to a host on which nothing of ours
//! stays.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use overlay_proto::{Code, Refusal, v1};
use serde::Serialize;

use super::{Context, connected, join, require_root};
use crate::confirm::confirm;
use crate::failure::Outcome;
use crate::output::{Page, Report};
use crate::runtime_files;
use crate::setup;
use crate::spawn::{self, Launch, Manner, ServiceOptions};
use crate::state::{DEFAULT_STATE, Service, StateDir};
use crate::view::Nodes;
use crate::wait;

const EXAMPLE: &str = "\
Endpoints of this host are detached, control is told, what `init` or `join` started is stopped, and its state removed. \
On the machine that runs control, this ends the cluster: the other nodes go on until their certificates expire, but \
nothing can be changed any more. While there are others, it is asked for first; without a terminal only --force does it.

Examples:
  overlayctl leave
  overlayctl leave --force    also when control cannot be told";

/// Undo join and init: nothing of Overlay stays on this host
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct LeaveArgs {
    /// Also when control cannot be told, and without questions
    #[arg(long)]
    force: bool,
    /// The state directory; without it, that of the running agent
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// How long an agent that ended may take to be started again by whoever looks after it.
const RETURN: Duration = Duration::from_secs(2);

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
struct Left {
    told_control: bool,
    stopped: Vec<&'static str>,
    removed: Vec<PathBuf>,
}

impl Report for Left {
    fn text(&self, _: Page) -> String {
        if *self == Self::default() {
            return "nothing to leave: this machine is no node and runs nothing of Overlay"
                .to_owned();
        }
        let stopped =
            if self.stopped.is_empty() { "nothing".to_owned() } else { self.stopped.join(" and ") };
        let told = if self.told_control { "control knows" } else { "control was not told" };

        format!(
            "left: {told}\nstopped {stopped}; removed {} files and directories",
            self.removed.len()
        )
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.stopped.iter().map(ToString::to_string).collect())
    }
}

impl LeaveArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        require_root("leave")?;
        let state = self.state_dir(context).await?;
        let lock =
            state.as_ref().filter(|state| state.root().exists()).map(setup::lock).transpose()?;
        if let Some(state) =
            state.as_ref().filter(|state| state.has(Service::Control) && !state.has(Service::Agent))
        {
            self.confirm_control(state, context)?;
        }
        let told_control = self.leave_cluster(state.as_ref(), context).await?;
        let mut left = Left { told_control, ..Left::default() };
        if let Some(state) = &state {
            for service in [Service::Agent, Service::Control] {
                context.output.step(format_args!("Stopping {}", service.word()));
                if spawn::stop(service, state).await? {
                    left.stopped.push(service.program());
                }
            }
            left.removed = state.remove()?;
        }
        drop(lock);
        left.removed.extend(runtime_files::remove(&context.socket));

        context.output.show(&left)
    }

    /// Finds what to stop and remove; none when the agent was started by somebody else, in another
    /// way.
    async fn state_dir(&self, context: &Context) -> Outcome<Option<StateDir>> {
        let asked = self.state.as_deref().map(StateDir::new).transpose()?;
        let Ok(status) = context.status().await else {
            return asked.map_or_else(|| StateDir::new(Path::new(DEFAULT_STATE)), Ok).map(Some);
        };
        let running = StateDir::of_agent(status.state_dir.as_ref());
        if asked.is_some() && asked != running {
            let text = format!(
                "the agent at {} keeps its state in {}: give the --socket of the one that is to leave",
                context.socket.display(),
                status.state_dir
            );
            return Err(Refusal::new(Code::WrongState, text).into());
        }

        Ok(running)
    }

    /// Lets the agent take everything back; one that does not run is started for it. Tells whether
    /// control knows.
    async fn leave_cluster(&self, state: Option<&StateDir>, context: &Context) -> Outcome<bool> {
        let (status, started) = match context.status().await {
            Ok(status) => (status, None),
            Err(refusal) if refusal.code == Code::AgentAway => {
                let Some(state) = state.filter(|state| state.has(Service::Agent)) else {
                    return Ok(false);
                };
                match self.start_agent(state, context).await {
                    Ok(()) => (context.status().await?, Some(state)),
                    Err(_) if self.force => return Ok(false),
                    Err(failure) => return Err(failure),
                }
            }
            Err(refusal) => return Err(refusal.into()),
        };
        if status.phase() == v1::NodePhase::Unjoined {
            return Ok(false);
        }
        // Control that ends with this host need not be told.
        let ends = state.is_some_and(|state| state.has(Service::Control));
        let left = self.tell_agent(&status.node, ends, state, context).await;
        if let (Err(_), Some(state)) = (&left, started) {
            spawn::pause(Service::Agent, state).await?;
        }

        left
    }

    async fn tell_agent(
        &self,
        node: &str,
        ends: bool,
        state: Option<&StateDir>,
        context: &Context,
    ) -> Outcome<bool> {
        if ends {
            self.confirm(node, context).await?;
        }
        context.output.step("Leaving the cluster");
        let request = v1::AgentLeaveRequest { force: self.force || ends };
        match context.agent().await?.leave(request).await {
            Ok(left) => Ok(left.told_control),
            Err(refusal) if refusal.code == Code::AgentAway => {
                self.leave_again(request, refusal, state, context).await
            }
            Err(refusal) => Err(with_hint(refusal).into()),
        }
    }

    /// The agent ended in the middle: the one that runs next goes on from what is left, because
    /// leaving twice is the same as leaving once.
    async fn leave_again(
        &self,
        request: v1::AgentLeaveRequest,
        broken: Refusal,
        state: Option<&StateDir>,
        context: &Context,
    ) -> Outcome<bool> {
        context.output.step("Leaving once more: the agent went away");
        let back = wait::until(RETURN, async || context.status().await.into()).await;
        let status = match (back, state.filter(|state| state.has(Service::Agent))) {
            (Ok(status), _) => status,
            (Err(_), Some(state)) => {
                self.start_agent(state, context).await?;
                context.status().await?
            }
            (Err(_), None) => return Err(broken.into()),
        };
        // Unless it was forced to leave, it told control before it forgot its identity.
        let told_control = !request.force;
        if status.phase() == v1::NodePhase::Unjoined {
            return Ok(told_control);
        }
        match context.agent().await?.leave(request).await {
            Ok(left) => Ok(left.told_control),
            // The first call was still at work, and is done by now.
            Err(refusal) if refusal.code == Code::WrongState => Ok(told_control),
            Err(refusal) => Err(with_hint(refusal).into()),
        }
    }

    /// Starts the agent once more: what it made in the kernel, only it can take back.
    async fn start_agent(&self, state: &StateDir, context: &Context) -> Outcome {
        let launch = Launch::agent(state, &context.socket, &ServiceOptions::load(state)?.agent)?;
        if let Err(failure) = join::start_agent(&launch, state, Manner::Background, context).await {
            spawn::pause(Service::Agent, state).await?;
            return Err(failure);
        }
        let joined = context.status().await?.phase() == v1::NodePhase::Joined;
        if joined && !self.force && !state.has(Service::Control) {
            // The agent says whether control can be told.
            let _ = connected(context).await;
        }

        Ok(())
    }

    /// Control that no node has joined is no loss, but nobody here can tell.
    fn confirm_control(&self, state: &StateDir, context: &Context) -> Outcome {
        // A setup that was cut short has no nodes.
        let force = self.force || setup::is_unfinished(state);
        let consequence =
            "this machine runs control; without it nothing can be changed any more on the nodes";

        confirm(&context.output, force, consequence, "End the cluster?")
    }

    /// Ending control ends the cluster.
    async fn confirm(&self, node: &str, context: &Context) -> Outcome {
        let nodes =
            context.agent().await?.list_nodes(v1::ListNodesRequest {}).await.unwrap_or_default();
        let others = Nodes::from(nodes).names_without(node);
        if others.is_empty() {
            return Ok(());
        }
        let consequence = format!(
            "this machine runs control; without it nothing can be changed any more on the other nodes: {}",
            others.join(", ")
        );

        confirm(&context.output, self.force, &consequence, "End the cluster?")
    }
}

fn with_hint(refusal: Refusal) -> Refusal {
    if refusal.code != Code::ControlAway || refusal.message.contains("--force") {
        return refusal;
    }

    Refusal::new(
        refusal.code,
        format!(
            "{refusal}: control cannot be told; `overlayctl leave --force` leaves all the same"
        ),
    )
}
