//! `overlayctl init`: control's state, control, the agent, its identity, a join line; each step is skipped where it is done.

mod first_line;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use ipnet::Ipv4Net;
use overlay_core::Name;
use overlay_proto::{Code, JoinLine, Refusal, channel, tls, v1};
use serde::Serialize;

use super::{Context, connected, join, require_root};
use crate::args::values::{advertise, listen, subnet4};
use crate::client::Agent;
use crate::failure::{Failure, Outcome};
use crate::output::{Page, Report};
use crate::spawn::{self, Launch, Manner, Started};
use crate::state::{DEFAULT_STATE, Service, StateDir};
use crate::time;

/// How long the printed line is good for.
const LINE_TTL: u64 = 24 * 3_600;
/// How many hosts the printed line admits.
const LINE_USES: u32 = 100;

const EXAMPLE: &str = "\
Under systemd this installs overlay-control.service and overlayd.service; elsewhere both run in the background, with \
logs and pid files in the state directory. Running it again goes on where it was interrupted. `overlayctl leave` undoes it.

Examples:
  overlayctl init
  overlayctl init --listen 192.0.2.1:7443 --pool 10.64.0.0/10
  overlayctl init --json | jq -r .join | ssh host-b sudo overlayctl join -";

/// Make this machine control and its first node; prints the line by which others join
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Init {
    /// Where control listens; without it, port 7443 of all addresses
    #[arg(long, value_name = "ADDR:PORT", value_parser = listen)]
    listen: Option<SocketAddr>,
    /// Where state, logs and pid files are kept
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    state: PathBuf,
    /// Where the prefixes of networks come from
    #[arg(long, value_name = "CIDR", value_parser = subnet4)]
    pool: Option<Ipv4Net>,
    /// Only control: this machine does not become a node; the printed line admits the first admin
    #[arg(long)]
    no_join: bool,
    /// Stay and keep both as children; Ctrl-C ends them
    #[arg(long)]
    foreground: bool,
    /// This node's name; without it, the host's
    #[arg(long)]
    name: Option<Name>,
    /// An address at which other hosts reach this one; may be repeated; without it, all of the host's
    #[arg(long = "advertise", value_name = "ADDRESS", value_parser = advertise)]
    advertise: Vec<IpAddr>,
}

/// What `init` made.
#[derive(Serialize)]
struct Initialised {
    join: String,
    cluster: Option<String>,
    node: Option<String>,
    expires: Option<String>,
    #[serde(skip)]
    uses: u32,
    #[serde(skip)]
    logs: String,
}

impl Report for Initialised {
    fn text(&self, _: Page) -> String {
        let join = format!("    overlayctl join {}", self.join);
        let Some(cluster) = &self.cluster else {
            return format!(
                "Control runs here; this machine is no node ({}).\n\n\
                 On the host that is to be the first node, and an admin:\n\n{join}",
                self.logs
            );
        };
        let node = self.node.as_deref().unwrap_or_default();

        format!(
            "Control and the agent run here; this machine is node {node} of cluster {cluster} ({}).\n\n\
             On every other host (the line is a secret, for {} hosts, until {}):\n\n{join}\n\n\
             Then, on any of them:\n\n    overlayctl network create my-network\n    \
             overlayctl run --network my-network --name service1 -- CMD…",
            self.logs,
            self.uses,
            self.expires.as_deref().unwrap_or("it is revoked"),
        )
    }
}

impl Init {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        require_root("init")?;
        let state = StateDir::new(&self.state)?;
        let manner = Manner::choose(self.foreground);
        let joined = self.standing(context, &state).await?;
        let launches = (Launch::control(&state)?, Launch::agent(&state, &context.socket)?);
        state.make()?;

        let first = if joined { None } else { Some(first_line::take(&self, &state, context).await?) };
        let control = start_control(&launches.0, &state, manner, first.as_ref(), context).await?;
        if self.no_join {
            let line = first.ok_or_else(|| already_a_node("--no-join comes too late"))?;
            context.output.show(&control_only(&line, &state, manner))?;
            return spawn::supervise(&[&control], &state, &context.output).await;
        }
        let agent = join::start_agent(&launches.1, &state, manner, context).await?;
        if let Some(line) = &first {
            context.output.step("Joining this machine");
            self.join(line, context).await?;
        }
        context.output.show(&self.report(&state, manner, context).await?)?;

        spawn::supervise(&[&control, &agent], &state, &context.output).await
    }

    /// Tells whether this machine is a node already, of the control that is here; refuses when it is another's.
    async fn standing(&self, context: &Context, state: &StateDir) -> Outcome<bool> {
        let status = match context.status().await {
            Ok(status) => status,
            Err(refusal) if refusal.code == Code::AgentAway => return Ok(false),
            Err(refusal) => return Err(refusal.into()),
        };
        let here = StateDir::of_agent(status.state_dir.as_ref()).as_ref() == Some(state);
        match status.phase() {
            v1::NodePhase::Joined if here && state.has(Service::Control) => Ok(true),
            v1::NodePhase::Joined | v1::NodePhase::Joining | v1::NodePhase::Expelled => {
                Err(already_a_node(&format!("it belongs to cluster {}", status.cluster)))
            }
            v1::NodePhase::Unjoined | v1::NodePhase::Unspecified if here => Ok(false),
            v1::NodePhase::Unjoined | v1::NodePhase::Unspecified => {
                let text = format!(
                    "an agent that keeps its state in {} answers at {}: end it, or give another --socket",
                    status.state_dir,
                    context.socket.display()
                );
                Err(Refusal::new(Code::InUse, text).into())
            }
        }
    }

    async fn join(&self, line: &JoinLine, context: &Context) -> Outcome {
        let request = v1::AgentJoinRequest {
            join_line: line.expose(),
            name: self.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            advertise: self.advertise.iter().map(ToString::to_string).collect(),
        };
        context.agent().await?.join(request).await?;

        Ok(())
    }

    async fn report(&self, state: &StateDir, manner: Manner, context: &Context) -> Outcome<Initialised> {
        connected(context).await?;
        let mut agent = context.agent().await?;
        let status = agent.status(v1::StatusRequest {}).await?;
        let created = create_line(&mut agent).await?;
        let token = created.token.unwrap_or_default();

        Ok(Initialised {
            join: created.join_line,
            cluster: Some(status.cluster),
            node: Some(status.node_name),
            expires: time::utc(token.expires_unix),
            uses: token.uses,
            logs: places(&[Service::Control, Service::Agent], state, manner),
        })
    }
}

async fn create_line(agent: &mut Agent) -> Result<v1::CreateTokenResponse, Refusal> {
    let request = v1::CreateTokenRequest {
        ttl_seconds: LINE_TTL,
        uses: LINE_USES,
        role: v1::Role::Node.into(),
        ..v1::CreateTokenRequest::default()
    };

    agent.create_token(request).await
}

fn control_only(line: &JoinLine, state: &StateDir, manner: Manner) -> Initialised {
    Initialised {
        join: line.expose(),
        cluster: None,
        node: None,
        expires: None,
        uses: 1,
        logs: places(&[Service::Control], state, manner),
    }
}

fn places(services: &[Service], state: &StateDir, manner: Manner) -> String {
    if manner == Manner::Foreground {
        return format!("state in {}", state.root().display());
    }
    let logs: Vec<_> = services.iter().map(|s| spawn::log_place(*s, state, manner).display().to_string()).collect();

    format!("logs: {}", logs.join(", "))
}

fn already_a_node(why: &str) -> Failure {
    let text = format!("this machine is a node already, {why}: run `overlayctl leave` first");

    Refusal::new(Code::WrongState, text).into()
}

/// Starts control and waits until it shows the CA that the line pins.
async fn start_control(
    launch: &Launch,
    state: &StateDir,
    manner: Manner,
    line: Option<&JoinLine>,
    context: &Context,
) -> Outcome<Started> {
    context.output.step("Starting control");
    let mut control = launch.start(state, manner)?;
    // Where there is no line, the agent is a node and finds control by itself.
    if let Some(line) = line {
        control.ready(state, async || answers(line).await).await?;
    }

    Ok(control)
}

async fn answers(line: &JoinLine) -> Result<(), Refusal> {
    let client = tls::pinned_client(line.pin).map_err(|error| Refusal::new(Code::Fault, error))?;
    let dialled = channel::control(&line.addresses, Arc::new(client)).await;

    dialled.map(drop).map_err(|error| Refusal::new(Code::ControlAway, error))
}
