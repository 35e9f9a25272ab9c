//! `overlayctl init`: control's state, control, the agent, its identity, a join line; each step is
//! skipped where it is done.

mod first_line;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ipnet::Ipv4Net;
use overlay_core::Name;
use overlay_proto::join_line::MAX_ADDRESSES;
use overlay_proto::{Code, JoinLine, Refusal, v1};
use serde::Serialize;

use self::first_line::ControlSetup;
use super::{Context, connected, join, require_root, start};
use crate::addresses;
use crate::client::Agent;
use crate::failure::{Failure, Outcome};
use crate::output::{Page, Report};
use crate::setup::{self, Setup, SetupKind};
use crate::spawn::{
    self, AgentOptions, ControlOptions, Ending, Launch, Manner, ServiceOptions, Started,
};
use crate::state::{DEFAULT_STATE, Service, StateDir};
use crate::time;
use crate::values::{advertise, listen, number, subnet4};

/// Where control listens unless told otherwise.
const DEFAULT_PORT: u16 = 7443;

const EXAMPLE: &str = "\
Under systemd this installs overlay-control.service and overlayd.service; elsewhere both run in the background, with \
logs and pid files in the state directory. What fails or is interrupted is taken back. Running it again prints another \
line. `overlayctl leave` undoes it.

Examples:
  overlayctl init
  overlayctl init --listen 192.0.2.1:7443 --pool 10.64.0.0/10
  overlayctl init --ttl 24h --uses 100    its line admits 100 hosts within a day
  overlayctl init --json | jq -r .join | ssh host-b sudo overlayctl join -";

/// Make this machine control and its first node; prints the line by which others join
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct InitArgs {
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
    /// An address at which other hosts reach this one; may be repeated; without it, all of the
    /// host's
    #[arg(long = "advertise", value_name = "ADDRESS", value_parser = advertise)]
    advertise: Vec<IpAddr>,
    /// Take also an address that this host does not have: a router forwards it here
    #[arg(long)]
    force: bool,
    /// How long the printed line is good for
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = time::parse)]
    ttl: Duration,
    /// How many hosts the printed line admits
    #[arg(long, default_value = "10", value_parser = |text: &str| number(text, 1, 1_000_000))]
    uses: u32,
    #[command(flatten)]
    agent: AgentOptions,
    #[command(flatten)]
    control: ControlOptions,
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
                "Control runs here; this machine is no node.\n{}\n\n\
                 On the host that is to be the first node, and an admin:\n\n{join}",
                self.logs
            );
        };
        let node = self.node.as_deref().unwrap_or_default();

        format!(
            "Control and the agent run here; this machine is node {node} of cluster {cluster}.\n{}\n\n\
             On every other host (the line is a secret, for {}, until {}):\n\n{join}\n\n\
             Then, on any of them:\n\n    overlayctl network create my-network\n    \
             overlayctl run --network my-network --name service1 -- CMD…",
            self.logs,
            if self.uses == 1 { "1 host".to_owned() } else { format!("{} hosts", self.uses) },
            self.expires.as_deref().unwrap_or("it is revoked"),
        )
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.node.iter().cloned().collect())
    }

    fn ids(&self) -> Option<Vec<String>> {
        Some(vec![self.join.clone()])
    }
}

impl InitArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        require_root("init")?;
        if !self.force {
            addresses::check_advertised(&self.advertise)?;
        }
        let state = StateDir::new(&self.state)?;
        let manner = Manner::choose(self.foreground);
        if !setup::is_unfinished(&state) && self.standing(context, &state).await? {
            return self.again(&state, manner, context).await;
        }
        let setup = Setup::begin(SetupKind::Init, &state, context).await?;
        let (made, mut services) = setup.run(self.set_up(&state, manner, context)).await?;
        let ending = Ending::listen()?;
        context.output.show(&made)?;

        spawn::supervise(&mut services, ending, &state, &context.output).await
    }

    /// Makes the cluster; whoever calls takes back what was made when this fails.
    async fn set_up(
        &self,
        state: &StateDir,
        manner: Manner,
        context: &Context,
    ) -> Outcome<(Initialised, Vec<Started>)> {
        let options = ServiceOptions::load(state)?.with(&self.agent, &self.control);
        let launches = (
            Launch::control(state, &options.control)?,
            Launch::agent(state, &context.socket, &options.agent)?,
        );
        let line = first_line::take(&self.control_setup(), state, context).await?;
        let control = start_control(&launches.0, state, manner, context).await?;
        if self.no_join {
            options.save(state)?;
            return Ok((control_only(&line, state, manner), vec![control]));
        }
        let agent = join::start_agent(&launches.1, state, manner, context).await?;
        context.output.step("Joining this machine");
        self.join(&line, context).await?;
        let made = self.report(state, manner, context).await?;
        options.save(state)?;

        Ok((made, vec![control, agent]))
    }

    fn control_setup(&self) -> ControlSetup<'_> {
        let Self { listen, pool, advertise, control, .. } = self;

        ControlSetup { listen: *listen, pool: *pool, advertise, config: control.config.as_deref() }
    }

    /// Prints another line where all is set up; what does not run is started.
    async fn again(&self, state: &StateDir, manner: Manner, context: &Context) -> Outcome {
        if self.no_join {
            return Err(already_a_node("--no-join comes too late"));
        }
        let options = ServiceOptions::load(state)?;
        let mut control =
            start_control(&Launch::control(state, &options.control)?, state, manner, context)
                .await?;
        let ending = Ending::listen()?;
        context.output.show(&self.report(state, manner, context).await?)?;

        spawn::supervise(std::slice::from_mut(&mut control), ending, state, &context.output).await
    }

    /// Tells whether this machine is a node already, of the control that is here; refuses when it
    /// is another's.
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

    /// Joins; where only an address of a router's was advertised, control on this very host is
    /// found all the same.
    async fn join(&self, line: &JoinLine, context: &Context) -> Outcome {
        let mut line = line.clone();
        if self.force && line.addresses.len() < MAX_ADDRESSES {
            line.addresses.push(self.local_control().to_string());
        }
        let request = v1::AgentJoinRequest {
            join_line: line.expose(),
            name: self.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            advertise: self.advertise.iter().map(ToString::to_string).collect(),
        };
        context.agent().await?.join(request).await?;

        Ok(())
    }

    fn local_control(&self) -> SocketAddr {
        let unspecified = SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT));
        match self.listen {
            Some(listen) if listen.ip().is_unspecified() => {
                SocketAddr::new(unspecified.ip(), listen.port())
            }
            Some(listen) => listen,
            None => unspecified,
        }
    }

    async fn report(
        &self,
        state: &StateDir,
        manner: Manner,
        context: &Context,
    ) -> Outcome<Initialised> {
        connected(context).await?;
        let mut agent = context.agent().await?;
        let status = agent.status(v1::StatusRequest {}).await?;
        let created = self.create_line(&mut agent).await?;
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

    async fn create_line(&self, agent: &mut Agent) -> Result<v1::CreateTokenResponse, Refusal> {
        let request = v1::CreateTokenRequest {
            ttl_seconds: self.ttl.as_secs(),
            uses: self.uses,
            role: v1::Role::Node.into(),
            ..v1::CreateTokenRequest::default()
        };

        agent.create_token(request).await
    }
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
        return format!("State in {}", state.root().display());
    }
    let logs: Vec<_> = services
        .iter()
        .map(|s| spawn::log_place(*s, state, manner).display().to_string())
        .collect();

    format!("Logs: {}", logs.join(", "))
}

fn already_a_node(why: &str) -> Failure {
    let text = format!("this machine is a node already, {why}: run `overlayctl leave` first");

    Refusal::new(Code::WrongState, text).into()
}

async fn start_control(
    launch: &Launch,
    state: &StateDir,
    manner: Manner,
    context: &Context,
) -> Outcome<Started> {
    context.output.step("Starting control");

    start::bring_up_control(launch, state, manner, context).await
}
