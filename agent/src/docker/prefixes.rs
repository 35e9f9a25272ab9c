//! Which prefixes are kept from Docker's own choice on this host: those of networks that other
//! hosts number, and those that other hosts have in use themselves, so that a network made here can
//! be on all of them. Pure.
//!
//! Docker chooses the first subnet of its pools that no route of the host covers. What other hosts
//! have in use is advice: it is only kept where Docker would choose, and never so much that this
//! host has nothing left for bridges of its own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use overlay_core::{NodeId, View, pool};

/// Where an engine that was not told otherwise chooses: sixteen subnets of /16 (the first is its
/// default bridge's) and sixteen of /20.
const BUILT_IN: [(Ipv4Net, u8); 7] = [
    (Ipv4Net::new_assert(Ipv4Addr::new(172, 17, 0, 0), 16), 16),
    (Ipv4Net::new_assert(Ipv4Addr::new(172, 18, 0, 0), 16), 16),
    (Ipv4Net::new_assert(Ipv4Addr::new(172, 19, 0, 0), 16), 16),
    (Ipv4Net::new_assert(Ipv4Addr::new(172, 20, 0, 0), 14), 16),
    (Ipv4Net::new_assert(Ipv4Addr::new(172, 24, 0, 0), 14), 16),
    (Ipv4Net::new_assert(Ipv4Addr::new(172, 28, 0, 0), 14), 16),
    (Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16), 20),
];
/// Subnets of an engine's pools that are looked at; with more, there are always enough.
const MAX_SUBNETS: usize = 4_096;
/// Prefixes in use elsewhere that are kept at the most: each is a route of this host.
const MAX_KEPT: usize = 256;
/// Subnets that Docker may always choose from here, as long as this host itself leaves as many.
const SPARE: usize = 4;

/// Where an engine chooses the prefixes of its networks, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DefaultPools(Vec<(Ipv4Net, u8)>);

impl Default for DefaultPools {
    fn default() -> Self {
        Self(BUILT_IN.to_vec())
    }
}

impl DefaultPools {
    /// Takes what an engine says: bases and the length of the subnets that it cuts them into. None
    /// of IPv4: its built-in ones.
    pub(super) fn new(pools: impl IntoIterator<Item = (Ipv4Net, u8)>) -> Self {
        let pools =
            pools.into_iter().map(|(base, size)| (base.trunc(), size.clamp(base.prefix_len(), 32)));
        let pools: Vec<_> = pools.collect();

        if pools.is_empty() { Self::default() } else { Self(pools) }
    }

    /// Tells whether an engine may have chosen this prefix by itself.
    pub(super) fn may_choose(&self, prefix: Ipv4Net) -> bool {
        self.0.iter().any(|(base, size)| base.contains(&prefix) && prefix.prefix_len() == *size)
    }

    fn subnets(&self) -> impl Iterator<Item = Ipv4Net> {
        self.0
            .iter()
            .flat_map(|(base, size)| base.subnets(*size).ok().into_iter().flatten())
            .take(MAX_SUBNETS)
    }

    /// Returns the parts of the pools that a prefix covers, each with its place in the engine's
    /// order.
    fn parts(&self, prefix: Ipv4Net) -> impl Iterator<Item = (usize, Ipv4Net)> {
        self.0.iter().enumerate().filter_map(move |(place, (base, _))| {
            match (base.contains(&prefix), prefix.contains(base)) {
                (true, _) => Some((place, prefix)),
                (false, true) => Some((place, *base)),
                (false, false) => None,
            }
        })
    }

    /// Counts the subnets that overlap nothing of `taken`, up to `enough`.
    fn free(&self, taken: &[Ipv4Net], enough: usize) -> usize {
        let free = |subnet: &Ipv4Net| !taken.iter().any(|taken| overlaps(*taken, *subnet));

        self.subnets().filter(free).take(enough).count()
    }
}

/// Lists the prefixes that Docker on this node's host shall not choose.
pub(super) fn reserved(view: &View, node: NodeId, pools: &DefaultPools) -> BTreeSet<Ipv4Net> {
    let networks =
        view.networks.values().filter(|network| network.settings.numbered_by != Some(node));
    let mut reserved: BTreeSet<Ipv4Net> = networks.map(|network| network.prefix).collect();
    let own: Vec<_> =
        view.hosts.get(&node).into_iter().flat_map(|host| &host.prefixes).filter_map(v4).collect();
    let mut kept = elsewhere(view, node, pools);
    kept.retain(|(_, part)| !own.iter().chain(&reserved).any(|held| held.contains(part)));
    let mut kept: Vec<_> = kept.into_iter().map(|(_, part)| part).take(MAX_KEPT).collect();
    loop {
        let taken: Vec<_> = own.iter().chain(&reserved).chain(&kept).copied().collect();
        // What Docker would choose last is given up first.
        if pools.free(&taken, SPARE) == SPARE || kept.pop().is_none() {
            break;
        }
    }
    reserved.extend(kept);

    reserved
}

/// Lists the parts of the pools that other hosts have in use or are reached at, and Docker's
/// default bridge, in the engine's order.
fn elsewhere(view: &View, node: NodeId, pools: &DefaultPools) -> BTreeSet<(usize, Ipv4Net)> {
    let hosts = view.hosts.iter().filter(|(other, _)| **other != node);
    let used = hosts.flat_map(|(_, host)| &host.prefixes).filter_map(v4);
    let underlay =
        view.nodes.values().flat_map(|node| &node.underlay).filter_map(|address| match address {
            IpAddr::V4(v4) => Some(Ipv4Net::from(*v4)),
            IpAddr::V6(_) => None,
        });

    used.chain(underlay)
        .chain([pool::DEFAULT_BRIDGE])
        .flat_map(|prefix| pools.parts(prefix))
        .collect()
}

fn v4(held: &overlay_core::HostPrefix) -> Option<Ipv4Net> {
    match held.prefix {
        IpNet::V4(prefix) if prefix.prefix_len() > 0 => Some(prefix),
        IpNet::V4(_) | IpNet::V6(_) => None,
    }
}

fn overlaps(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other) || other.contains(&one)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use overlay_core::{
        Change, HostPrefix, HostReport, Network, NetworkId, NetworkMode, NetworkSettings, Revision,
    };
    use proptest::prelude::*;

    use super::*;

    fn me() -> NodeId {
        NodeId::from_random(1)
    }

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a prefix")
    }

    fn host(node: u64, prefixes: &[&str]) -> Change {
        let held = |text: &&str| HostPrefix { prefix: net(text).into(), holder: "br-1".to_owned() };

        Change::HostReport(HostReport {
            node: NodeId::from_random(node),
            prefixes: prefixes.iter().map(held).collect(),
            differences: Vec::new(),
            name: format!("host{node}").parse().expect("a name"),
        })
    }

    fn kept(rows: impl IntoIterator<Item = Change>) -> Vec<String> {
        let view = View::from_rows(Revision(1), rows);

        reserved(&view, me(), &DefaultPools::default()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_other_hosts_use_is_kept_where_docker_would_choose_and_nowhere_else() {
        let own = host(1, &["172.17.0.0/16", "172.19.0.0/16", "192.0.2.0/24"]);
        let other = host(
            2,
            &["172.17.0.0/16", "172.18.0.0/16", "172.19.0.0/16", "10.85.0.0/16", "192.168.7.0/24"],
        );

        assert_eq!(kept([own.clone(), other]), ["172.18.0.0/16", "192.168.7.0/24"]);
        assert_eq!(
            kept([own, host(2, &["172.17.0.0/16"])]),
            [""; 0],
            "a bridge that is gone is free again"
        );
    }

    #[test]
    fn the_default_bridge_of_other_hosts_is_kept_where_this_host_has_it_elsewhere() {
        assert_eq!(kept([host(1, &["10.200.0.0/24"])]), ["172.17.0.0/16"]);
    }

    #[test]
    fn a_route_to_everything_private_takes_nothing_from_this_host() {
        let all = host(2, &["0.0.0.0/0", "172.16.0.0/12", "192.168.0.0/16"]);

        let view = View::from_rows(Revision(1), [host(1, &["172.17.0.0/16"]), all]);
        let reserved = reserved(&view, me(), &DefaultPools::default());

        let taken: Vec<_> = reserved.into_iter().chain([net("172.17.0.0/16")]).collect();
        assert_eq!(DefaultPools::default().free(&taken, SPARE), SPARE, "{taken:?}");
        assert!(
            taken.contains(&net("172.18.0.0/16")),
            "what Docker chooses first is kept: {taken:?}"
        );
    }

    #[test]
    fn networks_that_others_number_are_kept_whatever_else_is() {
        let network = |n: u64, prefix: &str, by: Option<u64>| {
            Change::Network(Network {
                id: NetworkId::from_random(n),
                name: format!("net{n}").parse().expect("a name"),
                prefix: net(prefix),
                prefix6: None,
                mode: NetworkMode::L3,
                labels: BTreeMap::new(),
                settings: NetworkSettings {
                    numbered_by: by.map(NodeId::from_random),
                    ..NetworkSettings::default()
                },
                creator: None,
            })
        };
        let rows = [
            host(1, &["172.17.0.0/16"]),
            network(1, "172.18.0.0/16", Some(2)),
            network(2, "172.19.0.0/16", Some(1)),
            network(3, "10.64.0.0/16", None),
        ];

        assert_eq!(kept(rows), ["10.64.0.0/16", "172.18.0.0/16"]);
    }

    #[test]
    fn an_engine_with_pools_of_its_own_is_kept_from_others_there() {
        let pools = DefaultPools::new([(net("10.200.0.0/16"), 24)]);
        let view = View::from_rows(Revision(1), [host(2, &["10.200.3.0/24", "172.18.0.0/16"])]);

        assert_eq!(reserved(&view, me(), &pools), [net("10.200.3.0/24")].into());
        assert!(pools.may_choose(net("10.200.9.0/24")) && !pools.may_choose(net("10.200.0.0/16")));
    }

    proptest! {
        #[test]
        fn whatever_others_say_this_host_can_go_on_making_bridges(others in prop::collection::vec((any::<u32>(), 1u8..=32), 0..400)) {
            let prefixes: Vec<String> = others.iter()
                .map(|&(bits, len)| Ipv4Net::new(Ipv4Addr::from_bits(bits | 0xAC00_0000), len).expect("a length").trunc().to_string())
                .collect();
            let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
            let view = View::from_rows(Revision(1), [host(1, &["172.17.0.0/16"]), host(2, &prefixes)]);

            let reserved = reserved(&view, me(), &DefaultPools::default());

            prop_assert!(reserved.len() <= MAX_KEPT);
            let taken: Vec<_> = reserved.into_iter().chain([net("172.17.0.0/16")]).collect();
            prop_assert_eq!(DefaultPools::default().free(&taken, SPARE), SPARE);
        }
    }
}
