//! Where control can be dialled: what join lines carry.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use overlay_proto::join_line::MAX_ADDRESSES;

/// Lists the addresses for join lines: what was advertised; else what control listens on; else every address of the host.
pub(crate) fn of_control(advertised: &[String], listen: SocketAddr) -> Vec<String> {
    if !advertised.is_empty() {
        return advertised.to_vec();
    }
    if !listen.ip().is_unspecified() {
        return vec![listen.to_string()];
    }
    let own = ranked(interfaces(), |name| Path::new("/sys/class/net").join(name).join("device").exists());
    let reachable = own.into_iter().filter(|ip| ip.is_ipv4() || listen.is_ipv6());
    let mut found: Vec<_> = reachable.take(MAX_ADDRESSES).map(|ip| SocketAddr::new(ip, listen.port())).collect();
    if found.is_empty() {
        // A host with nothing but its loopback still talks to itself.
        found.push(SocketAddr::new(IpAddr::from([127, 0, 0, 1]), listen.port()));
    }

    found.iter().map(SocketAddr::to_string).collect()
}

fn interfaces() -> Vec<(String, IpAddr)> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let storage = interface.address?;
        let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let ip = v4.or_else(|| storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))?;

        Some((interface.interface_name, ip))
    };

    all.filter_map(address).collect()
}

/// Sorts addresses by how likely another host reaches them: hardware first, container bridges last, IPv4 before IPv6.
fn ranked(interfaces: Vec<(String, IpAddr)>, is_hardware: impl Fn(&str) -> bool) -> Vec<IpAddr> {
    let usable = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        // A link-local address means nothing without an interface of the dialling host.
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    let rank = |name: &str| {
        let bridge = ["docker", "br-", "virbr", "cni", "podman", "veth", "ov"].iter().any(|p| name.starts_with(p));
        match (is_hardware(name), bridge) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => 2,
        }
    };
    let mut all: Vec<_> = interfaces.into_iter().filter(|(_, ip)| usable(ip)).collect();
    all.sort_by_key(|(name, ip)| (rank(name), ip.is_ipv6()));
    let mut seen = std::collections::BTreeSet::new();

    all.into_iter().map(|(_, ip)| ip).filter(|ip| seen.insert(*ip)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_comes_first_and_what_nobody_reaches_not_at_all() {
        let on = |name: &str, ip: &str| (name.to_owned(), ip.parse::<IpAddr>().expect("an address"));
        let interfaces = vec![
            on("lo", "127.0.0.1"),
            on("docker0", "172.17.0.1"),
            on("wg0", "10.8.0.2"),
            on("eth0", "fe80::1"),
            on("eth0", "2001:db8::1"),
            on("eth0", "192.0.2.1"),
            on("lo", "::1"),
        ];

        let ranked = ranked(interfaces, |name| name == "eth0");

        let texts: Vec<_> = ranked.iter().map(IpAddr::to_string).collect();
        assert_eq!(texts, ["192.0.2.1", "2001:db8::1", "10.8.0.2", "172.17.0.1"]);
    }

    #[test]
    fn what_was_said_outranks_what_was_found() {
        let listen = "192.0.2.7:7443".parse().expect("an address");

        assert_eq!(of_control(&["host:1".to_owned()], listen), ["host:1"]);
        assert_eq!(of_control(&[], listen), ["192.0.2.7:7443"]);
        assert!(!of_control(&[], "[::]:7443".parse().expect("an address")).is_empty());
    }
}
