//! The verdict on one packet.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::term::Traffic;
use super::{Policy, PolicyAction, PolicyRule};
use crate::endpoint::Endpoint;
use crate::name::Name;
use crate::view::View;

/// What a policy looks at of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct PolicyEndpoint {
    /// The network that it is on, where that is known.
    pub network: Option<Name>,
    /// Its name, where that is known. Aliases do not count: whoever makes an endpoint chooses them
    /// freely.
    pub name: Option<Name>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The labels of the node that it is on.
    pub node_labels: BTreeMap<String, String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What a policy says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ruling<'a> {
    /// What becomes of it.
    pub action: PolicyAction,
    /// The rule that says so; none where it is the network's default.
    pub rule: Option<&'a PolicyRule>,
}

impl PolicyEndpoint {
    /// Takes from a view what a policy looks at of an endpoint. A node that the view does not show
    /// has no labels.
    pub fn of(endpoint: &Endpoint, view: &View) -> Self {
        let network = view.networks.get(&endpoint.network);
        let node = view.nodes.get(&endpoint.node);

        Self {
            network: network.map(|network| network.name.clone()),
            name: Some(endpoint.name.clone()),
            labels: endpoint.labels.clone(),
            node_labels: node.map(|node| node.labels.clone()).unwrap_or_default(),
            addresses: endpoint.addresses.clone(),
        }
    }
}

impl Policy {
    /// Decides about a flow within a network. `None` stands for a network that the policy does not
    /// name. Answers belong to their flow and are not asked about.
    pub fn decide(
        &self,
        network: Option<&Name>,
        from: &PolicyEndpoint,
        to: &PolicyEndpoint,
        traffic: Traffic,
    ) -> Ruling<'_> {
        let rule = self.rules_of(network).find(|rule| {
            rule.terms.iter().any(|term| term.matches(traffic))
                && rule.from.contains(from)
                && rule.to.contains(to)
        });

        Ruling { action: rule.map_or_else(|| self.default_of(network), |rule| rule.action), rule }
    }
}

impl Ruling<'_> {
    /// Says what decided, for messages.
    pub fn reason(&self) -> String {
        match self.rule {
            Some(rule) => format!("rule {}", rule.name),
            None => "the network's default".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{EXAMPLE, labelled, name};

    #[test]
    fn the_first_rule_that_matches_decides_then_the_default() {
        let policy = Policy::parse(EXAMPLE).expect("the example");
        let (web, db) = (labelled("shop", "role", "web"), labelled("shop", "role", "db"));
        let decide = |network: &str, from, to, traffic| {
            let network = name(network);
            let ruling = policy.decide(Some(&network), from, to, traffic);
            (ruling.action, ruling.rule.map(|rule| rule.name.to_string()))
        };

        let allowed = (PolicyAction::Allow, Some("web-to-db".to_owned()));
        assert_eq!(decide("shop", &web, &db, Traffic::Tcp(5432)), allowed);
        assert_eq!(decide("shop", &web, &db, Traffic::Icmp), allowed);
        for (from, to, traffic) in [
            (&web, &db, Traffic::Tcp(22)),
            (&web, &db, Traffic::Udp(5432)),
            (&web, &db, Traffic::Other),
            (&db, &web, Traffic::Tcp(5432)),
        ] {
            assert_eq!(decide("shop", from, to, traffic), (PolicyAction::Deny, None));
        }
        assert_eq!(decide("other", &web, &db, Traffic::Tcp(22)), (PolicyAction::Allow, None));
    }
}
