//! What came of a test of a policy, and what differs between two.

use overlay_core::policy::{
    CaseFailure, InvalidPolicy, Policy, PolicyDiff, PolicyMistake, PolicyWarning, RuleChange,
    VerdictChange, VerdictChanges,
};
use serde::Serialize;

use crate::output::{Page, Report, wrapped};

/// A policy that was tested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TestedPolicy {
    file: String,
    pub(crate) ok: bool,
    rules: usize,
    tests: usize,
    mistakes: Vec<MistakeView>,
    /// Mistakes beyond those.
    more_mistakes: usize,
    failures: Vec<String>,
    warnings: Vec<String>,
}

/// A mistake in a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct MistakeView {
    line: usize,
    column: usize,
    key: String,
    reason: String,
    remedy: String,
    #[serde(skip)]
    text: String,
}

impl From<PolicyMistake> for MistakeView {
    fn from(mistake: PolicyMistake) -> Self {
        let text = mistake.to_string();
        let PolicyMistake { line, column, key, reason, remedy } = mistake;

        Self { line, column, key, reason, remedy, text }
    }
}

impl TestedPolicy {
    /// A file that is no policy.
    pub(crate) fn mistaken(file: String, invalid: InvalidPolicy) -> Self {
        Self {
            file,
            ok: false,
            rules: 0,
            tests: 0,
            mistakes: invalid.mistakes.into_iter().map(Into::into).collect(),
            more_mistakes: invalid.more,
            failures: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// A policy whose tests were tried.
    pub(crate) fn tested(
        file: String,
        policy: &Policy,
        failures: &[CaseFailure],
        warnings: &[PolicyWarning],
    ) -> Self {
        Self {
            file,
            ok: failures.is_empty(),
            rules: policy.rules.len(),
            tests: policy.tests.len(),
            mistakes: Vec::new(),
            more_mistakes: 0,
            failures: failures.iter().map(ToString::to_string).collect(),
            warnings: warnings.iter().map(ToString::to_string).collect(),
        }
    }

    /// Takes it for unsound if it has warnings, where that is asked for.
    pub(crate) fn strictly(self, is_strict: bool) -> Self {
        let ok = self.ok && (!is_strict || self.warnings.is_empty());

        Self { ok, ..self }
    }

    fn summary(&self) -> String {
        let Self { file, rules, tests, .. } = self;
        let mistakes = self.mistakes.len() + self.more_mistakes;

        if mistakes > 0 {
            format!("{file}: {}", counted(mistakes, "mistake"))
        } else if self.ok {
            format!("{file} is sound: {}, {}", counted(*rules, "rule"), counted(*tests, "test"))
        } else if self.failures.is_empty() {
            format!("{file}: not all of it does something")
        } else {
            format!("{file}: not all tests hold")
        }
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Writes sentences below each other, as wide as the terminal.
pub(super) fn lines(page: Page, sentences: impl IntoIterator<Item = String>) -> String {
    let lines: Vec<_> = sentences.into_iter().map(|one| wrapped(page, &one)).collect();

    lines.join("\n")
}

impl Report for TestedPolicy {
    fn text(&self, page: Page) -> String {
        let mistakes = self.mistakes.iter().map(|mistake| mistake.text.clone());
        let more = (self.more_mistakes > 0).then(|| format!("and {} more", self.more_mistakes));
        let failures = self.failures.iter().cloned();
        let warnings = self.warnings.iter().map(|warning| format!("warning: {warning}"));
        let all = mistakes.chain(more).chain(failures).chain(warnings);

        lines(page, std::iter::once(self.summary()).chain(all))
    }
}

/// What differs between two policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PolicyDifference {
    defaults: Vec<DefaultView>,
    rules: Vec<RuleView>,
    tests_differ: bool,
    /// What becomes of packets between endpoints; nothing where that was not asked for.
    verdicts: Option<Vec<VerdictView>>,
    /// Whether there are more changes than these.
    more_verdicts: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct DefaultView {
    network: String,
    before: &'static str,
    after: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct RuleView {
    rule: String,
    change: &'static str,
    #[serde(skip)]
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct VerdictView {
    network: String,
    from: Vec<String>,
    from_count: usize,
    to: Vec<String>,
    to_count: usize,
    traffic: String,
    before: &'static str,
    before_by: String,
    after: &'static str,
    after_by: String,
    #[serde(skip)]
    text: String,
}

impl From<&RuleChange> for RuleView {
    fn from(change: &RuleChange) -> Self {
        let (rule, word) = match change {
            RuleChange::Added(rule) => (rule, "added"),
            RuleChange::Removed(rule) => (rule, "removed"),
            RuleChange::Changed(rule) => (rule, "changed"),
            RuleChange::Moved(rule) => (rule, "moved"),
        };

        Self { rule: rule.to_string(), change: word, text: change.to_string() }
    }
}

impl From<&VerdictChange> for VerdictView {
    fn from(change: &VerdictChange) -> Self {
        let names = |names: &[overlay_core::Name]| names.iter().map(ToString::to_string).collect();

        Self {
            network: change.network.to_string(),
            from: names(&change.from.0),
            from_count: change.from.1,
            to: names(&change.to.0),
            to_count: change.to.1,
            traffic: change.traffic.to_string(),
            before: change.before.0.as_str(),
            before_by: change.before.1.clone(),
            after: change.after.0.as_str(),
            after_by: change.after.1.clone(),
            text: change.to_string(),
        }
    }
}

impl PolicyDifference {
    pub(crate) fn new(diff: &PolicyDiff, verdicts: Option<&VerdictChanges>) -> Self {
        let default = |(network, before, after): &(overlay_core::Name, _, _)| {
            let word = |action: &overlay_core::policy::PolicyAction| action.as_str();
            DefaultView { network: network.to_string(), before: word(before), after: word(after) }
        };

        Self {
            defaults: diff.defaults.iter().map(default).collect(),
            rules: diff.rules.iter().map(Into::into).collect(),
            tests_differ: diff.tests,
            verdicts: verdicts.map(|found| found.changes.iter().map(Into::into).collect()),
            more_verdicts: verdicts.is_some_and(|found| !found.is_complete),
        }
    }
}

impl Report for PolicyDifference {
    fn text(&self, page: Page) -> String {
        let default = |one: &DefaultView| {
            format!("network {}: the default is {}, was {}", one.network, one.after, one.before)
        };
        let rules = self.rules.iter().map(|rule| rule.text.clone());
        let tests = self.tests_differ.then(|| "the tests differ".to_owned());
        let verdicts = self.verdicts.iter().flatten().map(|verdict| verdict.text.clone());
        let more = self.more_verdicts.then(|| "and more".to_owned());
        let documents: Vec<_> =
            self.defaults.iter().map(default).chain(rules).chain(tests).collect();
        let same = documents.is_empty().then(|| "the policies say the same".to_owned());
        let none = self.verdicts.as_ref().is_some_and(Vec::is_empty) && !documents.is_empty();
        let none = none.then(|| "nothing else becomes of packets between endpoints".to_owned());

        lines(page, documents.into_iter().chain(same).chain(verdicts).chain(more).chain(none))
    }
}
