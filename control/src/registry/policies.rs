//! How the policy of the cluster is replaced, and which of those before are kept.
//!
//! A document is examined first, outside the writer: that takes longer than any other decision.

use std::collections::{BTreeMap, BTreeSet};

use overlay_core::policy::{
    self, ClusterPolicy, FilterMode, InvalidPolicy, Policy, PolicyEndpoint, PolicyLines,
    PolicyWarning,
};
use overlay_core::{Change, Name, RowKey};

use super::record::AppliedPolicy;
use super::{
    Actor, ApplyPolicy, ClusterState, Decision, PolicyError, Record, RegistryError, Reply, creator,
    limits, require_admin,
};

/// The networks and endpoints that a policy is tried against.
#[derive(Debug, Default)]
pub(crate) struct PolicySubjects {
    networks: BTreeSet<Name>,
    endpoints: Vec<PolicyEndpoint>,
}

impl PolicySubjects {
    /// Takes them from the state, for an admin.
    ///
    /// # Errors
    ///
    /// [`RegistryError::NeedsAdmin`].
    pub(crate) fn of(state: &ClusterState, actor: Actor) -> Result<Self, RegistryError> {
        require_admin(state, actor)?;
        let view = state.view();
        let endpoints = view.endpoints.values().map(|row| PolicyEndpoint::of(row, view));

        Ok(Self {
            networks: view.networks.values().map(|network| network.name.clone()).collect(),
            endpoints: endpoints.collect(),
        })
    }
}

/// A policy that was parsed and tried.
#[derive(Debug, Clone)]
pub(crate) struct ExaminedPolicy {
    document: String,
    /// In canonical form, without tests.
    text: String,
    /// The tests that do not hold, each with its line.
    failures: Vec<(usize, String)>,
    /// What does nothing in it, each with the line of its rule or network, if it has one.
    warnings: Vec<(Option<usize>, String)>,
}

impl ExaminedPolicy {
    /// Parses a document and tries its tests.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Mistaken`].
    pub(crate) fn new(document: String, subjects: &PolicySubjects) -> Result<Self, PolicyError> {
        let policy = Policy::parse_file(&document)?;
        let PolicySubjects { networks, endpoints } = subjects;
        let lines = PolicyLines::of(&document);
        let line = |test: usize| lines.tests.get(test.saturating_sub(1)).copied().unwrap_or(1);
        let failures = policy::check(&policy, endpoints);
        let mut found = policy::lint(&policy);
        let is_looked_at =
            policy.rules.len().saturating_mul(endpoints.len()) <= limits::MAX_POLICY_LOOKS;
        if is_looked_at {
            found.extend(policy::lint_view(&policy, networks, endpoints));
        }
        let mut warnings = with_lines(&policy, &lines, &found);
        if !is_looked_at {
            let text = "there are too many endpoints to look for rules that match none";
            warnings.push((None, text.to_owned()));
        }

        Ok(Self {
            text: canonical(policy),
            failures: failures.iter().map(|one| (line(one.test()), one.to_string())).collect(),
            warnings,
            document,
        })
    }

    /// Returns what does nothing in it, in sentences.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = &str> {
        self.warnings.iter().map(|(_, warning)| warning.as_str())
    }

    /// Returns which tests do not hold, and what does nothing, in sentences.
    pub(crate) fn all_warnings(self) -> Vec<String> {
        let failures = self.failures.into_iter().map(|(_, failure)| failure);

        failures.chain(self.warnings.into_iter().map(|(_, warning)| warning)).collect()
    }
}

impl From<InvalidPolicy> for PolicyError {
    fn from(invalid: InvalidPolicy) -> Self {
        let others = (invalid.mistakes.len() + invalid.more).saturating_sub(1);
        let first = invalid.mistakes.into_iter().next().unwrap_or_default();

        Self::Mistaken { first, others }
    }
}

/// Puts warnings into sentences, each with the line of its rule or network.
fn with_lines(
    policy: &Policy,
    lines: &PolicyLines,
    warnings: &[PolicyWarning],
) -> Vec<(Option<usize>, String)> {
    let names = policy.rules.iter().map(|rule| &rule.name);
    let rules: BTreeMap<_, _> = names.zip(&lines.rules).collect();
    let line = |warning: &PolicyWarning| {
        let of_rule = warning.rule().and_then(|rule| rules.get(rule).copied());
        let of_network = || lines.networks.get(warning.network()?.as_str());
        of_rule.or_else(of_network).copied()
    };

    warnings.iter().map(|warning| (line(warning), warning.to_string())).collect()
}

/// Returns the text that nodes get of a policy.
pub(crate) fn canonical(policy: Policy) -> String {
    Policy { tests: Vec::new(), ..policy }.to_string()
}

/// Has a policy replace the live one.
pub(super) fn apply(state: &ClusterState, actor: Actor, apply: ApplyPolicy, now: u64) -> Decision {
    require_admin(state, actor)?;
    let ApplyPolicy { policy, mode, expected, is_strict } = apply;
    if let Some((line, failure)) = policy.failures.first() {
        let others = policy.failures.len() - 1;
        return Err(PolicyError::TestFails { line: *line, failure: failure.clone(), others }.into());
    }
    if let Some((line, warning)) = policy.warnings.first().filter(|_| is_strict) {
        let others = policy.warnings.len() - 1;
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        return Err(PolicyError::DoesNothing { what: format!("{place}{warning}"), others }.into());
    }
    let next = Next { mode: Some(mode), document: policy.document, text: policy.text };

    replace(state, actor, next, None, expected, now)
}

/// Has an earlier policy replace the live one, or none for revision 0.
pub(super) fn roll_back(
    state: &ClusterState,
    actor: Actor,
    to: u64,
    expected: Option<u64>,
    now: u64,
) -> Decision {
    require_admin(state, actor)?;
    let next = match to {
        0 => Next::default(),
        to => {
            let kept = state.policies().get(&to).ok_or(PolicyError::NotKept(to))?;
            let policy = Policy::parse(&kept.document).map_err(PolicyError::from)?;
            Next { mode: kept.mode, document: kept.document.clone(), text: canonical(policy) }
        }
    };

    replace(state, actor, next, Some(to), expected, now)
}

/// What is to be live; nothing without a mode.
#[derive(Debug, Default)]
struct Next {
    mode: Option<FilterMode>,
    document: String,
    text: String,
}

fn replace(
    state: &ClusterState,
    actor: Actor,
    next: Next,
    rolled_back_to: Option<u64>,
    expected: Option<u64>,
    now: u64,
) -> Decision {
    let last = state.policies().values().next_back();
    let (mode, document) = last.map_or((None, ""), |last| (last.mode, &last.document));
    // Asked again, perhaps because the first answer was lost.
    if (mode, document) == (next.mode, next.document.as_str()) {
        return Ok((
            Reply::Policy { live: last.cloned().map(Box::new), changed: false },
            Vec::new(),
        ));
    }
    let live = state.view().policy.as_ref().map_or(0, |live| live.revision);
    if let Some(expected) = expected.filter(|expected| *expected != live) {
        return Err(PolicyError::Moved { live, expected }.into());
    }

    let revision = last.map_or(0, |last| last.revision) + 1;
    let applied = AppliedPolicy {
        revision,
        at: now,
        by: creator(state, actor)?,
        mode: next.mode,
        rolled_back_to,
        document: next.document,
    };
    let row = match next.mode {
        Some(mode) => Change::Policy(ClusterPolicy { revision, mode, text: next.text }),
        None => Change::Removed(RowKey::Policy),
    };
    let forgotten = forgotten(state, applied.document.len()).map(Record::RemoveAppliedPolicy);
    let records = forgotten.chain([Record::AppliedPolicy(applied.clone()), Record::Row(row)]);
    let records = records.collect();

    Ok((Reply::Policy { live: Some(Box::new(applied)), changed: true }, records))
}

/// Lists the revisions that are kept no longer once another one, of so many bytes, is.
fn forgotten(state: &ClusterState, mut bytes: usize) -> impl Iterator<Item = u64> + '_ {
    let latest_first = state.policies().values().rev().zip(1..);
    let forgotten = latest_first.skip_while(move |(policy, count)| {
        bytes += policy.document.len();
        *count < limits::MAX_POLICIES && bytes <= limits::MAX_POLICY_BYTES
    });

    forgotten.map(|(policy, _)| policy.revision)
}
