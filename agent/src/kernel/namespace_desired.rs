//! What a network's namespace must contain, computed from a few facts. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use overlay_core::{EndpointId, NetworkId};

use super::sysctl;
use super::tables::{
    Address, Desired, Hop, LinkDesired, RouteKey, Rule, RuleAction, Scope, Strays,
};

/// The network's TUN, in its own namespace.
pub const TUN_NAME: &str = "ovt";
/// The TUN's `txqueuelen`, in packets: with less, bursts of UDP drop before a lane can read them.
pub const TUN_QUEUE_LEN: u32 = 4000;
/// The IPv6 gateway on each veth: link-local, because IPv6 answers only for addresses of the link
/// that was asked.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The same of the second end of a veth pair between two networks.
pub(crate) const JOINED_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
/// The first letters of our interface names.
const VETH_PREFIX: &str = "ov";

/// The first letters of interfaces to linked networks.
pub(crate) const JOIN_PREFIX: &str = "ovl";

/// Rules before this one let a packet pass; this one drops what is left.
const RULE_PASS: u32 = 100;
const RULE_PIN: u32 = 200;
const RULE_DROP: u32 = 300;
/// Where a packet that passes goes on. The kernel's own rule for local addresses stands at 0,
/// before every pin, so it is moved here.
const RULE_LOCAL: u32 = 30_000;
const RULE_MAIN: u32 = 32_766;
const TABLE_LOCAL: u32 = 255;
const TABLE_MAIN: u32 = 254;

/// The network's TUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunDesired {
    /// In bytes.
    pub mtu: u32,
    /// One per lane, 1 to 256.
    pub queues: usize,
}

/// The interface through which a network's packets go to other nodes, of the kind that the
/// network's backend needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterfaceDesired {
    /// A TUN, for a backend in userspace.
    Tun(TunDesired),
}

impl InterfaceDesired {
    /// Returns the largest packet, in bytes.
    pub fn mtu(self) -> u32 {
        let Self::Tun(tun) = self;

        tun.mtu
    }
}

/// The network's end of an endpoint's veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethDesired {
    /// The endpoint's addresses, at most one a family; its packets may come from no other.
    pub addresses: Vec<IpAddr>,
    /// In bytes; the same as the TUN's.
    pub mtu: u32,
    /// The network's IPv6 gateway, where the container asks for it and not for `fe80::1`: IPv6
    /// answers only for addresses of the link that was asked.
    pub gateway6: Option<Ipv6Addr>,
}

/// The veth pair between the namespaces of two linked networks on a host that is in both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinDesired {
    /// The other network's prefixes.
    pub prefixes: Vec<IpNet>,
    /// The other network's gateway, the next hop; for IPv6 that is a link-local address.
    pub gateway: Ipv4Addr,
}

/// What a network's namespace on this node must contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceDesired {
    /// The network.
    pub network: NetworkId,
    /// Its interface to other nodes.
    pub interface: InterfaceDesired,
    /// The gateway's addresses, one a family; they sit on `lo` and answer on every veth.
    pub gateways: BTreeSet<IpAddr>,
    /// This node's own addresses in the network, one a family; they sit on the TUN.
    pub node: BTreeSet<IpAddr>,
    /// The endpoints on this node.
    pub endpoints: BTreeMap<EndpointId, VethDesired>,
    /// The linked networks that are reached here, and not through another node.
    pub joins: BTreeMap<NetworkId, JoinDesired>,
    /// The prefixes of all linked networks that are reached, here or through another node: packets
    /// may go there.
    pub linked: BTreeSet<IpNet>,
    /// Other endpoints whose veths stay as they are.
    pub strays: Strays,
    /// What is reached through the TUN: other nodes' blocks and single moved addresses. A local
    /// endpoint's address wins.
    pub remote: BTreeSet<IpNet>,
    /// The network's prefixes: what is neither local nor remote is answered with "unreachable".
    pub unreachable: BTreeSet<IpNet>,
    /// Whether packets are carried between endpoints, and to and from other nodes.
    pub forwards: bool,
}

/// Returns the name of the network's end of an endpoint's veth pair.
pub fn host_ifname(endpoint: EndpointId) -> String {
    format!("{VETH_PREFIX}{endpoint}")
}

/// Returns the name that the container's end has in the host's namespace until a container engine
/// moves it.
pub fn engine_ifname(endpoint: EndpointId) -> String {
    format!("{VETH_PREFIX}c{endpoint}")
}

/// Returns the name of a network's end of the veth pair to a linked network.
pub fn join_ifname(other: NetworkId) -> String {
    format!("{JOIN_PREFIX}{other}")
}

/// Returns the link-local address of a network's end of the veth pair to another one: neighbours
/// are asked for from such an address alone.
fn join_address6(network: NetworkId, other: NetworkId) -> Ipv6Addr {
    if network < other { GATEWAY_V6 } else { JOINED_V6 }
}

/// Returns the linked network whose veth pair has this name, if the name is one that we give.
pub fn joined_by(ifname: &str) -> Option<NetworkId> {
    ifname.strip_prefix(JOIN_PREFIX)?.parse().ok()
}

/// Returns the endpoint whose veth has this name, if the name is one that we give.
pub fn endpoint_of(ifname: &str) -> Option<EndpointId> {
    ifname.strip_prefix(VETH_PREFIX)?.parse().ok()
}

impl NamespaceDesired {
    /// Says whether the network speaks IPv6; where it does not, IPv6 is switched off in the
    /// namespace.
    pub fn ipv6(&self) -> bool {
        self.gateways.iter().any(IpAddr::is_ipv6)
            || self.unreachable.iter().any(|p| matches!(p, IpNet::V6(_)))
    }

    /// Computes the tables that the namespace must contain.
    pub fn tables(&self) -> Desired {
        let veths = || self.endpoints.keys().map(|&id| host_ifname(id));
        let joins = self.joins.keys().map(|&id| join_ifname(id));
        let mut sysctls = sysctl::of_network(
            self.ipv6(),
            self.forwards,
            veths().chain(joins).chain([TUN_NAME.to_owned()]),
        );
        if !self.joins.is_empty() {
            sysctls.extend(sysctl::of_shared_tun(TUN_NAME));
        }

        Desired {
            scope: Scope::Network { strays: self.strays.clone() },
            sysctls,
            rules: if self.ipv6() { self.rules() } else { BTreeSet::new() },
            links: self.links(),
            addresses: self.addresses(),
            routes: self.routes(),
        }
    }

    fn links(&self) -> BTreeMap<String, LinkDesired> {
        let tun = LinkDesired { mtu: Some(self.interface.mtu()), queue_len: Some(TUN_QUEUE_LEN) };
        let veths = self.endpoints.iter().map(|(&id, veth)| {
            (host_ifname(id), LinkDesired { mtu: Some(veth.mtu), queue_len: None })
        });

        let join = LinkDesired { mtu: Some(self.interface.mtu()), queue_len: None };
        let joins = self.joins.keys().map(|&id| (join_ifname(id), join));

        [("lo".to_owned(), LinkDesired::default()), (TUN_NAME.to_owned(), tun)]
            .into_iter()
            .chain(veths)
            .chain(joins)
            .collect()
    }

    fn addresses(&self) -> BTreeSet<Address> {
        let on = |link: &str, address: IpNet| Address { link: link.to_owned(), address };
        let gateways = self.gateways.iter().map(|&ip| on("lo", IpNet::from(ip)));
        let node = self.node.iter().map(|&ip| on(TUN_NAME, IpNet::from(ip)));
        let fe80 = Ipv6Net::new_assert(GATEWAY_V6, 64);
        let veths = self
            .endpoints
            .keys()
            .filter(|_| self.ipv6())
            .map(|&id| on(&host_ifname(id), IpNet::V6(fe80)));
        let asked = |(&id, veth): (&EndpointId, &VethDesired)| {
            veth.gateway6.map(|gateway| on(&host_ifname(id), IpNet::from(IpAddr::V6(gateway))))
        };
        let asked = self.endpoints.iter().filter_map(asked);

        let joins = self.joins.keys().filter(|_| self.ipv6()).map(|&id| {
            let own = Ipv6Net::new_assert(join_address6(self.network, id), 64);
            on(&join_ifname(id), IpNet::V6(own))
        });

        gateways
            .chain(node)
            .chain(veths)
            .chain(asked)
            .chain(joins)
            .filter(|a| self.speaks(&a.address))
            .collect()
    }

    fn routes(&self) -> BTreeMap<RouteKey, Hop> {
        let unreachable =
            self.unreachable.iter().map(|&prefix| (RouteKey::ours(prefix), Hop::Unreachable));
        let remote = self
            .remote
            .iter()
            .map(|&prefix| (RouteKey::ours(prefix), Hop::Link(TUN_NAME.to_owned())));
        let local = self.endpoints.iter().flat_map(|(&id, veth)| {
            let hop = Hop::Link(host_ifname(id));
            veth.addresses.iter().map(move |&ip| (RouteKey::ours(IpNet::from(ip)), hop.clone()))
        });

        let joins = self.joins.iter().flat_map(|(&id, join)| {
            let link = move || join_ifname(id);
            let gateway = IpAddr::V4(join.gateway);
            let direct = (RouteKey::ours(IpNet::from(gateway)), Hop::Link(link()));
            let via = join.prefixes.iter().map(move |&prefix| {
                let hop = match prefix {
                    IpNet::V4(_) => gateway,
                    IpNet::V6(_) => IpAddr::V6(join_address6(id, self.network)),
                };
                (RouteKey::ours(prefix), Hop::Via(link(), hop))
            });
            std::iter::once(direct).chain(via)
        });

        // Later entries win: a single-address prefix of ours beats what others say about it.
        unreachable
            .chain(remote)
            .chain(joins)
            .chain(local)
            .filter(|(key, _)| self.speaks(&key.prefix))
            .collect()
    }

    /// Pins every endpoint's IPv6 source address to its veth; IPv4 has strict `rp_filter` for that.
    fn rules(&self) -> BTreeSet<Rule> {
        let onward = RuleAction::Goto(RULE_LOCAL);
        let pass = |iif: &str| Rule {
            priority: RULE_PASS,
            iif: Some(iif.to_owned()),
            from: None,
            action: onward,
        };
        let link_local = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 64);
        let pins = self.endpoints.iter().flat_map(|(&id, veth)| {
            let v6 = veth.addresses.iter().filter_map(|ip| match ip {
                IpAddr::V6(ip) => Some(*ip),
                IpAddr::V4(_) => None,
            });
            v6.map(move |ip| Rule {
                priority: RULE_PIN,
                iif: Some(host_ifname(id)),
                from: Some(Ipv6Net::from(ip)),
                action: onward,
            })
        });
        let plain = |priority, action| Rule { priority, iif: None, from: None, action };

        let joins = self.joins.keys().map(|&id| pass(&join_ifname(id)));

        [
            pass("lo"),
            pass(TUN_NAME),
            // Neighbour discovery. The kernel forwards no link-local source.
            Rule { priority: RULE_PASS, iif: None, from: Some(link_local), action: onward },
            plain(RULE_DROP, RuleAction::Blackhole),
            plain(RULE_LOCAL, RuleAction::Lookup(TABLE_LOCAL)),
            plain(RULE_MAIN, RuleAction::Lookup(TABLE_MAIN)),
        ]
        .into_iter()
        .chain(pins)
        .chain(joins)
        .collect()
    }

    /// Tells whether the network speaks the family of a prefix.
    pub(crate) fn speaks(&self, prefix: &IpNet) -> bool {
        matches!(prefix, IpNet::V4(_)) || self.ipv6()
    }
}
