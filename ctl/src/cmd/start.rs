//! `overlayctl start`: what `init` or `join` set up, again, after a crash or a reboot.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use overlay_proto::{Code, Refusal, v1};
use serde::Serialize;

use super::{Context, require_root};
use crate::failure::{Failure, Outcome};
use crate::output::{Page, Report};
use crate::setup;
use crate::spawn::{self, Ending, Launch, Manner, Origin, ServiceOptions, Started};
use crate::state::{DEFAULT_STATE, Service, StateDir};
use crate::wait::{self, Attempt};

/// How long to wait for control, which traffic does not need: one that runs answers sooner.
const CONTROL: Duration = Duration::from_secs(2);

const EXAMPLE: &str = "\
Under systemd the services come back by themselves; elsewhere this brings them back after a reboot. What runs is left \
alone. Exit code 1 when a program does not come up. Traffic needs no control: where it is away, that is said, and not \
waited for.

Example:
  overlayctl start";

/// Start again what init or join set up on this machine
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct StartArgs {
    /// Where init or join put the state
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    state: PathBuf,
    /// Stay and keep them as children; Ctrl-C ends them
    #[arg(long)]
    foreground: bool,
}

/// How a program is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Started,
    Running,
    Failed,
}

/// One program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Program {
    program: &'static str,
    state: State,
    /// Why it does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// What it wrote last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    log: Vec<String>,
}

impl Program {
    fn text(&self) -> String {
        let Self { program, state, reason, log } = self;
        let head = match (state, reason) {
            (State::Started, _) => format!("{program}: started"),
            (State::Running, _) => format!("{program}: was running"),
            (State::Failed, None) => format!("{program}: failed"),
            (State::Failed, Some(reason)) => format!("{program}: failed: {reason}"),
        };
        let lines = log.iter().map(|line| format!("  | {line}"));

        std::iter::once(head).chain(lines).collect::<Vec<_>>().join("\n")
    }
}

/// What runs now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
struct Programs {
    programs: Vec<Program>,
    /// Why there is no door in front of the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_door: Option<String>,
    /// Why control cannot be reached; traffic goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    control_away: Option<String>,
}

impl Report for Programs {
    fn text(&self, _: Page) -> String {
        let mut lines: Vec<_> = self.programs.iter().map(Program::text).collect();
        lines.extend(self.no_door.clone());
        if let Some(reason) = &self.control_away {
            lines.push(format!(
                "control is away ({reason}); traffic goes on, changes wait until it is back"
            ));
        }

        lines.join("\n")
    }

    fn names(&self) -> Option<Vec<String>> {
        let runs = self.programs.iter().filter(|program| program.state != State::Failed);

        Some(runs.map(|program| program.program.to_owned()).collect())
    }
}

impl StartArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        require_root("start")?;
        let state = StateDir::new(&self.state)?;
        let manner = Manner::choose(self.foreground);
        if setup::is_unfinished(&state) {
            let text = "setting this machine up was cut short: run the same `init` or `join` again, or `overlayctl leave`";
            return Err(Refusal::new(Code::WrongState, text).into());
        }
        if state.services().next().is_none() {
            let text =
                format!("nothing is set up in {}: use `init` or `join`", state.root().display());
            return Err(Refusal::new(Code::NotFound, text).into());
        }
        let options = ServiceOptions::load(&state)?;
        let mut report = Programs::default();
        let mut services = Vec::new();
        for service in state.services() {
            match start(service, &state, &options, manner, context).await {
                Ok(started) => {
                    report.programs.push(came_up(&started));
                    report.no_door = started.doorless().or(report.no_door);
                    services.push(started);
                }
                Err(failure) => report.programs.push(did_not(service, failure)?),
            }
        }
        if services.iter().any(|started| started.service() == Service::Agent) {
            report.control_away = control_away(context).await;
        }
        let ending = Ending::listen()?;
        context.output.show(&report)?;
        if report.programs.iter().any(|program| program.state == State::Failed) {
            return Err(Failure::Exit(1));
        }

        spawn::supervise(&mut services, ending, &state, &context.output).await
    }
}

async fn start(
    service: Service,
    state: &StateDir,
    options: &ServiceOptions,
    manner: Manner,
    context: &Context,
) -> Outcome<Started> {
    context.output.step(format_args!("Starting {}", service.word()));
    let launch = match service {
        Service::Control => Launch::control(state, &options.control)?,
        Service::Agent => Launch::agent(state, &context.socket, &options.agent)?,
    };

    match service {
        Service::Control => bring_up_control(&launch, state, manner, context).await,
        Service::Agent => {
            launch.bring_up(state, manner, async || context.status().await.map(drop)).await
        }
    }
}

/// Starts control and waits until it says that it listens; warns where it has to run as root.
pub(super) async fn bring_up_control(
    launch: &Launch,
    state: &StateDir,
    manner: Manner,
    context: &Context,
) -> Outcome<Started> {
    let started = launch.bring_up(state, manner, async || Ok(())).await?;
    if let Some(warning) = started.as_root() {
        context.output.warn(format!("overlayctl: {warning}"));
    }

    Ok(started)
}

fn came_up(started: &Started) -> Program {
    let state = match started.origin() {
        Origin::Ours => State::Started,
        Origin::Found => State::Running,
    };

    Program { program: started.service().program(), state, reason: None, log: Vec::new() }
}

/// Takes note of a program that failed; the others are tried all the same.
fn did_not(service: Service, failure: Failure) -> Outcome<Program> {
    let (refusal, log) = match failure {
        Failure::Startup(refusal, log) => (refusal, log),
        Failure::Refused(refusal) => (refusal, Vec::new()),
        other @ (Failure::Usage(_) | Failure::Exit(_)) => return Err(other),
    };

    let program = service.program();
    let reason =
        refusal.message.trim_start_matches(&format!("{program} did not start: ")).to_owned();

    Ok(Program { program, state: State::Failed, reason: Some(reason), log })
}

/// Says why control cannot be reached, as soon as the agent knows it.
async fn control_away(context: &Context) -> Option<String> {
    let away = |reason: String| Refusal::new(Code::ControlAway, reason);
    let asked = wait::until(CONTROL, async || {
        let status = match context.status().await {
            Ok(status) => status,
            Err(refusal) => return Attempt::NotYet(refusal),
        };
        let joined = status.phase() == v1::NodePhase::Joined;
        let control = status.control.unwrap_or_default();
        if control.connected || !joined {
            Attempt::Done(())
        } else {
            Attempt::NotYet(away(control.reason))
        }
    });

    asked.await.err().map(|refusal| refusal.message)
}
