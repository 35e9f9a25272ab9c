//! `overlayctl upgrade`: another agent in the place of the running one, without a packet lost.

use std::path::PathBuf;

use clap::Args;
use overlay_proto::{Code, Refusal, v1};
use serde::Serialize;

use super::{Context, require_root};
use crate::failure::{Outcome, storage};
use crate::output::{Page, Report};
use crate::pidfd::Process;
use crate::state::{Service, StateDir};

const EXAMPLE: &str = "\
The running agent starts the new program and hands it its sockets, queues and sessions. It ends once the new one carries \
packets, which wait for a few milliseconds: no packet is lost and no connection breaks. Where the new program cannot take \
over, the running one goes on as it was, says why, and the exit code is 1. Under systemd, `systemctl reload overlayd` \
does the same.

Examples:
  overlayctl upgrade                              the program was replaced
  overlayctl upgrade --binary /opt/new/overlayd   another program";

/// Put a new agent in the place of the running one, without a packet lost
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct UpgradeArgs {
    /// The new program; without it, the file that the running one was started from
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Upgraded {
    from: String,
    to: String,
    pid: u32,
    /// How long packets waited.
    paused_ms: f64,
    /// Sessions that have to be made anew.
    sessions_lost: u32,
}

impl From<v1::UpgradeResponse> for Upgraded {
    fn from(response: v1::UpgradeResponse) -> Self {
        let micros = u32::try_from(response.paused_micros).unwrap_or(u32::MAX);

        Self {
            from: response.from_version,
            to: response.to_version,
            pid: response.pid,
            paused_ms: f64::from(micros) / 1e3,
            sessions_lost: response.sessions_lost,
        }
    }
}

impl Report for Upgraded {
    fn text(&self, _: Page) -> String {
        let Self { from, to, pid, paused_ms, sessions_lost } = self;
        let head = format!(
            "upgraded overlayd {from} to {to}, pid {pid}\npackets waited for {paused_ms:.1} ms"
        );

        match sessions_lost {
            0 => head,
            1 => format!("{head}; 1 session is made anew"),
            lost => format!("{head}; {lost} sessions are made anew"),
        }
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(vec![self.to.clone()])
    }
}

impl UpgradeArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        require_root("upgrade")?;
        let binary = match self.binary {
            Some(path) => {
                let found = path.canonicalize().map_err(|error| storage(path.display(), &error))?;
                found.into_os_string().into_string().map_err(|_| {
                    Refusal::new(
                        Code::InvalidInput,
                        format!("--binary {}: the path is not text", path.display()),
                    )
                })?
            }
            None => String::new(),
        };
        let mut agent = context.agent().await?;
        let status = agent.status(v1::StatusRequest {}).await?;
        context.output.step("Handing over");
        let upgraded = agent.upgrade(v1::UpgradeRequest { binary }).await?;
        // Before the connection ends, and with it the old process: whoever looks for the agent
        // finds the new one.
        note(&status, upgraded.pid)?;

        context.output.show(&Upgraded::from(upgraded))
    }
}

/// Notes the new process where the old one is noted.
fn note(status: &v1::StatusResponse, pid: u32) -> Outcome {
    let Some(state) = StateDir::of_agent(status.state_dir.as_ref()) else { return Ok(()) };
    let file = state.pid_file(Service::Agent);
    let process = i32::try_from(pid).ok().and_then(Process::of_pid).filter(|_| file.exists());

    match process {
        Some(process) => {
            Ok(process.note(&file).map_err(|error| storage(file.display(), &error))?)
        }
        None => Ok(()),
    }
}
