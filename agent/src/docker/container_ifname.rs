//! How a container's interface is called: by a prefix and a number, or by a whole name. Pure.

use std::collections::BTreeMap;

/// How the names of containers' interfaces begin.
pub(super) const IFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";
/// How interfaces' names begin unless somebody says otherwise.
const DEFAULT_PREFIX: &str = "eth";

/// How an engine shall call an interface that it moves into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerIfname {
    /// The beginning, after which the engine puts the lowest number that is free.
    pub prefix: String,
    /// The whole name: engines since 29 heed it.
    pub whole: Option<String>,
}

impl ContainerIfname {
    /// Returns how the interfaces of a network are called where nobody asks for a name.
    pub(super) fn of_network(options: &BTreeMap<String, String>) -> Self {
        let prefix = options.get(IFACE_PREFIX).map_or(DEFAULT_PREFIX, String::as_str);

        Self { prefix: prefix.to_owned(), whole: None }
    }

    /// Returns how to ask an engine for this very name. Engines before 29 put a number after what
    /// they are told, and begin with 0.
    pub(super) fn exactly(name: &str) -> Self {
        let prefix =
            name.strip_suffix('0').filter(|prefix| ends_without_number(prefix)).unwrap_or(name);

        Self { prefix: prefix.to_owned(), whole: Some(name.to_owned()) }
    }
}

/// Tells whether a name ends in no digit.
pub(super) fn ends_without_number(prefix: &str) -> bool {
    prefix.bytes().next_back().is_some_and(|last| !last.is_ascii_digit())
}
