//! How a container is called on the overlay: its name and aliases as far as they are DNS labels, and its labels as far as they
//! fit. Pure.

use std::collections::BTreeSet;

use overlay_core::{Endpoint, Name};
use overlay_proto::convert::MAX_ALIASES;

use super::engine::{Attachment, Container};
use super::fitting::{MAX_ROW_LABELS, fitting};

/// Hexadecimal digits of the short form of an id, which is also a container's host name.
const SHORT_ID: usize = 12;

/// Returns the endpoint as everybody shall know it.
pub(super) fn named(endpoint: &Endpoint, container: &Container, attachment: &Attachment) -> Endpoint {
    let short = container.id.get(..SHORT_ID).and_then(|id| id.parse::<Name>().ok());
    let name = container.name.parse().ok().or(short.clone()).unwrap_or_else(|| endpoint.name.clone());
    let aliases = attachment.aliases.iter().filter_map(|alias| alias.parse().ok());
    let aliases = aliases.chain(short).filter(|alias| *alias != name).collect::<BTreeSet<Name>>();

    Endpoint {
        name,
        aliases: aliases.into_iter().take(MAX_ALIASES).collect(),
        labels: fitting(&container.labels, MAX_ROW_LABELS),
        ..endpoint.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use overlay_core::{EndpointId, NetworkId, NodeId, Runtime};

    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint {
            id: EndpointId::FIRST,
            network: NetworkId::FIRST,
            node: NodeId::FIRST,
            name: "000000000001".parse().expect("a name"),
            aliases: BTreeSet::new(),
            addresses: Vec::new(),
            labels: BTreeMap::new(),
            runtime: Runtime::Docker,
        }
    }

    fn container(name: &str) -> Container {
        Container { id: "5df66f04e09f1234".into(), name: name.into(), ..Container::default() }
    }

    fn texts(names: &BTreeSet<Name>) -> Vec<&str> {
        names.iter().map(Name::as_str).collect()
    }

    #[test]
    fn a_container_is_found_by_name_alias_and_short_id() {
        let aliases = ["web", "5df66f04e09f", "Service2", "a.b"].map(str::to_owned).to_vec();

        let named = named(&endpoint(), &container("service2"), &Attachment { aliases });

        assert_eq!(named.name.as_str(), "service2");
        assert_eq!(texts(&named.aliases), ["5df66f04e09f", "web"]);
    }

    #[test]
    fn a_name_that_is_no_label_gives_way_to_the_short_id() {
        let named = named(&endpoint(), &container("my.app"), &Attachment { aliases: vec!["app".into()] });

        assert_eq!(named.name.as_str(), "5df66f04e09f");
        assert_eq!(texts(&named.aliases), ["app"]);
    }

    #[test]
    fn labels_that_do_not_fit_are_left_out() {
        let mut container = container("c");
        container.labels.insert("long".into(), "x".repeat(300));
        container.labels.insert("tier".into(), "web".into());
        container.labels.extend((0..30).map(|n| (format!("k{n}"), "v".repeat(200))));

        let labels = named(&endpoint(), &container, &Attachment { aliases: Vec::new() }).labels;

        assert!(!labels.contains_key("long"));
        assert!(labels.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() <= MAX_ROW_LABELS);
    }
}
