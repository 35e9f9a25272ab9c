//! `overlayctl policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use overlay_core::policy::{self, Policy, VerdictChanges};
use overlay_proto::{Code, Refusal, v1};

use super::Context;
use crate::failure::{Failure, Outcome};
use crate::output::ListArgs;
use crate::policy_text::{self, Present};
use crate::view::{
    PolicyCounts, PolicyDifference, PolicyHistory, ReplacedPolicy, ShownPolicy, TestedPolicy,
};

const POLICY_EXAMPLE: &str = "\
Examples:
  overlayctl policy test shop.toml
  overlayctl policy diff shop.toml                    what would change
  overlayctl policy shadow shop.toml                  count what it would refuse
  overlayctl policy apply shop.toml
  overlayctl policy counts                            what was refused here
  overlayctl policy history
  overlayctl policy rollback 3";
const TEST_EXAMPLE: &str = "\
The exit code is 1 where the file has mistakes or one of its tests fails; with \
--strict also where it has warnings.

Examples:
  overlayctl policy test shop.toml
  overlayctl policy test --offline shop.toml          before a commit
  overlayctl policy test --json shop.toml | jq '.mistakes[].line'";
const DIFF_EXAMPLE: &str = "\
Examples:
  overlayctl policy diff shop.toml
  overlayctl policy diff shop.toml --from shop.toml.old
  overlayctl policy diff shop.toml --from shop.toml.old --offline";
const APPLY_EXAMPLE: &str = "\
Control tries the policy first. Where it has mistakes, or one of its tests fails, \
nothing is changed. To apply what is live already changes nothing.

Examples:
  overlayctl policy apply shop.toml
  overlayctl policy apply shop.toml --expect 3        only in place of 3
  overlayctl policy apply shop.toml --strict          no labels that nobody has
  overlayctl policy apply shop.toml --json | jq '.warnings[]'";
const SHADOW_EXAMPLE: &str = "\
What the policy refuses is counted, and passes. It replaces the live one, so \
nothing is refused meanwhile.

Examples:
  overlayctl policy shadow shop.toml
  overlayctl policy apply shop.toml                   and now in earnest";
const SHOW_EXAMPLE: &str = "\
What is printed is a policy; the line before it is a comment. Where this node is no \
admin, it is in canonical form, and says nothing of networks that the node may not enter.

Examples:
  overlayctl policy show
  overlayctl policy show --revision 3 > shop.toml
  overlayctl policy show --canonical --json | jq -r .text";
const HISTORY_EXAMPLE: &str = "\
Examples:
  overlayctl policy history
  overlayctl policy history --format '{{.Revision}} {{.What}} by {{.By}}'
  overlayctl policy history -q                        revisions alone";
const COUNTS_EXAMPLE: &str = "\
Counted is what this node's containers send and get: of what is refused every \
packet, of what passes the first of each flow. Counters begin anew with other \
rules, and when the agent is started.

Examples:
  overlayctl policy counts
  overlayctl policy counts --json | jq '.[] | select(.verdict == \"deny\")'";
const ROLLBACK_EXAMPLE: &str = "\
Tests that fail today are told, and hold nothing up. A rollback is a new \
revision, with the document and the mode of the earlier one.

Examples:
  overlayctl policy rollback 3
  overlayctl policy rollback 0                        to no policy
  overlayctl policy rollback 3 --expect 5";

/// Say who may send what to whom within a network: test, compare and apply policies
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
    Apply(Apply),
    Shadow(Shadow),
    Show(Show),
    History(History),
    Counts(Counts),
    Rollback(Rollback),
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
    /// Fail, too, if anything in it does nothing, such as a label that no endpoint has
    #[arg(long)]
    strict: bool,
}

/// Show what differs from the live policy, or from another file: rules, and what becomes of packets
/// between endpoints
#[derive(Debug, Args)]
#[command(after_help = DIFF_EXAMPLE)]
struct Diff {
    /// The policy, a TOML file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The policy that it is compared with, instead of the live one
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Ask no agent: compare the rules of two files alone
    #[arg(long, requires = "from")]
    offline: bool,
}

/// Replace the live policy, and enforce the new one
#[derive(Debug, Args)]
#[command(after_help = APPLY_EXAMPLE)]
struct Apply {
    #[command(flatten)]
    replacement: Replacement,
}

/// Replace the live policy, and count what the new one refuses without refusing it
#[derive(Debug, Args)]
#[command(after_help = SHADOW_EXAMPLE)]
struct Shadow {
    #[command(flatten)]
    replacement: Replacement,
}

/// The policy that replaces the live one.
#[derive(Debug, Args)]
struct Replacement {
    /// The policy, a TOML file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    expectation: Expectation,
    /// Change nothing if anything in it does nothing, such as a label that no endpoint has
    #[arg(long)]
    strict: bool,
}

/// Against changes of others.
#[derive(Debug, Args)]
struct Expectation {
    /// Change nothing unless this revision of the policy is live; 0 stands for none
    #[arg(long, value_name = "REVISION", value_parser = revision)]
    expect: Option<u64>,
}

/// Print the live policy, or one before it
#[derive(Debug, Args)]
#[command(after_help = SHOW_EXAMPLE)]
struct Show {
    /// An earlier one; `overlayctl policy history` lists them
    #[arg(long, value_name = "REVISION", value_parser = revision)]
    revision: Option<u64>,
    /// In canonical form, without its tests, as nodes get it
    #[arg(long)]
    canonical: bool,
}

/// List the latest 32 policies: what was done, when and by whom
#[derive(Debug, Args)]
#[command(after_help = HISTORY_EXAMPLE)]
struct History {
    #[command(flatten)]
    list: ListArgs,
}

/// List what this node counted by rule of the live policy
#[derive(Debug, Args)]
#[command(after_help = COUNTS_EXAMPLE)]
struct Counts {
    #[command(flatten)]
    list: ListArgs,
}

/// Return to an earlier policy, or to none
#[derive(Debug, Args)]
#[command(after_help = ROLLBACK_EXAMPLE)]
struct Rollback {
    /// The revision of the policy; 0 stands for none
    #[arg(value_name = "REVISION", value_parser = revision)]
    revision: u64,
    #[command(flatten)]
    expectation: Expectation,
}

/// Reads the revision of a policy.
fn revision(text: &str) -> Result<u64, String> {
    let wrong = || "this is no revision of a policy; `overlayctl policy history` lists them";

    text.parse().map_err(|_| wrong().to_owned())
}

impl PolicyArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        match self.command {
            Subject::Test(test) => test.run(context).await,
            Subject::Diff(diff) => diff.run(context).await,
            Subject::Apply(Apply { replacement }) => {
                apply(context, &replacement, v1::PolicyMode::Enforced).await
            }
            Subject::Shadow(Shadow { replacement }) => {
                apply(context, &replacement, v1::PolicyMode::Shadow).await
            }
            Subject::Show(show) => show.run(context).await,
            Subject::History(History { list }) => {
                let history = async || {
                    let request = v1::ListPoliciesRequest {};
                    Ok(PolicyHistory::from(context.agent().await?.list_policies(request).await?))
                };
                context.list(&list, history).await
            }
            Subject::Counts(Counts { list }) => {
                let counts = async || {
                    let request = v1::PolicyCountsRequest {};
                    Ok(PolicyCounts::from(context.agent().await?.policy_counts(request).await?))
                };
                context.list(&list, counts).await
            }
            Subject::Rollback(Rollback { revision, expectation }) => {
                let request =
                    v1::RollbackPolicyRequest { to: revision, expected: expectation.expect };
                let response = context.agent().await?.rollback_policy(request).await?;
                context.output.show(&ReplacedPolicy::from(response))
            }
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
        let tested = match Policy::parse_file(&text) {
            Err(invalid) => TestedPolicy::mistaken(name, invalid),
            Ok(policy) => {
                let present = present(context, self.offline).await?;
                let mut warnings = policy::lint(&policy);
                if let Some(present) = &present {
                    let (networks, endpoints) = (&present.networks, &present.endpoints);
                    warnings.extend(policy::lint_view(&policy, networks, endpoints));
                }
                let failures = policy::check(&policy, &present.unwrap_or_default().endpoints);
                TestedPolicy::tested(name, &policy, &failures, &warnings).strictly(self.strict)
            }
        };
        context.output.show(&tested)?;

        if tested.ok { Ok(()) } else { Err(Failure::Exit(1)) }
    }
}

/// Returns the live policy as far as this node sees it, and beside it what can be compared with
/// that.
async fn beside_live(context: &Context, policy: Policy) -> Result<(Policy, Policy), Refusal> {
    let request = v1::ShowPolicyRequest { revision: None };
    let live = context.agent().await?.show_policy(request).await?;
    let text = if live.document.is_empty() { &live.text } else { &live.document };
    let unreadable = |_| {
        let text = "this version does not understand the live policy: upgrade overlayctl";
        Refusal::new(Code::Unsupported, text)
    };
    let before = Policy::parse(text).map_err(unreadable)?;
    if !live.partial {
        return Ok((before, policy));
    }
    context.output.warn(
        "compared with the part of the live policy that this node sees: it is no admin, or control is \
         away",
    );

    Ok((before, Policy { tests: Vec::new(), ..policy }))
}

impl Diff {
    async fn run(self, context: &Context) -> Outcome {
        let after = policy_text::sound(&self.file)?;
        let (before, after) = match &self.from {
            Some(from) => (policy_text::sound(from)?, after),
            None => beside_live(context, after).await?,
        };
        let present = present(context, self.offline).await?;
        let verdicts =
            present.map(|present| VerdictChanges::between(&before, &after, &present.endpoints));
        let difference = PolicyDifference::new(&policy::diff(&before, &after), verdicts.as_ref());

        context.output.show(&difference)
    }
}

/// Has control replace the live policy by the one in a file, once that is known to be one.
async fn apply(context: &Context, replacement: &Replacement, mode: v1::PolicyMode) -> Outcome {
    let Replacement { file, expectation, strict } = replacement;
    let document = policy_text::read(file)?;
    policy_text::parsed(file, &document)?;
    let (mode, expected) = (mode.into(), expectation.expect);
    let request = v1::ApplyPolicyRequest { document, mode, expected, strict: *strict };
    let name = |refusal: Refusal| {
        // It is about a line of the file.
        if refusal.code == Code::InvalidInput {
            Refusal::new(refusal.code, format!("{}: {refusal}", file.display()))
        } else {
            refusal
        }
    };
    let response = context.agent().await?.apply_policy(request).await.map_err(name)?;

    context.output.show(&ReplacedPolicy::from(response))
}

impl Show {
    async fn run(self, context: &Context) -> Outcome {
        let request = v1::ShowPolicyRequest { revision: self.revision };
        let shown = context.agent().await?.show_policy(request).await?;

        context.output.show(&ShownPolicy::new(shown, self.canonical))
    }
}
