//! Policies, endpoints and packets for tests.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::{
    EndpointSelector, NamePattern, Policy, PolicyAction, PolicyEndpoint, PolicyRule, PolicyTest,
    PortRange, RuleSide, Term, TestSide, Traffic,
};
use crate::name::Name;

/// The example of the documentation.
pub(crate) const EXAMPLE: &str = "\
[network.shop]
default = \"deny\"

[[rule]]
name = \"web-to-db\"
network = \"shop\"
from = { role = \"web\" }
to = { role = \"db\" }
allow = [\"tcp/5432\", \"icmp\"]
log = true

[[test]]
from = { role = \"web\" }
to = { role = \"db\" }
allow = [\"tcp/5432\"]
deny = [\"tcp/22\"]
";

pub(crate) fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// An endpoint with one label.
pub(crate) fn labelled(network: &str, key: &str, value: &str) -> PolicyEndpoint {
    PolicyEndpoint {
        network: Some(name(network)),
        labels: BTreeMap::from([(key.to_owned(), value.to_owned())]),
        ..PolicyEndpoint::default()
    }
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![4 => 0..6u16, 1 => Just(u16::MAX), 1 => any::<u16>()]
}

fn ports() -> impl Strategy<Value = PortRange> {
    (port(), port()).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap_or(PortRange::ALL))
}

pub(crate) fn term() -> impl Strategy<Value = Term> {
    prop_oneof![
        1 => Just(Term::Any),
        2 => Just(Term::Icmp),
        4 => ports().prop_map(Term::Tcp),
        4 => ports().prop_map(Term::Udp),
    ]
}

pub(crate) fn traffic() -> impl Strategy<Value = Traffic> {
    prop_oneof![
        4 => port().prop_map(Traffic::Tcp),
        2 => port().prop_map(Traffic::Udp),
        1 => Just(Traffic::Icmp),
        1 => Just(Traffic::Other),
    ]
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let key = prop::sample::select(vec!["role", "site", "name", "a.b \"\\ü"]);
    let value = prop::sample::select(vec!["", "web", "db"]);

    prop::collection::btree_map(key, value, 0..3).prop_map(|labels| {
        labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    })
}

fn some_name() -> impl Strategy<Value = Name> {
    prop::sample::select(vec!["web", "web1", "db", "ops"]).prop_map(name)
}

fn address() -> impl Strategy<Value = IpAddr> {
    (0..4u8).prop_map(|n| IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)))
}

pub(crate) fn endpoint() -> impl Strategy<Value = PolicyEndpoint> {
    let network = prop::option::weighted(0.9, prop::sample::select(vec!["shop", "ops"]));
    let addresses = prop::collection::vec(address(), 0..2);

    (network, prop::option::of(some_name()), labels(), labels(), addresses).prop_map(
        |(network, name, labels, node_labels, addresses)| PolicyEndpoint {
            network: network.map(self::name),
            name,
            labels,
            node_labels,
            addresses,
        },
    )
}

fn pattern() -> impl Strategy<Value = NamePattern> {
    let texts = vec!["*", "web", "web*", "*1", "d*b"];

    prop::sample::select(texts).prop_map(|text| text.parse().expect("a pattern"))
}

fn selector() -> impl Strategy<Value = EndpointSelector> {
    let cidr = prop::sample::select(vec!["10.0.0.0/8", "10.0.0.2/31", "10.0.0.1/32", "fd00::/8"])
        .prop_map(|text| text.parse().expect("a prefix"));
    let network = prop::sample::select(vec!["shop", "ops"]).prop_map(name);
    let rarely = 0.2;

    (
        labels(),
        prop::option::weighted(rarely, pattern()),
        labels(),
        prop::option::weighted(rarely, network),
        prop::option::weighted(rarely, cidr),
    )
        .prop_map(|(labels, name, node, network, cidr)| EndpointSelector {
            labels,
            name,
            node,
            network,
            cidr,
        })
        .prop_filter("a selector asks for something", |selector| !selector.is_empty())
}

pub(crate) fn side() -> impl Strategy<Value = RuleSide> {
    prop_oneof![
        1 => Just(RuleSide::Any),
        3 => prop::collection::vec(selector(), 1..3).prop_map(RuleSide::Selected),
    ]
}

fn action() -> impl Strategy<Value = PolicyAction> {
    prop_oneof![Just(PolicyAction::Allow), Just(PolicyAction::Deny)]
}

fn terms(least: usize) -> impl Strategy<Value = Vec<Term>> {
    prop::collection::vec(term(), least..4).prop_map(Term::normalize)
}

fn some_network() -> impl Strategy<Value = Option<Name>> {
    prop::option::of(prop::sample::select(vec!["shop", "ops"]).prop_map(name))
}

fn rule() -> impl Strategy<Value = PolicyRule> {
    (some_network(), side(), side(), action(), terms(1), any::<bool>()).prop_map(
        |(network, from, to, action, terms, log)| PolicyRule {
            name: name("unnamed"),
            network,
            from,
            to,
            action,
            terms,
            log,
        },
    )
}

fn test_side() -> impl Strategy<Value = TestSide> {
    let described = endpoint().prop_filter_map("something is said of it", |endpoint| {
        let endpoint = PolicyEndpoint { network: None, ..endpoint };
        (endpoint != PolicyEndpoint::default()).then(|| TestSide::Described(Box::new(endpoint)))
    });

    prop_oneof![some_name().prop_map(TestSide::Named), described]
}

fn test() -> impl Strategy<Value = PolicyTest> {
    (some_network(), test_side(), test_side(), terms(1), terms(0))
        .prop_map(|(network, from, to, allow, deny)| PolicyTest { network, from, to, allow, deny })
}

/// A policy of a few rules that often have to do with each other.
pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    let defaults = prop::collection::btree_map(
        prop::sample::select(vec!["shop", "ops"]).prop_map(name),
        action(),
        0..3,
    );
    let rules = prop::collection::vec(rule(), 0..6).prop_map(|mut rules| {
        for (index, rule) in rules.iter_mut().enumerate() {
            rule.name = name(&format!("rule-{index}"));
        }
        rules
    });

    (defaults, rules, prop::collection::vec(test(), 0..3))
        .prop_map(|(defaults, rules, tests)| Policy { defaults, rules, tests })
}
