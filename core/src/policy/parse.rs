//! From a TOML document to a [`Policy`]. Every mistake is told, not just the first.

mod fields;
mod sides;

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::mistake::{InvalidPolicy, Mistakes};
use super::term::Term;
use super::{Policy, PolicyAction, PolicyRule, PolicyTest};
use crate::message::excerpt;
use crate::name::Name;
use fields::Fields;

/// The longest document, in bytes: 2,000 rules of 500 bytes.
pub const MAX_POLICY: usize = 1 << 20;
/// The most networks with a default.
pub const MAX_NETWORKS: usize = 1_000;
/// The most rules. Each is looked at for the first packet of a flow, in order.
pub const MAX_RULES: usize = 2_000;
/// The most entries of one list of protocols and ports.
pub const MAX_TERMS: usize = 64;
/// The most entries of all such lists of the rules together.
pub const MAX_ALL_TERMS: usize = 10_000;
/// The most selectors of one side of a rule.
pub const MAX_SELECTORS: usize = 16;
/// The most labels that a selector may ask for, of an endpoint or of its node.
pub const MAX_CRITERIA: usize = 16;
/// The longest key or value of a label, in bytes.
pub const MAX_LABEL: usize = 255;
/// The most tests.
pub const MAX_TESTS: usize = 1_000;

const TERM_REMEDY: &str =
    "write \"tcp/5432\", \"udp/8000-8100\", \"tcp\" for every port, \"icmp\" or \"any\"";

/// Where a document that was parsed before has what; lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyLines {
    /// Of each test.
    pub tests: Vec<usize>,
    /// Of each rule.
    pub rules: Vec<usize>,
    /// Of the table of each network.
    pub networks: BTreeMap<String, usize>,
}

impl PolicyLines {
    /// Finds them in a document.
    pub fn of(document: &str) -> Self {
        let places = Mistakes::new(document);
        let line = |span: Range<usize>| places.place(span.start).0;
        let (table, _) = DeTable::parse_recoverable(document);
        let find = |key: &str| table.get_ref().get(key).map(Spanned::get_ref);
        let array = |key: &str| match find(key) {
            Some(DeValue::Array(tables)) => tables.iter().map(|table| line(table.span())).collect(),
            _ => Vec::new(),
        };
        let networks = match find("network") {
            Some(DeValue::Table(networks)) => {
                let names = networks.keys();
                names.map(|name| (name.get_ref().to_string(), line(name.span()))).collect()
            }
            _ => BTreeMap::new(),
        };

        Self { tests: array("test"), rules: array("rule"), networks }
    }
}

pub(super) fn parse(text: &str) -> Result<Policy, InvalidPolicy> {
    let mut mistakes = Mistakes::new(text);
    if text.len() > MAX_POLICY {
        let reason = format!("the document has {} bytes, more than {MAX_POLICY}", text.len());
        mistakes.add(0..0, "", reason, "select by labels rather than by names");
        return mistakes.or(Policy::default());
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        mistakes.add(span, "", error.message(), "write it as TOML 1.0 has it");
    }
    // What is left of a broken document would give mistakes that nobody made.
    if !mistakes.is_empty() {
        return mistakes.or(Policy::default());
    }
    let policy = document(table.get_ref(), &mut mistakes);
    // What is stored is the canonical text, which may be longer.
    if mistakes.is_empty() && policy.to_string().len() > MAX_POLICY {
        let reason = format!("written out, the document has more than {MAX_POLICY} bytes");
        mistakes.add(0..0, "", reason, "select by labels rather than by names");
    }

    mistakes.or(policy)
}

pub(super) fn parse_file(text: &str) -> Result<Policy, InvalidPolicy> {
    let policy = parse(text)?;
    let mut mistakes = Mistakes::new(text);
    if policy.defaults.is_empty() && policy.rules.is_empty() {
        let reason = "there is no rule and no default, and every network would be open";
        let remedy = "check that the file is whole; `overlayctl policy rollback 0` takes the \
                      policy away";
        mistakes.add(0..0, "", reason, remedy);
    }

    mistakes.or(policy)
}

fn document(table: &DeTable<'_>, mistakes: &mut Mistakes<'_>) -> Policy {
    let mut fields = Fields::new(table, "", 0..0);
    let defaults = fields.table("network", mistakes).map(|all| defaults(&all, mistakes));
    let rules = fields.tables("rule", MAX_RULES, mistakes);
    let tests = fields.tables("test", MAX_TESTS, mistakes);
    fields.finish(mistakes);
    let rules = rules.into_iter().map(|fields| (fields.span(), rule(fields, mistakes))).collect();

    Policy {
        defaults: defaults.unwrap_or_default(),
        rules: distinct(rules, mistakes),
        tests: tests.into_iter().filter_map(|fields| test(fields, mistakes)).collect(),
    }
}

fn defaults(
    networks: &Fields<'_, '_>,
    mistakes: &mut Mistakes<'_>,
) -> BTreeMap<Name, PolicyAction> {
    let mut defaults = BTreeMap::new();
    for (key, value) in networks.entries() {
        if defaults.len() == MAX_NETWORKS {
            let reason = format!("there are more than {MAX_NETWORKS} networks");
            mistakes.add(key.span(), "network", reason, "leave out those that allow");
            break;
        }
        let path = format!("network.{}", excerpt(key.get_ref()));
        let Some(name) = name(key.get_ref(), key.span(), &path, mistakes) else { continue };
        let DeValue::Table(table) = value.get_ref() else {
            mistakes.add(key.span(), &path, "it is no table", format!("write [{path}]"));
            continue;
        };
        let mut fields = Fields::new(table, &path, key.span());
        let default = fields.text("default", mistakes);
        fields.finish(mistakes);
        let Some(default) = default else { continue };
        let key = format!("{path}.default");
        let Some(action) = action(&default, &key, mistakes) else { continue };
        if defaults.insert(name, action).is_some() {
            let reason = "the network is there twice, in upper and in lower case";
            mistakes.add(default.span(), &path, reason, "remove one");
        }
    }

    defaults
}

fn action(text: &Spanned<String>, key: &str, mistakes: &mut Mistakes<'_>) -> Option<PolicyAction> {
    match text.get_ref().as_str() {
        "allow" => Some(PolicyAction::Allow),
        "deny" => Some(PolicyAction::Deny),
        other => {
            let reason = format!("{:?} is no default", excerpt(other));
            mistakes.add(text.span(), key, reason, "write \"allow\" or \"deny\"");
            None
        }
    }
}

/// Returns the rules that are sound, and says which have a name that another one has, or too many
/// terms together.
fn distinct(
    rules: Vec<(Range<usize>, Option<PolicyRule>)>,
    mistakes: &mut Mistakes<'_>,
) -> Vec<PolicyRule> {
    let mut seen: BTreeMap<Name, usize> = BTreeMap::new();
    let mut terms = 0;
    for (span, rule) in &rules {
        let Some(rule) = rule else { continue };
        if let Some(before) = seen.insert(rule.name.clone(), span.start) {
            let (line, _) = mistakes.place(before);
            let reason = format!("the rule of line {line} has the name {} already", rule.name);
            mistakes.add(span.clone(), "rule.name", reason, "give it a name of its own");
        }
        terms += rule.terms.len();
        if terms > MAX_ALL_TERMS {
            let reason =
                format!("the rules up to this one have more than {MAX_ALL_TERMS} terms together");
            mistakes.add(span.clone(), "rule", reason, "use ranges of ports, and fewer rules");
            break;
        }
    }

    rules.into_iter().filter_map(|(_, rule)| rule).collect()
}

fn rule(mut fields: Fields<'_, '_>, mistakes: &mut Mistakes<'_>) -> Option<PolicyRule> {
    let name = fields.text("name", mistakes);
    let name = name.and_then(|text| self::name(text.get_ref(), text.span(), "rule.name", mistakes));
    let network = network(&mut fields, mistakes);
    let from = fields.value("from", mistakes);
    let from = from.and_then(|value| sides::side(value, "rule.from", mistakes));
    let to = fields.value("to", mistakes);
    let to = to.and_then(|value| sides::side(value, "rule.to", mistakes));
    let log = fields.switch("log", mistakes);
    let (allow, deny) = (fields.optional("allow"), fields.optional("deny"));
    let span = fields.span();
    fields.finish(mistakes);
    let (action, terms) = match (allow, deny) {
        (Some(value), None) => (PolicyAction::Allow, terms(value, "rule.allow", mistakes)),
        (None, Some(value)) => (PolicyAction::Deny, terms(value, "rule.deny", mistakes)),
        (Some(_), Some(deny)) => {
            let remedy = "make two rules of it, in the order in which they are to be tried";
            mistakes.add(deny.span(), "rule.deny", "the rule allows and denies", remedy);
            return None;
        }
        (None, None) => {
            let reason = "the rule neither allows nor denies";
            mistakes.add(span, "rule", reason, "write allow = [\"tcp/80\"], or deny = \"any\"");
            return None;
        }
    };

    Some(PolicyRule {
        name: name?,
        network: network?,
        from: from?,
        to: to?,
        action,
        terms: terms?,
        log: log?,
    })
}

fn test(mut fields: Fields<'_, '_>, mistakes: &mut Mistakes<'_>) -> Option<PolicyTest> {
    let network = network(&mut fields, mistakes);
    let from = fields.value("from", mistakes);
    let from = from.and_then(|value| sides::test_side(value, "test.from", mistakes));
    let to = fields.value("to", mistakes);
    let to = to.and_then(|value| sides::test_side(value, "test.to", mistakes));
    let (allow, deny) = (fields.optional("allow"), fields.optional("deny"));
    let span = fields.span();
    fields.finish(mistakes);
    if allow.is_none() && deny.is_none() {
        let reason = "the test says neither what must pass nor what must not";
        mistakes.add(span, "test", reason, "write allow = [\"tcp/80\"], or deny = [\"tcp/22\"]");
        return None;
    }
    let mut list = |value: Option<&Spanned<DeValue<'_>>>, key: &str| match value {
        Some(value) => terms(value, key, mistakes),
        None => Some(Vec::new()),
    };
    let (allow, deny) = (list(allow, "test.allow"), list(deny, "test.deny"));

    Some(PolicyTest { network: network?, from: from?, to: to?, allow: allow?, deny: deny? })
}

/// Reads the network that a rule or test is about; `None` after a mistake.
fn network(fields: &mut Fields<'_, '_>, mistakes: &mut Mistakes<'_>) -> Option<Option<Name>> {
    if fields.is_missing("network") {
        return Some(None);
    }
    let key = fields.path("network");
    let text = fields.text("network", mistakes)?;

    name(text.get_ref(), text.span(), &key, mistakes).map(Some)
}

fn name(text: &str, span: Range<usize>, key: &str, mistakes: &mut Mistakes<'_>) -> Option<Name> {
    let name = text.parse().ok();
    if name.is_none() {
        let reason = format!("{:?} is not a name", excerpt(text));
        let remedy = "use 1 to 63 letters, digits, '-' or '_', beginning and ending with a letter \
                      or digit";
        mistakes.add(span, key, reason, remedy);
    }

    name
}

/// Reads a list of protocols and ports, or "any".
fn terms(
    value: &Spanned<DeValue<'_>>,
    key: &str,
    mistakes: &mut Mistakes<'_>,
) -> Option<Vec<Term>> {
    match value.get_ref() {
        DeValue::String(text) if text == "any" => Some(vec![Term::Any]),
        DeValue::Array(list) => listed_terms(list, value.span(), key, mistakes),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Table(_) => {
            let remedy = "write a list such as [\"tcp/5432\", \"icmp\"], or \"any\"";
            mistakes.add(value.span(), key, "it is no list", remedy);
            None
        }
    }
}

fn listed_terms(
    list: &DeArray<'_>,
    span: Range<usize>,
    key: &str,
    mistakes: &mut Mistakes<'_>,
) -> Option<Vec<Term>> {
    if list.is_empty() {
        mistakes.add(span, key, "the list is empty", TERM_REMEDY);
        return None;
    }
    if list.len() > MAX_TERMS {
        let reason = format!("the list has {} entries, more than {MAX_TERMS}", list.len());
        mistakes.add(span, key, reason, "use ranges of ports, or several rules");
        return None;
    }
    let terms: Vec<_> = list.iter().filter_map(|value| one_term(value, key, mistakes)).collect();
    if terms.len() < list.len() {
        return None;
    }
    if terms.len() > 1 && terms.contains(&Term::Any) {
        let reason = "\"any\" is every protocol, and others stand beside it";
        mistakes.add(span, key, reason, "write \"any\" alone, or leave it out");
        return None;
    }

    Some(Term::normalize(terms))
}

fn one_term(value: &Spanned<DeValue<'_>>, key: &str, mistakes: &mut Mistakes<'_>) -> Option<Term> {
    let term = value.get_ref().as_str().map(str::parse::<Term>);
    match term {
        Some(Ok(term)) => return Some(term),
        Some(Err(invalid)) => {
            mistakes.add(value.span(), key, invalid.to_string(), TERM_REMEDY);
        }
        None => {
            let reason = format!("an entry is of type {}", value.get_ref().type_str());
            mistakes.add(value.span(), key, reason, TERM_REMEDY);
        }
    }

    None
}

#[cfg(test)]
mod tests;
