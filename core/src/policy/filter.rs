//! A policy made ready for one network's packets: which addresses a rule is about, instead of which
//! labels.
//!
//! The rules of a filter come from the policy alone, its sets from the endpoints alone: an endpoint
//! that comes, goes or gets other labels changes elements of sets, and no rule.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::decide::PolicyEndpoint;
use super::selector::RuleSide;
use super::term::{Term, Traffic};
use super::{Policy, PolicyAction};
use crate::name::Name;

/// What becomes of packets that a filter refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilterMode {
    /// They are dropped, and counted.
    Enforced,
    /// They pass, and are counted as if they were dropped.
    Shadow,
}

/// A policy for the packets of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Whether what is refused is dropped.
    pub mode: FilterMode,
    /// What happens to what no rule matches.
    pub default: PolicyAction,
    /// The rules, in the order in which they are tried.
    pub rules: Vec<FilterRule>,
    /// The addresses that rules are about; rules name them by their place here.
    pub sets: Vec<BTreeSet<IpAddr>>,
    /// The addresses of all endpoints. Nothing is known of others, so nothing is carried from or to
    /// them.
    pub known: BTreeSet<IpAddr>,
    /// The addresses of the nodes themselves, which the policy is not about: ICMP passes between
    /// them and endpoints, and nothing else does.
    pub nodes: BTreeSet<IpAddr>,
    /// The addresses of endpoints of linked networks, which are known as well. Between two of them
    /// nothing is carried: this network is no way from one to another.
    pub linked: BTreeSet<IpAddr>,
    /// Those of them from and to which only that passes what a rule allows.
    pub closed: BTreeSet<IpAddr>,
    /// How the network is linked.
    pub links: FilterLinks,
}

/// How the network of a [`Filter`] is linked with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum FilterLinks {
    /// Not at all.
    #[default]
    None,
    /// With networks that the default is for as well.
    Open,
    /// With some for which only rules are.
    Closed,
}

/// A rule of a [`Filter`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterRule {
    /// The policy's rule.
    pub name: Name,
    /// The set that has the sender; every endpoint where there is none.
    pub from: Option<usize>,
    /// The set that has the receiver; every endpoint where there is none.
    pub to: Option<usize>,
    /// What becomes of what it matches.
    pub action: PolicyAction,
    /// The protocols and ports.
    pub terms: Vec<Term>,
    /// Whether the first packet of each flow is logged.
    pub log: bool,
}

/// Why a filter lets a flow pass or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterReason<'a> {
    /// A rule says so.
    Rule(&'a FilterRule),
    /// The network's default says so.
    Default,
    /// One end is no endpoint that is known.
    Unknown,
    /// One end is a node.
    Node,
}

impl Filter {
    /// Makes a policy ready for a network. `endpoints` are those of the network, each with
    /// addresses of its own; `nodes` are the nodes' own addresses there.
    pub fn compile<'e>(
        policy: &Policy,
        network: &Name,
        endpoints: impl Iterator<Item = &'e PolicyEndpoint> + Clone,
        nodes: BTreeSet<IpAddr>,
        mode: FilterMode,
    ) -> Self {
        let (rules, distinct) = rules(policy, network);
        let addresses = |side: &RuleSide| {
            let selected = endpoints.clone().filter(|endpoint| side.contains(endpoint));
            selected.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect()
        };

        Self {
            mode,
            default: policy.default_of(Some(network)),
            rules,
            sets: distinct.into_iter().map(addresses).collect(),
            known: addresses(&RuleSide::Any),
            nodes,
            linked: BTreeSet::new(),
            closed: BTreeSet::new(),
            links: FilterLinks::None,
        }
    }

    /// Returns whether everything passes, so that no packet need be looked at.
    pub fn is_open(&self) -> bool {
        self.default == PolicyAction::Allow
            && self.links != FilterLinks::Closed
            && self.rules.iter().all(|rule| rule.action == PolicyAction::Allow && !rule.log)
    }

    /// Decides about a flow from one address to another.
    pub fn decide(
        &self,
        from: IpAddr,
        to: IpAddr,
        traffic: Traffic,
    ) -> (PolicyAction, FilterReason<'_>) {
        let is_node = |one: &IpAddr| self.nodes.contains(one);
        let is_known = |one: &IpAddr| self.known.contains(one);
        if (is_node(&from) && is_known(&to) || is_known(&from) && is_node(&to))
            && traffic == Traffic::Icmp
        {
            return (PolicyAction::Allow, FilterReason::Node);
        }
        let is_foreign = self.linked.contains(&from) && self.linked.contains(&to);
        if !is_known(&from) || !is_known(&to) || is_foreign {
            return (PolicyAction::Deny, FilterReason::Unknown);
        }
        let has = |set: Option<usize>, one| set.is_none_or(|set| self.sets[set].contains(one));
        let rule = self.rules.iter().find(|rule| {
            has(rule.from, &from)
                && has(rule.to, &to)
                && rule.terms.iter().any(|term| term.matches(traffic))
        });

        match rule {
            Some(rule) => (rule.action, FilterReason::Rule(rule)),
            None if self.closed.contains(&from) || self.closed.contains(&to) => {
                (PolicyAction::Deny, FilterReason::Default)
            }
            None => (self.default, FilterReason::Default),
        }
    }

    /// Returns whether another filter has the same rules, so that it differs in elements of sets at
    /// most.
    pub fn has_rules_of(&self, other: &Self) -> bool {
        (self.mode, self.default, &self.rules, self.sets.len(), self.links)
            == (other.mode, other.default, &other.rules, other.sets.len(), other.links)
    }

    /// Returns whether flows that `before` let pass must be looked at again: an address is no
    /// longer what it was. One that is new had no flow.
    pub fn unsettles(&self, before: &Self) -> bool {
        let pairs = self.sets.iter().zip(&before.sets);
        let is_regrouped = |(now, was): (&BTreeSet<IpAddr>, &BTreeSet<IpAddr>)| {
            now.symmetric_difference(was).any(|one| before.known.contains(one))
        };

        !self.has_rules_of(before)
            || pairs.into_iter().any(is_regrouped)
            || is_regrouped((&self.linked, &before.linked))
            || is_regrouped((&self.closed, &before.closed))
            || !self.known.is_superset(&before.known)
            || !self.nodes.is_superset(&before.nodes)
    }
}

/// Returns the rules for a network, and what each of their sets has to have.
pub(super) fn rules<'a>(
    policy: &'a Policy,
    network: &'a Name,
) -> (Vec<FilterRule>, Vec<&'a RuleSide>) {
    let mut places: BTreeMap<&RuleSide, usize> = BTreeMap::new();
    let mut distinct = Vec::new();
    let mut place = |side: &'a RuleSide| match side {
        RuleSide::Any => None,
        RuleSide::Selected(_) => Some(*places.entry(side).or_insert_with(|| {
            distinct.push(side);
            distinct.len() - 1
        })),
    };
    let rules = policy.rules_of(Some(network)).map(|rule| FilterRule {
        name: rule.name.clone(),
        from: place(&rule.from),
        to: place(&rule.to),
        action: rule.action,
        terms: rule.terms.clone(),
        log: rule.log,
    });

    (rules.collect(), distinct)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::testing::{EXAMPLE, endpoint, labelled, name, policy, traffic};

    fn address(n: usize) -> IpAddr {
        format!("10.0.0.{n}").parse().expect("an address")
    }

    /// Gives each endpoint an address of its own and puts it on a network.
    fn placed(network: &Name, endpoints: Vec<PolicyEndpoint>) -> Vec<PolicyEndpoint> {
        let place = |(n, endpoint): (usize, PolicyEndpoint)| PolicyEndpoint {
            network: Some(network.clone()),
            addresses: vec![address(n), format!("fd00::{n}").parse().expect("an address")],
            ..endpoint
        };

        endpoints.into_iter().enumerate().map(place).collect()
    }

    fn compiled(policy: &Policy, endpoints: &[PolicyEndpoint]) -> Filter {
        let nodes = [address(200)].into();

        Filter::compile(policy, &name("shop"), endpoints.iter(), nodes, FilterMode::Enforced)
    }

    #[test]
    fn an_endpoint_changes_sets_and_no_rule() {
        let policy = Policy::parse(EXAMPLE).expect("the example");
        let (web, db) = (labelled("shop", "role", "web"), labelled("shop", "role", "db"));
        let all = placed(&name("shop"), vec![web, db.clone(), db]);
        let (one, two) = (compiled(&policy, &all[..2]), compiled(&policy, &all));
        let mut moved = all.clone();
        moved[1].labels.clear();
        let regrouped = compiled(&policy, &moved);

        assert!(two.has_rules_of(&one) && two != one && !two.unsettles(&one));
        assert!(one.unsettles(&two), "an address that is gone may come back as another endpoint's");
        assert!(regrouped.has_rules_of(&two) && regrouped.unsettles(&two));
        assert!(compiled(&Policy::default(), &all).unsettles(&two));
    }

    #[test]
    fn a_policy_that_refuses_nothing_is_open() {
        let all = "[[rule]]\nname = \"a\"\nfrom = \"any\"\nto = \"any\"\nallow = \"any\"\n";
        let is_open = |text: &str| compiled(&Policy::parse(text).expect("a policy"), &[]).is_open();

        assert!(is_open("") && is_open(all));
        assert!(!is_open(EXAMPLE) && !is_open(&format!("{all}log = true")));
        assert!(!is_open(&all.replace("allow", "deny")));
    }

    #[test]
    fn nodes_are_pinged_and_strangers_are_refused() {
        let endpoints = placed(&name("shop"), vec![labelled("shop", "role", "web")]);
        let filter = compiled(&Policy::default(), &endpoints);
        let decide = |from, to, traffic| filter.decide(address(from), address(to), traffic);

        for (from, to) in [(200, 0), (0, 200)] {
            let allowed = (PolicyAction::Allow, FilterReason::Node);
            assert_eq!(decide(from, to, Traffic::Icmp), allowed);
        }
        for (from, to, traffic) in [
            (200, 0, Traffic::Tcp(80)),
            (0, 99, Traffic::Icmp),
            (99, 0, Traffic::Icmp),
            (200, 99, Traffic::Icmp),
        ] {
            let refused = (PolicyAction::Deny, FilterReason::Unknown);
            assert_eq!(decide(from, to, traffic), refused, "{from} {to}");
        }
    }

    proptest! {
        #[test]
        fn a_filter_decides_as_its_policy_does(
            policy in policy(),
            endpoints in prop::collection::vec(endpoint(), 1..5),
            traffic in prop::collection::vec(traffic(), 1..6),
        ) {
            let network = name("shop");
            let endpoints = placed(&network, endpoints);
            let filter = compiled(&policy, &endpoints);

            let pairs = endpoints.iter().flat_map(|a| endpoints.iter().map(move |b| (a, b)));
            for ((from, to), traffic) in pairs.flat_map(|p| traffic.iter().map(move |t| (p, *t))) {
                let wanted = policy.decide(Some(&network), from, to, traffic);
                for (from, to) in from.addresses.iter().zip(&to.addresses) {
                    let (action, reason) = filter.decide(*from, *to, traffic);
                    let rule = match reason {
                        FilterReason::Rule(rule) => Some(&rule.name),
                        FilterReason::Default | FilterReason::Unknown | FilterReason::Node => None,
                    };
                    prop_assert_eq!(action, wanted.action);
                    prop_assert_eq!(rule, wanted.rule.map(|rule| &rule.name));
                }
            }
        }
    }
}
