//! A network, its members and the blocks of addresses they hold.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::id::{NetworkId, NodeId};
use crate::key::PublicKey;
use crate::name::Name;

/// How a network carries packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Routed: no broadcast, no multicast.
    L3,
}

/// What `network create` makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Given by control at creation.
    pub id: NetworkId,
    /// Unique among the networks of a cluster.
    pub name: Name,
    /// Where the IPv4 addresses of its endpoints come from; at least a /29.
    pub prefix: Ipv4Net,
    /// Where their IPv6 addresses come from, if they have any; a /96 or shorter. See [`Network::address6`].
    pub prefix6: Option<Ipv6Net>,
    /// How packets are carried.
    pub mode: NetworkMode,
    /// Free words of the operator.
    pub labels: BTreeMap<String, String>,
}

/// The longest IPv4 prefix a network may have: 8 addresses.
pub const MAX_PREFIX_LEN: u8 = 29;
/// The longest IPv6 prefix a network may have: room for an IPv4 address below it.
pub const MAX_PREFIX6_LEN: u8 = 96;

impl Network {
    /// Returns the gateway: the first host address of the prefix, the same on every node.
    pub fn gateway(&self) -> Ipv4Addr {
        first_host(self.prefix)
    }

    /// Returns the IPv6 address that belongs to an IPv4 address of this network: the IPv6 prefix with the IPv4 address in
    /// its lowest 32 bits. One allocation so serves both families.
    pub fn address6(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        let prefix = self.prefix6?.trunc();

        Some(Ipv6Addr::from_bits(prefix.addr().to_bits() | u128::from(address.to_bits())))
    }

    /// Returns the IPv6 prefix that belongs to an IPv4 prefix of this network.
    pub fn prefix6_of(&self, prefix: Ipv4Net) -> Option<Ipv6Net> {
        let address = self.address6(prefix.network())?;

        Ipv6Net::new(address, MAX_PREFIX6_LEN + prefix.prefix_len()).ok()
    }

    /// Lists the addresses, one a family, that an endpoint with this IPv4 address has.
    pub fn addresses(&self, address: Ipv4Addr) -> Vec<IpAddr> {
        let v6 = self.address6(address).map(IpAddr::V6);

        std::iter::once(IpAddr::V4(address)).chain(v6).collect()
    }

    /// Lists the prefixes, one a family, that this IPv4 prefix stands for.
    pub fn prefixes(&self, prefix: Ipv4Net) -> Vec<IpNet> {
        let v6 = self.prefix6_of(prefix).map(IpNet::V6);

        std::iter::once(IpNet::V4(prefix)).chain(v6).collect()
    }
}

/// Returns the first address of a prefix that a host may have; network addresses are skipped (RFC 3021 aside).
pub fn first_host(prefix: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(prefix.network().to_bits().saturating_add(1))
}

/// A part of a network's prefix, held by one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Block {
    /// The addresses; inside the network's prefix, disjoint from every other block of it.
    pub prefix: Ipv4Net,
    /// The revision that granted the block. A node that comes back with an older grant of the same addresses has lost them.
    pub epoch: u64,
}

/// A node's membership in one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The network.
    pub network: NetworkId,
    /// The member.
    pub node: NodeId,
    /// The node's public key in this network on each of its lanes, in lane order.
    pub lane_keys: Vec<PublicKey>,
    /// The addresses the node may give out, in the order they were granted.
    pub blocks: Vec<Block>,
}

impl Member {
    /// Returns the address of the node itself in this network: the first host address of its first block.
    ///
    /// The node answers and asks with it (`ping`, ICMP errors); no endpoint ever gets it.
    pub fn node_address(&self, network: &Network) -> Option<Ipv4Addr> {
        let block = self.blocks.first()?.prefix;
        let first = first_host(block);

        Some(if first == network.gateway() { Ipv4Addr::from_bits(first.to_bits() + 1) } else { first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(prefix: &str, prefix6: Option<&str>) -> Network {
        Network {
            id: NetworkId::from_random(1),
            name: "n".parse().expect("a name"),
            prefix: prefix.parse().expect("a prefix"),
            prefix6: prefix6.map(|p| p.parse().expect("a prefix")),
            mode: NetworkMode::L3,
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn the_ipv6_address_carries_the_ipv4_address() {
        let network = network("10.42.0.0/16", Some("fd42::/64"));

        let address = network.address6(Ipv4Addr::new(10, 42, 1, 2));

        assert_eq!(address, Some("fd42::a2a:102".parse().expect("an address")));
        assert_eq!(
            network.prefix6_of("10.42.1.0/24".parse().expect("a prefix")),
            Some("fd42::a2a:100/120".parse().expect("a prefix"))
        );
    }

    #[test]
    fn the_node_address_is_never_the_gateway() {
        let network = network("10.42.0.0/24", None);
        let member = |block: &str| Member {
            network: network.id,
            node: NodeId::from_random(1),
            lane_keys: Vec::new(),
            blocks: vec![Block { prefix: block.parse().expect("a prefix"), epoch: 1 }],
        };

        assert_eq!(member("10.42.0.0/28").node_address(&network), Some(Ipv4Addr::new(10, 42, 0, 2)));
        assert_eq!(member("10.42.0.16/28").node_address(&network), Some(Ipv4Addr::new(10, 42, 0, 17)));
    }
}
