//! Selectors: which endpoints a rule is about.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;

use super::decide::PolicyEndpoint;
use crate::name::{MAX_NAME, Name};

/// One side of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleSide {
    /// Every endpoint.
    Any,
    /// Endpoints that at least one of these selects.
    Selected(Vec<EndpointSelector>),
}

/// What an endpoint must have to be selected: all of it. An empty one selects every endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct EndpointSelector {
    /// Labels of the endpoint.
    pub labels: BTreeMap<String, String>,
    /// Its name.
    pub name: Option<NamePattern>,
    /// Labels of the node that it is on.
    pub node: BTreeMap<String, String>,
    /// The network that it is on.
    pub network: Option<Name>,
    /// A prefix that has one of its addresses.
    pub cidr: Option<IpNet>,
}

/// A name, or a pattern of names, in which `*` stands for any number of characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamePattern(String);

/// A text that is not a pattern of names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a pattern of names")]
pub struct InvalidPattern {
    text: String,
}

impl RuleSide {
    /// Returns whether an endpoint is one of these.
    pub fn contains(&self, endpoint: &PolicyEndpoint) -> bool {
        match self {
            Self::Any => true,
            Self::Selected(selectors) => selectors.iter().any(|one| one.selects(endpoint)),
        }
    }

    /// Lists the selectors; none where every endpoint is one of these.
    pub(super) fn selectors(&self) -> &[EndpointSelector] {
        match self {
            Self::Any => &[],
            Self::Selected(selectors) => selectors,
        }
    }

    /// Returns whether certainly every endpoint of `other` is one of these.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Selected(all), Self::Any) => all.iter().any(EndpointSelector::is_empty),
            (Self::Selected(all), Self::Selected(others)) => {
                others.iter().all(|other| all.iter().any(|one| one.covers(other)))
            }
        }
    }
}

impl EndpointSelector {
    /// Returns whether an endpoint has all that it must have.
    pub fn selects(&self, endpoint: &PolicyEndpoint) -> bool {
        let is_within = |cidr: &IpNet| endpoint.addresses.iter().any(|one| cidr.contains(one));
        let is_named = |pattern: &NamePattern| {
            endpoint.name.as_ref().is_some_and(|name| pattern.matches(name.as_str()))
        };

        has_all(&endpoint.labels, &self.labels)
            && has_all(&endpoint.node_labels, &self.node)
            && self.name.as_ref().is_none_or(is_named)
            && self
                .network
                .as_ref()
                .is_none_or(|network| endpoint.network.as_ref() == Some(network))
            && self.cidr.as_ref().is_none_or(is_within)
    }

    /// Returns whether nothing is asked of an endpoint.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether certainly every endpoint that `other` selects is selected: it asks for no
    /// more than `other` does.
    fn covers(&self, other: &Self) -> bool {
        let is_looser =
            |own: &NamePattern| other.name.as_ref().is_some_and(|name| own.covers(name));
        let is_wider = |own: &IpNet| other.cidr.as_ref().is_some_and(|cidr| own.contains(cidr));

        has_all(&other.labels, &self.labels)
            && has_all(&other.node, &self.node)
            && self.name.as_ref().is_none_or(is_looser)
            && (self.network.is_none() || self.network == other.network)
            && self.cidr.as_ref().is_none_or(is_wider)
    }
}

fn has_all(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl NamePattern {
    /// Returns the pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name, if it is the pattern of one.
    pub fn as_name(&self) -> Option<Name> {
        self.0.parse().ok()
    }

    /// Returns whether the pattern is that of a name.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut of) = (0, 0);
        // Where to go on when what follows the last `*` does not match: it takes one byte more.
        let mut retry = None;
        while of < name.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    retry = Some((at + 1, of));
                    at += 1;
                }
                Some(byte) if *byte == name[of] => (at, of) = (at + 1, of + 1),
                Some(_) | None => {
                    let Some((after, from)) = retry else { return false };
                    retry = Some((after, from + 1));
                    (at, of) = (after, from + 1);
                }
            }
        }

        pattern[at..].iter().all(|byte| *byte == b'*')
    }

    /// Returns whether certainly every name of `other`'s is one of this.
    fn covers(&self, other: &Self) -> bool {
        self == other || (!other.0.contains('*') && self.matches(&other.0)) || self.0 == "*"
    }
}

impl FromStr for NamePattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_*".contains(&byte);
        // A text without a star must be a name, or no endpoint could ever have it.
        let is_sound = text.contains('*') || text.parse::<Name>().is_ok();

        if is_sound && text.len() <= MAX_NAME && text.bytes().all(is_allowed) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(InvalidPattern { text: crate::message::excerpt(text).to_owned() })
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::testing::{endpoint, side};

    fn pattern(text: &str) -> NamePattern {
        text.parse().expect("a pattern")
    }

    #[test]
    fn a_star_stands_for_any_number_of_characters() {
        for (text, matching, others) in [
            ("web", &["web"][..], &["web1", "we", ""][..]),
            ("web*", &["web", "web1", "webweb"], &["we", "aweb"]),
            ("*web", &["web", "aweb", "webweb"], &["web1"]),
            ("a*b*c", &["abc", "aabbcc", "abcbc"], &["acb", "ab", "abcd"]),
            ("**", &["", "a"], &[]),
        ] {
            for name in matching {
                assert!(pattern(text).matches(name), "{text} {name}");
            }
            for name in others {
                assert!(!pattern(text).matches(name), "{text} {name}");
            }
        }
    }

    #[test]
    fn what_no_name_can_match_is_refused() {
        let long = "x".repeat(MAX_NAME + 1);
        for text in ["", "a b", "a.b", "-a", "ü*", "a?", "[a]*", &long] {
            assert!(text.parse::<NamePattern>().is_err(), "{text:?}");
        }
        assert_eq!(pattern("Web*").as_str(), "web*");
    }

    proptest! {
        #[test]
        fn what_covers_contains(one in side(), other in side(), endpoint in endpoint()) {
            if one.covers(&other) && other.contains(&endpoint) {
                prop_assert!(one.contains(&endpoint));
            }
        }

        #[test]
        fn matching_is_that_of_a_regular_expression(
            text in "[ab*]{1,8}",
            name in "[ab]{0,8}",
        ) {
            prop_assume!(text.parse::<NamePattern>().is_ok());

            let slowly = matches_slowly(text.as_bytes(), name.as_bytes());
            prop_assert_eq!(pattern(&text).matches(&name), slowly);
        }
    }

    fn matches_slowly(pattern: &[u8], name: &[u8]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => (0..=name.len()).any(|n| matches_slowly(rest, &name[n..])),
            Some((byte, rest)) => name.first() == Some(byte) && matches_slowly(rest, &name[1..]),
        }
    }
}
