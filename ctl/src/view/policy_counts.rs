//! What was counted by the rules of the policy, and by the guard.

use overlay_proto::v1;
use serde::Serialize;

use super::sample;
use crate::output::{Column, Page, Report, bytes, table, wrapped};

/// A counter of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PolicyCountView {
    network: String,
    /// What counts: `rule`, `default`, `unknown`, `invalid` or `guard`.
    counter: &'static str,
    rule: Option<String>,
    /// Why the guard refused packets.
    reason: Option<String>,
    /// What becomes of the packets: `allow`, `deny`, or `would deny` in shadow.
    verdict: &'static str,
    packets: u64,
    bytes: u64,
    /// Whether the policy is in force; otherwise nothing is counted.
    in_force: bool,
}

impl PolicyCountView {
    fn new(network: &v1::NetworkPolicyCounts, count: v1::PolicyCount) -> Self {
        let counter = match count.counter() {
            v1::PolicyCounter::Rule => "rule",
            v1::PolicyCounter::Default => "default",
            v1::PolicyCounter::Unknown => "unknown",
            v1::PolicyCounter::Invalid => "invalid",
            v1::PolicyCounter::Unspecified => "other",
        };

        Self {
            network: network.network.clone(),
            counter,
            rule: (!count.rule.is_empty()).then_some(count.rule),
            reason: None,
            verdict: match (count.refused, network.mode()) {
                (false, _) => "allow",
                (true, v1::PolicyMode::Shadow) => "would deny",
                (true, v1::PolicyMode::Enforced | v1::PolicyMode::Unspecified) => "deny",
            },
            packets: count.packets,
            bytes: count.bytes,
            in_force: network.in_force,
        }
    }

    fn of_guard(network: &str, count: v1::GuardCount) -> Self {
        Self {
            network: network.to_owned(),
            counter: GUARD,
            rule: None,
            reason: Some(count.reason),
            verdict: "deny",
            packets: count.packets,
            bytes: count.bytes,
            in_force: true,
        }
    }

    fn title(&self) -> String {
        if let Some(reason) = &self.reason {
            return format!("(guard: {reason})");
        }
        let other = match self.counter {
            "default" => "(default)",
            "unknown" => "(unknown address)",
            "invalid" => "(no flow)",
            _ => "(other)",
        };

        self.rule.clone().unwrap_or_else(|| other.to_owned())
    }
}

/// The guard's counter.
const GUARD: &str = "guard";

/// The counters of all networks of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct PolicyCounts(Vec<PolicyCountView>);

impl From<v1::PolicyCountsResponse> for PolicyCounts {
    fn from(response: v1::PolicyCountsResponse) -> Self {
        let of = |mut network: v1::NetworkPolicyCounts| {
            let counts = std::mem::take(&mut network.counts);
            let name = network.network.clone();
            let guard = std::mem::take(&mut network.guard).into_iter();
            let guard = guard.map(move |count| PolicyCountView::of_guard(&name, count));
            let rules = counts.into_iter().map(move |count| PolicyCountView::new(&network, count));
            rules.chain(guard)
        };

        Self(response.networks.into_iter().flat_map(of).collect())
    }
}

const COLUMNS: [Column; 5] = [
    Column::name("NETWORK"),
    Column::name("RULE"),
    Column::left("VERDICT"),
    Column::right("PACKETS"),
    Column::right("SIZE").leaves(1),
];
const NOTE: &str = "This node alone: of what is refused every packet, of what passes the first of \
                    each flow.";

impl Report for PolicyCounts {
    fn text(&self, page: Page) -> String {
        // Of what nobody may do, only what somebody tried.
        let is_news = |count: &&PolicyCountView| count.counter != GUARD || count.packets > 0;
        let shown: Vec<_> = self.0.iter().filter(is_news).collect();
        if shown.is_empty() {
            return "nothing is counted: the policy leaves the networks of this node open"
                .to_owned();
        }
        let row = |count: &&PolicyCountView| {
            let verdict = if count.in_force { count.verdict } else { "not in force" };
            vec![
                count.network.clone().into(),
                count.title().into(),
                verdict.into(),
                count.packets.to_string().into(),
                bytes(count.bytes).into(),
            ]
        };
        let rows = table(page, &COLUMNS, &shown.iter().map(row).collect::<Vec<_>>());

        format!("{rows}\n\n{}", wrapped(page, NOTE))
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.0.iter().filter_map(|count| count.rule.clone()).collect())
    }

    fn sample() -> Option<serde_json::Value> {
        let network = v1::NetworkPolicyCounts::default();

        sample(PolicyCountView::new(&network, v1::PolicyCount::default()))
    }
}
