//! The layout of a lab: names, addresses, sizes. A value that is checked when it is made; nothing
//! here touches the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// The most hosts that a lab may have: their last address octet is 10 + index and must stay below
/// the broadcast address.
const MAX_HOSTS: usize = 200;

/// The names, addresses and sizes of one lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Identifies the lab among all that run on this machine; every process in it has it as
    /// `OVERLAY_LAB`.
    pub id: String,
    /// MTU of the underlay in bytes.
    pub mtu: u32,
    /// The underlay's IPv4 prefix; the switch has its first address.
    pub ipv4: Ipv4Net,
    /// The underlay's IPv6 prefix, if it has one; the switch has its first address.
    pub ipv6: Option<Ipv6Net>,
    /// The hosts, in order.
    pub hosts: Vec<HostPlan>,
    /// What connects the hosts.
    #[serde(default, alias = "joint")]
    pub underlay: UnderlayKind,
}

/// What connects the hosts of a [`Topology`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnderlayKind {
    /// A switch: all are on one link.
    #[default]
    Switch,
    /// A router with a link to each host, whose MTU can be set for the packets that it forwards.
    Router,
}

/// One host of a [`Topology`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPlan {
    /// The host's name: `host1`, `host2`, …
    pub name: String,
    /// Its address on the underlay.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address on the underlay, if the underlay has IPv6.
    pub ipv6: Option<Ipv6Addr>,
}

/// Why a [`Topology`] cannot be built.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopology {
    /// Too few or too many hosts.
    #[error("a lab has 1 to {MAX_HOSTS} hosts, not {0}")]
    HostCount(usize),
    /// The prefix cannot number the hosts.
    #[error("underlay prefix {0} is too small for {1} hosts: use a /24 or shorter")]
    PrefixTooSmall(Ipv4Net, usize),
    /// The MTU is outside of what IPv6 and Ethernet allow.
    #[error("an underlay MTU lies between 1280 and 9216, not {0}")]
    Mtu(u32),
}

impl Topology {
    /// The default underlay (RFC 5737).
    pub const IPV4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 2, 0), 24);
    /// The default IPv6 underlay (RFC 3849).
    pub const IPV6: Ipv6Net =
        Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 64);

    /// Numbers `count` hosts on the underlay.
    ///
    /// # Errors
    ///
    /// If the hosts do not fit, or the MTU is invalid.
    pub fn new(
        id: String,
        count: usize,
        mtu: u32,
        ipv4: Ipv4Net,
        ipv6: Option<Ipv6Net>,
    ) -> Result<Self, InvalidTopology> {
        if count == 0 || count > MAX_HOSTS {
            return Err(InvalidTopology::HostCount(count));
        }
        if ipv4.prefix_len() > 24 {
            return Err(InvalidTopology::PrefixTooSmall(ipv4, count));
        }
        if !(1280..=9216).contains(&mtu) {
            return Err(InvalidTopology::Mtu(mtu));
        }

        let hosts = (1..=u8::try_from(count).map_err(|_| InvalidTopology::HostCount(count))?)
            .map(|number| HostPlan::new(number, ipv4, ipv6))
            .collect();

        Ok(Self { id, mtu, ipv4, ipv6, hosts, underlay: UnderlayKind::default() })
    }

    /// Returns the switch's own address, which is the hosts' default gateway.
    #[must_use]
    pub fn gateway_v4(&self) -> Ipv4Addr {
        numbered_v4(self.ipv4, 1)
    }

    /// Returns the switch's own IPv6 address, if the underlay has IPv6.
    #[must_use]
    pub fn gateway_v6(&self) -> Option<Ipv6Addr> {
        self.ipv6.map(|prefix| numbered_v6(prefix, 1))
    }

    /// Finds a host by name: `host2`, `b` or `2`.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        let letter = match name.as_bytes() {
            [byte @ b'a'..=b'z'] => Some(usize::from(byte - b'a')),
            _ => None,
        };
        let number = name.parse::<usize>().ok().and_then(|n| n.checked_sub(1));

        self.hosts
            .iter()
            .position(|host| host.name == name)
            .or(letter)
            .or(number)
            .filter(|&i| i < self.hosts.len())
    }

    /// Returns the `/etc/hosts` that every host has.
    pub(crate) fn hosts_file(&self) -> String {
        let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost\n");
        for host in &self.hosts {
            text.extend(host.addresses().map(|address| format!("{address} {}\n", host.name)));
        }

        text
    }
}

impl HostPlan {
    fn new(number: u8, ipv4: Ipv4Net, ipv6: Option<Ipv6Net>) -> Self {
        let offset = 10 + number;

        Self {
            name: format!("host{number}"),
            ipv4: numbered_v4(ipv4, offset),
            ipv6: ipv6.map(|prefix| numbered_v6(prefix, offset)),
        }
    }

    /// Returns all underlay addresses of the host, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        std::iter::once(IpAddr::V4(self.ipv4)).chain(self.ipv6.map(IpAddr::V6))
    }
}

fn numbered_v4(prefix: Ipv4Net, offset: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(prefix.network().to_bits() | u32::from(offset))
}

/// Returns an IPv6 address that looks like the IPv4 address: 192.0.2.11 goes with 2001:db8::11.
fn numbered_v6(prefix: Ipv6Net, offset: u8) -> Ipv6Addr {
    let digits =
        u128::from(offset / 100) << 8 | u128::from(offset / 10 % 10) << 4 | u128::from(offset % 10);

    Ipv6Addr::from_bits(prefix.network().to_bits() | digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(count: usize) -> Result<Topology, InvalidTopology> {
        Topology::new("t".into(), count, 1500, Topology::IPV4, Some(Topology::IPV6))
    }

    #[test]
    fn hosts_are_numbered_alike_in_both_families() {
        let hosts = topology(3).unwrap().hosts;

        assert_eq!(hosts[2].name, "host3");
        assert_eq!(hosts[2].ipv4.to_string(), "192.0.2.13");
        assert_eq!(hosts[2].ipv6.unwrap().to_string(), "2001:db8::13");
    }

    #[test]
    fn a_host_is_found_by_name_letter_and_number() {
        let topology = topology(3).unwrap();

        for (name, expected) in
            [("host2", Some(1)), ("b", Some(1)), ("2", Some(1)), ("d", None), ("0", None)]
        {
            assert_eq!(topology.position(name), expected, "{name}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(topology(0), Err(InvalidTopology::HostCount(0)));
        assert_eq!(topology(201), Err(InvalidTopology::HostCount(201)));
        assert!(topology(200).is_ok());
        let small = Topology::new("t".into(), 1, 1500, "10.0.0.0/25".parse().unwrap(), None);
        assert!(matches!(small, Err(InvalidTopology::PrefixTooSmall(..))));
        assert_eq!(
            Topology::new("t".into(), 1, 1000, Topology::IPV4, None),
            Err(InvalidTopology::Mtu(1000))
        );
    }

    #[test]
    fn every_host_knows_all_names() {
        let text = topology(2).unwrap().hosts_file();

        assert!(text.contains("192.0.2.12 host2\n"));
        assert!(text.contains("2001:db8::11 host1\n"));
    }
}
