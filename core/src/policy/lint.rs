//! What is allowed in a policy, and probably not meant.

use std::collections::BTreeSet;
use std::fmt;

use super::decide::PolicyEndpoint;
use super::term::{PortRange, Term};
use super::{Policy, PolicyAction, PolicyRule};
use crate::name::Name;

/// Something in a policy that does nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyWarning {
    /// Rules before this one decide everything that it matches.
    Unreachable {
        /// The rule.
        rule: Name,
        /// The rules that decide before it.
        after: Vec<Name>,
    },
    /// Everything passes in a network, with these rules and without.
    NothingRefused {
        /// The network; none stands for those that the policy does not name.
        network: Option<Name>,
    },
    /// One side of a rule selects no endpoint.
    NoEndpoint {
        /// The rule.
        rule: Name,
        /// The key of the side: `from` or `to`.
        side: &'static str,
    },
    /// There is no network of a name that the policy has.
    NoNetwork {
        /// The name.
        network: Name,
    },
}

impl PolicyWarning {
    /// Returns the rule that it is about, if it is about one.
    pub fn rule(&self) -> Option<&Name> {
        match self {
            Self::Unreachable { rule, .. } | Self::NoEndpoint { rule, .. } => Some(rule),
            Self::NothingRefused { .. } | Self::NoNetwork { .. } => None,
        }
    }

    /// Returns the network that it is about, if it is about one.
    pub fn network(&self) -> Option<&Name> {
        match self {
            Self::NothingRefused { network } => network.as_ref(),
            Self::NoNetwork { network } => Some(network),
            Self::Unreachable { .. } | Self::NoEndpoint { .. } => None,
        }
    }
}

/// Lists what does nothing, whatever endpoints there are.
pub fn lint(policy: &Policy) -> Vec<PolicyWarning> {
    let unreachable = policy.rules.iter().enumerate().filter_map(|(index, rule)| {
        let after = covering(&policy.rules[..index], rule)?;
        Some(PolicyWarning::Unreachable { rule: rule.name.clone(), after })
    });
    let is_open = |network: Option<&Name>| {
        policy.default_of(network) == PolicyAction::Allow
            && policy.rules_of(network).next().is_some()
            && policy.rules_of(network).all(|rule| rule.action == PolicyAction::Allow)
    };
    let networks = policy.networks().map(Some).chain([None]);
    let open = networks
        .filter(|network| is_open(*network))
        .map(|network| PolicyWarning::NothingRefused { network: network.cloned() });

    unreachable.chain(open).collect()
}

/// Lists what does nothing with the networks and endpoints that there are.
pub fn lint_view(
    policy: &Policy,
    networks: &BTreeSet<Name>,
    endpoints: &[PolicyEndpoint],
) -> Vec<PolicyWarning> {
    let unknown = policy
        .networks()
        .filter(|network| !networks.contains(*network))
        .map(|network| PolicyWarning::NoNetwork { network: network.clone() });
    let unused = policy.rules.iter().flat_map(|rule| {
        let is_on = |one: &&PolicyEndpoint| rule.network.is_none() || one.network == rule.network;
        let sides = [("from", &rule.from), ("to", &rule.to)].into_iter();
        sides
            .filter(move |(_, side)| !endpoints.iter().filter(is_on).any(|one| side.contains(one)))
            .map(|(side, _)| PolicyWarning::NoEndpoint { rule: rule.name.clone(), side })
    });

    unknown.chain(unused).collect()
}

/// Returns which of the rules before it leave nothing to a rule.
fn covering(before: &[PolicyRule], rule: &PolicyRule) -> Option<Vec<Name>> {
    let is_wider = |other: &&PolicyRule| {
        (other.network.is_none() || other.network == rule.network)
            && other.from.covers(&rule.from)
            && other.to.covers(&rule.to)
    };
    let mut open = rule.terms.clone();
    let mut after = Vec::new();
    for other in before.iter().filter(is_wider) {
        let left: Vec<_> = open.iter().flat_map(|term| without_all(*term, &other.terms)).collect();
        if left != open {
            after.push(other.name.clone());
            open = left;
        }
        if open.is_empty() {
            return Some(after);
        }
    }

    None
}

/// Returns what is left of a term without some others.
fn without_all(term: Term, others: &[Term]) -> Vec<Term> {
    let mut left = vec![term];
    for other in others {
        left = left.into_iter().flat_map(|term| without(term, *other)).collect();
    }

    left
}

fn without(term: Term, other: Term) -> Vec<Term> {
    let ports = |own: PortRange, gone: PortRange| {
        let below = gone.first().checked_sub(1).and_then(|end| PortRange::new(own.first(), end));
        let above = gone.last().checked_add(1).and_then(|from| PortRange::new(from, own.last()));
        let left = |part: Option<PortRange>| part.and_then(|part| part.intersection(own));
        [left(below), left(above)].into_iter().flatten().collect::<Vec<_>>()
    };
    match (term, other) {
        (_, Term::Any) | (Term::Icmp, Term::Icmp) => Vec::new(),
        (Term::Tcp(own), Term::Tcp(gone)) => ports(own, gone).into_iter().map(Term::Tcp).collect(),
        (Term::Udp(own), Term::Udp(gone)) => ports(own, gone).into_iter().map(Term::Udp).collect(),
        (Term::Any | Term::Icmp | Term::Tcp(_) | Term::Udp(_), _) => vec![term],
    }
}

impl fmt::Display for PolicyWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { rule, after } => {
                let after: Vec<_> = after.iter().map(Name::as_str).collect();
                write!(
                    f,
                    "rule {rule} decides nothing: {} decide before it: move it up, or remove it",
                    after.join(", ")
                )
            }
            Self::NothingRefused { network: Some(network) } => write!(
                f,
                "every rule for network {network} allows, and so does its default: set default = \
                 \"deny\" in [network.{network}]"
            ),
            Self::NothingRefused { network: None } => f.write_str(
                "rules without a network only allow, and so does every network without a default: \
                 give the networks default = \"deny\"",
            ),
            Self::NoEndpoint { rule, side } => {
                write!(f, "rule {rule}: no endpoint matches its {side}: check the labels")
            }
            Self::NoNetwork { network } => {
                write!(f, "there is no network {network}: `overlayctl network ls` lists them")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::testing::{EXAMPLE, endpoint, labelled, name, policy, traffic};

    fn rule(text: &str, name: &str, from: &str, action: &str) -> String {
        format!("{text}[[rule]]\nname = \"{name}\"\nfrom = {from}\nto = \"any\"\n{action}\n")
    }

    fn warnings(text: &str) -> Vec<String> {
        let policy = Policy::parse(text).expect("a policy");

        lint(&policy).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_rule_that_comes_too_late_is_told() {
        let text = rule("", "low", "\"any\"", "deny = [\"tcp/0-99\"]");
        let text = rule(&text, "high", "{ a = \"b\" }", "allow = [\"tcp/100-65535\"]");
        let late = rule(&text, "late", "{ a = \"b\", c = \"d\" }", "deny = [\"tcp/80-443\"]");
        let wider = rule(&text, "wider", "{ c = \"d\" }", "deny = [\"tcp/80-443\"]");

        assert_eq!(
            warnings(&late),
            ["rule late decides nothing: low, high decide before it: move it up, or remove it"]
        );
        assert_eq!(warnings(&wider), [""; 0]);
    }

    #[test]
    fn rules_that_only_allow_are_told_where_all_is_allowed() {
        let text = rule("", "a", "\"any\"", "network = \"n\"\nallow = \"any\"");

        assert_eq!(
            warnings(&text),
            ["every rule for network n allows, and so does its default: set default = \"deny\" \
                 in [network.n]"]
        );
        assert_eq!(warnings(&rule("", "a", "\"any\"", "allow = \"any\"")).len(), 1);
        assert_eq!(warnings(EXAMPLE), [""; 0]);
    }

    #[test]
    fn labels_and_networks_that_nothing_has_are_told() {
        let policy = Policy::parse(EXAMPLE).expect("the example");
        let told = |networks: &[&str], endpoints: &[PolicyEndpoint]| {
            let networks = networks.iter().map(|network| name(network)).collect();
            lint_view(&policy, &networks, endpoints)
        };

        let none = told(&[], &[labelled("other", "role", "web"), labelled("shop", "role", "db")]);

        assert_eq!(
            none,
            [
                PolicyWarning::NoNetwork { network: name("shop") },
                PolicyWarning::NoEndpoint { rule: name("web-to-db"), side: "from" },
            ]
        );
        let all = [labelled("shop", "role", "web"), labelled("shop", "role", "db")];
        assert_eq!(told(&["shop"], &all), []);
    }

    proptest! {
        #[test]
        fn an_unreachable_rule_never_decides(
            policy in policy(),
            from in endpoint(),
            to in endpoint(),
            traffic in traffic(),
        ) {
            let ruling = policy.decide(from.network.as_ref(), &from, &to, traffic);

            for warning in lint(&policy) {
                if let PolicyWarning::Unreachable { rule, .. } = warning {
                    prop_assert_ne!(ruling.rule.map(|rule| &rule.name), Some(&rule));
                }
            }
        }
    }
}
