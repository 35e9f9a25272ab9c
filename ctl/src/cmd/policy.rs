//! `overlayctl policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use overlay_core::policy::{self, Policy, VerdictChanges};
use overlay_proto::Refusal;

use super::Context;
use crate::failure::{Failure, Outcome};
use crate::policy_text::{self, Present};
use crate::view::{PolicyDifference, TestedPolicy};

const POLICY_EXAMPLE: &str = "\
This version tests policies and does not enforce them yet.

Examples:
  overlayctl policy test shop.toml
  overlayctl policy diff shop.toml --from shop.toml.old";
const TEST_EXAMPLE: &str = "\
The exit code is 1 where the file has mistakes or one of its tests fails.

Examples:
  overlayctl policy test shop.toml
  overlayctl policy test --offline shop.toml          before a commit
  overlayctl policy test --json shop.toml | jq '.mistakes[].line'";
const DIFF_EXAMPLE: &str = "\
Examples:
  overlayctl policy diff shop.toml --from shop.toml.old
  overlayctl policy diff shop.toml --from shop.toml.old --offline";

/// Test and compare policies: who may send what to whom within a network
#[derive(Debug, Args)]
#[command(after_help = POLICY_EXAMPLE)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    command: Subject,
}

/// What can be done with policies.
#[derive(Debug, Subcommand)]
enum Subject {
    Test(Test),
    Diff(Diff),
}

/// Tell whether a policy is sound: its mistakes, the tests in it that fail, and what does nothing
#[derive(Debug, Args)]
#[command(after_help = TEST_EXAMPLE)]
struct Test {
    /// The policy, a TOML file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Ask no agent: there are no endpoints that tests could name, and labels are not looked for
    #[arg(long)]
    offline: bool,
}

/// Show what differs between two policies: rules, and what becomes of packets between endpoints
#[derive(Debug, Args)]
#[command(after_help = DIFF_EXAMPLE)]
struct Diff {
    /// The policy, a TOML file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The policy that it is compared with
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// Ask no agent: compare the rules alone
    #[arg(long)]
    offline: bool,
}

impl PolicyArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        match self.command {
            Subject::Test(test) => test.run(context).await,
            Subject::Diff(diff) => diff.run(context).await,
        }
    }
}

/// Asks the agent what is there, unless nobody wants to know.
async fn present(context: &Context, offline: bool) -> Result<Option<Present>, Refusal> {
    if offline {
        return Ok(None);
    }

    Present::ask(&mut context.agent().await?).await.map(Some)
}

impl Test {
    async fn run(self, context: &Context) -> Outcome {
        let text = policy_text::read(&self.file)?;
        let name = self.file.display().to_string();
        let tested = match Policy::parse(&text) {
            Err(invalid) => TestedPolicy::mistaken(name, invalid),
            Ok(policy) => {
                let present = present(context, self.offline).await?;
                let mut warnings = policy::lint(&policy);
                if let Some(present) = &present {
                    let (networks, endpoints) = (&present.networks, &present.endpoints);
                    warnings.extend(policy::lint_view(&policy, networks, endpoints));
                }
                let failures = policy::check(&policy, &present.unwrap_or_default().endpoints);
                TestedPolicy::tested(name, &policy, &failures, &warnings)
            }
        };
        context.output.show(&tested)?;

        if tested.ok { Ok(()) } else { Err(Failure::Exit(1)) }
    }
}

impl Diff {
    async fn run(self, context: &Context) -> Outcome {
        let (before, after) = (policy_text::sound(&self.from)?, policy_text::sound(&self.file)?);
        let present = present(context, self.offline).await?;
        let verdicts =
            present.map(|present| VerdictChanges::between(&before, &after, &present.endpoints));
        let difference = PolicyDifference::new(&policy::diff(&before, &after), verdicts.as_ref());

        context.output.show(&difference)
    }
}
