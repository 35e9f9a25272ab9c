//! What Docker's resolver may know of each container that the overlay does not: names on the
//! networks of Docker alone, and links.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::watch;

use super::engine::{Container, ListedContainer};

/// Which networks of Docker alone the containers on ours are also on.
#[derive(Debug, Default)]
pub(crate) struct ContainerNetworks(watch::Sender<BTreeMap<String, OtherNetworks>>);

/// What a container has besides networks of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct OtherNetworks {
    /// The names of its other networks, in lower case.
    pub(super) names: BTreeSet<String>,
    /// Whether it calls others by names that it alone has for them (`--link`).
    pub(super) has_links: bool,
}

impl ContainerNetworks {
    /// Takes note of all containers of the engine. The list does not say which have links.
    pub(super) fn note_all(&self, is_ours: impl Fn(&str) -> bool, listed: &[ListedContainer]) {
        self.0.send_if_modified(|known| {
            let of = |container: &ListedContainer| {
                let names = others(&is_ours, &container.networks)?;
                let has_links = known.get(&container.id).is_some_and(|known| known.has_links);
                Some((container.id.clone(), OtherNetworks { names, has_links }))
            };
            let all = listed.iter().filter_map(of).collect();
            let is_news = *known != all;
            *known = all;
            is_news
        });
    }

    /// Takes note of one container.
    pub(super) fn note(&self, is_ours: impl Fn(&str) -> bool, found: &Container) {
        let has_links = found.attachments.values().any(|attachment| attachment.has_links);
        let others = others(&is_ours, &found.networks);
        let others = others.map(|names| OtherNetworks { names, has_links });
        self.0.send_if_modified(|known| match others {
            Some(others) => known.insert(found.id.clone(), others.clone()) != Some(others),
            None => known.remove(&found.id).is_some(),
        });
    }

    /// Returns what is known, and subscribes to its changes.
    pub(super) fn subscribe(&self) -> watch::Receiver<BTreeMap<String, OtherNetworks>> {
        self.0.subscribe()
    }
}

/// Lists the names of networks that are not of the cluster; nothing for a container that is on none
/// of the cluster's.
fn others(
    is_ours: &impl Fn(&str) -> bool,
    networks: &BTreeMap<String, String>,
) -> Option<BTreeSet<String>> {
    if !networks.keys().any(|id| is_ours(id)) {
        return None;
    }
    let others = networks.iter().filter(|(id, _)| !is_ours(id.as_str()));

    Some(others.map(|(_, name)| name.to_ascii_lowercase()).collect())
}

#[cfg(test)]
mod tests {
    use super::super::engine::Attachment;
    use super::*;

    #[test]
    fn only_networks_of_the_engine_alone_are_others() {
        let is_ours = |id: &str| id == "n1";
        let known = ContainerNetworks::default();
        let container = |networks: &[(&str, &str)]| Container {
            id: "c1".into(),
            networks: networks.iter().map(|&(id, name)| (id.into(), name.into())).collect(),
            ..Container::default()
        };
        let of_c1 = || known.subscribe().borrow().get("c1").cloned();

        known.note(is_ours, &container(&[("b1", "bridge")]));
        assert_eq!(of_c1(), None, "none of ours");

        known.note(is_ours, &container(&[("n1", "blue")]));
        assert_eq!(of_c1(), Some(OtherNetworks::default()));

        let mut linked = container(&[("n1", "blue"), ("b1", "Bridge")]);
        let attachment = Attachment { has_links: true, ..Attachment::default() };
        linked.attachments.insert("e1".into(), attachment);
        known.note(is_ours, &linked);
        let expected = OtherNetworks { names: ["bridge".to_owned()].into(), has_links: true };
        assert_eq!(of_c1(), Some(expected.clone()));

        let listed = ListedContainer {
            id: "c1".into(),
            name: "web".into(),
            is_running: true,
            endpoints: BTreeMap::new(),
            networks: linked.networks.clone(),
        };
        known.note_all(is_ours, &[listed]);
        assert_eq!(of_c1(), Some(expected), "a list does not say of links");
        known.note_all(is_ours, &[]);
        assert_eq!(of_c1(), None);
    }
}
