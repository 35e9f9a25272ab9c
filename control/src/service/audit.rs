//! The call about the audit log, a page at a time, and what services write into it.

use std::time::Duration;

use overlay_core::NodeId;
use overlay_core::instant::rfc3339;
use overlay_proto::audit::{AuditRecord, Head, RecordHash};
use overlay_proto::identity::validity;
use overlay_proto::{Refusal, v1};
use tokio::time::timeout;

use super::ControlService;
use crate::audit::CallOrigin;
use crate::registry::{Actor, require_admin};
use crate::store::{AuditPage, AuditQuery};
use crate::writer::{Note, Writer};

/// How long a call waits for a record: less than the agent waits for an answer.
const WAIT: Duration = Duration::from_secs(5);

/// Returns a page of the audit log to an admin.
pub(super) async fn list(
    service: &ControlService,
    caller: NodeId,
    request: v1::ListAuditRequest,
) -> Result<v1::ListAuditResponse, Refusal> {
    service.hub.look(|state| require_admin(state, Actor::Node(caller)))?;
    let query = first(&service.writer, &request).await?;
    let mut page = read(&service.writer, query, request.wait).await?;
    let end = reaches_end(&page, query) || is_too_old(&page, query, request.since_unix);
    let looked =
        page.records.last().map_or(request.after.max(request.before), |(number, _)| *number);
    page.records.retain(|(_, bytes)| is_wanted(bytes, &request));

    Ok(v1::ListAuditResponse {
        records: page.records.into_iter().map(|(_, bytes)| bytes).collect(),
        looked,
        end,
        head: Some(head(page.extent.head)),
        checkpoint: Some(head(page.extent.checkpoint)),
    })
}

fn head(head: Head) -> v1::AuditHead {
    v1::AuditHead { number: head.number, hash: head.hash.to_string() }
}

/// Returns whether nothing is left in the direction that was read.
fn reaches_end(page: &AuditPage, query: AuditQuery) -> bool {
    let Some(last) = page.records.last().map(|(number, _)| *number) else { return true };

    match query {
        AuditQuery::After(_) | AuditQuery::Only(_) => last == page.extent.head.number,
        AuditQuery::Before(_) => last == page.extent.checkpoint.number + 1,
    }
}

/// Returns whether what comes next, backwards, is older than what is asked for.
fn is_too_old(page: &AuditPage, query: AuditQuery, since: u64) -> bool {
    let last = || page.records.last().and_then(|(_, bytes)| parse(bytes));

    matches!(query, AuditQuery::Before(_)) && last().is_some_and(|record| record.at < since)
}

/// Finds where to begin: with a time and no number, before the first record that is not older.
async fn first(writer: &Writer, request: &v1::ListAuditRequest) -> Result<AuditQuery, Refusal> {
    if request.before > 0 {
        return Ok(AuditQuery::Before(request.before));
    }
    if request.after > 0 || request.since_unix == 0 {
        return Ok(AuditQuery::After(request.after));
    }
    let extent = writer.audit(AuditQuery::Only(0)).await?.extent;
    // All up to `low` are older, and none from `high` on. Where the clock was set back, it is one
    // of the places where times pass the one that is asked for.
    let (mut low, mut high) = (extent.checkpoint.number, extent.head.number + 1);
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        let records = writer.audit(AuditQuery::Only(middle)).await?.records;
        let at = records.first().and_then(|(_, bytes)| parse(bytes)).map_or(0, |record| record.at);
        if at < request.since_unix {
            low = middle;
        } else {
            high = middle;
        }
    }

    Ok(AuditQuery::After(low))
}

/// Reads a page; where there is none yet, waits for it if that is wanted.
async fn read(writer: &Writer, query: AuditQuery, wait: bool) -> Result<AuditPage, Refusal> {
    let mut recorded = writer.recorded();
    recorded.mark_unchanged();
    let page = writer.audit(query).await?;
    if !page.records.is_empty() || !wait {
        return Ok(page);
    }
    // Whether something was written or not, what is there is the answer.
    let _ = timeout(WAIT, recorded.changed()).await;

    Ok(writer.audit(query).await?)
}

/// Returns whether a record was asked for. One that cannot be read always is: whoever reads it
/// finds that it was altered.
fn is_wanted(bytes: &[u8], request: &v1::ListAuditRequest) -> bool {
    let asks = |text: &str| !text.is_empty();
    if request.since_unix == 0 && !asks(&request.node) && !asks(&request.network) {
        return true;
    }

    parse(bytes).is_none_or(|record| {
        record.at >= request.since_unix
            && (!asks(&request.node) || record.concerns_node(&request.node))
            && (!asks(&request.network) || record.concerns_network(&request.network))
    })
}

fn parse(bytes: &[u8]) -> Option<AuditRecord> {
    serde_json::from_slice(bytes).ok()
}

/// Writes down that a node gets a certificate, which it must not get unless this succeeds.
pub(super) async fn note_certificate(
    service: &ControlService,
    node: NodeId,
    certificate: &[u8],
) -> Result<(), Refusal> {
    let hash = RecordHash::of(certificate).to_string();
    let until = validity(certificate).map_or(0, |(_, until)| until);
    let details = vec![
        ("why", format!("valid until {}", rfc3339(until)).into()),
        ("certificate", hash.into()),
    ];
    let (what, origin) = ("issue-certificate", CallOrigin::current());

    Ok(service.writer.note(Note { what, by: Some(node), origin, details }).await?)
}
