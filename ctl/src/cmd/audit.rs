//! `overlayctl audit`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use overlay_core::Name;
use overlay_core::instant::parse_rfc3339;
use overlay_proto::audit::{Head, Verifier};
use overlay_proto::{Code, Refusal, v1};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Context;
use crate::client::Agent;
use crate::failure::{Outcome, storage};
use crate::output::{Output, ShowArgs, now};
use crate::time;
use crate::values::number;
use crate::view::{AuditDetails, AuditLog, AuditView, VerifiedAudit};

/// How many records are shown unless it is said from when or how many.
const LAST: u32 = 50;
/// How often a log that loses its oldest records meanwhile is verified from its beginning.
const ATTEMPTS: usize = 3;

const AUDIT_EXAMPLE: &str = "\
Control keeps each change with who made it, from where, and what was before and after; for admins. \
Changes of agents themselves are there, too: endpoints that come and go, addresses, memberships.

Examples:
  overlayctl audit                         the same as `audit ls`
  overlayctl audit --since 1h --node host-b
  overlayctl audit show 1234
  overlayctl audit verify";
const LS_EXAMPLE: &str = "\
Examples:
  overlayctl audit ls -n 200
  overlayctl audit ls --since 2026-01-31T12:00:00Z --network shop
  overlayctl audit ls --follow
  overlayctl audit ls --json | jq '.[] | select(.what == \"remove-endpoints\")'";
const SHOW_EXAMPLE: &str = "\
Examples:
  overlayctl audit show 1234
  overlayctl audit show 1234 --json | jq '.[].rows[] | {name, before, after}'";
const VERIFY_EXAMPLE: &str = "\
Each record holds the hash of the one before. Whoever can write to control's state can still make all of it anew; so keep \
the head elsewhere, and verify against it.

Examples:
  overlayctl audit verify
  overlayctl audit verify -q > head        keep it on another host
  overlayctl audit verify --head head      later: what was there is unaltered";

/// Show who changed what, when, and from where
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = AUDIT_EXAMPLE)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    command: Option<Audit>,
    #[command(flatten)]
    list: Selection,
}

/// What can be done with audit records.
#[derive(Debug, Subcommand)]
enum Audit {
    Ls(Ls),
    Show(Show),
    Verify(Verify),
}

/// List records, the latest last
#[derive(Debug, Args)]
#[command(visible_alias = "list", after_help = LS_EXAMPLE)]
struct Ls {
    #[command(flatten)]
    list: Selection,
}

/// Which records to list.
#[derive(Debug, Args)]
struct Selection {
    /// Only what is not older: 90s, 15m, 24h, 7d, or a time as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "AGO|TIME", value_parser = since)]
    since: Option<u64>,
    /// Only what this node did, or what was done to it
    #[arg(long, value_name = "NAME|ID")]
    node: Option<Name>,
    /// Only what concerns this network
    #[arg(long, value_name = "NAME|ID")]
    network: Option<Name>,
    /// Only the last records; 50 unless --since says from when
    #[arg(long, short = 'n', value_name = "N", value_parser = |text: &str| number(text, 0, 1_000_000))]
    last: Option<u32>,
    /// Go on with what is changed from now on, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    show: ShowArgs,
}

/// Show all that records tell, with what was before and after
#[derive(Debug, Args)]
#[command(after_help = SHOW_EXAMPLE)]
struct Show {
    /// Their numbers
    #[arg(required = true, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    numbers: Vec<u64>,
    #[command(flatten)]
    show: ShowArgs,
}

/// Check that no record was altered, removed or moved
#[derive(Debug, Args)]
#[command(after_help = VERIFY_EXAMPLE)]
struct Verify {
    /// A file with a head that was noted before: what was there then must still be there
    #[arg(long, value_name = "FILE", conflicts_with = "from_hash")]
    head: Option<PathBuf>,
    /// The head itself
    #[arg(long, value_name = "NUMBER:HASH")]
    from_hash: Option<Head>,
    #[command(flatten)]
    show: ShowArgs,
}

/// Reads an instant, or how long ago it was; seconds since 1970.
fn since(text: &str) -> Result<u64, String> {
    let ago = || time::parse(text).ok().map(|ago| now().saturating_sub(ago.as_secs()).max(1));

    parse_rfc3339(text).filter(|unix| *unix > 0).or_else(ago).ok_or_else(|| {
        "this is neither a duration nor a time; write it as 15m, 24h, 7d or 2026-01-31T12:00:00Z"
            .to_owned()
    })
}

impl AuditArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        match self.command.unwrap_or(Audit::Ls(Ls { list: self.list })) {
            Audit::Ls(Ls { list }) => list.run(context).await,
            Audit::Show(show) => show.run(context).await,
            Audit::Verify(verify) => verify.run(context).await,
        }
    }
}

impl Selection {
    async fn run(self, context: &Context) -> Outcome {
        let output = context.output.formatted(self.show.format.clone())?;
        let mut agent = context.agent().await?;
        let (records, looked) = match (self.last, self.since) {
            (None, Some(_)) => self.forwards(&mut agent, 0).await?,
            (last, _) => self.last(&mut agent, last.unwrap_or(LAST)).await?,
        };
        if !self.follow {
            return output.show(&AuditLog(records));
        }
        // Before the first line: whoever reads it may end this.
        let interrupted = signal(SignalKind::interrupt())
            .map_err(|error| storage("signals cannot be awaited", &error))?;
        for record in records {
            output.line(output.render(&record)?)?;
        }

        self.follow(&mut agent, &output, looked, interrupted).await
    }

    fn request(&self) -> v1::ListAuditRequest {
        let text = |name: Option<&Name>| name.map(ToString::to_string).unwrap_or_default();

        v1::ListAuditRequest {
            since_unix: self.since.unwrap_or_default(),
            node: text(self.node.as_ref()),
            network: text(self.network.as_ref()),
            ..v1::ListAuditRequest::default()
        }
    }

    /// Reads all records after a number; returns them and the number of the last one.
    async fn forwards(
        &self,
        agent: &mut Agent,
        mut after: u64,
    ) -> Result<(Vec<AuditView>, u64), Refusal> {
        let mut records = Vec::new();
        loop {
            let page = agent.list_audit(v1::ListAuditRequest { after, ..self.request() }).await?;
            let (looked, is_end) = (page.looked.max(after), page.end || page.looked <= after);
            records.extend(page.records.iter().map(|bytes| AuditView::read(bytes)));
            after = looked;
            if is_end {
                return Ok((records, after));
            }
        }
    }

    /// Reads the last records; returns them, the oldest first, and the number of the last one.
    async fn last(&self, agent: &mut Agent, count: u32) -> Result<(Vec<AuditView>, u64), Refusal> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let (mut records, mut before, mut last) = (Vec::new(), u64::MAX, None);
        loop {
            let page = agent.list_audit(v1::ListAuditRequest { before, ..self.request() }).await?;
            let head = page.head.map_or(0, |head| head.number);
            let last = *last.get_or_insert(head);
            let is_end = page.end || page.looked >= before;
            before = page.looked;
            let wanted = count - records.len();
            records.extend(page.records.iter().take(wanted).map(|bytes| AuditView::read(bytes)));
            if is_end || records.len() >= count {
                records.reverse();
                return Ok((records, last));
            }
        }
    }

    async fn follow(
        &self,
        agent: &mut Agent,
        output: &Output,
        mut after: u64,
        mut interrupted: Signal,
    ) -> Outcome {
        output.step("Waiting for changes; Ctrl-C ends");
        loop {
            let request = v1::ListAuditRequest { after, wait: true, ..self.request() };
            let page = tokio::select! {
                page = agent.list_audit(request) => page?,
                _ = interrupted.recv() => return Ok(()),
            };
            after = after.max(page.looked);
            for record in &page.records {
                output.line(output.render(&AuditView::read(record))?)?;
            }
        }
    }
}

impl Show {
    async fn run(self, context: &Context) -> Outcome {
        let output = context.output.formatted(self.show.format)?;
        let mut agent = context.agent().await?;
        let mut records = Vec::new();
        for number in self.numbers {
            let request =
                v1::ListAuditRequest { after: number - 1, ..v1::ListAuditRequest::default() };
            let page = agent.list_audit(request).await?;
            let first = page.records.first().map(|bytes| AuditView::read(bytes));
            let record = first.filter(|record| record.number == number).ok_or_else(|| {
                let kept = page.checkpoint.map_or(0, |checkpoint| checkpoint.number) + 1;
                let last = page.head.map_or(0, |head| head.number);
                let text = format!("there is no record {number}: {kept} to {last} are kept");
                Refusal::new(Code::NotFound, text)
            })?;
            records.push(record);
        }

        output.show(&AuditDetails(records))
    }
}

impl Verify {
    async fn run(self, context: &Context) -> Outcome {
        let output = context.output.formatted(self.show.format.clone())?;
        let noted = self.noted()?;
        let mut agent = context.agent().await?;
        for _ in 0..ATTEMPTS {
            if let Some(verified) = verify(&mut agent, noted).await? {
                return output.show(&verified);
            }
        }

        let text = "the log loses its oldest records faster than it can be verified: try again";
        Err(Refusal::new(Code::Exhausted, text).into())
    }

    fn noted(&self) -> Result<Option<Head>, Refusal> {
        let Some(file) = &self.head else { return Ok(self.from_hash) };
        let text = std::fs::read_to_string(file).map_err(|e| storage(file.display(), &e))?;
        let head: Head = text.trim().parse().map_err(|error| {
            Refusal::new(Code::InvalidInput, format!("{}: {error}", file.display()))
        })?;

        Ok(Some(head))
    }
}

/// Reads the log from its checkpoint to its head. Returns nothing when its oldest records were
/// dropped meanwhile.
async fn verify(agent: &mut Agent, noted: Option<Head>) -> Result<Option<VerifiedAudit>, Refusal> {
    let altered = |error: overlay_proto::audit::ChainError| {
        Refusal::new(Code::Storage, format!("the audit log is not what was written: {error}"))
    };
    let mut page = agent.list_audit(v1::ListAuditRequest::default()).await?;
    let checkpoint = head(page.checkpoint.as_ref())?;
    let mut verifier = Verifier::new(checkpoint, noted).map_err(altered)?;
    let mut times = None;
    loop {
        if head(page.checkpoint.as_ref())?.number > verifier.at().number {
            return Ok(None);
        }
        for bytes in &page.records {
            let at = verifier.accept(bytes).map_err(altered)?.at;
            times = Some((times.map_or(at, |(first, _)| first), at));
        }
        let last = head(page.head.as_ref())?;
        if page.end || page.records.is_empty() {
            let is_met = verifier.finish(last).map_err(altered)?;
            return VerifiedAudit::new(checkpoint, last, times, noted.map(|noted| (noted, is_met)))
                .map(Some);
        }
        let after = verifier.at().number;
        page = agent
            .list_audit(v1::ListAuditRequest { after, ..v1::ListAuditRequest::default() })
            .await?;
    }
}

fn head(head: Option<&v1::AuditHead>) -> Result<Head, Refusal> {
    let fault = || Refusal::new(Code::Fault, "the answer has no head of the audit log");
    let head = head.ok_or_else(fault)?;

    Ok(Head { number: head.number, hash: head.hash.parse().map_err(|_| fault())? })
}
