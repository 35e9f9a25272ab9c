//! `overlayctl version`.

use clap::Args;
use overlay_proto::{Refusal, v1};
use serde::Serialize;

use super::Context;
use crate::failure::Outcome;
use crate::output::{Cell, Column, Page, Report, ShowArgs, table};

const EXAMPLE: &str = "\
A program that does not answer is said to be away; the others are told all the same, and the exit code is 0.

Examples:
  overlayctl version
  overlayctl version --format '{{.Client.Version}} {{.Control.Version}}'";

/// Tell the versions of this command, of the agent and of control
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct VersionArgs {
    #[command(flatten)]
    show: ShowArgs,
}

/// The programs' versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Versions {
    client: Program,
    agent: Program,
    control: Program,
}

/// The version of one program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Program {
    version: Option<String>,
    /// Why it is not known.
    reason: Option<String>,
}

impl Program {
    fn known(version: String) -> Self {
        Self { version: Some(version), reason: None }
    }

    fn unknown(reason: impl Into<String>) -> Self {
        Self { version: None, reason: Some(reason.into()) }
    }
}

impl Versions {
    fn new(asked: Result<v1::AgentVersionResponse, Refusal>) -> Self {
        let client = Program::known(env!("CARGO_PKG_VERSION").to_owned());
        let (agent, control) = match asked {
            Ok(agent) if agent.control.is_empty() => {
                (Program::known(agent.version), Program::unknown(agent.control_reason))
            }
            Ok(agent) => (Program::known(agent.version), Program::known(agent.control)),
            Err(refusal) => {
                (Program::unknown(refusal.message), Program::unknown("only the agent can ask it"))
            }
        };

        Self { client, agent, control }
    }
}

/// Everything stays: reasons are wrapped.
const COLUMNS: [Column; 3] =
    [Column::left("PROGRAM"), Column::left("VERSION"), Column::prose("REASON")];

impl Report for Versions {
    fn text(&self, page: Page) -> String {
        let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let row = |program: &str, of: &Program| -> Vec<Cell> {
            vec![program.into(), dash(&of.version).into(), dash(&of.reason).into()]
        };
        let programs = [
            row("overlayctl", &self.client),
            row("overlayd", &self.agent),
            row("overlay-control", &self.control),
        ];

        if self.agent.reason.is_none() && self.control.reason.is_none() {
            return table(page, &COLUMNS[..2], &programs.map(|row| row[..2].to_vec()));
        }
        table(page, &COLUMNS, &programs)
    }

    fn names(&self) -> Option<Vec<String>> {
        let programs = [&self.client, &self.agent, &self.control];

        Some(programs.into_iter().filter_map(|program| program.version.clone()).collect())
    }
}

impl VersionArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let output = context.output.formatted(self.show.format)?;
        let asked = match context.agent().await {
            Ok(mut agent) => agent.version(v1::VersionRequest {}).await,
            Err(refusal) => Err(refusal),
        };

        output.show(&Versions::new(asked))
    }
}
