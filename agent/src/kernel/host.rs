//! What the host itself has: addresses to advertise, prefixes in use, the underlay's MTU. Read
//! only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use overlay_core::node;

use super::error::KernelError;
use super::netlink::Netlink;
use super::netns::Netns;
use super::tables::{Hop, LinkState};

/// WireGuard's own bytes around an inner packet: UDP 8, data header 16, tag 16.
const WIREGUARD_OVERHEAD: u32 = 40;
const IPV4_HEADER: u32 = 20;
const IPV6_HEADER: u32 = 40;
/// Data messages are padded to this.
const PADDING: u32 = 16;
/// What IPv6 asks of every link.
const MIN_MTU: u32 = 1280;
/// The largest IP packet, rounded down to the padding.
const MAX_MTU: u32 = 65_520;
/// The underlay's MTU where nothing better is known.
const ETHERNET_MTU: u32 = 1500;
/// Interfaces that lead to containers or virtual machines of this host, never to other hosts.
const INWARD: &[&str] = &["docker", "br-", "virbr", "cni", "podman", "veth", "ov"];

/// An address of the host that others might reach it by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostAddress {
    /// The address.
    pub address: IpAddr,
    /// The interface it is on.
    pub link: String,
    /// The interface's MTU, in bytes.
    pub mtu: u32,
}

/// The host's network as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostNetwork {
    /// Candidates to advertise, the best first: those on the link of a default route, IPv4 before
    /// IPv6.
    pub addresses: Vec<HostAddress>,
    /// All its addresses but those of loopback and link, whatever interface they are on.
    pub own: BTreeSet<IpAddr>,
    /// Every prefix that the host has an address in, with the interface.
    pub links: BTreeMap<IpNet, String>,
    /// Every prefix that the host has a route to (default routes aside) or an address in, with the
    /// interface.
    pub prefixes: BTreeMap<IpNet, String>,
    /// The ways that packets take which leave the host: where each route leads, default routes
    /// included.
    pub ways: BTreeSet<(IpNet, Hop)>,
}

/// Which families the underlay uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Underlay {
    /// All peers are reached over IPv4.
    Ipv4Only,
    /// Some may be reached over IPv6.
    Any,
}

impl HostNetwork {
    /// Reads the host's network, or that of any namespace taken for one.
    ///
    /// # Errors
    ///
    /// When the kernel cannot be asked.
    pub async fn list(netns: &Netns) -> Result<Self, KernelError> {
        let mut netlink = Netlink::open(netns).await?;
        let links = netlink.links().await?;
        let addresses = netlink.addresses().await?;
        let routes = netlink.routes().await?;

        let outward: BTreeSet<String> = routes
            .iter()
            .filter(|(key, _)| key.prefix.prefix_len() == 0)
            .filter_map(|(_, route)| route.hop.link().map(str::to_owned))
            .collect();
        let routed =
            routes.iter().filter(|(key, _)| key.prefix.prefix_len() != 0).map(|(key, route)| {
                let holder = match &route.hop {
                    Hop::Link(link) | Hop::Via(link, _) => link.clone(),
                    Hop::Unreachable | Hop::Foreign => "a route".to_owned(),
                };
                (key.prefix, holder)
            });
        let connected = addresses.iter().map(|a| (a.address.trunc(), a.link.clone()));

        Ok(Self {
            addresses: candidates(
                addresses.iter().map(|a| (a.link.as_str(), a.address.addr())),
                &links,
                &outward,
            ),
            own: addresses
                .iter()
                .map(|a| a.address.addr())
                .filter(|ip| may_advertise(*ip))
                .collect(),
            links: connected.clone().collect(),
            prefixes: routed.chain(connected).collect(),
            ways: routes.iter().map(|(key, route)| (key.prefix, route.hop.clone())).collect(),
        })
    }

    /// Returns the MTU of the underlay: the smallest among the links of the best candidates' kind.
    pub fn underlay_mtu(&self) -> u32 {
        self.addresses.first().map_or(ETHERNET_MTU, |best| best.mtu)
    }

    /// Finds a prefix in use that overlaps, with its holder.
    pub fn conflict(&self, prefix: IpNet) -> Option<(IpNet, &str)> {
        self.prefixes
            .iter()
            .find(|(used, _)| used.contains(&prefix) || prefix.contains(*used))
            .map(|(used, holder)| (*used, holder.as_str()))
    }
}

/// Returns the MTU of tunnels over an underlay with this MTU: a multiple of 16, 1408 for 1500 of
/// either family.
pub fn tunnel_mtu(underlay_mtu: u32, underlay: Underlay) -> u32 {
    let header = match underlay {
        Underlay::Ipv4Only => IPV4_HEADER,
        Underlay::Any => IPV6_HEADER,
    };
    let room = underlay_mtu.saturating_sub(header + WIREGUARD_OVERHEAD);

    (room / PADDING * PADDING).clamp(MIN_MTU, MAX_MTU)
}

fn candidates<'a>(
    addresses: impl Iterator<Item = (&'a str, IpAddr)>,
    links: &BTreeMap<String, LinkState>,
    outward: &BTreeSet<String>,
) -> Vec<HostAddress> {
    let mut found: Vec<_> = addresses
        .filter(|(link, ip)| may_advertise(*ip) && (outward.contains(*link) || !leads_inward(link)))
        .filter_map(|(link, address)| {
            let mtu = links.get(link).filter(|l| l.up)?.mtu;
            Some(HostAddress { address, link: link.to_owned(), mtu })
        })
        .collect();
    found.sort_by_key(|a| (!outward.contains(&a.link), a.address.is_ipv6(), a.clone()));

    found
}

fn may_advertise(ip: IpAddr) -> bool {
    node::unreachable_kind(ip).is_none()
}

fn leads_inward(link: &str) -> bool {
    INWARD.iter().any(|prefix| link.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(mtu: u32) -> LinkState {
        let kind = String::new();

        LinkState { index: 1, up: true, mtu, queue_len: 1000, kind, peer: None, group: 0 }
    }

    #[test]
    fn the_tunnel_mtu_is_a_multiple_of_the_padding_that_fits() {
        assert_eq!(tunnel_mtu(1500, Underlay::Any), 1408);
        assert_eq!(tunnel_mtu(1500, Underlay::Ipv4Only), 1440);
        assert_eq!(tunnel_mtu(9000, Underlay::Any), 8912);
        assert_eq!(tunnel_mtu(65_536, Underlay::Any), 65_456);
        assert_eq!(tunnel_mtu(0, Underlay::Any), MIN_MTU);
    }

    #[test]
    fn the_default_route_s_address_comes_first_and_bridges_are_left_out() {
        let links = ["docker0", "eth0", "eth1"].map(|name| (name.to_owned(), link(1500))).into();
        let addresses = [
            ("docker0", "172.17.0.1"),
            ("eth0", "10.0.0.5"),
            ("eth1", "fd00::5"),
            ("eth1", "192.0.2.5"),
            ("eth1", "169.254.3.4"),
        ];
        let addresses = addresses.iter().map(|&(link, ip)| (link, ip.parse().expect("an address")));

        let found = candidates(addresses, &links, &["eth1".to_owned()].into());

        let order: Vec<_> = found.iter().map(|a| a.address.to_string()).collect();
        assert_eq!(order, ["192.0.2.5", "fd00::5", "10.0.0.5"]);
    }

    #[test]
    fn overlapping_prefixes_conflict_either_way_round() {
        let used: IpNet = "10.42.0.0/16".parse().expect("a prefix");
        let prefixes = [(used, "eth0".to_owned())].into();
        let host = HostNetwork { prefixes, ..HostNetwork::default() };

        for prefix in ["10.42.7.0/24", "10.0.0.0/8", "10.42.0.0/16"] {
            assert_eq!(
                host.conflict(prefix.parse().expect("a prefix")),
                Some((used, "eth0")),
                "{prefix}"
            );
        }
        assert_eq!(host.conflict("10.43.0.0/16".parse().expect("a prefix")), None);
    }
}
