//! The options of networks and endpoints: those that are honoured. Any other is refused by its
//! name, for a person who typed it would wait for its effect. Pure.

use std::collections::BTreeMap;

use overlay_core::lease::InvalidLease;
use overlay_core::selector::InvalidSelector;
use overlay_core::{Lease, Selector};
use overlay_proto::Code;

use super::container_ifname::{IFACE_PREFIX, ends_without_number};

/// The MTU of containers' interfaces, in bytes: at the most what the tunnel carries.
const MTU: &str = "com.docker.network.driver.mtu";
/// An option of Docker's own overlay driver; here traffic is always encrypted.
const ENCRYPTED: &str = "encrypted";
/// Which nodes may enter the network, a selector of their labels.
pub(super) const NODES: &str = "nodes";
/// How long the network's nodes trust each other without control.
pub(super) const LEASE: &str = "lease";
/// The options of a network that are known, for messages.
const OF_NETWORKS: [&str; 5] = [MTU, IFACE_PREFIX, ENCRYPTED, NODES, LEASE];

/// How a container's interface is called.
pub(crate) const IFNAME: &str = "com.docker.network.endpoint.ifname";
/// The prefix of endpoint options that are the engine's own business.
const ENGINES_OWN: &str = "com.docker.network.";
/// The prefix of those that only drivers interpret.
const DRIVERS: &str = "com.docker.network.driver.";

/// The further options that our IPAM driver accepts.
const OF_IPAM: [&str; 2] = [super::NETWORK_OPTION, "com.docker.network.ipam.serial"];

/// The MTU that an interface may have, in bytes; with IPv6, no less than 1,280.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 576..=65_535;
const MIN_MTU6: u32 = 1_280;
/// Bytes of an interface's name (`IFNAMSIZ`, less the NUL).
const MAX_IFNAME: usize = 15;
/// How many of them a number takes.
const MAX_NUMBER: usize = 3;

/// An option that is not honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionError {
    /// Networks have no such option.
    #[error("option {option:?} is not known: overlay-wg has {}", OF_NETWORKS.join(", "))]
    OfNetwork {
        /// The option.
        option: String,
    },
    /// Address managements have no such option.
    #[error("--ipam-opt {option:?} is not known: overlay-wg has none")]
    OfIpam {
        /// The option.
        option: String,
    },
    /// Endpoints have no such option.
    #[error("driver option {option:?} of an endpoint is not known: overlay-wg has {IFNAME}")]
    OfEndpoint {
        /// The option.
        option: String,
    },
    /// No interface has such an MTU.
    #[error("{MTU}={value} is no number of bytes from {least} to {}", MTU_RANGE.end())]
    Mtu {
        /// What was given.
        value: String,
        /// The least that there may be, in bytes.
        least: u32,
    },
    /// No interface is called so.
    #[error("{IFACE_PREFIX}={prefix}: no interface's name can begin like this")]
    IfacePrefix {
        /// What was given.
        prefix: String,
    },
    /// Networks of ours are always encrypted.
    #[error("{ENCRYPTED}={value}: networks of overlay-wg are always encrypted")]
    Unencrypted {
        /// What was given.
        value: String,
    },
    /// It does not select nodes.
    #[error("{NODES}: {error}")]
    Nodes {
        /// What is wrong with it.
        error: InvalidSelector,
    },
    /// It is no lease.
    #[error("{LEASE}: {error}")]
    Lease {
        /// What is wrong with it.
        error: InvalidLease,
    },
    /// No interface is called so.
    #[error("{IFNAME}={name} is no name of an interface")]
    Ifname {
        /// What was given.
        name: String,
    },
    /// The engine would not call an interface so.
    #[error(
        "{IFNAME}={name}: Docker before version 29 lets a plugin give only names that end in the \
         number 0, such as {}0",
        .name.trim_end_matches(|c: char| c.is_ascii_digit())
    )]
    IfnameUnheeded {
        /// What was given.
        name: String,
    },
}

impl OptionError {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        Code::InvalidInput
    }
}

/// Checks the `-o` words of a network that a person makes.
pub(super) fn check_network(
    options: &BTreeMap<String, String>,
    has_v6: bool,
) -> Result<(), OptionError> {
    if let Some(unknown) = options.keys().find(|key| !OF_NETWORKS.contains(&key.as_str())) {
        return Err(OptionError::OfNetwork { option: unknown.clone() });
    }
    if let Some(text) = options.get(MTU) {
        let least = if has_v6 { MIN_MTU6 } else { *MTU_RANGE.start() };
        let fits = text.parse().is_ok_and(|mtu: u32| (least..=*MTU_RANGE.end()).contains(&mtu));
        if !fits {
            return Err(OptionError::Mtu { value: text.clone(), least });
        }
    }
    if let Some(prefix) = options.get(IFACE_PREFIX)
        && (!is_ifname(prefix) || prefix.len() + MAX_NUMBER > MAX_IFNAME)
    {
        return Err(OptionError::IfacePrefix { prefix: prefix.clone() });
    }
    nodes(options)?;
    lease(options)?;
    match options.get(ENCRYPTED).map(String::as_str) {
        None | Some("" | "true" | "1") => Ok(()),
        Some(other) => Err(OptionError::Unencrypted { value: other.to_owned() }),
    }
}

/// Returns the nodes that may enter a network.
pub(super) fn nodes(options: &BTreeMap<String, String>) -> Result<Selector, OptionError> {
    let text = options.get(NODES).map_or("", String::as_str);

    text.parse().map_err(|error| OptionError::Nodes { error })
}

/// Returns how long a network's nodes trust each other without control.
pub(super) fn lease(options: &BTreeMap<String, String>) -> Result<Option<Lease>, OptionError> {
    let lease = options.get(LEASE).map(|text| text.parse()).transpose();

    lease.map_err(|error| OptionError::Lease { error })
}

/// Checks the `--ipam-opt` words of a network.
pub(super) fn check_ipam<'a>(
    mut keys: impl Iterator<Item = &'a String>,
) -> Result<(), OptionError> {
    match keys.find(|key| !OF_IPAM.contains(&key.as_str())) {
        Some(unknown) => Err(OptionError::OfIpam { option: unknown.clone() }),
        None => Ok(()),
    }
}

/// Checks the options of an endpoint: what is the engine's own is let through.
pub(super) fn check_endpoint<'a>(
    mut keys: impl Iterator<Item = &'a String>,
) -> Result<(), OptionError> {
    let is_known = |key: &str| key.starts_with(ENGINES_OWN) && !key.starts_with(DRIVERS);
    match keys.find(|key| !is_known(key)) {
        Some(unknown) => Err(OptionError::OfEndpoint { option: unknown.clone() }),
        None => Ok(()),
    }
}

/// Returns the MTU of containers' interfaces on a network, where tunnels carry `tunnel` bytes.
pub(crate) fn mtu(options: &BTreeMap<String, String>, tunnel: u32) -> u32 {
    let wanted =
        options.get(MTU).and_then(|text| text.parse().ok()).filter(|mtu| MTU_RANGE.contains(mtu));

    wanted.map_or(tunnel, |wanted: u32| wanted.min(tunnel))
}

/// Checks the name that an interface shall have, by an engine that heeds whole names or not.
pub(super) fn check_ifname(name: &str, heeds_names: bool) -> Result<(), OptionError> {
    if !is_ifname(name) {
        return Err(OptionError::Ifname { name: name.to_owned() });
    }
    if heeds_names || name.strip_suffix('0').is_some_and(ends_without_number) {
        return Ok(());
    }

    Err(OptionError::IfnameUnheeded { name: name.to_owned() })
}

fn is_ifname(name: &str) -> bool {
    let sound = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%');

    (1..=MAX_IFNAME).contains(&name.len())
        && name.chars().all(sound)
        && !matches!(name, "." | ".." | "lo" | "all" | "default")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::container_ifname::ContainerIfname;

    fn options(words: &[(&str, &str)]) -> BTreeMap<String, String> {
        words.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn unknown_options_are_refused_by_name_with_those_that_are_known() {
        let text = check_network(&options(&[("com.docker.network.bridge.name", "br7")]), false)
            .unwrap_err()
            .to_string();

        assert!(text.contains("bridge.name") && text.contains(MTU), "{text}");
        assert!(
            check_network(&options(&[(MTU, "1300"), (IFACE_PREFIX, "web"), (ENCRYPTED, "")]), true)
                .is_ok()
        );
        for wrong in [
            (MTU, "x"),
            (MTU, "0"),
            (MTU, "70000"),
            (IFACE_PREFIX, "a/b"),
            (ENCRYPTED, "false"),
            (NODES, "role="),
            (LEASE, "9s"),
            (LEASE, ""),
        ] {
            assert!(check_network(&options(&[wrong]), false).is_err(), "{wrong:?}");
        }
        assert!(check_network(&options(&[(LEASE, "15m")]), false).is_ok());
        assert!(check_network(&options(&[(MTU, "1000")]), false).is_ok());
        assert!(check_network(&options(&[(MTU, "1000")]), true).is_err(), "IPv6 asks for 1,280");
    }

    #[test]
    fn what_the_engine_passes_by_itself_is_let_through() {
        let own = [
            "com.docker.network.endpoint.exposedports",
            "com.docker.network.portmap",
            "com.docker.network.endpoint.macaddress",
            "com.docker.network.endpoint.sysctls",
            "com.docker.network.private.no_proxy_6to4",
            IFNAME,
        ];

        assert!(check_endpoint(own.map(str::to_owned).iter()).is_ok());
        for unknown in ["parent", "com.docker.network.driver.mtu"] {
            let text = check_endpoint([unknown.to_owned()].iter()).unwrap_err().to_string();
            assert!(text.contains(unknown), "{text}");
        }
        assert!(check_ipam(["overlay.network".to_owned()].iter()).is_ok());
        assert!(check_ipam(["foo".to_owned()].iter()).is_err());
    }

    #[test]
    fn an_mtu_is_at_the_most_what_the_tunnel_carries() {
        assert_eq!(mtu(&options(&[(MTU, "1300")]), 1408), 1300);
        assert_eq!(mtu(&options(&[(MTU, "9000")]), 1408), 1408);
        assert_eq!(mtu(&options(&[(MTU, "5")]), 1408), 1408, "what an older version let pass");
        assert_eq!(mtu(&options(&[]), 1408), 1408);
    }

    #[test]
    fn a_name_is_asked_for_so_that_old_and_new_engines_give_it() {
        assert_eq!(
            ContainerIfname::exactly("web0"),
            ContainerIfname { prefix: "web".into(), whole: Some("web0".into()) }
        );
        assert_eq!(ContainerIfname::exactly("web10").prefix, "web10");
        assert!(check_ifname("web0", false).is_ok());
        for name in ["web", "web1", "web10", "0"] {
            assert!(
                check_ifname(name, true).is_ok() && check_ifname(name, false).is_err(),
                "{name}"
            );
        }
        for name in ["", "a b", "a/b", "lo", "0123456789abcdef"] {
            assert!(check_ifname(name, true).is_err(), "{name}");
        }
    }
}
