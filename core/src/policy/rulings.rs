//! All verdicts of a policy on what one endpoint sends to another: which ports are decided by which
//! rule.

use std::collections::BTreeMap;
use std::fmt;

use super::decide::Ruling;
use super::term::{PortRange, Term};
use super::{PolicyAction, PolicyRule};

/// Packets that are decided alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TrafficRange {
    /// TCP to these ports.
    Tcp(PortRange),
    /// UDP to these ports.
    Udp(PortRange),
    /// ICMP, and ICMPv6.
    Icmp,
    /// All other protocols.
    Other,
}

/// The verdicts between two endpoints. Together they cover all traffic, without overlap.
#[derive(Debug)]
pub(super) struct Rulings<'a> {
    parts: Vec<(TrafficRange, Ruling<'a>)>,
}

impl<'a> Rulings<'a> {
    /// Lists the verdicts of rules that match both endpoints, in the order in which they are tried,
    /// and of the default.
    pub(super) fn of(rules: impl Iterator<Item = &'a PolicyRule>, default: PolicyAction) -> Self {
        let (mut tcp, mut udp) = (Ports::new(), Ports::new());
        let (mut icmp, mut other) = (None, None);
        for rule in rules {
            for term in &rule.terms {
                match *term {
                    Term::Any => {
                        tcp.decide(PortRange::ALL, rule);
                        udp.decide(PortRange::ALL, rule);
                        icmp = icmp.or(Some(rule));
                        other = other.or(Some(rule));
                    }
                    Term::Icmp => icmp = icmp.or(Some(rule)),
                    Term::Tcp(ports) => tcp.decide(ports, rule),
                    Term::Udp(ports) => udp.decide(ports, rule),
                }
            }
        }
        let ruling = |rule: Option<&'a PolicyRule>| Ruling {
            action: rule.map_or(default, |rule| rule.action),
            rule,
        };
        let tcp = tcp.decided().map(|(ports, rule)| (TrafficRange::Tcp(ports), ruling(rule)));
        let udp = udp.decided().map(|(ports, rule)| (TrafficRange::Udp(ports), ruling(rule)));
        let rest = [(TrafficRange::Icmp, ruling(icmp)), (TrafficRange::Other, ruling(other))];

        Self { parts: tcp.chain(udp).chain(rest).collect() }
    }

    /// Lists the verdicts on a term.
    pub(super) fn on(&self, term: Term) -> impl Iterator<Item = (TrafficRange, Ruling<'a>)> {
        self.parts.iter().filter_map(move |(part, ruling)| Some((part.within(term)?, *ruling)))
    }

    /// Lists what both decide, with both verdicts.
    pub(super) fn beside<'b>(
        &self,
        other: &Rulings<'b>,
    ) -> Vec<(TrafficRange, Ruling<'a>, Ruling<'b>)> {
        let mut both = Vec::new();
        let mut rest = other.parts.iter().peekable();
        for (part, ruling) in &self.parts {
            while let Some((next, their)) = rest.peek() {
                if let Some(shared) = part.intersection(*next) {
                    both.push((shared, *ruling, *their));
                }
                if next.end() > part.end() {
                    break;
                }
                rest.next();
            }
        }

        both
    }
}

/// The ports of one protocol, and the rules that decided them.
#[derive(Debug)]
struct Ports<'a> {
    /// The ranges that no rule has decided, first port to last.
    open: BTreeMap<u16, u16>,
    decided: BTreeMap<u16, (PortRange, Option<&'a PolicyRule>)>,
}

impl<'a> Ports<'a> {
    fn new() -> Self {
        Self { open: BTreeMap::from([(0, u16::MAX)]), decided: BTreeMap::new() }
    }

    /// Has a rule decide those of the ports that are open.
    fn decide(&mut self, ports: PortRange, rule: &'a PolicyRule) {
        // The last open range that begins before or in the ports, again and again.
        while let Some((&first, &last)) = self.open.range(..=ports.last()).next_back() {
            let open = PortRange::new(first, last);
            let Some(shared) = open.and_then(|open| open.intersection(ports)) else { break };
            self.open.remove(&first);
            if first < shared.first() {
                self.open.insert(first, shared.first() - 1);
            }
            if shared.last() < last {
                self.open.insert(shared.last() + 1, last);
            }
            self.decided.insert(shared.first(), (shared, Some(rule)));
        }
    }

    fn decided(mut self) -> impl Iterator<Item = (PortRange, Option<&'a PolicyRule>)> {
        for (first, last) in self.open {
            self.decided.extend(PortRange::new(first, last).map(|ports| (first, (ports, None))));
        }

        self.decided.into_values()
    }
}

impl TrafficRange {
    fn within(self, term: Term) -> Option<Self> {
        match (self, term) {
            (whole, Term::Any) => Some(whole),
            (Self::Tcp(ports), Term::Tcp(wanted)) => ports.intersection(wanted).map(Self::Tcp),
            (Self::Udp(ports), Term::Udp(wanted)) => ports.intersection(wanted).map(Self::Udp),
            (Self::Icmp, Term::Icmp) => Some(Self::Icmp),
            (Self::Tcp(_) | Self::Udp(_) | Self::Icmp | Self::Other, _) => None,
        }
    }

    fn intersection(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Tcp(ports), Self::Tcp(others)) => ports.intersection(others).map(Self::Tcp),
            (Self::Udp(ports), Self::Udp(others)) => ports.intersection(others).map(Self::Udp),
            (one, other) => (one == other).then_some(one),
        }
    }

    /// Returns its place in the order of the parts of [`Rulings`], by its last port.
    fn end(self) -> (u8, u16) {
        match self {
            Self::Tcp(ports) => (0, ports.last()),
            Self::Udp(ports) => (1, ports.last()),
            Self::Icmp => (2, 0),
            Self::Other => (3, 0),
        }
    }

    /// Returns both as one, if nothing is between them.
    pub(super) fn joined(self, next: Self) -> Option<Self> {
        match (self, next) {
            (Self::Tcp(one), Self::Tcp(next)) => one.joined(next).map(Self::Tcp),
            (Self::Udp(one), Self::Udp(next)) => one.joined(next).map(Self::Udp),
            (Self::Tcp(_) | Self::Udp(_) | Self::Icmp | Self::Other, _) => None,
        }
    }
}

impl fmt::Display for TrafficRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(ports) => Term::Tcp(*ports).fmt(f),
            Self::Udp(ports) => Term::Udp(*ports).fmt(f),
            Self::Icmp => f.write_str("icmp"),
            Self::Other => f.write_str("other protocols"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::Traffic;
    use crate::policy::testing::{endpoint, policy, traffic};

    fn holds(part: TrafficRange, traffic: Traffic) -> bool {
        match (part, traffic) {
            (TrafficRange::Tcp(ports), Traffic::Tcp(port))
            | (TrafficRange::Udp(ports), Traffic::Udp(port)) => ports.contains(port),
            (TrafficRange::Icmp, Traffic::Icmp) | (TrafficRange::Other, Traffic::Other) => true,
            (
                TrafficRange::Tcp(_)
                | TrafficRange::Udp(_)
                | TrafficRange::Icmp
                | TrafficRange::Other,
                _,
            ) => false,
        }
    }

    proptest! {
        #[test]
        fn each_packet_is_decided_once_and_as_the_rules_decide_it(
            policy in policy(),
            other in policy(),
            from in endpoint(),
            to in endpoint(),
            traffic in traffic(),
        ) {
            let rulings = |policy: &'_ crate::policy::Policy| {
                let rules: Vec<_> = policy
                    .rules_of(from.network.as_ref())
                    .filter(|rule| rule.from.contains(&from) && rule.to.contains(&to))
                    .cloned()
                    .collect();
                (rules, policy.default_of(from.network.as_ref()))
            };
            let ((rules, default), (others, otherwise)) = (rulings(&policy), rulings(&other));
            let (one, two) =
                (Rulings::of(rules.iter(), default), Rulings::of(others.iter(), otherwise));
            let decided = policy.decide(from.network.as_ref(), &from, &to, traffic);
            let decided_by_other = other.decide(from.network.as_ref(), &from, &to, traffic);

            let of_one: Vec<_> =
                one.parts.iter().filter(|(part, _)| holds(*part, traffic)).collect();
            let both = one.beside(&two);
            let of_both: Vec<_> =
                both.iter().filter(|(part, _, _)| holds(*part, traffic)).collect();

            prop_assert_eq!(of_one.len(), 1);
            prop_assert_eq!(of_one[0].1, decided);
            prop_assert_eq!(of_both.len(), 1);
            prop_assert_eq!((of_both[0].1, of_both[0].2), (decided, decided_by_other));
        }
    }
}
