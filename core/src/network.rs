//! A network, its members and the address blocks that they hold.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::id::{NetworkId, NodeId};
use crate::key::PublicKey;
use crate::lease::Lease;
use crate::name::Name;
use crate::selector::Selector;

/// How a network carries packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Routed: no broadcast, no multicast.
    L3,
}

/// An overlay network, as `network create` makes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The id, assigned by control.
    pub id: NetworkId,
    /// The name, unique among the networks of a cluster.
    pub name: Name,
    /// The IPv4 prefix of its endpoints; at least a /29.
    pub prefix: Ipv4Net,
    /// The IPv6 prefix of its endpoints, if any; a /96 or shorter. See [`Network::address6`].
    pub prefix6: Option<Ipv6Net>,
    /// How packets are carried.
    pub mode: NetworkMode,
    /// The operator's labels.
    pub labels: BTreeMap<String, String>,
    /// Further settings, chosen when it was created or changed since.
    #[serde(default)]
    pub settings: NetworkSettings,
    /// The node that created it; missing if the operator of control did, or if control did not
    /// keep it yet.
    #[serde(default)]
    pub creator: Option<Creator>,
}

/// The node that created a network, or replaced the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Creator {
    /// The node.
    pub node: NodeId,
    /// Its name, for messages: not everyone who sees the network may see the node.
    pub name: Name,
}

/// The settings of a network besides name and prefixes. The default is that of a plain `overlayctl
/// network create`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSettings {
    /// The IPv4 gateway, if it is not the first host address of the prefix.
    pub gateway: Option<Ipv4Addr>,
    /// The IPv6 gateway, if it is not the one derived from the IPv4 gateway.
    pub gateway6: Option<Ipv6Addr>,
    /// The part of the prefix that addresses are assigned from; the whole prefix when missing.
    pub range: Option<Ipv4Net>,
    /// Addresses that are never assigned, by the name of what uses them.
    pub reserved: BTreeMap<String, IpAddr>,
    /// Whether its containers have no access to other networks through their engine (`--internal`).
    pub internal: bool,
    /// The options that were given to a container engine with `-o`.
    pub options: BTreeMap<String, String>,
    /// The node whose container engine assigns addresses itself, from the bottom of the range;
    /// there, an address outside of the node's blocks belongs to the engine. On all other nodes,
    /// and when missing, all addresses come from blocks.
    pub numbered_by: Option<NodeId>,
    /// The name as container engines write it, if it differs from the network's (upper case, dots).
    pub title: Option<String>,
    /// The nodes that may enter the network and see it, by their labels.
    pub nodes: Selector,
    /// How long its nodes trust each other without hearing control; for ever when missing.
    pub lease: Option<Lease>,
    /// The networks that it is linked with, by id. Control writes them in both networks at once.
    pub links: Vec<NetworkLink>,
}

/// What a network's row says of another network that it is linked with: as much as it takes to
/// reach that one, for nodes that may not see its own row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkLink {
    /// The other network.
    pub network: NetworkId,
    /// Its name, by which its endpoints are found: `name.network`.
    pub name: Name,
    /// Its IPv4 prefix.
    pub prefix: Ipv4Net,
    /// Its IPv6 prefix, if it has one.
    pub prefix6: Option<Ipv6Net>,
    /// What passes between the two where no rule of the policy decides.
    pub access: LinkAccess,
    /// The gateways: nodes in both networks that carry packets between them, by id, at most
    /// [`MAX_GATEWAYS`].
    pub gateways: Vec<NodeId>,
}

/// What passes between two linked networks where no rule of the policy decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkAccess {
    /// What the default of each of them lets pass.
    Defaults,
    /// Nothing: only what a rule allows.
    PolicyOnly,
}

/// The most gateways of a link: nodes in both networks beyond them use these.
pub const MAX_GATEWAYS: usize = 64;
/// The most links of one network: with all gateways of each, a row stays below its bound.
pub const MAX_LINKS: usize = 16;

impl NetworkLink {
    /// Lists the other network's prefixes, one per family.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        std::iter::once(IpNet::V4(self.prefix)).chain(self.prefix6.map(IpNet::V6))
    }

    /// Returns as much of the other network's row as the link says.
    pub fn to_network(&self) -> Network {
        Network {
            id: self.network,
            name: self.name.clone(),
            prefix: self.prefix,
            prefix6: self.prefix6,
            mode: NetworkMode::L3,
            labels: BTreeMap::new(),
            settings: NetworkSettings::default(),
            creator: None,
        }
    }

    /// Returns whether a node is a gateway.
    pub fn has_gateway(&self, node: NodeId) -> bool {
        self.gateways.contains(&node)
    }
}

/// The longest IPv4 prefix a network may have: 8 addresses.
pub const MAX_PREFIX_LEN: u8 = 29;
/// The longest IPv6 prefix a network may have: room for an IPv4 address below it.
pub const MAX_PREFIX6_LEN: u8 = 96;

impl Network {
    /// Returns the gateway, the same on every node: the first host address of the prefix unless set
    /// otherwise.
    pub fn gateway(&self) -> Ipv4Addr {
        self.settings.gateway.unwrap_or_else(|| first_host(self.prefix))
    }

    /// Returns the IPv6 gateway, if the network has IPv6.
    pub fn gateway6(&self) -> Option<Ipv6Addr> {
        let own = self.address6(self.gateway())?;

        Some(self.settings.gateway6.unwrap_or(own))
    }

    /// Lists the gateway's addresses, one per family.
    pub fn gateways(&self) -> Vec<IpAddr> {
        std::iter::once(IpAddr::V4(self.gateway())).chain(self.gateway6().map(IpAddr::V6)).collect()
    }

    /// Returns the part of the prefix that is divided into blocks.
    pub fn range(&self) -> Ipv4Net {
        self.settings.range.unwrap_or(self.prefix)
    }

    /// Returns whether a node created it.
    pub fn is_made_by(&self, node: NodeId) -> bool {
        self.creator.as_ref().is_some_and(|creator| creator.node == node)
    }

    /// Returns whether a node with these labels may enter it, and so may know of it.
    pub fn admits(&self, labels: &BTreeMap<String, String>) -> bool {
        self.settings.nodes.matches(labels)
    }

    /// Returns the link with another network, if there is one.
    pub fn link_with(&self, other: NetworkId) -> Option<&NetworkLink> {
        self.settings.links.iter().find(|link| link.network == other)
    }

    /// Returns the name by which container engines know it.
    pub fn title(&self) -> &str {
        self.settings.title.as_deref().unwrap_or(self.name.as_str())
    }

    /// Returns whether an address is reserved: the network or broadcast address, the gateway, or
    /// one reserved by name.
    pub fn is_reserved(&self, address: Ipv4Addr) -> bool {
        [self.prefix.network(), self.gateway(), self.prefix.broadcast()].contains(&address)
            || self.settings.reserved.values().any(|reserved| *reserved == address)
    }

    /// Returns whether an IPv6 address is reserved.
    pub fn is_reserved6(&self, address: Ipv6Addr) -> bool {
        Some(address) == self.gateway6()
            || self.prefix6.is_some_and(|prefix| prefix.network() == address)
            || self.settings.reserved.values().any(|reserved| *reserved == address)
    }

    /// Returns the IPv6 address derived from an IPv4 address of this network: the IPv6 prefix with
    /// the IPv4 address in its lowest 32 bits. So one allocation serves both families.
    pub fn address6(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        let prefix = self.prefix6?.trunc();

        Some(Ipv6Addr::from_bits(prefix.addr().to_bits() | u128::from(address.to_bits())))
    }

    /// Returns the IPv6 prefix derived from an IPv4 prefix of this network.
    pub fn prefix6_of(&self, prefix: Ipv4Net) -> Option<Ipv6Net> {
        let address = self.address6(prefix.network())?;

        Ipv6Net::new(address, MAX_PREFIX6_LEN + prefix.prefix_len()).ok()
    }

    /// Returns the IPv4 address that an IPv6 address of this network was derived from; `None` if it
    /// embeds none.
    pub fn address4(&self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        let prefix = self.prefix6?.trunc();
        let host = address.to_bits() ^ prefix.addr().to_bits();

        u32::try_from(host).ok().map(Ipv4Addr::from_bits)
    }

    /// Returns the prefix length of this network's blocks.
    pub fn block_len(&self) -> u8 {
        block_len(self.range())
    }

    /// Lists the addresses, one per family, of an endpoint with this IPv4 address, unless its
    /// runtime says otherwise.
    pub fn addresses(&self, address: Ipv4Addr) -> Vec<IpAddr> {
        let v6 = self.address6(address).map(IpAddr::V6);

        std::iter::once(IpAddr::V4(address)).chain(v6).collect()
    }

    /// Lists this IPv4 prefix and the IPv6 prefix derived from it.
    pub fn prefixes(&self, prefix: Ipv4Net) -> Vec<IpNet> {
        let v6 = self.prefix6_of(prefix).map(IpNet::V6);

        std::iter::once(IpNet::V4(prefix)).chain(v6).collect()
    }
}

/// Returns the first host address of a prefix; the network address is skipped (RFC 3021 aside).
pub fn first_host(prefix: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(prefix.network().to_bits().saturating_add(1))
}

/// A part of a network's prefix, held by one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Block {
    /// The addresses; inside the network's prefix, disjoint from every other block of it.
    pub prefix: Ipv4Net,
    /// The revision that granted the block. A node that returns with an older grant of the same
    /// addresses has lost them.
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
    /// The blocks that the node may assign addresses from, in the order they were granted.
    pub blocks: Vec<Block>,
}

impl Member {
    /// Returns the address of the node itself in this network: the first free host address of its
    /// first block.
    ///
    /// The node uses it as its own (`ping`, ICMP errors); no endpoint ever gets it.
    pub fn node_address(&self, network: &Network) -> Option<Ipv4Addr> {
        let block = self.blocks.first()?.prefix;
        let mut hosts =
            (first_host(block).to_bits()..block.broadcast().to_bits()).map(Ipv4Addr::from_bits);

        hosts.find(|address| !network.is_reserved(*address))
    }
}

/// Returns the prefix length of a network's blocks: /24 for a /16, /28 for a /24, never longer than
/// /30 and never fewer than 2 blocks.
pub fn block_len(prefix: Ipv4Net) -> u8 {
    match prefix.prefix_len() {
        0..=16 => 24,
        17..=20 => 26,
        21..=24 => 28,
        len => (len + 2).min(30),
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
            settings: NetworkSettings::default(),
            creator: None,
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

        assert_eq!(
            member("10.42.0.0/28").node_address(&network),
            Some(Ipv4Addr::new(10, 42, 0, 2))
        );
        assert_eq!(
            member("10.42.0.16/28").node_address(&network),
            Some(Ipv4Addr::new(10, 42, 0, 17))
        );
    }

    #[test]
    fn gateways_that_were_asked_for_take_the_place_of_the_first_addresses() {
        let mut network = network("10.42.0.0/24", Some("fd42::/64"));
        network.settings.gateway = Some(Ipv4Addr::new(10, 42, 0, 9));

        assert_eq!(
            network.gateways(),
            ["10.42.0.9", "fd42::a2a:9"].map(|a| a.parse::<IpAddr>().expect("an address"))
        );
        network.settings.gateway6 = Some("fd42::1".parse().expect("an address"));
        assert_eq!(network.gateway6(), "fd42::1".parse().ok());
        assert!(
            network.is_reserved(Ipv4Addr::new(10, 42, 0, 9))
                && !network.is_reserved(Ipv4Addr::new(10, 42, 0, 1))
        );
    }
}
