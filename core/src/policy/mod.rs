//! Policy: who may send what to whom within a network.
//!
//! A policy is a document that people write (`parse`), a closed model ([`Policy`]), and its text in
//! canonical form (its `Display`, which parses to the same policy). Rules are tried in the order of
//! the document; the first that matches decides, then the default of the network.
//!
//! How a policy is enforced is not here.

mod canonical;
mod check;
mod classes;
mod cluster;
mod decide;
mod diff;
mod filter;
mod lint;
mod mistake;
mod network_filter;
mod parse;
mod rulings;
mod selector;
mod term;

use std::collections::BTreeMap;

use crate::name::Name;

pub use check::{CaseFailure, check};
pub use cluster::ClusterPolicy;
pub use decide::{PolicyEndpoint, Ruling};
pub use diff::{MAX_VERDICT_CHANGES, PolicyDiff, RuleChange, VerdictChange, VerdictChanges, diff};
pub use filter::{Filter, FilterLinks, FilterMode, FilterReason, FilterRule};
pub use lint::{PolicyWarning, lint, lint_view};
pub use mistake::{InvalidPolicy, PolicyMistake};
pub use network_filter::NetworkFilter;
pub use parse::{
    MAX_ALL_TERMS, MAX_CRITERIA, MAX_LABEL, MAX_NETWORKS, MAX_POLICY, MAX_RULES, MAX_SELECTORS,
    MAX_TERMS, MAX_TESTS, PolicyLines,
};
pub use rulings::TrafficRange;
pub use selector::{EndpointSelector, InvalidPattern, NamePattern, RuleSide};
pub use term::{InvalidTerm, PortRange, Term, Traffic};

/// A policy for all networks of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// What happens in a network to what no rule matches; a network that is not here allows it.
    pub defaults: BTreeMap<Name, PolicyAction>,
    /// The rules, in the order in which they are tried; each has a name of its own.
    pub rules: Vec<PolicyRule>,
    /// What must be true of the policy for it to be applied.
    pub tests: Vec<PolicyTest>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyAction {
    /// It passes.
    Allow,
    /// It is dropped, and counted.
    Deny,
}

/// A rule: of the packets of one network, or of each, it decides those that match it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// Its id in counters and logs, unique within the policy.
    pub name: Name,
    /// The network whose packets it decides; every network where there is none.
    pub network: Option<Name>,
    /// Who opens the flow.
    pub from: RuleSide,
    /// To whom.
    pub to: RuleSide,
    /// What becomes of the packets.
    pub action: PolicyAction,
    /// The protocols and ports; normalized, see [`Term::normalize`].
    pub terms: Vec<Term>,
    /// Whether the first packet of each flow is logged.
    pub log: bool,
}

/// A statement about the policy that must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyTest {
    /// The network; where there is none, every network that has both sides.
    pub network: Option<Name>,
    /// Who opens the flow.
    pub from: TestSide,
    /// To whom.
    pub to: TestSide,
    /// What must pass, all of it; normalized.
    pub allow: Vec<Term>,
    /// What must not pass, none of it; normalized.
    pub deny: Vec<Term>,
}

/// One side of a [`PolicyTest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TestSide {
    /// Every endpoint of this name; there must be one.
    Named(Name),
    /// An endpoint that need not exist, of which no more is known than this.
    Described(Box<PolicyEndpoint>),
}

impl Policy {
    /// Parses a document; `docs/POLICY.md` says what is in one.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] with every mistake in it.
    pub fn parse(text: &str) -> Result<Self, InvalidPolicy> {
        parse::parse(text)
    }

    /// Parses a file that is to become the live policy. Unlike what nodes get of one, it must say
    /// something: one that does not would open every network, and is more likely to have been cut
    /// off than meant.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] with every mistake in it.
    pub fn parse_file(text: &str) -> Result<Self, InvalidPolicy> {
        parse::parse_file(text)
    }

    /// Returns what happens in a network to what no rule matches. `None` stands for a network that
    /// the policy does not name.
    pub fn default_of(&self, network: Option<&Name>) -> PolicyAction {
        let named = network.and_then(|network| self.defaults.get(network));

        named.copied().unwrap_or(PolicyAction::Allow)
    }

    /// Lists the rules for a network, in the order in which they are tried.
    pub fn rules_of<'a>(&'a self, network: Option<&Name>) -> impl Iterator<Item = &'a PolicyRule> {
        self.rules
            .iter()
            .filter(move |rule| rule.network.is_none() || rule.network.as_ref() == network)
    }

    /// Lists the networks that the policy names, each once.
    pub fn networks(&self) -> impl Iterator<Item = &Name> {
        let all: std::collections::BTreeSet<_> = self
            .defaults
            .keys()
            .chain(self.rules.iter().filter_map(|r| r.network.as_ref()))
            .collect();

        all.into_iter()
    }
}

impl PolicyAction {
    /// Returns the word for it in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl std::fmt::Display for PolicyAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
pub(crate) mod testing;
