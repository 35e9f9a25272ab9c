//! The policy of a cluster, as a row of the membership, and the part of it that a node may know.

use serde::{Deserialize, Serialize};

use super::selector::{EndpointSelector, RuleSide};
use super::{FilterMode, Policy, PolicyRule};
use crate::name::Name;

/// The policy of a cluster. A cluster without one lets everything pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterPolicy {
    /// Which of the applied policies it is, counted from 1.
    pub revision: u64,
    /// Whether it is kept to, or only counted.
    pub mode: FilterMode,
    /// The policy in canonical form, without its tests; at most [`super::MAX_POLICY`] bytes.
    pub text: String,
}

impl Policy {
    /// Returns the part for someone who may know of some networks only: without the defaults and
    /// the rules of others, and without what could select only endpoints of others. On the networks
    /// that it is for, it decides everything as the whole does.
    pub fn without_hidden(&self, shows: impl Fn(&Name) -> bool) -> Self {
        let is_shown = |network: &Option<Name>| network.as_ref().is_none_or(&shows);
        let side = |side: &RuleSide| match side {
            RuleSide::Any => Some(RuleSide::Any),
            RuleSide::Selected(all) => {
                let left: Vec<_> =
                    all.iter().filter(|one| is_shown(&one.network)).cloned().collect();
                (!left.is_empty()).then_some(RuleSide::Selected(left))
            }
        };
        // A rule of which one side selects nothing any more matches nothing on those networks.
        let rule = |rule: &PolicyRule| {
            is_shown(&rule.network).then_some(())?;
            let (from, to) = (side(&rule.from)?, side(&rule.to)?);
            Some(PolicyRule { from, to, ..rule.clone() })
        };
        let defaults = self.defaults.iter().filter(|(network, _)| shows(network));
        let tests = self.tests.iter().filter(|test| is_shown(&test.network));

        Self {
            defaults: defaults.map(|(network, action)| (network.clone(), *action)).collect(),
            rules: self.rules.iter().filter_map(rule).collect(),
            tests: tests.cloned().collect(),
        }
    }

    /// Lists every network that the policy names, in selectors too; some more than once.
    pub fn named_networks(&self) -> impl Iterator<Item = &Name> {
        let selected = self.rules.iter().flat_map(|rule| {
            let selectors = [&rule.from, &rule.to].into_iter().flat_map(RuleSide::selectors);
            selectors.filter_map(|one: &EndpointSelector| one.network.as_ref())
        });
        let tested = self.tests.iter().filter_map(|test| test.network.as_ref());

        self.networks().chain(selected).chain(tested)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::PolicyEndpoint;
    use crate::policy::testing::{endpoint, name, policy, traffic};

    #[test]
    fn a_rule_that_selects_only_what_is_hidden_is_gone() {
        let text = r#"
[network.ops]
default = "deny"

[[rule]]
name = "a"
from = [{ network = "ops" }, { role = "web" }]
to = "any"
allow = "any"

[[rule]]
name = "b"
from = "any"
to = { network = "ops", role = "db" }
deny = "any"

[[rule]]
name = "c"
network = "ops"
from = "any"
to = "any"
deny = "any"
"#;
        let policy = Policy::parse(text).expect("a policy");

        let seen = policy.without_hidden(|network| *network != name("ops"));

        assert_eq!(
            seen.to_string(),
            "[[rule]]\nname = \"a\"\nfrom = { role = \"web\" }\nto = \"any\"\nallow = \"any\"\n"
        );
        assert_eq!(policy.without_hidden(|_| true), policy);
    }

    proptest! {
        /// Invariant 12.
        #[test]
        fn what_is_left_names_nothing_hidden_and_decides_as_the_whole(
            policy in policy(),
            from in endpoint(),
            to in endpoint(),
            traffic in traffic(),
            network in prop::sample::select(vec!["shop", "ops", "lab"]).prop_map(name),
            has_lab in any::<bool>(),
        ) {
            let shows = |one: &Name| *one == network || (has_lab && *one == name("lab"));
            let seen = policy.without_hidden(shows);

            prop_assert!(seen.named_networks().all(shows), "{}", seen);
            // The tests of a policy name networks in one place more.
            let text = Policy { tests: Vec::new(), ..seen.clone() }.to_string();
            for hidden in ["shop", "ops"].map(name).iter().filter(|one| !shows(one)) {
                prop_assert!(!text.contains(hidden.as_str()), "{}", text);
            }
            let is_in = |one| PolicyEndpoint { network: Some(network.clone()), ..one };
            let (from, to) = (is_in(from), is_in(to));
            let decide = |policy: &Policy| {
                let ruling = policy.decide(Some(&network), &from, &to, traffic);
                (ruling.action, ruling.rule.map(|rule| rule.name.clone()))
            };
            prop_assert_eq!(decide(&seen), decide(&policy));
            prop_assert_eq!(Policy::parse(&seen.to_string()), Ok(seen));
        }
    }
}
