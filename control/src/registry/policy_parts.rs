//! The parts of the live policy that nodes may see. Thousands of nodes see few different ones, so
//! each is written once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use overlay_core::policy::{ClusterPolicy, Policy};
use overlay_core::{Name, visibility};

/// The most parts that are remembered: 16 MiB of the largest policy.
const MAX_PARTS: usize = 16;

/// A parsed policy, and parts of it.
#[derive(Debug)]
pub(super) struct PolicyParts {
    policy: Policy,
    /// The networks that it names.
    networks: BTreeSet<Name>,
    /// The texts, by which of those networks they are about.
    texts: Mutex<BTreeMap<BTreeSet<Name>, String>>,
}

/// What is remembered makes no difference.
impl PartialEq for PolicyParts {
    fn eq(&self, other: &Self) -> bool {
        self.policy == other.policy
    }
}

impl Eq for PolicyParts {}

impl PolicyParts {
    /// Parses a text; `None` for one that this version does not understand.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let policy = Policy::parse(text).ok()?;
        let networks = policy.named_networks().cloned().collect();

        Some(Self { policy, networks, texts: Mutex::default() })
    }

    /// Lists the networks that the policy names.
    pub(super) fn networks(&self) -> &BTreeSet<Name> {
        &self.networks
    }

    /// Returns the part for a node to which `shows` shows networks; `row` is the policy's row.
    pub(super) fn visible(
        &self,
        row: &ClusterPolicy,
        shows: impl Fn(&Name) -> bool,
    ) -> ClusterPolicy {
        let shown: BTreeSet<_> = self.networks.iter().filter(|name| shows(name)).cloned().collect();
        if shown.len() == self.networks.len() {
            return row.clone();
        }
        // Whoever wants the same part meanwhile waits for it instead of writing it, too.
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = texts.get(&shown) {
            return ClusterPolicy { text: text.clone(), ..*row };
        }
        let part = visibility::visible_policy(row, &self.policy, |name| shown.contains(name));
        if texts.len() >= MAX_PARTS {
            texts.clear();
        }
        texts.insert(shown, part.text.clone());

        part
    }
}

#[cfg(test)]
mod tests {
    use overlay_core::policy::FilterMode;

    use super::*;

    fn name(n: usize) -> Name {
        format!("net{n}").parse().expect("a name")
    }

    #[test]
    fn what_is_remembered_is_right_and_bounded() {
        let text: String =
            (0..30).map(|n| format!("[network.{}]\ndefault = \"deny\"\n\n", name(n))).collect();
        let policy = Policy::parse(&text).expect("a policy");
        let row = ClusterPolicy { revision: 1, mode: FilterMode::Enforced, text };
        let parts = PolicyParts::parse(&row.text).expect("a policy");

        for _ in 0..2 {
            for n in 0..30 {
                let shows = |one: &Name| *one != name(n);
                let expected = visibility::visible_policy(&row, &policy, shows);
                assert_eq!(parts.visible(&row, shows), expected);
                assert_eq!(parts.visible(&row, shows), expected, "asked again");
                assert!(!expected.text.contains(&format!("{}]", name(n))));
            }
            assert!(parts.texts.lock().expect("no panic").len() <= MAX_PARTS);
        }
        assert_eq!(parts.visible(&row, |_| true), row);
        assert_eq!(parts, PolicyParts::parse(&row.text).expect("a policy"));
    }
}
