//! Selectors, and the sides of tests, out of a document.

use std::collections::BTreeMap;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fields::{text, wrong_type};
use super::{MAX_CRITERIA, MAX_LABEL, MAX_SELECTORS, name};
use crate::message::excerpt;
use crate::policy::TestSide;
use crate::policy::decide::PolicyEndpoint;
use crate::policy::mistake::Mistakes;
use crate::policy::selector::{EndpointSelector, NamePattern, RuleSide};

const SELECTOR_REMEDY: &str =
    "write labels such as { role = \"web\" }, { name = \"web*\" }, a list of such, or \"any\"";

/// Reads one side of a rule.
pub(super) fn side(
    value: &Spanned<DeValue<'_>>,
    key: &str,
    mistakes: &mut Mistakes<'_>,
) -> Option<RuleSide> {
    match value.get_ref() {
        DeValue::String(text) if text == "any" => Some(RuleSide::Any),
        DeValue::String(text) => {
            let reason = format!("{:?} alone selects nothing", excerpt(text));
            let remedy = format!("write {{ name = {:?} }}, labels, or \"any\"", excerpt(text));
            mistakes.add(value.span(), key, reason, remedy);
            None
        }
        DeValue::Table(table) => {
            Some(RuleSide::Selected(vec![selector(table, value, key, mistakes)?]))
        }
        DeValue::Array(list) if list.is_empty() || list.len() > MAX_SELECTORS => {
            let reason = format!("the list has {} entries", list.len());
            let remedy = format!("write 1 to {MAX_SELECTORS} selectors, or \"any\"");
            mistakes.add(value.span(), key, reason, remedy);
            None
        }
        DeValue::Array(list) => {
            let selectors: Vec<_> =
                list.iter().filter_map(|value| listed(value, key, mistakes)).collect();
            (selectors.len() == list.len()).then_some(RuleSide::Selected(selectors))
        }
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {
            wrong_type(value, key, SELECTOR_REMEDY, mistakes);
            None
        }
    }
}

fn listed(
    value: &Spanned<DeValue<'_>>,
    key: &str,
    mistakes: &mut Mistakes<'_>,
) -> Option<EndpointSelector> {
    match value.get_ref() {
        DeValue::Table(table) => selector(table, value, key, mistakes),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_) => {
            wrong_type(value, key, SELECTOR_REMEDY, mistakes);
            None
        }
    }
}

/// Reads a selector; `None` after a mistake.
fn selector(
    table: &DeTable<'_>,
    at: &Spanned<DeValue<'_>>,
    path: &str,
    mistakes: &mut Mistakes<'_>,
) -> Option<EndpointSelector> {
    if table.is_empty() {
        mistakes.add(at.span(), path, "it asks for nothing", SELECTOR_REMEDY);
        return None;
    }
    if table.len() > MAX_CRITERIA {
        let reason = format!("it asks for more than {MAX_CRITERIA} things");
        mistakes.add(at.span(), path, reason, "give the endpoints one label that says it");
        return None;
    }
    let mut selector = EndpointSelector::default();
    // Labels whose keys are words of selectors.
    let mut set_apart = BTreeMap::new();
    let mut is_sound = true;
    for (key, value) in table.iter() {
        let full = format!("{path}.{}", excerpt(key.get_ref()));
        let field: &str = key.get_ref();
        is_sound &= match field {
            "name" => pattern(value, &full, mistakes).map(|it| selector.name = Some(it)),
            "network" => {
                let network = text(value, &full, mistakes)
                    .and_then(|text| name(text.get_ref(), text.span(), &full, mistakes));
                network.map(|it| selector.network = Some(it))
            }
            "cidr" => cidr(value, &full, mistakes).map(|it| selector.cidr = Some(it)),
            "node" => labels(value, &full, mistakes).map(|it| selector.node = it),
            "labels" => labels(value, &full, mistakes).map(|it| set_apart = it),
            _ => label(field, value, &full, mistakes)
                .map(|it| drop(selector.labels.insert(field.to_owned(), it))),
        }
        .is_some();
    }
    for (key, value) in set_apart {
        if selector.labels.insert(key.clone(), value).is_some() {
            let reason = format!("the label {:?} is there twice", excerpt(&key));
            mistakes.add(at.span(), path, reason, "write it once");
            is_sound = false;
        }
    }

    is_sound.then_some(selector)
}

fn pattern(
    value: &Spanned<DeValue<'_>>,
    key: &str,
    mistakes: &mut Mistakes<'_>,
) -> Option<NamePattern> {
    let text = text(value, key, mistakes)?;
    let pattern = text.get_ref().parse::<NamePattern>();
    if let Err(invalid) = &pattern {
        let remedy = "use letters, digits, '-', '_' and '*', at most 63";
        mistakes.add(text.span(), key, invalid.to_string(), remedy);
    }

    pattern.ok()
}

fn cidr(value: &Spanned<DeValue<'_>>, key: &str, mistakes: &mut Mistakes<'_>) -> Option<IpNet> {
    let text = text(value, key, mistakes)?;
    let cidr = text.get_ref().parse::<IpNet>();
    match cidr {
        Ok(cidr) if cidr.trunc() == cidr => return Some(cidr),
        Ok(cidr) => {
            let reason = format!("{cidr} has bits beyond its length");
            mistakes.add(text.span(), key, reason, format!("write \"{}\"", cidr.trunc()));
        }
        Err(_) => {
            let reason = format!("{:?} is not a prefix", excerpt(text.get_ref()));
            mistakes.add(text.span(), key, reason, "write it as \"10.0.0.0/8\" or \"fd00::/8\"");
        }
    }

    None
}

/// Reads a table of labels; `None` after a mistake.
fn labels(
    value: &Spanned<DeValue<'_>>,
    path: &str,
    mistakes: &mut Mistakes<'_>,
) -> Option<BTreeMap<String, String>> {
    let DeValue::Table(table) = value.get_ref() else {
        wrong_type(value, path, "write labels such as { site = \"a\" }", mistakes);
        return None;
    };
    if table.is_empty() || table.len() > MAX_CRITERIA {
        let reason = format!("there are {} labels", table.len());
        mistakes.add(value.span(), path, reason, format!("write 1 to {MAX_CRITERIA}"));
        return None;
    }
    let mut labels = BTreeMap::new();
    for (key, value) in table.iter() {
        let (key, full) = (key.get_ref().to_string(), format!("{path}.{}", excerpt(key.get_ref())));
        if let Some(value) = label(&key, value, &full, mistakes) {
            labels.insert(key, value);
        }
    }

    (labels.len() == table.len()).then_some(labels)
}

/// Reads the value of a label.
fn label(
    key: &str,
    value: &Spanned<DeValue<'_>>,
    path: &str,
    mistakes: &mut Mistakes<'_>,
) -> Option<String> {
    if value.get_ref().is_table() {
        let reason = "it is a table, and the value of a label is a text";
        let remedy = "quote a key that has dots in it: { \"com.example.role\" = \"web\" }";
        mistakes.add(value.span(), path, reason, remedy);
        return None;
    }
    let text = text(value, path, mistakes)?;
    let fits = |text: &str| text.len() <= MAX_LABEL && !text.chars().any(char::is_control);
    if key.is_empty() || !fits(key) || !fits(text.get_ref()) {
        let reason = "no endpoint can have such a label";
        let remedy =
            format!("keys and values have up to {MAX_LABEL} bytes and no control characters");
        mistakes.add(text.span(), path, reason, remedy);
        return None;
    }

    Some(text.into_inner())
}

/// Reads one side of a test.
pub(super) fn test_side(
    value: &Spanned<DeValue<'_>>,
    key: &str,
    mistakes: &mut Mistakes<'_>,
) -> Option<TestSide> {
    match value.get_ref() {
        DeValue::String(text) => name(text, value.span(), key, mistakes).map(TestSide::Named),
        DeValue::Table(table) => {
            let selector = selector(table, value, key, mistakes)?;
            described(selector, value, key, mistakes)
                .map(|endpoint| TestSide::Described(Box::new(endpoint)))
        }
        DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_) => {
            let remedy = "write an endpoint's name, or labels such as { role = \"web\" }";
            wrong_type(value, key, remedy, mistakes);
            None
        }
    }
}

/// Makes an endpoint of what a test says about it.
fn described(
    selector: EndpointSelector,
    at: &Spanned<DeValue<'_>>,
    key: &str,
    mistakes: &mut Mistakes<'_>,
) -> Option<PolicyEndpoint> {
    let EndpointSelector { labels, name, node, network, cidr } = selector;
    let mut refuse = |reason: &str, remedy: &str| mistakes.add(at.span(), key, reason, remedy);
    if network.is_some() {
        refuse("a test is about one network", "write network = \"…\" beside from and to");
        return None;
    }
    let described = match name {
        None => None,
        Some(pattern) => match pattern.as_name() {
            Some(name) => Some(name),
            None => {
                refuse("a test is about one endpoint", "write a name without '*', or labels");
                return None;
            }
        },
    };
    let address = match cidr {
        None => None,
        Some(cidr) if cidr.prefix_len() == cidr.max_prefix_len() => Some(cidr.addr()),
        Some(_) => {
            refuse("a test is about one endpoint", "write one address, such as \"10.0.0.7/32\"");
            return None;
        }
    };

    Some(PolicyEndpoint {
        network: None,
        name: described,
        labels,
        node_labels: node,
        addresses: address.into_iter().collect(),
    })
}
