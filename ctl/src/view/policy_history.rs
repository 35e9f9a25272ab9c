//! What became of the live policy, what it says, and what was live before it.

use overlay_proto::v1;
use serde::Serialize;

use super::policy::lines;
use super::sample;
use crate::output::{Column, Page, Report, bytes, table};
use crate::time;

/// A policy that is or was live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct AppliedPolicyView {
    revision: u64,
    live: bool,
    /// What was done: `applied`, `shadowed`, `rolled back to 3` or `removed`.
    what: String,
    rolled_back_to: Option<u64>,
    mode: Option<&'static str>,
    applied: Option<String>,
    by: Option<String>,
    by_id: Option<String>,
    bytes: u32,
    #[serde(skip)]
    applied_unix: u64,
}

impl From<v1::AppliedPolicy> for AppliedPolicyView {
    fn from(policy: v1::AppliedPolicy) -> Self {
        let mode = mode(policy.mode);
        let (by, by_id) = policy.by.map(|by| (by.node_name, by.node)).unzip();

        Self {
            revision: policy.revision,
            live: policy.live,
            what: match (mode, policy.rolled_back_to) {
                (None, _) => "removed".to_owned(),
                (Some(_), Some(to)) => format!("rolled back to {to}"),
                (Some("shadow"), None) => "shadowed".to_owned(),
                (Some(_), None) => "applied".to_owned(),
            },
            rolled_back_to: policy.rolled_back_to,
            mode,
            applied: time::utc(policy.applied_unix),
            by,
            by_id,
            bytes: policy.bytes,
            applied_unix: policy.applied_unix,
        }
    }
}

fn mode(raw: i32) -> Option<&'static str> {
    match v1::PolicyMode::try_from(raw) {
        Ok(v1::PolicyMode::Enforced) => Some("enforced"),
        Ok(v1::PolicyMode::Shadow) => Some("shadow"),
        Ok(v1::PolicyMode::Unspecified) => None,
        Err(_) => Some("unknown"),
    }
}

/// What a request to replace the live policy came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ReplacedPolicy {
    changed: bool,
    /// What is live now, or how it came that nothing is.
    policy: Option<AppliedPolicyView>,
    warnings: Vec<String>,
    /// Warnings beyond those.
    more_warnings: u32,
}

impl From<v1::PolicyReplaced> for ReplacedPolicy {
    fn from(replaced: v1::PolicyReplaced) -> Self {
        Self {
            changed: replaced.changed,
            policy: replaced.policy.map(Into::into),
            warnings: replaced.warnings,
            more_warnings: replaced.more_warnings,
        }
    }
}

impl ReplacedPolicy {
    fn summary(&self) -> String {
        let live = self.policy.as_ref().filter(|policy| policy.live);
        match (live, self.changed) {
            (Some(AppliedPolicyView { revision, mode: Some("shadow"), .. }), true) => format!(
                "revision {revision} of the policy is live as a shadow: what it refuses is \
                 counted, and passes"
            ),
            (Some(AppliedPolicyView { revision, .. }), true) => {
                format!("revision {revision} of the policy is live")
            }
            (Some(AppliedPolicyView { revision, .. }), false) => {
                format!("revision {revision} of the policy is the same, and live already")
            }
            (None, true) => "there is no policy any more: everything passes".to_owned(),
            (None, false) => "there is no policy: everything passes".to_owned(),
        }
    }
}

impl Report for ReplacedPolicy {
    fn text(&self, page: Page) -> String {
        let warnings = self.warnings.iter().map(|warning| format!("warning: {warning}"));
        let more = (self.more_warnings > 0).then(|| format!("and {} more", self.more_warnings));

        lines(page, std::iter::once(self.summary()).chain(warnings).chain(more))
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.policy.iter().map(|policy| policy.revision.to_string()).collect())
    }
}

/// A policy with its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ShownPolicy {
    policy: Option<AppliedPolicyView>,
    /// As it was given, with comments and tests; nothing where only the canonical form is known.
    document: Option<String>,
    /// In canonical form, without tests.
    text: String,
    /// Whether networks that this node may not enter are left out.
    partial: bool,
    #[serde(skip)]
    canonical: bool,
}

impl ShownPolicy {
    pub(crate) fn new(shown: v1::ShowPolicyResponse, canonical: bool) -> Self {
        Self {
            policy: shown.policy.map(Into::into),
            document: (!shown.partial).then_some(shown.document),
            text: shown.text,
            partial: shown.partial,
            canonical,
        }
    }

    fn heading(&self) -> String {
        let Some(policy) = &self.policy else {
            return "# there is no policy: everything passes".to_owned();
        };
        let mode = policy.mode.map(|mode| format!(", {mode}")).unwrap_or_default();
        let live = if policy.live { ", live" } else { "" };
        let at = policy.applied.as_ref().map(|at| format!(" {at}")).unwrap_or_default();
        let by = policy.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        let done = if at.is_empty() { String::new() } else { format!(": {}{at}{by}", policy.what) };

        format!("# revision {}{mode}{live}{done}", policy.revision)
    }
}

impl Report for ShownPolicy {
    /// What a file is to have is not wrapped.
    fn text(&self, _: Page) -> String {
        let document = self.document.as_ref().filter(|_| !self.canonical).unwrap_or(&self.text);

        format!("{}\n{document}", self.heading()).trim_end().to_owned()
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.policy.iter().map(|policy| policy.revision.to_string()).collect())
    }
}

/// The policies that are kept, the latest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct PolicyHistory(Vec<AppliedPolicyView>);

impl From<v1::ListPoliciesResponse> for PolicyHistory {
    fn from(response: v1::ListPoliciesResponse) -> Self {
        Self(response.policies.into_iter().map(Into::into).collect())
    }
}

/// Revision, what was done and when always stay.
const COLUMNS: [Column; 6] = [
    Column::right("REVISION"),
    Column::left("WHAT"),
    Column::left("STATE"),
    Column::left("WHEN"),
    Column::name("BY").leaves(2),
    Column::right("SIZE").leaves(1),
];

impl Report for PolicyHistory {
    fn text(&self, page: Page) -> String {
        let state = |policy: &AppliedPolicyView| match (policy.live, policy.mode) {
            (true, Some("shadow")) => "live, shadow",
            (true, _) => "live",
            (false, _) => "-",
        };
        let row = |policy: &AppliedPolicyView| {
            vec![
                policy.revision.to_string().into(),
                policy.what.clone().into(),
                state(policy).into(),
                format!("{} ago", time::lasting(page.now, policy.applied_unix)).into(),
                policy.by.clone().unwrap_or_else(|| "-".to_owned()).into(),
                bytes(policy.bytes.into()).into(),
            ]
        };

        table(page, &COLUMNS, &self.0.iter().map(row).collect::<Vec<_>>())
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.0.iter().map(|policy| policy.revision.to_string()).collect())
    }

    fn sample() -> Option<serde_json::Value> {
        sample(AppliedPolicyView::from(v1::AppliedPolicy::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(revision: u64, mode: v1::PolicyMode, to: Option<u64>) -> v1::AppliedPolicy {
        v1::AppliedPolicy {
            revision,
            applied_unix: 1_000,
            by: Some(v1::Creator { node: "0a".into(), node_name: "host-01".into() }),
            mode: mode.into(),
            rolled_back_to: to,
            bytes: 1_536,
            live: revision == 4,
        }
    }

    #[test]
    fn a_history_says_what_was_done() {
        let policies = vec![
            applied(4, v1::PolicyMode::Enforced, Some(1)),
            applied(3, v1::PolicyMode::Unspecified, Some(0)),
            applied(2, v1::PolicyMode::Shadow, None),
            applied(1, v1::PolicyMode::Enforced, None),
        ];

        let history = PolicyHistory::from(v1::ListPoliciesResponse { policies });

        assert_eq!(
            history.text(Page { now: 1_060, width: None, wide: false }),
            "REVISION  WHAT              STATE  WHEN       BY          SIZE\n       \
             4  rolled back to 1  live   1 min ago  host-01  1.5 KiB\n       \
             3  removed           -      1 min ago  host-01  1.5 KiB\n       \
             2  shadowed          -      1 min ago  host-01  1.5 KiB\n       \
             1  applied           -      1 min ago  host-01  1.5 KiB"
        );
    }

    #[test]
    fn what_is_shown_is_a_policy() {
        let shown = v1::ShowPolicyResponse {
            policy: Some(applied(4, v1::PolicyMode::Enforced, None)),
            document: "# mine\n[network.a]\ndefault = \"deny\"\n".into(),
            text: "[network.a]\ndefault = \"deny\"\n".into(),
            partial: false,
        };
        let text = |canonical| {
            let page = Page { now: 0, width: Some(40), wide: false };
            ShownPolicy::new(shown.clone(), canonical).text(page)
        };

        let heading = "# revision 4, enforced, live: applied 1970-01-01T00:16:40Z by host-01";
        assert_eq!(text(false), format!("{heading}\n# mine\n[network.a]\ndefault = \"deny\""));
        assert_eq!(text(true), format!("{heading}\n[network.a]\ndefault = \"deny\""));
        assert!(overlay_core::policy::Policy::parse(&text(false)).is_ok());
    }
}
