//! The way from one wanted value to the next where only routes differ. Pure.
//!
//! A network of a thousand members has thousands of routes, of which a change of the membership
//! concerns one or two. Reading all of them back would cost more than everything else together.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::namespace_desired::{NamespaceDesired, TUN_NAME};
use super::tables::{Hop, RouteKey, Step};

impl NamespaceDesired {
    /// Lists the steps to this value in a namespace that holds all of `held`; nothing where more
    /// than routes that lead to other nodes, or nowhere, is another.
    pub(crate) fn route_steps(&self, held: &Self) -> Option<Vec<Step>> {
        let Self {
            network,
            interface,
            gateways,
            node,
            endpoints,
            joins,
            // For the guard alone.
            linked: _,
            strays,
            remote,
            unreachable,
            forwards,
        } = self;
        let is_same = *network == held.network
            && *interface == held.interface
            && *gateways == held.gateways
            && *node == held.node
            && *endpoints == held.endpoints
            && *joins == held.joins
            && *strays == held.strays
            && *forwards == held.forwards
            && self.ipv6() == held.ipv6();
        if !is_same {
            return None;
        }
        let local: BTreeSet<IpNet> =
            endpoints.values().flat_map(|veth| &veth.addresses).copied().map(IpNet::from).collect();
        let differing: BTreeSet<&IpNet> = remote
            .symmetric_difference(&held.remote)
            .chain(unreachable.symmetric_difference(&held.unreachable))
            // It leads to the endpoint either way.
            .filter(|prefix| !local.contains(prefix))
            .filter(|prefix| self.speaks(prefix))
            .collect();
        let (set, removed): (Vec<_>, Vec<_>) = differing
            .into_iter()
            .filter(|prefix| self.hop(prefix) != held.hop(prefix))
            .map(|prefix| (RouteKey::ours(*prefix), self.hop(prefix)))
            .partition(|(_, hop)| hop.is_some());
        let set = set.into_iter().filter_map(|(key, hop)| Some(Step::SetRoute(key, hop?)));

        Some(set.chain(removed.into_iter().map(|(key, _)| Step::RemoveRoute(key))).collect())
    }

    /// Returns where a prefix that is no local endpoint's leads.
    fn hop(&self, prefix: &IpNet) -> Option<Hop> {
        if self.remote.contains(prefix) {
            Some(Hop::Link(TUN_NAME.to_owned()))
        } else {
            self.unreachable.contains(prefix).then_some(Hop::Unreachable)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use overlay_core::{EndpointId, NetworkId};
    use proptest::collection::btree_set;
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::converge::{converge, perform_all};
    use crate::kernel::fake::Fake;
    use crate::kernel::{InterfaceDesired, Strays, TunDesired, VethDesired};

    fn host(n: u8) -> IpNet {
        IpNet::from(IpAddr::from([10, 0, 0, n]))
    }

    fn host6(n: u8) -> IpNet {
        IpNet::from(IpAddr::from([0xfd42, 0, 0, 0, 0, 0, 0, n.into()]))
    }

    /// A network with one local endpoint, 10.0.0.1.
    fn desired(remote: impl IntoIterator<Item = IpNet>) -> NamespaceDesired {
        let veth = VethDesired { addresses: vec![host(1).addr()], mtu: 1408, gateway6: None };

        NamespaceDesired {
            network: NetworkId::FIRST,
            interface: InterfaceDesired::Tun(TunDesired { mtu: 1408, queues: 1 }),
            gateways: BTreeSet::new(),
            node: BTreeSet::new(),
            joins: BTreeMap::new(),
            linked: BTreeSet::new(),
            endpoints: BTreeMap::from([(EndpointId::from_random(1), veth)]),
            strays: Strays::default(),
            forwards: true,
            remote: remote.into_iter().collect(),
            unreachable: ["10.0.0.0/8", "fd42::/64"].map(|p| p.parse().expect("a prefix")).into(),
        }
    }

    async fn holding(desired: &NamespaceDesired) -> Fake {
        let mut kernel = Fake::default();
        kernel.plug("lo", "");
        kernel.plug(TUN_NAME, "tun");
        for link in desired.tables().links.keys() {
            kernel.plug(link, "veth");
        }
        converge(&mut kernel, &desired.tables()).await.expect("a kernel that can be read");
        kernel.lists = 0;

        kernel
    }

    #[tokio::test]
    async fn one_endpoint_among_thousands_costs_its_routes_and_no_reading_back() {
        let many = (2..=50).flat_map(|third| (0..=255).map(move |n| [10, 0, third, n]));
        let many: BTreeSet<IpNet> = many.map(|ip| IpNet::from(IpAddr::from(ip))).collect();
        let held = desired(many.clone());
        let mut kernel = holding(&held).await;
        let moved: Vec<_> = many.iter().skip(1).copied().chain([host(9), host6(9)]).collect();
        let wanted = desired(moved);

        let steps = wanted.route_steps(&held).expect("only routes differ");
        let performed = perform_all(&mut kernel, steps).await;

        assert_eq!((performed.steps.len(), performed.errors.len()), (3, 0), "{performed:?}");
        assert_eq!(kernel.lists, 0);
        let rest = converge(&mut kernel, &wanted.tables()).await.expect("a kernel");
        assert_eq!(rest.steps, []);
    }

    #[test]
    fn what_is_more_than_a_route_is_left_to_a_whole_comparison() {
        let held = desired([host(2)]);

        let others = [
            NamespaceDesired { endpoints: BTreeMap::new(), ..held.clone() },
            NamespaceDesired { gateways: [host(3).addr()].into(), ..held.clone() },
            NamespaceDesired { node: [host(3).addr()].into(), ..held.clone() },
            NamespaceDesired { strays: Strays::AllBut(BTreeSet::new()), ..held.clone() },
            NamespaceDesired { forwards: false, ..held.clone() },
            NamespaceDesired {
                interface: InterfaceDesired::Tun(TunDesired { mtu: 1300, queues: 1 }),
                ..held.clone()
            },
            // Without IPv6 there are no rules.
            NamespaceDesired {
                unreachable: ["10.0.0.0/8".parse().expect("a prefix")].into(),
                ..held.clone()
            },
        ];

        for other in others {
            assert_eq!(other.route_steps(&held), None, "{other:?}");
        }
        assert_eq!(held.route_steps(&held), Some(Vec::new()));
    }

    fn remote() -> impl Strategy<Value = BTreeSet<IpNet>> {
        let prefix = prop_oneof![
            (0..6u8).prop_map(host),
            (0..6u8).prop_map(host6),
            // That of the network itself, and a wide one.
            Just("10.0.0.0/8".parse().expect("a prefix")),
            Just("10.0.0.0/24".parse().expect("a prefix")),
        ];

        btree_set(prefix, 0..8)
    }

    proptest! {
        #[test]
        fn the_steps_lead_where_a_whole_comparison_leads(before in remote(), after in remote()) {
            let (held, wanted) = (desired(before), desired(after));
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("one");

            runtime.block_on(async {
                let mut kernel = holding(&held).await;
                let steps = wanted.route_steps(&held).expect("only routes differ");
                let performed = perform_all(&mut kernel, steps).await;
                prop_assert!(performed.errors.is_empty(), "{:?}", performed.errors);

                let rest = converge(&mut kernel, &wanted.tables()).await.expect("a kernel");
                prop_assert_eq!(rest.steps, []);
                Ok(())
            })?;
        }
    }
}
