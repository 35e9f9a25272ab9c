//! The addresses by which other hosts reach control, for join lines and nodes. Pure, except for
//! reading the host.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use ipnet::Ipv4Net;
use overlay_proto::join_line::MAX_ADDRESSES;

/// Interfaces that lead to containers or virtual machines of this host, never to other hosts.
const INWARD: [&str; 7] = ["docker", "br-", "virbr", "cni", "podman", "veth", "ov"];
/// The network that QEMU's and VirtualBox's user networking give to every guest alike: guests
/// cannot reach each other by it.
const GUEST_NAT: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 2, 0), 24);
/// The gateway of that network in every guest.
const GUEST_NAT_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// An address of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Own {
    /// The interface it is on.
    pub(crate) interface: String,
    /// The address.
    pub(crate) address: IpAddr,
    /// The kind of interface.
    pub(crate) kind: InterfaceKind,
    /// The next hop of the interface's default route, if it has one; unspecified when the route is
    /// on-link.
    pub(crate) default_route: Option<IpAddr>,
}

/// The kind of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InterfaceKind {
    /// A network card, or a virtual one of a hypervisor.
    Hardware,
    /// A bridge.
    Bridge,
    /// Anything else: a VLAN, a bond, another VPN.
    Other,
}

/// How likely other hosts can reach an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Its interface leads out of the host.
    Outward,
    /// It is on a network card.
    Hardware,
    /// It is on anything else that may lead to other hosts.
    Other,
    /// Every guest of a hypervisor has the same address.
    GuestNat,
    /// Only this host's containers and virtual machines can reach it.
    Inward,
}

/// Lists the addresses for join lines: the advertised ones, else the one control listens on, else
/// those of this host.
pub(crate) fn for_join_lines(
    advertised: &[String],
    listen: SocketAddr,
    own: &[Own],
) -> Vec<String> {
    if advertised.is_empty() { listening(listen, own) } else { advertised.to_vec() }
}

/// Lists the addresses for nodes: the advertised ones, then those that control really listens on,
/// which still work after it has moved.
pub(crate) fn for_nodes(advertised: &[String], listen: SocketAddr, own: &[Own]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let all = advertised.iter().cloned().chain(listening(listen, own));

    all.filter(|address| seen.insert(address.clone())).take(MAX_ADDRESSES).collect()
}

fn listening(listen: SocketAddr, own: &[Own]) -> Vec<String> {
    if !listen.ip().is_unspecified() {
        return vec![listen.to_string()];
    }
    let reachable = ranked(own).into_iter().filter(|ip| ip.is_ipv4() || listen.is_ipv6());
    let mut found: Vec<_> =
        reachable.take(MAX_ADDRESSES).map(|ip| SocketAddr::new(ip, listen.port())).collect();
    if found.is_empty() {
        // A host with only a loopback interface can still talk to itself.
        found.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listen.port()));
    }

    found.iter().map(SocketAddr::to_string).collect()
}

/// Sorts addresses by how likely other hosts can reach them, IPv4 before IPv6. Those that no other
/// host can reach are left out unless there is nothing better.
fn ranked(own: &[Own]) -> Vec<IpAddr> {
    let mut all: Vec<_> = own
        .iter()
        .filter(|own| is_usable(own.address))
        .map(|own| (rank(own), own.address))
        .collect();
    all.sort_by_key(|(rank, address)| (*rank, address.is_ipv6()));
    let best = all.first().map(|(rank, _)| *rank);
    if best.is_some_and(|best| best < Rank::GuestNat) {
        all.retain(|(rank, _)| *rank < Rank::GuestNat);
    }
    let mut seen = BTreeSet::new();

    all.into_iter().map(|(_, address)| address).filter(|address| seen.insert(*address)).collect()
}

fn is_usable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        // A link-local address is meaningless without an interface of the dialling host.
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

fn rank(own: &Own) -> Rank {
    let nat = matches!(own.address, IpAddr::V4(v4) if GUEST_NAT.contains(&v4));
    match own.default_route {
        Some(gateway) if nat && gateway == IpAddr::V4(GUEST_NAT_GATEWAY) => Rank::GuestNat,
        // Bridges count, too: virtual machine hosts have their network card in one.
        Some(_) => Rank::Outward,
        None if INWARD.iter().any(|prefix| own.interface.starts_with(prefix)) => Rank::Inward,
        None => match own.kind {
            InterfaceKind::Hardware => Rank::Hardware,
            InterfaceKind::Bridge => Rank::Inward,
            InterfaceKind::Other => Rank::Other,
        },
    }
}

/// Reads this host's addresses; those that cannot be read are skipped.
pub(crate) fn of_host() -> Vec<Own> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let routes = default_routes(
        &fs::read_to_string("/proc/self/net/route").unwrap_or_default(),
        &fs::read_to_string("/proc/self/net/ipv6_route").unwrap_or_default(),
    );
    let own = |interface: nix::ifaddrs::InterfaceAddress| {
        let storage = interface.address?;
        let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let address = v4.or_else(|| storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))?;
        let same_family = |(_, gateway): &&(String, IpAddr)| gateway.is_ipv4() == address.is_ipv4();
        let mut routes = routes.iter().filter(same_family);
        let default_route =
            routes.find(|(name, _)| *name == interface.interface_name).map(|(_, gateway)| *gateway);

        Some(Own {
            kind: kind(&interface.interface_name),
            address,
            default_route,
            interface: interface.interface_name,
        })
    };

    all.filter_map(own).collect()
}

fn kind(interface: &str) -> InterfaceKind {
    let folder = Path::new("/sys/class/net").join(interface);
    if folder.join("bridge").exists() {
        InterfaceKind::Bridge
    } else if folder.join("device").exists() {
        InterfaceKind::Hardware
    } else {
        InterfaceKind::Other
    }
}

/// Parses the default routes, as interface and gateway, from the kernel's tables.
fn default_routes(route: &str, ipv6_route: &str) -> Vec<(String, IpAddr)> {
    let v4 = route.lines().filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let (["00000000", gateway], "00000000") = (words.get(1..3)?, *words.get(7)?) else {
            return None;
        };
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        // The kernel prints the bytes in network order as a native-endian number.
        Some((words.first()?.to_string(), IpAddr::from(gateway.to_ne_bytes())))
    });
    let v6 = ipv6_route.lines().filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let interface = words.last().filter(|interface| **interface != "lo")?;
        if *words.get(1)? != "00" {
            return None;
        }
        let gateway = u128::from_str_radix(words.get(4)?, 16).ok()?;
        Some((interface.to_string(), IpAddr::from(gateway.to_be_bytes())))
    });

    v4.chain(v6).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(interface: &str, address: &str, kind: InterfaceKind, gateway: Option<&str>) -> Own {
        Own {
            interface: interface.to_owned(),
            address: address.parse().expect("an address"),
            kind,
            default_route: gateway.map(|gateway| gateway.parse().expect("an address")),
        }
    }

    fn order(own: &[Own]) -> Vec<String> {
        ranked(own).iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn what_leads_out_comes_first_and_what_nobody_reaches_not_at_all() {
        let all = [
            own("lo", "127.0.0.1", InterfaceKind::Other, None),
            own("docker0", "172.17.0.1", InterfaceKind::Bridge, None),
            own("lan-br", "192.168.9.1", InterfaceKind::Bridge, None),
            own("ovh0", "10.64.0.7", InterfaceKind::Other, None),
            own("wg0", "10.8.0.2", InterfaceKind::Other, None),
            own("eth1", "198.51.100.1", InterfaceKind::Hardware, None),
            own("eth0", "fe80::1", InterfaceKind::Hardware, Some("fe80::2")),
            own("eth0", "2001:db8::1", InterfaceKind::Hardware, Some("fe80::2")),
            own("eth0", "192.0.2.1", InterfaceKind::Hardware, Some("192.0.2.254")),
            own("lo", "::1", InterfaceKind::Other, None),
        ];

        assert_eq!(order(&all), ["192.0.2.1", "2001:db8::1", "198.51.100.1", "10.8.0.2"]);
    }

    #[test]
    fn an_address_that_every_guest_of_a_hypervisor_has_is_left_out() {
        let nat = own("eth0", "10.0.2.15", InterfaceKind::Hardware, Some("10.0.2.2"));
        let between = own("eth1", "192.168.56.11", InterfaceKind::Hardware, None);
        let docker = own("docker0", "172.17.0.1", InterfaceKind::Bridge, None);

        assert_eq!(order(&[nat.clone(), between]), ["192.168.56.11"]);
        assert_eq!(order(&[docker, nat]), ["10.0.2.15", "172.17.0.1"], "there is nothing better");
        let honest = own("eth0", "10.0.2.15", InterfaceKind::Hardware, Some("10.0.2.1"));
        let other = own("eth1", "192.0.2.1", InterfaceKind::Hardware, None);
        assert_eq!(
            order(&[other, honest]),
            ["10.0.2.15", "192.0.2.1"],
            "a site may number itself so"
        );
    }

    #[test]
    fn a_bridge_with_the_hosts_own_card_in_it_leads_out() {
        let bridge = own("br0", "192.0.2.1", InterfaceKind::Bridge, Some("192.0.2.254"));
        let card = own("eth1", "198.51.100.1", InterfaceKind::Hardware, None);

        assert_eq!(order(&[card, bridge]), ["192.0.2.1", "198.51.100.1"]);
    }

    #[test]
    fn what_was_said_outranks_what_was_found() {
        let listen = "192.0.2.7:7443".parse().expect("an address");
        let all = "[::]:7443".parse().expect("an address");
        let card = [
            own("eth0", "192.0.2.1", InterfaceKind::Hardware, None),
            own("eth0", "2001:db8::1", InterfaceKind::Hardware, None),
        ];

        assert_eq!(for_join_lines(&["host:1".to_owned()], all, &card), ["host:1"]);
        assert_eq!(
            for_nodes(&["host:1".to_owned()], all, &card),
            ["host:1", "192.0.2.1:7443", "[2001:db8::1]:7443"]
        );
        assert_eq!(for_join_lines(&[], listen, &card), ["192.0.2.7:7443"]);
        assert_eq!(for_nodes(&["192.0.2.7:7443".to_owned()], listen, &card), ["192.0.2.7:7443"]);
        assert_eq!(
            for_join_lines(&[], "0.0.0.0:7443".parse().expect("an address"), &card),
            ["192.0.2.1:7443"]
        );
        assert_eq!(for_join_lines(&[], all, &[]), ["127.0.0.1:7443"]);
    }

    #[test]
    fn default_routes_are_read_from_the_kernels_tables() {
        let hex = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let route = format!(
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
             eth0\t00000000\t{}\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
             eth0\t{}\t00000000\t0001\t0\t0\t0\t{}\t0\t0\t0\n",
            hex([10, 0, 2, 2]),
            hex([10, 0, 2, 0]),
            hex([255, 255, 255, 0]),
        );
        let zeros = "0".repeat(32);
        let gateway = "fe800000000000000000000000000002";
        let v6 = format!(
            "{zeros} 00 {zeros} 00 {gateway} 00000400 00000001 00000000 00000003 eth1\n\
             fe80{} 40 {zeros} 00 {zeros} 00000100 00000001 00000000 00000001 eth1\n\
             {zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200 lo\n",
            "0".repeat(28)
        );

        let routes = default_routes(&route, &v6);

        let expected = [("eth0", "10.0.2.2"), ("eth1", "fe80::2")];
        let expected =
            expected.map(|(name, ip)| (name.to_owned(), ip.parse::<IpAddr>().expect("an address")));
        assert_eq!(routes, expected);
        assert_eq!(default_routes("junk\n\n", "junk"), []);
    }
}
