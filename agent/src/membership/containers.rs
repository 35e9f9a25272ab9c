//! The containers of this host, as far as names depend on them: a container keeps its names until
//! it is removed or taken off the network, whether it runs or not, as the engine of its host has
//! it.

use std::collections::BTreeMap;

use overlay_core::{Endpoint, Name, NetworkId};

/// The containers that a container engine has on networks of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Containers {
    /// The engine has not told yet.
    #[default]
    Unknown,
    /// The names of all of them, running or not, by network and short id.
    Known(BTreeMap<(NetworkId, Name), String>),
}

impl Containers {
    /// Tells whether an endpoint's container is still on its network under its name, as far as
    /// anybody knows.
    pub(crate) fn has(&self, endpoint: &Endpoint) -> bool {
        let Some(container) = &endpoint.container else { return false };
        match self {
            Self::Unknown => true,
            Self::Known(known) => {
                let name = known.get(&(endpoint.network, container.clone()));
                // What is no name was never the endpoint's.
                let is_same =
                    |name: &String| name.parse().map_or(true, |name: Name| name == endpoint.name);

                name.is_some_and(is_same)
            }
        }
    }

    /// Replaces what is known of one container: the networks that it is on, none once it is gone.
    /// Changes nothing before all were listed.
    pub(crate) fn note(&mut self, container: &Name, name: &str, networks: Vec<NetworkId>) -> bool {
        let Self::Known(known) = self else { return false };
        let before = known.clone();
        known.retain(|(_, id), _| id != container);
        let key = |network| (network, container.clone());
        known.extend(networks.into_iter().map(|network| (key(network), name.to_owned())));

        *known != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::unpublished::testing::{BLUE, of_container};

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    #[test]
    fn a_container_keeps_its_names_until_it_is_gone_or_called_otherwise() {
        let mut containers = Containers::default();
        let endpoint = of_container(1, "c1");
        assert!(containers.has(&endpoint), "the engine has not told");
        assert!(!containers.note(&name("c1"), "e1", vec![BLUE]), "nobody knows of others");

        containers = Containers::Known(BTreeMap::new());
        assert!(!containers.has(&endpoint));
        assert!(containers.note(&name("c1"), "e1", vec![BLUE]));
        assert!(!containers.note(&name("c1"), "e1", vec![BLUE]), "no news");
        assert!(containers.has(&endpoint) && !containers.has(&of_container(1, "c2")));

        for (other, expected) in [("E1", true), ("a b", true), ("e2", false)] {
            containers.note(&name("c1"), other, vec![BLUE]);
            assert_eq!(containers.has(&endpoint), expected, "{other}");
        }
        containers.note(&name("c1"), "e1", Vec::new());
        assert!(!containers.has(&endpoint), "it is on no network");
    }

    #[test]
    fn what_is_of_no_container_goes_at_once() {
        let endpoint = Endpoint { container: None, ..of_container(1, "c1") };

        assert!(!Containers::Unknown.has(&endpoint));
    }
}
