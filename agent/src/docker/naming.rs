//! How a container is called on the overlay: its name and aliases as far as they are names of DNS,
//! and its labels as far as they fit. Pure.

use std::collections::{BTreeMap, BTreeSet};

use overlay_core::endpoint::MAX_GROUP;
use overlay_core::{Alias, Endpoint, Name, claims};
use overlay_proto::convert::MAX_ALIASES;

use super::engine::{Attachment, Container};
use super::fitting::{MAX_ROW_LABELS, fitting};
use crate::state::short_id;

/// The labels by which compose says what a container is a replica of.
const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";
/// The most names that a message lists.
const MAX_SHOWN: usize = 3;

/// How a container is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContainerNames {
    /// Its name, if it has one that is a name here.
    pub(super) name: Option<Name>,
    /// Further names.
    pub(super) aliases: BTreeSet<Alias>,
    /// What it is a replica of: the service of a compose project.
    pub(super) group: Option<String>,
    /// Its labels.
    pub(super) labels: BTreeMap<String, String>,
}

impl ContainerNames {
    /// Takes what the engine says of a container on a network.
    pub(super) fn new(container: &Container, attachment: &Attachment) -> Self {
        let short = short_id(&container.id);
        let own = short.clone().map(Alias::from);
        // What looks like an id may be the container's own alone.
        let may_be = |name: &Alias| claims::check(name, own.as_ref() == Some(name)).is_ok();
        let name = container.name.parse().ok();
        let name = name.filter(|name: &Name| may_be(&name.clone().into())).or(short.clone());
        let all = std::iter::once(&container.name).chain(&attachment.aliases);
        let aliases = all.filter_map(|alias| alias.parse().ok()).filter(may_be);
        let aliases = aliases.chain(short.map(Alias::from));
        let is_name =
            |alias: &Alias| name.as_ref().is_some_and(|name| alias.as_str() == name.as_str());
        let aliases = aliases.filter(|alias| !is_name(alias)).collect::<BTreeSet<Alias>>();

        Self {
            name,
            aliases: aliases.into_iter().take(MAX_ALIASES).collect(),
            group: group(&container.labels),
            labels: fitting(&container.labels, MAX_ROW_LABELS),
        }
    }
}

/// Returns what a container is a replica of, as compose labels it.
fn group(labels: &BTreeMap<String, String>) -> Option<String> {
    let (project, service) = (labels.get(PROJECT)?, labels.get(SERVICE)?);
    let group = format!("compose {project}/{service}");

    Some(group).filter(|group| group.len() <= MAX_GROUP && !group.chars().any(char::is_control))
}

/// Returns the endpoint as everybody shall know it.
pub(super) fn named(
    endpoint: &Endpoint,
    container: &Container,
    attachment: &Attachment,
) -> Endpoint {
    let ContainerNames { name, aliases, group, labels } =
        ContainerNames::new(container, attachment);

    Endpoint {
        name: name.unwrap_or_else(|| endpoint.name.clone()),
        aliases,
        group,
        container: short_id(&container.id),
        labels,
        ..endpoint.clone()
    }
}

/// Says by which of its names other hosts do not find a container, and why.
pub(super) fn unspoken(
    endpoint: &Endpoint,
    container: &Container,
    attachment: &Attachment,
) -> Option<String> {
    let all = std::iter::once(&container.name).chain(&attachment.aliases);
    let known = |text: &String| match text.parse::<Alias>() {
        Ok(alias) => alias.as_str() == endpoint.name.as_str() || endpoint.aliases.contains(&alias),
        Err(_) => false,
    };
    let unknown: BTreeSet<&String> = all.filter(|text| !text.is_empty() && !known(text)).collect();
    if unknown.is_empty() {
        return None;
    }
    let shown = unknown
        .iter()
        .take(MAX_SHOWN)
        .map(|name| format!("{name:?}"))
        .collect::<Vec<_>>()
        .join(", ");

    Some(format!(
        "other hosts do not find container {} as {shown}: a name is labels of letters, digits, '-' and '_' with dots between \
         them, neither localhost nor 12 hexadecimal digits, and a container has {MAX_ALIASES} at \
         the most",
        container.name
    ))
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
            group: None,
            container: None,
            taken: BTreeSet::new(),
        }
    }

    fn container(name: &str) -> Container {
        Container { id: "5df66f04e09f1234".into(), name: name.into(), ..Container::default() }
    }

    fn texts(names: &BTreeSet<Alias>) -> Vec<&str> {
        names.iter().map(Alias::as_str).collect()
    }

    #[test]
    fn a_container_is_found_by_name_alias_and_short_id() {
        let aliases = ["web", "5df66f04e09f", "Service2", "a.b"].map(str::to_owned).to_vec();

        let named = named(
            &endpoint(),
            &container("service2"),
            &Attachment { aliases, ..Attachment::default() },
        );

        assert_eq!(named.name.as_str(), "service2");
        assert_eq!(texts(&named.aliases), ["5df66f04e09f", "a.b", "web"]);
    }

    #[test]
    fn a_name_of_several_labels_is_an_alias_beside_the_short_id() {
        let named = named(
            &endpoint(),
            &container("My.App"),
            &Attachment { aliases: vec!["app".into()], ..Attachment::default() },
        );

        assert_eq!(named.name.as_str(), "5df66f04e09f");
        assert_eq!(texts(&named.aliases), ["app", "my.app"]);
    }

    #[test]
    fn what_cannot_be_a_name_is_said() {
        let said = |name: &str, aliases: &[&str]| {
            let (container, attachment) = (
                container(name),
                Attachment {
                    aliases: aliases.iter().map(|&alias| alias.to_owned()).collect(),
                    ..Attachment::default()
                },
            );
            unspoken(&named(&endpoint(), &container, &attachment), &container, &attachment)
        };

        assert_eq!(said("my.app", &["db.internal", "Web"]), None);
        let text = said("web", &["a b", "db-"]).expect("both are none");
        assert!(text.contains("container web as \"a b\", \"db-\""), "{text}");
        assert!(said("web.", &[]).is_some());
        let many: Vec<String> = (0..=MAX_ALIASES).map(|n| format!("alias{n}")).collect();
        assert!(said("web", &many.iter().map(String::as_str).collect::<Vec<_>>()).is_some());
    }

    #[test]
    fn what_means_something_else_is_no_name() {
        let aliases = ["localhost", "a.localhost", "0123456789ab"].map(str::to_owned).to_vec();
        let attachment = Attachment { aliases, ..Attachment::default() };
        for name in ["localhost", "0123456789ab"] {
            let named = named(&endpoint(), &container(name), &attachment);

            assert_eq!(named.name.as_str(), "5df66f04e09f", "{name}");
            assert_eq!(texts(&named.aliases), [""; 0], "{name}");
            assert!(unspoken(&named, &container(name), &attachment).is_some());
        }
    }

    #[test]
    fn containers_of_one_service_are_replicas() {
        let group = |labels: &[(&str, &str)]| {
            let mut container = container("web-1");
            let labels = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
            container.labels = labels.collect();
            named(&endpoint(), &container, &Attachment::default()).group
        };

        assert_eq!(
            group(&[(PROJECT, "shop"), (SERVICE, "web")]).as_deref(),
            Some("compose shop/web")
        );
        assert_eq!(group(&[(SERVICE, "web")]), None);
        assert_eq!(group(&[(PROJECT, "shop"), (SERVICE, &"x".repeat(MAX_GROUP))]), None);
    }

    #[test]
    fn labels_that_do_not_fit_are_left_out() {
        let mut container = container("c");
        container.labels.insert("long".into(), "x".repeat(300));
        container.labels.insert("tier".into(), "web".into());
        container.labels.extend((0..30).map(|n| (format!("k{n}"), "v".repeat(200))));

        let labels = named(
            &endpoint(),
            &container,
            &Attachment { aliases: Vec::new(), ..Attachment::default() },
        )
        .labels;

        assert!(!labels.contains_key("long"));
        assert!(labels.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() <= MAX_ROW_LABELS);
    }
}
