//! What the containers of a network may send at all, whatever its policy says: from their own
//! addresses, to the network and those linked with it, and nothing that only routers say. As a
//! value; pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use overlay_core::{EndpointId, NetworkId};

use crate::kernel::namespace_desired::{host_ifname, join_ifname};
use crate::kernel::{JoinDesired, NamespaceDesired, SandboxDesired, Strays, VethDesired};

/// The guard of one network on this node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Guard {
    /// The endpoints, by the network's end of their veth pair. Each sends from its own addresses.
    pub(super) senders: BTreeMap<String, Sender>,
    /// Interfaces to linked networks, by name. Each carries packets from that network's prefixes.
    pub(super) joins: BTreeMap<String, Vec<IpNet>>,
    /// Where packets may go, as ranges that do not overlap.
    pub(super) inside: BTreeSet<(IpAddr, IpAddr)>,
    /// Whether interfaces pass of which nothing is known.
    pub(super) passes_strangers: bool,
}

/// Whoever sends by an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sender {
    pub(super) mac: [u8; 6],
    pub(super) addresses: BTreeSet<IpAddr>,
}

/// Why a packet is refused by the guard. Each is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GuardReason {
    /// The source is not one of the sender's addresses.
    Source,
    /// The hardware address of the source is not the sender's.
    Mac,
    /// ARP or neighbour discovery about another's address.
    Neighbor,
    /// A router's message: an advertisement or a redirect.
    Router,
    /// A DHCP server's answer.
    Dhcp,
    /// A fragment that only serves to hide ports.
    Fragment,
    /// An IPv6 routing header, or options that routers are to look at.
    Header,
    /// Broadcast or multicast.
    Group,
    /// The destination is neither in the network nor in one that is linked with it.
    Destination,
    /// A port of the gateway or of the node that is not DNS.
    Gateway,
    /// More questions for names than a container may ask.
    Questions,
    /// What the kernel refused by itself: fragments that overlap or lack a part, broken headers.
    Malformed,
}

impl GuardReason {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Source,
        Self::Mac,
        Self::Neighbor,
        Self::Router,
        Self::Dhcp,
        Self::Fragment,
        Self::Header,
        Self::Group,
        Self::Destination,
        Self::Gateway,
        Self::Questions,
        Self::Malformed,
    ];

    /// Returns the stable word, which is also the name of its counter.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Mac => "mac",
            Self::Neighbor => "neighbor",
            Self::Router => "router",
            Self::Dhcp => "dhcp",
            Self::Fragment => "fragment",
            Self::Header => "header",
            Self::Group => "group",
            Self::Destination => "destination",
            Self::Gateway => "gateway",
            Self::Questions => "questions",
            Self::Malformed => "malformed",
        }
    }
}

impl Guard {
    /// Returns the guard of a network with these container sides.
    pub(crate) fn new(
        namespace: &NamespaceDesired,
        sandboxes: &BTreeMap<EndpointId, SandboxDesired>,
    ) -> Self {
        let sender = |(id, veth): (&EndpointId, &VethDesired)| {
            let mac = sandboxes.get(id)?.mac();
            let addresses = veth.addresses.iter().copied().collect();
            Some((host_ifname(*id), Sender { mac, addresses }))
        };

        Self {
            senders: namespace.endpoints.iter().filter_map(sender).collect(),
            joins: namespace.joins.iter().map(|join| carried(namespace, join)).collect(),
            inside: inside(namespace),
            passes_strangers: namespace.strays != Strays::default(),
        }
    }

    /// Tells whether two networks' guards are certainly the same, without making them.
    pub(crate) fn is_alike(
        (one, its): (&NamespaceDesired, &BTreeMap<EndpointId, SandboxDesired>),
        (other, others): (&NamespaceDesired, &BTreeMap<EndpointId, SandboxDesired>),
    ) -> bool {
        one.endpoints == other.endpoints
            && one.joins == other.joins
            && one.linked == other.linked
            && one.unreachable == other.unreachable
            && one.gateways == other.gateways
            && one.node == other.node
            && one.strays == other.strays
            && its == others
    }
}

#[cfg(test)]
impl Guard {
    /// Tells whether an endpoint's interface is known.
    pub(crate) fn knows(&self, endpoint: EndpointId) -> bool {
        self.senders.contains_key(&host_ifname(endpoint))
    }
}

/// Says which prefixes the interface to a linked network carries.
fn carried(
    namespace: &NamespaceDesired,
    (other, join): (&NetworkId, &JoinDesired),
) -> (String, Vec<IpNet>) {
    let prefixes = join.prefixes.iter().copied().filter(|one| namespace.speaks(one)).collect();

    (join_ifname(*other), prefixes)
}

/// Lists the network's addresses and those of linked ones, without those that IPv4 broadcasts to.
fn inside(namespace: &NamespaceDesired) -> BTreeSet<(IpAddr, IpAddr)> {
    let prefixes = namespace.unreachable.iter().copied();
    let single = namespace.gateways.iter().chain(&namespace.node).map(|ip| IpNet::from(*ip));
    let all: Vec<_> = prefixes.chain(single).filter(|one| namespace.speaks(one)).collect();

    let own = IpNet::aggregate(&all);
    // Not merged with the network's own: its broadcast address may be between the two.
    let is_apart = |linked: &IpNet| {
        let overlaps = |own: &IpNet| own.contains(linked) || linked.contains(own);
        namespace.speaks(linked) && !own.iter().any(overlaps)
    };
    let linked: Vec<_> = namespace.linked.iter().copied().filter(is_apart).collect();

    own.iter().copied().chain(IpNet::aggregate(&linked)).map(range).collect()
}

fn range(prefix: IpNet) -> (IpAddr, IpAddr) {
    let IpNet::V4(v4) = prefix else { return (prefix.network(), prefix.broadcast()) };
    let (first, last) = (v4.network().to_bits(), v4.broadcast().to_bits());
    let (first, last) = if last - first < 3 { (first, last) } else { (first + 1, last - 1) };

    (Ipv4Addr::from_bits(first).into(), Ipv4Addr::from_bits(last).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tests::rig;

    #[test]
    fn packets_go_to_addresses_of_the_network_and_are_not_broadcast() {
        let namespace = rig::desired(1, &[11]);

        let guard = Guard::new(&namespace, &BTreeMap::new());

        let texts: Vec<_> = guard.inside.iter().map(|(a, b)| format!("{a}-{b}")).collect();
        assert_eq!(texts, ["10.42.0.1-10.42.255.254", "fd42::-fd42::ffff:ffff:ffff:ffff"]);
        assert!(guard.senders.is_empty(), "nothing is known of its interface");
    }
}
