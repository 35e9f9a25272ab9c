//! Which prefixes a network may have: prefixes in use on hosts are refused with the reason, and the
//! pool is divided so that networks do not overlap unless requested. Pure, so that control and
//! agents decide alike.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::network::MAX_PREFIX_LEN;
use crate::view::View;
use crate::{Network, NodeId, Role};

/// The default pool for the prefixes of networks.
pub const DEFAULT_POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 64, 0, 0), 10);

/// The prefix that agents give to Docker's `docker_gwbridge`, which would otherwise take the first
/// one that Docker's own address management assigns to a network.
pub const GWBRIDGE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 255, 240, 0), 20);

/// The usual prefix of Docker's default bridge.
pub const DEFAULT_BRIDGE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 17, 0, 0), 16);

/// Prefixes that no network may have.
const RESERVED: [(Ipv4Net, &str); 2] =
    [(DEFAULT_BRIDGE, "Docker's default bridge"), (GWBRIDGE, "docker_gwbridge")];

/// The shortest IPv4 prefix that a host keeps from networks by having it in use: 172.16.0.0/12 is
/// the smaller of the large private ranges.
const MIN_HELD_LEN: u8 = 12;
/// The same for IPv6: what a site gets (RFC 6177), and all of a unique local prefix (RFC 4193).
const MIN_HELD_LEN6: u8 = 48;

/// Interfaces that lead to containers or virtual machines of one host, by prefix of their names.
const BRIDGES: [&str; 6] = ["docker", "br-", "virbr", "cni", "podman", "lxcbr"];

/// Picks a prefix from the pool that overlaps neither anything known nor `also_taken`. `turn` says
/// where to start: control starts at the bottom, agents at a random place, so that two that pick at
/// the same time rarely pick the same prefix.
///
/// What hosts have in use is avoided while that leaves anything, and is no veto over the whole
/// pool. Nor are the networks of the one node that has taken most of it: two networks may have the
/// same prefix, and whoever is in one of them need not be in the other.
pub fn pick(view: &View, pool: Ipv4Net, also_taken: &[Ipv4Net], turn: u32) -> Option<Ipv4Net> {
    let parts = parts(pool);
    let pick = |avoided| {
        let taken = Taken::new(view, also_taken, avoided);
        parts.iter().find_map(|&(part, len)| taken.first_free(part, len, turn))
    };

    pick(Avoided::All)
        .or_else(|| pick(Avoided::Networks))
        .or_else(|| pick(Avoided::NetworksOfOthersThan(holder_of_most(view, pool)?)))
}

/// Finds the node, of those that are no admins, whose networks take most of the pool.
fn holder_of_most(view: &View, pool: Ipv4Net) -> Option<NodeId> {
    let is_admin = |id| view.nodes.get(&id).is_some_and(|node| node.role == Role::Admin);
    let mut held = BTreeMap::<NodeId, u64>::new();
    for network in view.networks.values() {
        let Some(by) = network.creator.as_ref().filter(|by| !is_admin(by.node)) else { continue };
        if overlaps(network.prefix.into(), pool.into()) {
            let len = network.prefix.prefix_len().max(pool.prefix_len());
            *held.entry(by.node).or_default() += 1 << (32 - len);
        }
    }

    held.into_iter().max_by_key(|(_, addresses)| *addresses).map(|(node, _)| node)
}

/// Finds what conflicts with a network of this prefix, such as "192.0.2.7, at which node web1 is
/// reached". Prefixes of other overlay networks do not conflict.
pub fn conflict(view: &View, prefix: IpNet) -> Option<String> {
    kept(prefix).or_else(|| underlay(view, prefix)).or_else(|| in_use(view, prefix, |_| true))
}

/// Finds what conflicts with a network whose prefix was chosen by a container engine. Bridges of
/// other hosts do not conflict: all that is impossible is a container there on both.
pub fn conflict_of_chosen(view: &View, prefix: IpNet) -> Option<String> {
    let is_route = |holder: &str| !BRIDGES.iter().any(|bridge| holder.starts_with(bridge));

    kept(prefix).or_else(|| underlay(view, prefix)).or_else(|| in_use(view, prefix, is_route))
}

fn kept(prefix: IpNet) -> Option<String> {
    let (reserved, holder) = RESERVED.iter().find(|(net, _)| overlaps(prefix, IpNet::V4(*net)))?;

    Some(format!("{reserved}, which is kept for {holder}"))
}

fn underlay(view: &View, prefix: IpNet) -> Option<String> {
    view.nodes.values().find_map(|node| {
        let address = node.underlay.iter().find(|ip| prefix.contains(*ip))?;
        Some(format!("{address}, at which node {} is reached", node.name))
    })
}

fn in_use(view: &View, prefix: IpNet, counts: impl Fn(&str) -> bool) -> Option<String> {
    view.hosts.values().find_map(|host| {
        let stands = |held: &&crate::HostPrefix| {
            is_specific(held.prefix) && overlaps(prefix, held.prefix) && counts(&held.holder)
        };
        let held = host.prefixes.iter().find(stands)?;
        let holder =
            if held.holder.is_empty() { String::new() } else { format!(" by {}", held.holder) };

        Some(format!("{}, in use on node {}{holder}", held.prefix, host.name))
    })
}

/// Returns whether a host's use of a prefix keeps networks from having it. A route to a larger part
/// of the internet (a VPN, a company's 10.0.0.0/8) says where packets go that nobody else takes,
/// and not that all of it is in use.
fn is_specific(prefix: IpNet) -> bool {
    match prefix {
        IpNet::V4(v4) => v4.prefix_len() >= MIN_HELD_LEN,
        IpNet::V6(v6) => v6.prefix_len() >= MIN_HELD_LEN6,
    }
}

fn overlaps(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// Divides the pool: one half for large networks, a quarter for medium and a quarter for small
/// ones; with a /10, that is 32 times a /16, 256 times a /20 and 4,096 times a /24.
fn parts(pool: Ipv4Net) -> Vec<(Ipv4Net, u8)> {
    let len = pool.prefix_len();
    let large = 16.max(len + 6);
    let sizes = [(1, 0, large), (2, 2, large + 4), (2, 3, large + 8)];
    let part = |(depth, nth, size): (u8, usize, u8)| {
        let part = pool.subnets(len + depth).ok()?.nth(nth)?;
        let size = size.min(MAX_PREFIX_LEN).max(part.prefix_len());

        (size <= MAX_PREFIX_LEN).then_some((part, size))
    };

    sizes.into_iter().filter_map(part).collect()
}

/// What else than addresses of nodes and kept prefixes is not picked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Avoided {
    /// Prefixes of networks, and those that hosts have in use.
    All,
    /// Prefixes of networks.
    Networks,
    /// Prefixes of networks that another node made.
    NetworksOfOthersThan(NodeId),
}

/// Ranges of addresses that the pool must not pick from, sorted and disjoint.
struct Taken(Vec<(u32, u32)>);

impl Taken {
    fn new(view: &View, also: &[Ipv4Net], avoided: Avoided) -> Self {
        let range = |net: Ipv4Net| (net.network().to_bits(), net.broadcast().to_bits());
        let is_avoided = |network: &&Network| match avoided {
            Avoided::All | Avoided::Networks => true,
            Avoided::NetworksOfOthersThan(node) => !network.is_made_by(node),
        };
        let networks = view.networks.values().filter(is_avoided).map(|network| network.prefix);
        let with_hosts = avoided == Avoided::All;
        let held =
            view.hosts.values().filter(|_| with_hosts).flat_map(|host| &host.prefixes).filter_map(
                |held| match held.prefix {
                    IpNet::V4(prefix) if prefix.prefix_len() > 0 => Some(prefix),
                    IpNet::V4(_) | IpNet::V6(_) => None,
                },
            );
        let underlay =
            view.nodes.values().flat_map(|node| &node.underlay).filter_map(|ip| match ip {
                IpAddr::V4(v4) => Some(Ipv4Net::from(*v4)),
                IpAddr::V6(_) => None,
            });
        let reserved = RESERVED.into_iter().map(|(prefix, _)| prefix);
        let all = networks.chain(held).chain(underlay).chain(reserved).chain(also.iter().copied());
        let mut ranges: Vec<_> = all.map(range).collect();
        ranges.sort_unstable();
        ranges.dedup_by(|next, last| {
            let joins = next.0 <= last.1;
            last.1 = if joins { last.1.max(next.1) } else { last.1 };
            joins
        });

        Self(ranges)
    }

    fn first_free(&self, part: Ipv4Net, len: u8, turn: u32) -> Option<Ipv4Net> {
        let free = |net: &Ipv4Net| {
            let next = self.0.partition_point(|&(_, end)| end < net.network().to_bits());
            self.0.get(next).is_none_or(|&(start, _)| start > net.broadcast().to_bits())
        };
        let count = 1u32 << (len - part.prefix_len());
        let first = usize::try_from(turn.checked_rem(count).unwrap_or(0)).unwrap_or(0);
        let subnets = || part.subnets(len).ok().into_iter().flatten();

        subnets().skip(first).chain(subnets().take(first)).find(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Change, Revision};
    use crate::{HostPrefix, HostReport, NodeId};

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a prefix")
    }

    fn view(prefix: &str, holder: &str) -> View {
        let held =
            HostPrefix { prefix: prefix.parse().expect("a prefix"), holder: holder.to_owned() };
        let name = "web1".parse().expect("a name");
        let host =
            HostReport { node: NodeId::FIRST, prefixes: vec![held], differences: Vec::new(), name };

        View::from_rows(Revision(1), [Change::HostReport(host)])
    }

    #[test]
    fn the_default_pool_is_cut_into_large_middling_and_small_parts() {
        assert_eq!(
            parts(DEFAULT_POOL),
            [(net("10.64.0.0/11"), 16), (net("10.96.0.0/12"), 20), (net("10.112.0.0/12"), 24)]
        );
    }

    #[test]
    fn every_pool_has_a_part() {
        for len in 8..=28 {
            let pool = Ipv4Net::new(Ipv4Addr::new(10, 0, 0, 0), len).expect("a prefix");
            let parts = parts(pool);

            assert!(!parts.is_empty(), "{pool}");
            assert!(
                parts.iter().all(|(part, size)| pool.contains(part) && *size <= 29),
                "{pool}: {parts:?}"
            );
        }
    }

    #[test]
    fn free_prefixes_lie_between_the_taken_ones() {
        let taken = Taken(vec![(
            net("10.64.0.0/16").network().to_bits(),
            net("10.65.0.3/32").network().to_bits(),
        )]);

        assert_eq!(taken.first_free(net("10.64.0.0/11"), 16, 0), Some(net("10.66.0.0/16")));
        assert_eq!(taken.first_free(net("10.64.0.0/15"), 16, 0), None);
    }

    #[test]
    fn a_turn_begins_elsewhere_and_comes_round() {
        let view = view("10.65.0.0/16", "eth1");

        assert_eq!(pick(&view, DEFAULT_POOL, &[], 1), Some(net("10.66.0.0/16")));
        assert_eq!(pick(&view, DEFAULT_POOL, &[], 31), Some(net("10.95.0.0/16")));
        assert_eq!(
            pick(&view, DEFAULT_POOL, &[net("10.95.0.0/16")], 31),
            Some(net("10.64.0.0/16"))
        );
    }

    #[test]
    fn what_a_host_uses_is_named_with_node_and_holder() {
        let text =
            conflict(&view("172.18.0.0/16", "br-7"), "172.18.4.0/24".parse().expect("a prefix"));

        assert_eq!(text.as_deref(), Some("172.18.0.0/16, in use on node web1 by br-7"));
        assert_eq!(
            conflict(&view("0.0.0.0/0", "eth0"), "172.18.4.0/24".parse().expect("a prefix")),
            None
        );
        assert!(conflict(&View::default(), "10.255.250.0/24".parse().expect("a prefix")).is_some());
    }

    #[test]
    fn a_route_to_a_large_part_of_the_internet_is_no_use_of_it() {
        let prefix = |text: &str| text.parse::<IpNet>().expect("a prefix");

        for route in ["0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8", "10.0.0.0/11", "fd00::/8"] {
            for wanted in ["10.9.0.0/16", "172.18.4.0/24", "fd42::/64"] {
                assert_eq!(
                    conflict(&view(route, "eth0"), prefix(wanted)),
                    None,
                    "{route} {wanted}"
                );
            }
        }
        assert!(conflict(&view("172.16.0.0/12", "eth0"), prefix("172.18.4.0/24")).is_some());
        assert!(conflict(&view("fd42::/48", "eth0"), prefix("fd42::/64")).is_some());
    }

    #[test]
    fn hosts_are_no_veto_over_the_whole_pool() {
        let all = view("10.64.0.0/10", "eth0");

        assert_eq!(pick(&all, DEFAULT_POOL, &[], 0), Some(net("10.64.0.0/16")));
        assert_eq!(
            pick(&all, DEFAULT_POOL, &[net("10.64.0.0/16")], 0),
            Some(net("10.65.0.0/16")),
            "what networks have is"
        );
    }

    #[test]
    fn a_bridge_of_another_host_is_no_obstacle_for_what_an_engine_chose_by_itself() {
        let prefix: IpNet = "172.18.0.0/16".parse().expect("a prefix");

        assert_eq!(conflict_of_chosen(&view("172.18.0.0/16", "br-7"), prefix), None);
        for holder in ["eth1", "a route", ""] {
            assert!(
                conflict_of_chosen(&view("172.18.0.0/16", holder), prefix).is_some(),
                "{holder}"
            );
        }
        assert!(
            conflict_of_chosen(&View::default(), "172.17.0.0/16".parse().expect("a prefix"))
                .is_some()
        );
    }
}
