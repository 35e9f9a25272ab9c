//! How a container's interface is addressed, and the routes on it. Pure.

use std::net::IpAddr;

use ipnet::IpNet;
use overlay_core::Network;

/// Returns the addresses of an interface with their prefix lengths: alone, or with the network's
/// whole prefix on the link where the engine numbers.
pub(crate) fn interface(network: &Network, addresses: &[IpAddr], on_link: bool) -> Vec<IpNet> {
    let whole = [Some(IpNet::V4(network.prefix)), network.prefix6.map(IpNet::V6)];
    let len = |address: &IpAddr| {
        let prefix = whole.iter().flatten().find(|prefix| on_link && prefix.contains(address));
        prefix.map_or_else(|| IpNet::from(*address).prefix_len(), IpNet::prefix_len)
    };

    addresses.iter().filter_map(|address| IpNet::new(*address, len(address)).ok()).collect()
}

/// Lists the routes: the network's prefix by its gateway. Where the engine numbers, its interface
/// has the whole prefix on the link, and two halves of it, being longer, lead to the gateway all
/// the same: nothing is ever asked for by ARP but the gateway.
pub(crate) fn routes(
    network: &Network,
    addresses: &[IpAddr],
    on_link: bool,
) -> Vec<(IpNet, Option<IpAddr>)> {
    let v6 = addresses.iter().any(IpAddr::is_ipv6);
    let gateways = network.gateways().into_iter().filter(|gateway| v6 || gateway.is_ipv4());
    let whole = [Some(IpNet::V4(network.prefix)), network.prefix6.map(IpNet::V6)];
    let parts = |gateway: IpAddr| {
        let prefix = whole.iter().flatten().find(|prefix| prefix.contains(&gateway)).copied();
        let parts = prefix.map(|prefix| if on_link { halves(prefix) } else { vec![prefix] });
        parts.unwrap_or_default().into_iter().map(move |part| (part, Some(gateway)))
    };

    gateways
        .flat_map(|gateway| std::iter::once((IpNet::from(gateway), None)).chain(parts(gateway)))
        .collect()
}

fn halves(prefix: IpNet) -> Vec<IpNet> {
    prefix.subnets(prefix.prefix_len() + 1).map(Iterator::collect).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use overlay_core::{NetworkId, NetworkMode, NetworkSettings};

    use super::*;

    fn network() -> Network {
        Network {
            id: NetworkId::FIRST,
            name: "net".parse().expect("a name"),
            prefix: "172.18.0.0/16".parse().expect("a prefix"),
            prefix6: Some("fd18::/64".parse().expect("a prefix")),
            mode: NetworkMode::L3,
            labels: BTreeMap::new(),
            settings: NetworkSettings::default(),
            creator: None,
        }
    }

    fn shown(routes: Vec<(IpNet, Option<IpAddr>)>) -> Vec<String> {
        let one = |(to, via): (IpNet, Option<IpAddr>)| {
            via.map_or_else(|| to.to_string(), |via| format!("{to} via {via}"))
        };

        routes.into_iter().map(one).collect()
    }

    #[test]
    fn where_the_engine_numbers_halves_beat_what_is_on_the_link() {
        let v4: [IpAddr; 1] = [[172, 18, 0, 2].into()];

        assert_eq!(interface(&network(), &v4, true)[0].to_string(), "172.18.0.2/16");
        assert_eq!(
            shown(routes(&network(), &v4, true)),
            ["172.18.0.1/32", "172.18.0.0/17 via 172.18.0.1", "172.18.128.0/17 via 172.18.0.1"]
        );
    }

    #[test]
    fn addresses_of_ours_are_alone_on_their_interface() {
        let both: [IpAddr; 2] = [[172, 18, 0, 2].into(), "fd18::2".parse().expect("an address")];

        let addresses: Vec<_> =
            interface(&network(), &both, false).iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["172.18.0.2/32", "fd18::2/128"]);
        assert_eq!(
            shown(routes(&network(), &both, false))[..2],
            ["172.18.0.1/32", "172.18.0.0/16 via 172.18.0.1"]
        );
        assert_eq!(shown(routes(&network(), &both, false)).len(), 4);
    }
}
