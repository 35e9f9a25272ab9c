//! Protocols and ports: what a rule matches of a packet besides its ends.

use std::fmt;
use std::str::FromStr;

/// Ports from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// A protocol, with ports where it has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Term {
    /// Every packet, whatever its protocol.
    Any,
    /// ICMP, and ICMPv6.
    Icmp,
    /// TCP to these ports.
    Tcp(PortRange),
    /// UDP to these ports.
    Udp(PortRange),
}

/// What a packet is: the protocol of the flow that it belongs to, and the port to which that was
/// opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Traffic {
    /// TCP to a port.
    Tcp(u16),
    /// UDP to a port.
    Udp(u16),
    /// ICMP, and ICMPv6.
    Icmp,
    /// Any other protocol.
    Other,
}

/// A text that is not a term.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a protocol with ports")]
pub struct InvalidTerm {
    text: String,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// Returns the ports from `first` to `last`, unless there are none.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// Returns the first port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// Returns the last port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Returns whether a port is one of these.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Returns the ports that are in both.
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::new(self.first.max(other.first), self.last.min(other.last))
    }

    /// Returns all ports of both, unless there are others between them.
    pub(super) fn joined(self, next: Self) -> Option<Self> {
        let touches = u32::from(next.first) <= u32::from(self.last) + 1;

        (self.first <= next.first && touches)
            .then(|| Self { first: self.first, last: self.last.max(next.last) })
    }
}

impl Term {
    /// Returns whether a packet is of this protocol and to one of these ports.
    pub fn matches(self, traffic: Traffic) -> bool {
        match (self, traffic) {
            (Self::Any, _) | (Self::Icmp, Traffic::Icmp) => true,
            (Self::Tcp(ports), Traffic::Tcp(port)) | (Self::Udp(ports), Traffic::Udp(port)) => {
                ports.contains(port)
            }
            (Self::Icmp | Self::Tcp(_) | Self::Udp(_), _) => false,
        }
    }

    /// Returns these terms in order, with none that others cover and none that could be written as
    /// one: two lists that match the same are equal afterwards.
    pub fn normalize(mut terms: Vec<Self>) -> Vec<Self> {
        terms.sort_unstable();
        if terms.first() == Some(&Self::Any) {
            return vec![Self::Any];
        }
        let mut normal: Vec<Self> = Vec::with_capacity(terms.len());
        for term in terms {
            match normal.last_mut() {
                Some(last) => match last.joined(term) {
                    Some(joined) => *last = joined,
                    None => normal.push(term),
                },
                None => normal.push(term),
            }
        }

        normal
    }

    fn joined(self, next: Self) -> Option<Self> {
        match (self, next) {
            (Self::Tcp(ports), Self::Tcp(more)) => ports.joined(more).map(Self::Tcp),
            (Self::Udp(ports), Self::Udp(more)) => ports.joined(more).map(Self::Udp),
            (one, other) => (one == other).then_some(one),
        }
    }
}

impl FromStr for Term {
    type Err = InvalidTerm;

    fn from_str(text: &str) -> Result<Self, InvalidTerm> {
        let term = match text.split_once('/') {
            None => match text {
                "any" => Some(Self::Any),
                "icmp" => Some(Self::Icmp),
                "tcp" => Some(Self::Tcp(PortRange::ALL)),
                "udp" => Some(Self::Udp(PortRange::ALL)),
                _ => None,
            },
            Some(("tcp", ports)) => parse_ports(ports).map(Self::Tcp),
            Some(("udp", ports)) => parse_ports(ports).map(Self::Udp),
            Some(_) => None,
        };

        term.ok_or_else(|| InvalidTerm { text: crate::message::excerpt(text).to_owned() })
    }
}

fn parse_ports(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));

    PortRange::new(parse_port(first)?, parse_port(last)?)
}

/// A port in decimal; `u16`'s own parser also takes a sign.
fn parse_port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Icmp => f.write_str("icmp"),
            Self::Tcp(PortRange::ALL) => f.write_str("tcp"),
            Self::Udp(PortRange::ALL) => f.write_str("udp"),
            Self::Tcp(ports) => write!(f, "tcp/{ports}"),
            Self::Udp(ports) => write!(f, "udp/{ports}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::testing::{term, traffic};

    fn normal(texts: &[&str]) -> Vec<String> {
        let terms = texts.iter().map(|text| text.parse().expect("a term")).collect();

        Term::normalize(terms).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_no_term_is_refused() {
        for text in [
            "",
            "ANY",
            "tcp/",
            "tcp/65536",
            "tcp/+1",
            "tcp/2-1",
            "tcp/1-",
            "tcp/1-2-3",
            "icmp/8",
            "sctp/1",
            "tcp/ 1",
            "5432",
            "/",
            "tcp//1",
        ] {
            assert!(text.parse::<Term>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn terms_that_touch_or_overlap_are_one() {
        assert_eq!(
            normal(&["tcp/81-90", "tcp/80", "udp/80", "tcp/85-99"]),
            ["tcp/80-99", "udp/80"]
        );
        assert_eq!(normal(&["tcp/80", "tcp/82", "icmp", "icmp"]), ["icmp", "tcp/80", "tcp/82"]);
        assert_eq!(normal(&["tcp/0-65535", "udp/65535", "tcp/65535"]), ["tcp", "udp/65535"]);
        assert_eq!(normal(&["tcp/1", "any"]), ["any"]);
    }

    proptest! {
        #[test]
        fn a_term_survives_its_text(term in term()) {
            prop_assert_eq!(term.to_string().parse(), Ok(term));
        }

        #[test]
        fn normal_terms_match_the_same(
            terms in prop::collection::vec(term(), 0..8),
            traffic in traffic(),
        ) {
            let normal = Term::normalize(terms.clone());

            let matches = |terms: &[Term]| terms.iter().any(|term| term.matches(traffic));
            prop_assert_eq!(matches(&terms), matches(&normal));
            prop_assert_eq!(Term::normalize(normal.clone()), normal);
        }
    }
}
