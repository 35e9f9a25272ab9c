//! What differs between two policies: in their rules, and in what becomes of packets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::classes::{Class, NetworkRules};
use super::decide::{PolicyEndpoint, Ruling};
use super::rulings::TrafficRange;
use super::{Policy, PolicyAction, PolicyRule};
use crate::name::Name;

/// The most changed verdicts that are told.
pub const MAX_VERDICT_CHANGES: usize = 200;
/// The most pairs of kinds of endpoints that are looked at.
const MAX_PAIRS: usize = 20_000;
/// The most names that a change gives of endpoints on one side.
const MAX_EXAMPLES: usize = 3;

/// What differs between two documents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyDiff {
    /// The networks whose defaults differ, before and after; none is [`PolicyAction::Allow`].
    pub defaults: Vec<(Name, PolicyAction, PolicyAction)>,
    /// The rules that differ: those that are gone, then the others in the order of the document
    /// after.
    pub rules: Vec<RuleChange>,
    /// Whether the tests differ.
    pub tests: bool,
}

/// What became of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleChange {
    /// It is new.
    Added(Name),
    /// It is gone.
    Removed(Name),
    /// It says something else.
    Changed(Name),
    /// It says the same at another place among the others.
    Moved(Name),
}

/// Packets of which something else becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerdictChange {
    /// The network.
    pub network: Name,
    /// Who sends: a few names, and how many endpoints there are.
    pub from: (Vec<Name>, usize),
    /// To whom.
    pub to: (Vec<Name>, usize),
    /// What is sent.
    pub traffic: TrafficRange,
    /// What becomes of it with the policy before, and what decides so.
    pub before: (PolicyAction, String),
    /// The same with the policy after.
    pub after: (PolicyAction, String),
}

/// All packets of which something else becomes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerdictChanges {
    /// The changes, by network.
    pub changes: Vec<VerdictChange>,
    /// Whether these are all; otherwise there were too many to look at or to tell.
    pub is_complete: bool,
}

/// Lists what differs between two documents.
pub fn diff(before: &Policy, after: &Policy) -> PolicyDiff {
    let networks: BTreeSet<_> = before.defaults.keys().chain(after.defaults.keys()).collect();
    let defaults = networks.into_iter().map(|network| {
        let of = |policy: &Policy| policy.default_of(Some(network));
        (network.clone(), of(before), of(after))
    });

    PolicyDiff {
        defaults: defaults.filter(|(_, before, after)| before != after).collect(),
        rules: changed_rules(&before.rules, &after.rules),
        tests: before.tests != after.tests,
    }
}

fn changed_rules(before: &[PolicyRule], after: &[PolicyRule]) -> Vec<RuleChange> {
    let old: BTreeMap<_, _> =
        before.iter().enumerate().map(|(index, rule)| (&rule.name, (index, rule))).collect();
    let new: BTreeSet<_> = after.iter().map(|rule| &rule.name).collect();
    let removed = before
        .iter()
        .filter(|rule| !new.contains(&rule.name))
        .map(|rule| RuleChange::Removed(rule.name.clone()));
    let kept: Vec<_> =
        after.iter().filter_map(|rule| old.get(&rule.name).map(|(index, _)| *index)).collect();
    let in_place = longest_rise(&kept);
    let others = after.iter().filter_map(|rule| match old.get(&rule.name) {
        None => Some(RuleChange::Added(rule.name.clone())),
        Some((_, was)) if *was != rule => Some(RuleChange::Changed(rule.name.clone())),
        Some((index, _)) => {
            (!in_place.contains(index)).then(|| RuleChange::Moved(rule.name.clone()))
        }
    });

    removed.chain(others).collect()
}

/// Returns a longest part of distinct numbers that rises.
fn longest_rise(numbers: &[usize]) -> BTreeSet<usize> {
    // For each length, the number that ends the rise of that length with the smallest end; and for
    // each number, the one before it in its rise.
    let (mut ends, mut before) = (Vec::<usize>::new(), BTreeMap::new());
    for &number in numbers {
        let at = ends.partition_point(|end| *end < number);
        before.insert(number, at.checked_sub(1).map(|at| ends[at]));
        if at == ends.len() {
            ends.push(number);
        } else {
            ends[at] = number;
        }
    }
    let next = |number: &usize| before.get(number).copied().flatten();

    std::iter::successors(ends.last().copied(), next).collect()
}

impl VerdictChanges {
    /// Lists what becomes of packets between `endpoints` with the policy after and did not before,
    /// at most [`MAX_VERDICT_CHANGES`].
    pub fn between(before: &Policy, after: &Policy, endpoints: &[PolicyEndpoint]) -> Self {
        let mut found = Self { changes: Vec::new(), is_complete: true };
        let networks: BTreeSet<_> =
            endpoints.iter().filter_map(|one| one.network.as_ref()).collect();
        let mut pairs = 0;
        'networks: for network in networks {
            let rules = NetworkRules::new(Some(network), &[before, after]);
            let on_it = endpoints.iter().filter(|one| one.network.as_ref() == Some(network));
            let classes = rules.classes(on_it);
            for (from, to) in classes.iter().flat_map(|a| classes.iter().map(move |b| (a, b))) {
                pairs += 1;
                if pairs > MAX_PAIRS || found.changes.len() >= MAX_VERDICT_CHANGES {
                    found.is_complete = false;
                    break 'networks;
                }
                found.changes.extend(changes_of(&rules, network, from, to));
            }
        }
        if found.changes.len() > MAX_VERDICT_CHANGES {
            found.changes.truncate(MAX_VERDICT_CHANGES);
            found.is_complete = false;
        }

        found
    }
}

/// Lists what changes of what one class of endpoints sends to another.
fn changes_of(
    rules: &NetworkRules<'_>,
    network: &Name,
    from: &Class<'_>,
    to: &Class<'_>,
) -> Vec<VerdictChange> {
    let (before, after) = (rules.rulings(0, from, to), rules.rulings(1, from, to));
    let verdict = |ruling: Ruling<'_>| (ruling.action, ruling.reason());
    let mut changes: Vec<VerdictChange> = Vec::new();
    for (traffic, before, after) in before.beside(&after) {
        if before.action == after.action {
            continue;
        }
        let (before, after) = (verdict(before), verdict(after));
        if let Some(last) = changes.last_mut()
            && (&last.before, &last.after) == (&before, &after)
            && let Some(joined) = last.traffic.joined(traffic)
        {
            last.traffic = joined;
            continue;
        }
        let (from, to, network) = (examples(from), examples(to), network.clone());
        changes.push(VerdictChange { network, from, to, traffic, before, after });
    }

    changes
}

fn examples(class: &Class<'_>) -> (Vec<Name>, usize) {
    let names: BTreeSet<_> = class.members.iter().filter_map(|one| one.name.clone()).collect();

    (names.into_iter().take(MAX_EXAMPLES).collect(), class.members.len())
}

impl PolicyDiff {
    /// Returns whether the documents say the same.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for RuleChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added(rule) => write!(f, "rule {rule} is new"),
            Self::Removed(rule) => write!(f, "rule {rule} is gone"),
            Self::Changed(rule) => write!(f, "rule {rule} says something else"),
            Self::Moved(rule) => write!(f, "rule {rule} is tried at another place"),
        }
    }
}

impl fmt::Display for VerdictChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |(names, count): &(Vec<Name>, usize)| {
            let names: Vec<_> = names.iter().map(Name::as_str).collect();
            let more = if *count > names.len() {
                format!(" and {} more", count - names.len())
            } else {
                String::new()
            };
            format!("{}{more}", names.join(", "))
        };
        let Self { network, from, to, traffic, before, after } = self;
        let word = |action: PolicyAction| match action {
            PolicyAction::Allow => "allowed",
            PolicyAction::Deny => "refused",
        };

        write!(
            f,
            "{network}: {traffic} from {} to {}: {} by {}, was {} by {}",
            side(from),
            side(to),
            word(after.0),
            after.1,
            word(before.0),
            before.1
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::testing::{EXAMPLE, endpoint, labelled, name, policy};

    fn rules(names: &str) -> Policy {
        let rule = |name| {
            format!("[[rule]]\nname = \"{name}\"\nfrom = \"any\"\nto = \"any\"\nallow = \"any\"\n")
        };

        Policy::parse(&names.chars().map(rule).collect::<String>()).expect("a policy")
    }

    #[test]
    fn rules_that_moved_are_told_and_those_that_they_passed_are_not() {
        let changes = |before, after| diff(&rules(before), &rules(after)).rules;

        assert_eq!(changes("abcd", "dabc"), [RuleChange::Moved(name("d"))]);
        assert_eq!(
            changes("abcd", "axcd"),
            [RuleChange::Removed(name("b")), RuleChange::Added(name("x"))]
        );
        assert_eq!(changes("abc", "abc"), []);
    }

    #[test]
    fn changed_rules_defaults_and_verdicts_are_told() {
        let before = Policy::parse(EXAMPLE).expect("the example");
        let text =
            EXAMPLE.replace("tcp/5432\", \"icmp", "tcp/5432-5433").replace("\"deny\"", "\"allow\"");
        let after = Policy::parse(&text).expect("a policy");
        let mut db = labelled("shop", "role", "db");
        db.name = Some(name("db1"));
        let mut web = labelled("shop", "role", "web");
        web.name = Some(name("web1"));

        let found = diff(&before, &after);
        let verdicts = VerdictChanges::between(&before, &after, &[db, web]);

        assert_eq!(found.rules, [RuleChange::Changed(name("web-to-db"))]);
        assert_eq!(found.defaults, [(name("shop"), PolicyAction::Deny, PolicyAction::Allow)]);
        assert!(verdicts.is_complete && !found.is_empty());
        let texts: Vec<_> = verdicts.changes.iter().map(ToString::to_string).collect();
        assert!(
            texts.contains(
                &"shop: tcp/5433 from web1 to db1: allowed by rule web-to-db, was refused by the \
                  network's default"
                    .to_owned()
            ),
            "{texts:#?}"
        );
    }

    #[test]
    fn what_is_told_is_bounded() {
        let ports: Vec<_> = (0..60).map(|port| format!("\"tcp/{}\"", port * 2)).collect();
        let rule = |n: usize| {
            format!(
                "[[rule]]\nname = \"r{n}\"\nfrom = {{ n = \"{n}\" }}\nto = \"any\"\ndeny = [{}]\n",
                ports.join(", ")
            )
        };
        let after = Policy::parse(&(0..20).map(rule).collect::<String>()).expect("a policy");
        let endpoints: Vec<_> = (0..20).map(|n| labelled("shop", "n", &n.to_string())).collect();

        let found = VerdictChanges::between(&Policy::default(), &after, &endpoints);

        assert_eq!((found.changes.len(), found.is_complete), (MAX_VERDICT_CHANGES, false));
    }

    proptest! {
        #[test]
        fn a_policy_does_not_differ_from_itself(
            policy in policy(),
            endpoints in prop::collection::vec(endpoint(), 0..6),
        ) {
            prop_assert!(diff(&policy, &policy).is_empty());
            let changes = VerdictChanges::between(&policy, &policy, &endpoints);
            prop_assert_eq!(changes, VerdictChanges { changes: vec![], is_complete: true });
        }

        #[test]
        fn a_longest_rise_rises(numbers in prop::collection::btree_set(0..99usize, 0..20)
            .prop_map(|set| set.into_iter().collect::<Vec<_>>()).prop_shuffle())
        {
            let rise = longest_rise(&numbers);

            let places: Vec<_> = rise
                .iter()
                .map(|number| numbers.iter().position(|one| one == number))
                .collect();
            prop_assert!(places.is_sorted() && rise.is_empty() == numbers.is_empty());
        }
    }
}
