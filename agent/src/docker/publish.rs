//! A network of Docker's as control is asked to make it, and a network of control's as Docker is
//! asked to make it. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use overlay_core::{Lease, MAX_NAME, Name, Network, NetworkId, NodeId, View};
use overlay_proto::v1;

use super::engine::{EngineNetwork, NewNetwork, NewPrefix};
use super::fitting::{MAX_ROW_LABELS, fitting};
use super::options::{LEASE, NODES};
use super::{DRIVER, NETWORK_OPTION};
use crate::state::{DockerNetwork, IpamMode};

/// Returns the overlay's name of what Docker calls `title`: its letters, digits and `_`, everything
/// else a hyphen. Nothing where it has no letter and no digit.
pub(super) fn name_of(title: &str) -> Option<Name> {
    let label: String = title
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' })
        .collect();
    let label = label.trim_start_matches(['-', '_']);

    label[..label.len().min(MAX_NAME)].trim_end_matches(['-', '_']).parse().ok()
}

/// Finds the overlay network that Docker calls `title`.
pub(super) fn find<'a>(view: &'a View, title: &str) -> Option<&'a Network> {
    let titled = view.networks.values().find(|network| network.title() == title);

    titled.or_else(|| view.network_named(&name_of(title)?))
}

/// Writes the request to make a network that a person made with Docker.
pub(super) fn request(
    engine: &EngineNetwork,
    known: &DockerNetwork,
    node: NodeId,
    id: Option<NetworkId>,
) -> Option<v1::CreateNetworkRequest> {
    let name = name_of(&engine.name)?;
    let numbered_by = match known.ipam_mode {
        IpamMode::Engine => node.to_string(),
        IpamMode::Ours { .. } => String::new(),
    };
    let title = if name.as_str() == engine.name { String::new() } else { engine.name.clone() };
    // It is a setting that can be changed, which an engine's options cannot.
    let mut options = known.options.clone();
    let nodes = options.remove(NODES);
    // It was checked when the network was made.
    let lease = options.remove(LEASE).and_then(|text| text.parse::<Lease>().ok());
    let reserved = known.reserved.iter().map(|(name, address)| (name.clone(), address.to_string()));

    Some(v1::CreateNetworkRequest {
        name: name.to_string(),
        prefix: known.prefix.to_string(),
        prefix6: known.prefix6.map(|prefix| prefix.to_string()).unwrap_or_default(),
        mode: v1::NetworkMode::L3.into(),
        labels: fitting(&engine.labels, MAX_ROW_LABELS),
        settings: Some(v1::NetworkSettings {
            gateway: known.gateway.to_string(),
            gateway6: known.gateway6.map(|gateway| gateway.to_string()).unwrap_or_default(),
            range: engine.range.map(|range| range.trunc().to_string()).unwrap_or_default(),
            reserved: reserved.collect(),
            internal: known.internal,
            options: fitting(&options, MAX_ROW_LABELS),
            numbered_by,
            title,
            nodes: nodes.unwrap_or_default(),
            lease_seconds: lease.map(u32::from).unwrap_or_default(),
        }),
        id: id.map(|id| id.to_string()).unwrap_or_default(),
    })
}

/// Describes the replica of a network: its addresses are ours to give, whoever numbers the origin's
/// containers.
pub(super) fn replica(network: &Network) -> NewNetwork {
    let settings = &network.settings;
    let of_family = |v4: bool| {
        let reserved = settings.reserved.iter().filter(move |(_, address)| address.is_ipv4() == v4);
        reserved
            .map(|(name, address)| (name.clone(), *address))
            .collect::<BTreeMap<String, IpAddr>>()
    };
    let v4 = NewPrefix {
        reserved: of_family(true),
        ..NewPrefix::v4(network.prefix, settings.range, network.gateway())
    };
    let v6 = network.prefix6.zip(network.gateway6());
    let v6 = v6.map(|(prefix, gateway)| NewPrefix {
        reserved: of_family(false),
        ..NewPrefix::v6(prefix, gateway)
    });

    NewNetwork {
        name: network.title().to_owned(),
        driver: DRIVER.to_owned(),
        ipam: Some(DRIVER.to_owned()),
        ipam_options: BTreeMap::from([(NETWORK_OPTION.to_owned(), network.id.to_string())]),
        prefixes: std::iter::once(v4).chain(v6).collect(),
        internal: settings.internal,
        options: settings.options.clone(),
        labels: network.labels.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_docker_takes_for_a_network_s_name_has_one_here() {
        let name = |title: &str| name_of(title).map(|name| name.to_string());

        for (title, expected) in
            [("my net", "my-net"), ("my.net", "my-net"), ("Net_1", "net_1"), ("_x/ü.", "x")]
        {
            assert_eq!(name(title).as_deref(), Some(expected), "{title}");
        }
        assert_eq!(name(&"x".repeat(100)).map(|name| name.len()), Some(MAX_NAME));
        assert_eq!(name(" .-"), None);
    }
}
