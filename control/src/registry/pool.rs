//! Which prefixes a network may have: what hosts have in use is refused with its holder, and the pool is cut so that no two
//! networks share addresses unless somebody asks for it.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use overlay_core::network::MAX_PREFIX_LEN;
use overlay_proto::{Code, Refusal};

use super::{State, refuse};

/// Never chosen and never given out: Docker's default bridge, and the range in which our agents put `docker_gwbridge`.
const RESERVED: [(Ipv4Net, &str); 2] = [
    (Ipv4Net::new_assert(Ipv4Addr::new(172, 17, 0, 0), 16), "Docker's default bridge"),
    (Ipv4Net::new_assert(Ipv4Addr::new(10, 255, 240, 0), 20), "docker_gwbridge"),
];

/// Picks a prefix from the pool that overlaps nothing known.
///
/// # Errors
///
/// `exhausted`, with what to do.
pub(super) fn pick(state: &State) -> Result<Ipv4Net, Refusal> {
    let pool = state.settings().pool;
    let taken = Taken::new(state);

    parts(pool).into_iter().find_map(|(part, len)| taken.first_free(part, len)).ok_or_else(|| {
        refuse(
            Code::Exhausted,
            format!(
                "no prefix is left in the pool {pool}: networks or routes of nodes take it all; name one: --subnet CIDR"
            ),
        )
    })
}

/// Cuts the pool: one half for large networks, a quarter for middling and a quarter for small ones; with a /10, that is 32
/// of /16, 256 of /20 and 4,096 of /24.
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

/// Ranges of addresses that the pool must not pick from, sorted and disjoint.
struct Taken(Vec<(u32, u32)>);

impl Taken {
    fn new(state: &State) -> Self {
        let range = |net: Ipv4Net| (net.network().to_bits(), net.broadcast().to_bits());
        let networks = state.view().networks.values().map(|network| network.prefix);
        let routes = state.hosts().values().flat_map(|host| &host.routes).filter_map(|route| match route.prefix {
            IpNet::V4(prefix) if prefix.prefix_len() > 0 => Some(prefix),
            IpNet::V4(_) | IpNet::V6(_) => None,
        });
        let underlay = state.view().nodes.values().flat_map(|node| &node.underlay).filter_map(|ip| match ip {
            IpAddr::V4(v4) => Some(Ipv4Net::from(*v4)),
            IpAddr::V6(_) => None,
        });
        let reserved = RESERVED.into_iter().map(|(prefix, _)| prefix);
        let mut ranges: Vec<_> = networks.chain(routes).chain(underlay).chain(reserved).map(range).collect();
        ranges.sort_unstable();
        ranges.dedup_by(|next, last| {
            let joins = next.0 <= last.1;
            last.1 = if joins { last.1.max(next.1) } else { last.1 };
            joins
        });

        Self(ranges)
    }

    fn first_free(&self, part: Ipv4Net, len: u8) -> Option<Ipv4Net> {
        let free = |net: &Ipv4Net| {
            let next = self.0.partition_point(|&(_, end)| end < net.network().to_bits());
            self.0.get(next).is_none_or(|&(start, _)| start > net.broadcast().to_bits())
        };

        part.subnets(len).ok()?.find(free)
    }
}

/// Refuses a prefix that a node has in use, naming node and holder. The prefix of another overlay network is no obstacle.
///
/// # Errors
///
/// `address-taken`.
pub(super) fn check(state: &State, prefix: IpNet) -> Result<(), Refusal> {
    let taken = |by: String| {
        Err(refuse(
            Code::AddressTaken,
            format!("{prefix} overlaps {by}; choose another prefix: --subnet CIDR, or none to have one chosen"),
        ))
    };
    if let Some((reserved, holder)) = RESERVED.iter().find(|(net, _)| overlaps(prefix, IpNet::V4(*net))) {
        return taken(format!("{reserved}, which is kept for {holder}"));
    }
    for node in state.view().nodes.values() {
        if let Some(address) = node.underlay.iter().find(|ip| prefix.contains(*ip)) {
            return taken(format!("{address}, at which node {} is reached", node.name));
        }
        let routes = state.hosts().get(&node.id).map(|host| host.routes.as_slice()).unwrap_or_default();
        let in_use = routes.iter().find(|route| route.prefix.prefix_len() > 0 && overlaps(prefix, route.prefix));
        if let Some(route) = in_use {
            let holder = if route.holder.is_empty() { String::new() } else { format!(" by {}", route.holder) };
            return taken(format!("{}, in use on node {}{holder}", route.prefix, node.name));
        }
    }

    Ok(())
}

fn overlaps(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a prefix")
    }

    #[test]
    fn the_default_pool_has_room_for_more_networks_than_there_may_be() {
        let parts = parts(net("10.64.0.0/10"));

        assert_eq!(parts, [(net("10.64.0.0/11"), 16), (net("10.96.0.0/12"), 20), (net("10.112.0.0/12"), 24)]);
        let room: usize = parts.iter().map(|(part, len)| 1usize << (len - part.prefix_len())).sum();
        assert!(room > super::super::limits::MAX_NETWORKS);
    }

    #[test]
    fn every_pool_has_a_part() {
        for len in 8..=28 {
            let pool = Ipv4Net::new(Ipv4Addr::new(10, 0, 0, 0), len).expect("a prefix");
            let parts = parts(pool);

            assert!(!parts.is_empty(), "{pool}");
            assert!(parts.iter().all(|(part, size)| pool.contains(part) && *size <= 29), "{pool}: {parts:?}");
        }
    }

    #[test]
    fn free_prefixes_lie_between_the_taken_ones() {
        let taken = Taken(vec![(net("10.64.0.0/16").network().to_bits(), net("10.65.0.3/32").network().to_bits())]);

        assert_eq!(taken.first_free(net("10.64.0.0/11"), 16), Some(net("10.66.0.0/16")));
        assert_eq!(taken.first_free(net("10.64.0.0/15"), 16), None);
    }
}
