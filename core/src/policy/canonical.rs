//! The canonical text of a policy: parsing it gives the same policy. It is what is stored and
//! shown; comments and the author's layout are not kept.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter, Write as _};

use ipnet::IpNet;

use super::selector::{EndpointSelector, NamePattern, RuleSide};
use super::term::Term;
use super::{Policy, PolicyEndpoint, PolicyRule, PolicyTest, TestSide};
use crate::name::Name;

impl Display for Policy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        for (network, action) in &self.defaults {
            writeln!(f, "{gap}[network.{network}]\ndefault = \"{action}\"")?;
            gap = "\n";
        }
        for rule in &self.rules {
            write!(f, "{gap}{rule}")?;
            gap = "\n";
        }
        for test in &self.tests {
            write!(f, "{gap}{test}")?;
            gap = "\n";
        }

        Ok(())
    }
}

impl Display for PolicyRule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "[[rule]]\nname = \"{}\"", self.name)?;
        if let Some(network) = &self.network {
            writeln!(f, "network = \"{network}\"")?;
        }
        writeln!(f, "from = {}\nto = {}", self.from, self.to)?;
        writeln!(f, "{} = {}", self.action, terms(&self.terms))?;
        if self.log {
            writeln!(f, "log = true")?;
        }

        Ok(())
    }
}

impl Display for PolicyTest {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "[[test]]")?;
        if let Some(network) = &self.network {
            writeln!(f, "network = \"{network}\"")?;
        }
        writeln!(f, "from = {}\nto = {}", self.from, self.to)?;
        for (word, list) in [("allow", &self.allow), ("deny", &self.deny)] {
            if !list.is_empty() {
                writeln!(f, "{word} = {}", terms(list))?;
            }
        }

        Ok(())
    }
}

impl Display for RuleSide {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("\"any\""),
            Self::Selected(selectors) => match &selectors[..] {
                [one] => one.fmt(f),
                many => {
                    let texts: Vec<_> = many.iter().map(ToString::to_string).collect();
                    write!(f, "[{}]", texts.join(", "))
                }
            },
        }
    }
}

impl Display for EndpointSelector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { labels, name, node, network, cidr } = self;
        let name = name.as_ref().map(NamePattern::as_str);

        f.write_str(&criteria(labels, name, network.as_ref(), *cidr, node))
    }
}

impl Display for TestSide {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(f, "\"{name}\""),
            Self::Described(endpoint) => f.write_str(&description(endpoint)),
        }
    }
}

/// Writes what a test says of an endpoint, as it is written there.
pub(super) fn description(endpoint: &PolicyEndpoint) -> String {
    let PolicyEndpoint { network: _, name, labels, node_labels, addresses } = endpoint;
    let addresses = addresses.iter().copied().map(IpNet::from);

    criteria(labels, name.as_ref().map(Name::as_str), None, addresses, node_labels)
}

/// Writes what is asked for, or known, of an endpoint.
fn criteria(
    labels: &BTreeMap<String, String>,
    name: Option<&str>,
    network: Option<&Name>,
    cidrs: impl IntoIterator<Item = IpNet>,
    node: &BTreeMap<String, String>,
) -> String {
    let mut entries = own_labels(labels);
    entries.extend(name.map(|name| format!("name = \"{name}\"")));
    entries.extend(network.map(|network| format!("network = \"{network}\"")));
    entries.extend(cidrs.into_iter().map(|cidr| format!("cidr = \"{cidr}\"")));
    entries.extend((!node.is_empty()).then(|| format!("node = {}", inline(&listed(node)))));

    inline(&entries)
}

/// The keys of a selector that are no labels, unless they stand in its table `labels`.
const RESERVED: [&str; 5] = ["cidr", "labels", "name", "network", "node"];

/// Writes the labels of a selector as its entries, those with a reserved key in a table.
fn own_labels(labels: &BTreeMap<String, String>) -> Vec<String> {
    let is_reserved = |key: &String| RESERVED.contains(&key.as_str());
    let (reserved, plain): (BTreeMap<_, _>, BTreeMap<_, _>) =
        labels.clone().into_iter().partition(|(key, _)| is_reserved(key));
    let mut entries = listed(&plain);
    entries
        .extend((!reserved.is_empty()).then(|| format!("labels = {}", inline(&listed(&reserved)))));

    entries
}

fn listed(labels: &BTreeMap<String, String>) -> Vec<String> {
    labels.iter().map(|(key, value)| format!("{} = {}", bare(key), quoted(value))).collect()
}

fn inline(entries: &[String]) -> String {
    format!("{{ {} }}", entries.join(", "))
}

fn terms(list: &[Term]) -> String {
    if list == [Term::Any] {
        return "\"any\"".to_owned();
    }
    let texts: Vec<_> = list.iter().map(|term| format!("\"{term}\"")).collect();

    format!("[{}]", texts.join(", "))
}

/// Writes a key, in quotes where TOML needs them.
fn bare(key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';

    if !key.is_empty() && key.chars().all(is_bare) { key.to_owned() } else { quoted(key) }
}

/// Writes a basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                // Infallible for a `String`.
                let _written = write!(quoted, "\\U{:08X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');

    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::testing::{EXAMPLE, policy};

    #[test]
    fn the_canonical_text_is_what_a_person_would_write() {
        let text = Policy::parse(EXAMPLE).expect("the example").to_string();

        assert_eq!(
            text,
            "[network.shop]\ndefault = \"deny\"\n\n\
             [[rule]]\nname = \"web-to-db\"\nnetwork = \"shop\"\nfrom = { role = \"web\" }\n\
             to = { role = \"db\" }\nallow = [\"icmp\", \"tcp/5432\"]\nlog = true\n\n\
             [[test]]\nfrom = { role = \"web\" }\nto = { role = \"db\" }\n\
             allow = [\"tcp/5432\"]\ndeny = [\"tcp/22\"]\n"
        );
    }

    #[test]
    fn labels_with_odd_keys_are_quoted_or_set_apart() {
        let from = r#"{ "com.example.role" = "a\"\\b", labels = { name = "x" }, name = "y*" }"#;
        let text = format!("[[rule]]\nname = \"a\"\nto = \"any\"\ndeny = \"any\"\nfrom = {from}\n");

        let policy = Policy::parse(&text).expect("a policy");

        assert!(policy.to_string().contains(&format!("from = {from}\n")), "{policy}");
        assert_eq!(Policy::parse(&policy.to_string()), Ok(policy));
    }

    proptest! {
        #[test]
        fn a_policy_survives_its_text(policy in policy()) {
            prop_assert_eq!(Policy::parse(&policy.to_string()), Ok(policy));
        }
    }
}
