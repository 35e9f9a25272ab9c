//! The calls about the policy. Documents are examined beside the writer, one at a time.

use std::sync::Arc;
use std::time::Duration;

use overlay_core::policy::{ClusterPolicy, Policy};
use overlay_core::{NodeId, Role};
use overlay_proto::{Code, Refusal, convert, v1};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{ControlService, mismatch, requests};
use crate::registry::{
    Actor, AppliedPolicy, ClusterState, ExaminedPolicy, Operation, PolicyError, PolicySubjects,
    RegistryError, Reply, canonical, require_admin,
};
use crate::watch::Hub;

/// The document that is being examined: of the longest, that takes seconds and 100 MiB.
static EXAMINATION: Semaphore = Semaphore::const_new(1);
/// How long a rollback that is made waits for what is wrong with it.
const PATIENCE: Duration = Duration::from_secs(3);
/// The most warnings in an answer: more than anybody reads.
const MAX_WARNINGS: usize = 50;
/// The longest warning in an answer, in characters.
const MAX_WARNING: usize = 1_024;

/// Tries a policy, and has it replace the live one.
pub(super) async fn apply(
    service: &ControlService,
    node: NodeId,
    mut request: v1::ApplyPolicyRequest,
) -> Result<v1::PolicyReplaced, Refusal> {
    let document = convert::policy_text(std::mem::take(&mut request.document))?;
    let examined = examine(service, node, document).await?;
    let warnings = examined.warnings().map(str::to_owned).collect();
    let replaced = replace(service, node, requests::apply_policy(&request, examined)?).await?;

    Ok(replaced.told(warnings))
}

/// Has an earlier policy replace the live one, and says then what is wrong with it today: whoever
/// rolls back is in a hurry.
pub(super) async fn roll_back(
    service: &ControlService,
    node: NodeId,
    request: v1::RollbackPolicyRequest,
) -> Result<v1::PolicyReplaced, Refusal> {
    let v1::RollbackPolicyRequest { to, expected } = request;
    let replaced = replace(service, node, Operation::RollBackPolicy { to, expected }).await?;
    let policy = replaced.live.as_ref().filter(|live| live.mode.is_some() && replaced.changed);
    let warnings = match policy {
        Some(policy) => {
            let examined = examine(service, node, policy.document.clone());
            match timeout(PATIENCE, examined).await {
                Ok(examined) => examined.map(ExaminedPolicy::all_warnings).unwrap_or_default(),
                Err(_) => vec!["its tests were not tried: they take too long".to_owned()],
            }
        }
        None => Vec::new(),
    };

    Ok(replaced.told(warnings))
}

/// What the writer made of a request.
struct Replaced {
    live: Option<Box<AppliedPolicy>>,
    changed: bool,
    revision: u64,
}

async fn replace(
    service: &ControlService,
    node: NodeId,
    operation: Operation,
) -> Result<Replaced, Refusal> {
    let (live, changed, revision) = match service.ask(node, operation).await? {
        (Reply::Policy { live, changed }, revision) => (live, changed, revision.0),
        (outcome, _) => return Err(mismatch(&outcome)),
    };
    if let Some(live) = live.as_ref().filter(|_| changed) {
        let (policy, mode) = (live.revision, live.mode);
        tracing::info!(%node, revision, policy, ?mode, "Policy replaced");
    }

    Ok(Replaced { live, changed, revision })
}

impl Replaced {
    /// Makes the answer, with no more warnings than anybody reads.
    fn told(self, warnings: Vec<String>) -> v1::PolicyReplaced {
        let more = warnings.len().saturating_sub(MAX_WARNINGS);
        let short = |warning: String| match warning.char_indices().nth(MAX_WARNING) {
            Some((end, _)) => format!("{} …", &warning[..end]),
            None => warning,
        };

        v1::PolicyReplaced {
            revision: self.revision,
            policy: self.live.map(|live| applied(&live, live.mode.is_some())),
            changed: self.changed,
            warnings: warnings.into_iter().take(MAX_WARNINGS).map(short).collect(),
            more_warnings: u32::try_from(more).unwrap_or(u32::MAX),
        }
    }
}

async fn examine(
    service: &ControlService,
    node: NodeId,
    document: String,
) -> Result<ExaminedPolicy, Refusal> {
    service.hub.look(|state| require_admin(state, Actor::Node(node)))?;
    let fault = |what: &dyn std::fmt::Display| Refusal::new(Code::Fault, what);
    let turn = EXAMINATION.acquire().await.map_err(|closed| fault(&closed))?;
    let hub = Arc::clone(&service.hub);
    let examined = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let subjects = hub.look(|state| PolicySubjects::of(state, Actor::Node(node)))?;

        ExaminedPolicy::new(document, &subjects).map_err(RegistryError::from)
    });

    Ok(examined.await.map_err(|panic| fault(&panic))??)
}

/// Returns a policy with its document to an admin, and to others what they may see of the live one.
pub(super) fn show(
    hub: &Hub,
    caller: NodeId,
    revision: Option<u64>,
) -> Result<v1::ShowPolicyResponse, Refusal> {
    let asked = hub.look(|state| kept(state, caller, revision))?;

    Ok(match asked {
        Shown::Part(part) => convert::visible_policy(part.as_ref()),
        Shown::Nothing => v1::ShowPolicyResponse::default(),
        Shown::Whole { policy, is_live } => v1::ShowPolicyResponse {
            text: Policy::parse(&policy.document).map(canonical).unwrap_or_default(),
            policy: Some(applied(&policy, is_live)),
            document: policy.document,
            partial: false,
        },
    })
}

/// What somebody may be shown of a policy.
enum Shown {
    /// There is none.
    Nothing,
    /// What a node sees of the live one, if there is one.
    Part(Option<ClusterPolicy>),
    /// All of it.
    Whole { policy: AppliedPolicy, is_live: bool },
}

fn kept(
    state: &ClusterState,
    caller: NodeId,
    revision: Option<u64>,
) -> Result<Shown, RegistryError> {
    if revision.is_none() && state.node(caller)?.role != Role::Admin {
        return Ok(Shown::Part(state.visible_policy(caller)));
    }
    require_admin(state, Actor::Node(caller))?;
    let live = state.view().policy.as_ref().map(|live| live.revision);
    let Some(revision) = revision.or(live) else { return Ok(Shown::Nothing) };
    let policy = state.policies().get(&revision).ok_or(PolicyError::NotKept(revision))?;

    Ok(Shown::Whole { policy: policy.clone(), is_live: live == Some(revision) })
}

/// Lists the policies that are kept, the latest first.
pub(super) fn list(
    state: &ClusterState,
    caller: NodeId,
) -> Result<Vec<v1::AppliedPolicy>, Refusal> {
    require_admin(state, Actor::Node(caller))?;
    let live = state.view().policy.as_ref().map(|live| live.revision);
    let row = |policy: &AppliedPolicy| applied(policy, live == Some(policy.revision));

    Ok(state.policies().values().rev().map(row).collect())
}

fn applied(policy: &AppliedPolicy, live: bool) -> v1::AppliedPolicy {
    v1::AppliedPolicy {
        revision: policy.revision,
        applied_unix: policy.at,
        by: policy.by.clone().map(Into::into),
        mode: policy.mode.map_or(v1::PolicyMode::Unspecified, Into::into).into(),
        rolled_back_to: policy.rolled_back_to,
        bytes: u32::try_from(policy.document.len()).unwrap_or(u32::MAX),
        live,
    }
}
