//! What the pretended agent says of policies: of those of its crowd, or that there is none.

use overlay_proto::{Code, Refusal, v1};

use super::Script;

/// The document of the live policy.
pub(crate) const LIVE: &str = "\
# Who may do what in our shop.
[network.web]
default = \"deny\"

[[rule]]
name = \"ops\"
from = { team = \"ops\" }
to = \"any\"
allow = [\"icmp\"]

[[test]]
network = \"web\"
from = { team = \"ops\" }
to = \"service2\"
allow = [\"icmp\"]
";
/// The same in canonical form, without the test.
const CANONICAL: &str = "\
[network.web]
default = \"deny\"

[[rule]]
name = \"ops\"
from = { team = \"ops\" }
to = \"any\"
allow = [\"icmp\"]
";
/// When the next policy is applied.
const APPLIED: u64 = 1_700_000_000;

fn policies(script: &Script) -> Vec<v1::AppliedPolicy> {
    script.crowd.clone().unwrap_or_default().policies.policies
}

fn moved(script: &Script, expected: Option<u64>) -> Result<(), Refusal> {
    let live = policies(script).first().map_or(0, |live| live.revision);
    match expected {
        Some(expected) if expected != live => Err(Refusal::new(
            Code::WrongState,
            format!(
                "revision {live} of the policy is live, and revision {expected} of the policy was \
                 expected; nothing is changed: `overlayctl policy diff FILE` shows what differs"
            ),
        )),
        Some(_) | None => Ok(()),
    }
}

fn kept(script: &Script, revision: u64) -> Result<v1::AppliedPolicy, Refusal> {
    let kept = policies(script).into_iter().find(|policy| policy.revision == revision);

    kept.ok_or_else(|| {
        let text = format!(
            "revision {revision} of the policy is not kept: `overlayctl policy history` lists \
             those that are"
        );
        Refusal::new(Code::NotFound, text)
    })
}

fn next(mode: i32, rolled_back_to: Option<u64>) -> v1::AppliedPolicy {
    v1::AppliedPolicy {
        revision: 5,
        applied_unix: APPLIED,
        by: Some(v1::Creator { node: "0123456789ac".into(), node_name: "host-01".into() }),
        mode,
        rolled_back_to,
        bytes: 400,
        live: mode != 0,
    }
}

pub(super) fn apply(
    script: &Script,
    request: v1::ApplyPolicyRequest,
) -> Result<v1::PolicyReplaced, Refusal> {
    if request.document == LIVE {
        let policy = policies(script).into_iter().next();
        return Ok(v1::PolicyReplaced { revision: 7, policy, ..v1::PolicyReplaced::default() });
    }
    moved(script, request.expected)?;
    if request.document.contains("failing") {
        let text = "line 12: test 1: tcp/22 from service2 (10.200.128.2) to service2 \
                    (10.200.128.2) in web must not pass, and is allowed by rule failing (and 2 \
                    more failures: `overlayctl policy test FILE` lists them); nothing is changed";
        return Err(Refusal::new(Code::InvalidInput, text));
    }

    if request.strict && request.document.contains("ops") {
        let text = "line 9: rule ops: no endpoint matches its from: check the labels (and 2 more \
                    warnings: `overlayctl policy test FILE` lists them); --strict allows no such \
                    thing, nothing is changed";
        return Err(Refusal::new(Code::InvalidInput, text));
    }

    let has_warnings = request.document.contains("ops");
    let warning = "rule ops: no endpoint matches its from: check the labels".to_owned();

    Ok(v1::PolicyReplaced {
        revision: 8,
        policy: Some(next(request.mode, None)),
        changed: true,
        warnings: has_warnings.then_some(warning).into_iter().collect(),
        more_warnings: if has_warnings { 2 } else { 0 },
    })
}

pub(super) fn roll_back(
    script: &Script,
    request: v1::RollbackPolicyRequest,
) -> Result<v1::PolicyReplaced, Refusal> {
    let mode = match request.to {
        0 => 0,
        to => kept(script, to)?.mode,
    };
    moved(script, request.expected)?;
    let changed = request.to != 4;
    let policy = if changed { next(mode, Some(request.to)) } else { kept(script, 4)? };

    Ok(v1::PolicyReplaced {
        revision: 8,
        policy: Some(policy),
        changed,
        ..v1::PolicyReplaced::default()
    })
}

pub(super) fn show(
    script: &Script,
    request: v1::ShowPolicyRequest,
) -> Result<v1::ShowPolicyResponse, Refusal> {
    let policy = match request.revision {
        Some(revision) => Some(kept(script, revision)?),
        None => policies(script).into_iter().next(),
    };
    let Some(policy) = policy else { return Ok(v1::ShowPolicyResponse::default()) };
    if script.sees_part {
        return Ok(v1::ShowPolicyResponse {
            policy: Some(v1::AppliedPolicy {
                revision: policy.revision,
                mode: policy.mode,
                live: true,
                ..v1::AppliedPolicy::default()
            }),
            document: String::new(),
            text: CANONICAL.to_owned(),
            partial: true,
        });
    }
    let is_there = policy.mode != 0;

    Ok(v1::ShowPolicyResponse {
        policy: Some(policy),
        document: if is_there { LIVE.to_owned() } else { String::new() },
        text: if is_there { CANONICAL.to_owned() } else { String::new() },
        partial: false,
    })
}

pub(super) fn list(script: &Script) -> v1::ListPoliciesResponse {
    v1::ListPoliciesResponse { policies: policies(script) }
}

/// What is counted by the rules of the live policy, if there is one.
pub(crate) fn counts(script: &Script) -> v1::PolicyCountsResponse {
    if policies(script).is_empty() {
        return v1::PolicyCountsResponse::default();
    }
    let count = |counter: v1::PolicyCounter, rule: &str, packets| v1::PolicyCount {
        counter: counter.into(),
        rule: rule.to_owned(),
        refused: rule.is_empty(),
        packets,
        bytes: packets * 84,
    };
    let counts = vec![
        count(v1::PolicyCounter::Rule, "ops", 12),
        count(v1::PolicyCounter::Default, "", 31_415),
        count(v1::PolicyCounter::Unknown, "", 0),
        count(v1::PolicyCounter::Invalid, "", 2),
    ];
    let mode = v1::PolicyMode::Enforced.into();
    let network = "web".to_owned();

    let refused = |reason: &str, packets| v1::GuardCount {
        reason: reason.to_owned(),
        packets,
        bytes: packets * 46,
    };
    let guard = vec![refused("source", 7), refused("mac", 0)];

    v1::PolicyCountsResponse {
        networks: vec![v1::NetworkPolicyCounts { network, mode, in_force: true, counts, guard }],
    }
}
