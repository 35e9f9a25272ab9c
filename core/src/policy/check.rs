//! The tests of a policy.

use std::collections::BTreeSet;
use std::fmt;

use super::canonical::description;
use super::classes::{Class, NetworkRules};
use super::decide::{PolicyEndpoint, Ruling};
use super::rulings::TrafficRange;
use super::term::Term;
use super::{Policy, PolicyAction, PolicyTest, TestSide};
use crate::name::Name;

/// The most failures that are told: more than anybody mends at once.
const MAX_FAILURES: usize = 50;

/// A test that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaseFailure {
    /// There is no endpoint of a name.
    NoEndpoint {
        /// The number of the test in the document, from 1.
        test: usize,
        /// The name.
        name: Name,
        /// The network of the test, if it has one.
        network: Option<Name>,
    },
    /// The policy decides otherwise than the test has it.
    Wrong {
        /// The number of the test in the document, from 1.
        test: usize,
        /// The network; none where the policy names none.
        network: Option<Name>,
        /// Who sends.
        from: String,
        /// To whom.
        to: String,
        /// What is sent.
        traffic: TrafficRange,
        /// What the test wants.
        wanted: PolicyAction,
        /// What decides: a rule, or the network's default.
        decided_by: String,
    },
}

/// Lists the tests that do not hold, at most 50 failures. `endpoints` are those that tests may
/// name.
pub fn check(policy: &Policy, endpoints: &[PolicyEndpoint]) -> Vec<CaseFailure> {
    let tests = policy.tests.iter().zip(1..);
    let failures = tests.flat_map(|(test, number)| check_one(policy, test, number, endpoints));

    failures.take(MAX_FAILURES).collect()
}

fn check_one(
    policy: &Policy,
    test: &PolicyTest,
    number: usize,
    endpoints: &[PolicyEndpoint],
) -> Vec<CaseFailure> {
    let networks = match networks(policy, test, endpoints) {
        Ok(networks) => networks,
        Err(name) => {
            let (name, network) = (name.clone(), test.network.clone());
            return vec![CaseFailure::NoEndpoint { test: number, name, network }];
        }
    };

    networks
        .into_iter()
        .flat_map(|network| check_in(policy, test, number, network, endpoints))
        .take(MAX_FAILURES)
        .collect()
}

/// Returns the networks in which a test must hold, or the name that no endpoint has there.
fn networks<'a>(
    policy: &'a Policy,
    test: &'a PolicyTest,
    endpoints: &'a [PolicyEndpoint],
) -> Result<Vec<Option<&'a Name>>, &'a Name> {
    let mut found: Option<BTreeSet<&Name>> = None;
    for side in [&test.from, &test.to] {
        let TestSide::Named(name) = side else { continue };
        let of_it = endpoints.iter().filter(|one| one.name.as_ref() == Some(name));
        let of_it = of_it.filter_map(|one| one.network.as_ref());
        let its: BTreeSet<_> = of_it
            .filter(|network| test.network.as_ref().is_none_or(|wanted| wanted == *network))
            .filter(|network| found.as_ref().is_none_or(|found| found.contains(network)))
            .collect();
        if its.is_empty() {
            return Err(name);
        }
        found = Some(its);
    }
    let named = found.map(|found| found.into_iter().map(Some).collect::<Vec<_>>());
    let given = test.network.as_ref().map(|network| vec![Some(network)]);
    let all = || policy.networks().map(Some).collect::<Vec<_>>();
    let networks = named.or(given).unwrap_or_else(all);

    Ok(if networks.is_empty() { vec![None] } else { networks })
}

fn check_in(
    policy: &Policy,
    test: &PolicyTest,
    number: usize,
    network: Option<&Name>,
    endpoints: &[PolicyEndpoint],
) -> Vec<CaseFailure> {
    let rules = NetworkRules::new(network, &[policy]);
    let (from, to) =
        (candidates(&test.from, network, endpoints), candidates(&test.to, network, endpoints));
    let (from, to) = (rules.classes(from.iter()), rules.classes(to.iter()));
    let mut failures = Vec::new();
    for (sender, receiver) in from.iter().flat_map(|one| to.iter().map(move |other| (one, other))) {
        let rulings = rules.rulings(0, sender, receiver);
        let wanted = [(PolicyAction::Allow, &test.allow), (PolicyAction::Deny, &test.deny)];
        for (wanted, terms) in wanted {
            let wrong = terms.iter().flat_map(|term: &Term| rulings.on(*term));
            let wrong = wrong.filter(|(_, ruling)| ruling.action != wanted);
            failures.extend(wrong.map(|(traffic, ruling): (_, Ruling<'_>)| CaseFailure::Wrong {
                test: number,
                network: network.cloned(),
                from: shown(&test.from, sender),
                to: shown(&test.to, receiver),
                traffic,
                wanted,
                decided_by: ruling.reason(),
            }));
        }
        if failures.len() >= MAX_FAILURES {
            break;
        }
    }

    failures
}

/// Lists the endpoints that one side of a test is about, in one network.
fn candidates(
    side: &TestSide,
    network: Option<&Name>,
    endpoints: &[PolicyEndpoint],
) -> Vec<PolicyEndpoint> {
    match side {
        TestSide::Named(name) => {
            let is_it = |one: &&PolicyEndpoint| {
                one.name.as_ref() == Some(name) && one.network.as_ref() == network
            };
            endpoints.iter().filter(is_it).cloned().collect()
        }
        TestSide::Described(endpoint) => {
            vec![PolicyEndpoint { network: network.cloned(), ..(**endpoint).clone() }]
        }
    }
}

fn shown(side: &TestSide, class: &Class<'_>) -> String {
    match (side, &class.members[..]) {
        (TestSide::Named(name), [one, ..]) => match one.addresses.first() {
            Some(address) => format!("{name} ({address})"),
            None => name.to_string(),
        },
        (TestSide::Named(name), []) => name.to_string(),
        (TestSide::Described(endpoint), _) => description(endpoint),
    }
}

impl CaseFailure {
    /// Returns the number of the test in the document, from 1.
    pub fn test(&self) -> usize {
        match self {
            Self::NoEndpoint { test, .. } | Self::Wrong { test, .. } => *test,
        }
    }
}

impl fmt::Display for CaseFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let within = |network: &Option<Name>| {
            network.as_ref().map(|network| format!(" in {network}")).unwrap_or_default()
        };
        match self {
            Self::NoEndpoint { test, name, network } => write!(
                f,
                "test {test}: there is no endpoint {name}{}: start it, or describe it by labels",
                within(network)
            ),
            Self::Wrong { test, network, from, to, traffic, wanted, decided_by } => {
                let (is, must) = match wanted {
                    PolicyAction::Allow => ("refused", "pass"),
                    PolicyAction::Deny => ("allowed", "not pass"),
                };
                write!(
                    f,
                    "test {test}: {traffic} from {from} to {to}{} must {must}, and is {is} by \
                     {decided_by}",
                    within(network)
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{EXAMPLE, labelled, name};

    fn failures(text: &str, endpoints: &[PolicyEndpoint]) -> Vec<String> {
        let policy = Policy::parse(&format!("{EXAMPLE}{text}")).expect("a policy");

        check(&policy, endpoints).iter().map(ToString::to_string).collect()
    }

    fn named(network: &str, role: &str, text: &str) -> PolicyEndpoint {
        PolicyEndpoint { name: Some(name(text)), ..labelled(network, "role", role) }
    }

    #[test]
    fn tests_that_hold_are_silent() {
        assert_eq!(failures("", &[]), [""; 0]);
    }

    #[test]
    fn a_failure_says_who_decided_what() {
        let test = "[[test]]\nfrom = { role = \"web\" }\nto = { role = \"db\" }\n\
                    allow = [\"tcp/5431-5433\"]\ndeny = [\"icmp\"]\n";

        assert_eq!(
            failures(test, &[]),
            [
                "test 2: tcp/5431 from { role = \"web\" } to { role = \"db\" } in shop must pass, \
                 and is refused by the network's default",
                "test 2: tcp/5433 from { role = \"web\" } to { role = \"db\" } in shop must pass, \
                 and is refused by the network's default",
                "test 2: icmp from { role = \"web\" } to { role = \"db\" } in shop must not pass, \
                 and is allowed by rule web-to-db",
            ]
        );
    }

    #[test]
    fn every_endpoint_of_a_name_is_tried_where_it_is() {
        let test = "[[test]]\nfrom = \"a\"\nto = \"b\"\nallow = [\"icmp\"]\n";
        let endpoints = [
            named("shop", "web", "a"),
            named("shop", "db", "b"),
            named("other", "x", "a"),
            named("other", "x", "b"),
        ];

        assert_eq!(failures(test, &endpoints), [""; 0]);
        assert_eq!(
            failures(test, &[&endpoints[..], &[named("shop", "x", "b")]].concat()),
            ["test 2: icmp from a to b in shop must pass, and is refused by the network's default"]
        );
        assert_eq!(
            failures(test, &endpoints[..1]),
            ["test 2: there is no endpoint b: start it, or describe it by labels"]
        );
    }

    #[test]
    fn a_policy_that_names_no_network_is_tested_in_any() {
        let text = "[[rule]]\nname = \"r\"\nfrom = \"any\"\nto = \"any\"\ndeny = [\"udp\"]\n\
                    [[test]]\nfrom = { a = \"b\" }\nto = { a = \"b\" }\ndeny = \"any\"\n";
        let policy = Policy::parse(text).expect("a policy");

        let failures: Vec<_> = check(&policy, &[]).iter().map(ToString::to_string).collect();

        assert_eq!(failures.len(), 3, "tcp, icmp, others: {failures:?}");
        assert!(failures[2].contains("other protocols from { a = \"b\" } to"), "{failures:?}");
    }

    #[test]
    fn failures_are_no_more_than_anybody_reads() {
        let test = "[[test]]\nfrom = { a = \"b\" }\nto = { a = \"b\" }\nallow = \"any\"\n";

        assert_eq!(failures(&test.repeat(100), &[]).len(), MAX_FAILURES);
    }
}
