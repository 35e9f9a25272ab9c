//! Endpoints that a policy treats alike, as one: of ten thousand there are few kinds.

use std::collections::BTreeMap;

use super::decide::PolicyEndpoint;
use super::rulings::Rulings;
use super::{Policy, PolicyRule};
use crate::name::Name;

/// The rules of one network in some policies, and which endpoints they match.
#[derive(Debug)]
pub(super) struct NetworkRules<'a> {
    network: Option<&'a Name>,
    policies: Vec<(&'a Policy, Vec<&'a PolicyRule>)>,
}

/// Endpoints that the same rules match.
#[derive(Debug)]
pub(super) struct Class<'e> {
    /// For each policy and rule, whether it matches them as senders, and as receivers.
    matched: Vec<Vec<(bool, bool)>>,
    /// The endpoints; at least one.
    pub(super) members: Vec<&'e PolicyEndpoint>,
}

impl<'a> NetworkRules<'a> {
    pub(super) fn new(network: Option<&'a Name>, policies: &[&'a Policy]) -> Self {
        let rules = |policy: &&'a Policy| (*policy, policy.rules_of(network).collect());

        Self { network, policies: policies.iter().map(rules).collect() }
    }

    /// Divides endpoints into classes.
    pub(super) fn classes<'e>(
        &self,
        endpoints: impl Iterator<Item = &'e PolicyEndpoint>,
    ) -> Vec<Class<'e>> {
        let mut classes: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for endpoint in endpoints {
            classes.entry(self.matched(endpoint)).or_default().push(endpoint);
        }

        classes.into_iter().map(|(matched, members)| Class { matched, members }).collect()
    }

    fn matched(&self, endpoint: &PolicyEndpoint) -> Vec<Vec<(bool, bool)>> {
        let of_rule =
            |rule: &&PolicyRule| (rule.from.contains(endpoint), rule.to.contains(endpoint));

        self.policies.iter().map(|(_, rules)| rules.iter().map(of_rule).collect()).collect()
    }

    /// Returns the verdicts of one of the policies on what one class sends to another.
    pub(super) fn rulings(&self, policy: usize, from: &Class<'_>, to: &Class<'_>) -> Rulings<'a> {
        let (policy_of, rules) = &self.policies[policy];
        let ends = from.matched[policy].iter().zip(&to.matched[policy]);
        let matching = rules
            .iter()
            .zip(ends)
            .filter_map(|(rule, (from, to))| (from.0 && to.1).then_some(*rule));

        Rulings::of(matching, policy_of.default_of(self.network))
    }
}
