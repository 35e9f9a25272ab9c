//! Following a plan arrives and then rests, from any state that foreign hands may leave.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use overlay_core::{EndpointId, NetworkId};
use proptest::prelude::*;

use super::converge::converge;
use super::fake::Fake;
use super::namespace_desired::{
    GATEWAY_V6, InterfaceDesired, NamespaceDesired, TUN_NAME, TunDesired, VethDesired, host_ifname,
};
use super::nft::ruleset::{Chain, ChainKind, Hook, Ruleset, Transaction};
use super::plan::{missing_links, plan, plan_ruleset};
use super::sandbox::{InterfaceOwner, SandboxDesired};
use super::tables::{
    Actual, Address, Desired, Hop, Route, RouteKey, Rule, RuleAction, Step, Strays,
};

/// Few of everything, so that wanted and present things meet.
fn endpoint(n: u8) -> EndpointId {
    EndpointId::from_random(u64::from(n) + 1)
}

fn v4(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 42, 0, n))
}

fn v6(n: u8) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd42, 0, 0, 0, 0, 0, 0, n.into()))
}

fn desired() -> impl Strategy<Value = NamespaceDesired> {
    let endpoints = prop::collection::btree_set(0..6_u8, 0..5);
    let remote = prop::collection::btree_set(0..8_u8, 0..5);

    (endpoints, remote, any::<bool>(), prop::sample::select(vec![1408_u32, 1440])).prop_map(
        |(endpoints, remote, ipv6, mtu)| {
            let both = |n| [v4(n)].into_iter().chain(ipv6.then(|| v6(n)));
            NamespaceDesired {
                network: NetworkId::from_random(1),
                interface: InterfaceDesired::Tun(TunDesired { mtu, queues: 2 }),
                gateways: both(100).collect(),
                node: both(101).collect(),
                endpoints: endpoints
                    .into_iter()
                    .map(|n| {
                        (
                            endpoint(n),
                            VethDesired { addresses: both(n).collect(), mtu, gateway6: None },
                        )
                    })
                    .collect(),
                joins: BTreeMap::new(),
                linked: BTreeSet::new(),
                strays: Strays::default(),
                forwards: true,
                remote: remote.into_iter().flat_map(both).map(IpNet::from).collect(),
                unreachable: ["10.42.0.0/16", "fd42::/64"]
                    .iter()
                    .take(if ipv6 { 2 } else { 1 })
                    .map(|p| p.parse().expect("a prefix"))
                    .collect(),
            }
        },
    )
}

fn link() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (0..6_u8).prop_map(|n| host_ifname(endpoint(n))),
        2 => Just(TUN_NAME.to_owned()),
        1 => Just("lo".to_owned()),
        1 => Just("foreign0".to_owned()),
    ]
}

fn address() -> impl Strategy<Value = Address> {
    let ip = prop_oneof![
        (0..8_u8, 24..=32_u8).prop_map(|(n, len)| IpNet::new(v4(n), len)),
        (0..8_u8, prop::sample::select(vec![64_u8, 128]))
            .prop_map(|(n, len)| IpNet::new(v6(n), len)),
        prop::sample::select(vec![64_u8, 128])
            .prop_map(|len| IpNet::new(IpAddr::V6(GATEWAY_V6), len)),
    ];

    (link(), ip)
        .prop_map(|(link, address)| Address { link, address: address.expect("a length that fits") })
}

fn route() -> impl Strategy<Value = (RouteKey, Route)> {
    let prefix = prop_oneof![
        (0..8_u8).prop_map(|n| IpNet::from(v4(n))),
        (0..8_u8).prop_map(|n| IpNet::from(v6(n))),
        Just("10.42.0.0/16".parse().expect("a prefix")),
        Just("0.0.0.0/0".parse().expect("a prefix")),
    ];
    let hop = prop_oneof![
        link().prop_map(Hop::Link),
        link().prop_map(|link| Hop::Via(link, v4(100))),
        Just(Hop::Unreachable),
        Just(Hop::Foreign),
    ];

    (prefix, prop::sample::select(vec![0_u32, 7]), hop, any::<bool>()).prop_map(
        |(prefix, metric, hop, ours)| {
            let key = RouteKey::ours(prefix);
            (RouteKey { metric: key.metric + metric, ..key }, Route { hop, ours })
        },
    )
}

fn rule() -> impl Strategy<Value = Rule> {
    let action = prop_oneof![
        Just(RuleAction::Lookup(255)),
        Just(RuleAction::Goto(30_000)),
        Just(RuleAction::Blackhole),
        Just(RuleAction::Foreign),
    ];

    (prop::sample::select(vec![0_u32, 200, 300, 30_000]), prop::option::of(link()), action)
        .prop_map(|(priority, iif, action)| Rule { priority, iif, from: None, action })
}

/// Whatever foreign hands left, as long as the kernel could hold it.
fn kernel() -> impl Strategy<Value = Fake> {
    let links = prop::collection::btree_map(link(), any::<bool>(), 0..7);
    let addresses = prop::collection::vec(address(), 0..10);
    let routes = prop::collection::btree_map(
        route().prop_map(|(key, _)| key),
        route().prop_map(|(_, route)| route),
        0..10,
    );
    let rules = prop::collection::btree_set(rule(), 0..6);

    (links, addresses, routes, rules).prop_map(|(links, addresses, routes, rules)| {
        let mut fake = Fake::default();
        fake.plug("lo", "");
        for (name, up) in links {
            fake.plug(&name, "veth");
            fake.tables.links.get_mut(&name).expect("just plugged").up = up;
        }
        for address in addresses {
            // What the kernel refuses cannot be there.
            let _refused = fake.take(&Step::AddAddress(address));
        }
        let up = |link: &str| fake.tables.links.get(link).is_some_and(|link| link.up);
        fake.tables.routes =
            routes.into_iter().filter(|(_, route)| route.hop.link().is_none_or(up)).collect();
        fake.tables.rules = rules;
        fake
    })
}

/// What of a wanted value can be had without the links that are missing.
fn attainable(desired: &Desired, actual: &Actual) -> (BTreeSet<Address>, BTreeMap<RouteKey, Hop>) {
    let missing = missing_links(desired, actual);
    let addresses =
        desired.addresses.iter().filter(|a| !missing.contains(&a.link)).cloned().collect();
    let routes = desired
        .routes
        .iter()
        .filter(|(_, hop)| hop.link().is_none_or(|link| !missing.contains(link)))
        .map(|(key, hop)| (*key, hop.clone()))
        .collect();

    (addresses, routes)
}

fn hops(actual: &Actual) -> BTreeMap<RouteKey, Hop> {
    actual.routes.iter().map(|(key, route)| (*key, route.hop.clone())).collect()
}

proptest! {
    #[test]
    fn following_the_plan_arrives_and_then_rests(desired in desired(), mut kernel in kernel()) {
        let tables = desired.tables();

        for step in plan(&tables, &kernel.tables) {
            prop_assert_eq!(kernel.take(&step), Ok(()), "{}", step);
        }

        let (addresses, routes) = attainable(&tables, &kernel.tables);
        prop_assert_eq!(&kernel.tables.addresses, &addresses);
        // A route whose link is missing keeps what leads elsewhere until then.
        let kept = hops(&kernel.tables).into_iter().filter(|(key, _)| routes.contains_key(key) || !tables.routes.contains_key(key));
        prop_assert_eq!(kept.collect::<BTreeMap<_, _>>(), routes);
        if desired.ipv6() {
            prop_assert_eq!(&kernel.tables.rules, &tables.rules);
        }
        prop_assert_eq!(plan(&tables, &kernel.tables), []);
    }

    #[test]
    fn moving_to_another_wanted_value_arrives_and_then_rests(first in desired(), then in desired(), mut kernel in kernel()) {
        for tables in [first.tables(), then.tables()] {
            for step in plan(&tables, &kernel.tables) {
                prop_assert_eq!(kernel.take(&step), Ok(()), "{}", step);
            }
        }

        prop_assert_eq!(plan(&then.tables(), &kernel.tables), []);
    }

    #[test]
    fn in_a_sandbox_nothing_foreign_is_touched(mut kernel in kernel(), n in 0..6_u8) {
        kernel.plug("eth0", "veth");
        let tables = sandbox(n).tables();
        let before = kernel.tables.clone();

        for step in plan(&tables, &kernel.tables) {
            prop_assert_eq!(kernel.take(&step), Ok(()), "{}", step);
        }

        prop_assert!(kernel.tables.addresses.is_superset(&before.addresses));
        prop_assert_eq!(&kernel.tables.rules, &before.rules);
        for (key, route) in before.routes.iter().filter(|(key, _)| !tables.routes.contains_key(key)) {
            prop_assert_eq!(kernel.tables.routes.get(key), Some(route));
        }
        prop_assert_eq!(plan(&tables, &kernel.tables), []);
    }
}

fn sandbox(n: u8) -> SandboxDesired {
    SandboxDesired {
        netns: "/nowhere".into(),
        identity: None,
        ifname: "eth0".to_owned(),
        addresses: vec![v4(n), v6(n)],
        gateway: Some(Ipv4Addr::new(10, 42, 0, 100)),
        prefixes: ["10.42.0.0/16", "fd42::/64"]
            .iter()
            .map(|p| p.parse().expect("a prefix"))
            .collect(),
        linked: Vec::new(),
        mtu: 1408,
        owner: InterfaceOwner::Agent,
        mac: None,
    }
}

fn one_endpoint() -> NamespaceDesired {
    NamespaceDesired {
        network: NetworkId::from_random(1),
        interface: InterfaceDesired::Tun(TunDesired { mtu: 1408, queues: 1 }),
        gateways: [v4(100), v6(100)].into(),
        node: [v4(101), v6(101)].into(),
        endpoints: [(
            endpoint(1),
            VethDesired { addresses: vec![v4(1), v6(1)], mtu: 1408, gateway6: None },
        )]
        .into(),
        joins: BTreeMap::new(),
        linked: BTreeSet::new(),
        strays: Strays::default(),
        forwards: true,
        remote: [IpNet::from(v4(1))].into(),
        unreachable: ["10.42.0.0/16".parse().expect("a prefix")].into(),
    }
}

fn with_links(desired: &NamespaceDesired) -> Fake {
    let mut kernel = Fake::default();
    for name in desired.tables().links.keys() {
        kernel.plug(name, "veth");
    }
    kernel
}

#[test]
fn a_changed_route_is_one_replacement() {
    let desired = one_endpoint();
    let mut kernel = with_links(&desired);
    for step in plan(&desired.tables(), &kernel.tables) {
        kernel.take(&step).expect("a plan that the kernel takes");
    }
    let key = RouteKey::ours(IpNet::from(v4(1)));
    kernel.tables.routes.insert(key, Route { hop: Hop::Unreachable, ours: false });

    let steps = plan(&desired.tables(), &kernel.tables);

    assert_eq!(steps, [Step::SetRoute(key, Hop::Link(host_ifname(endpoint(1))))]);
}

#[test]
fn a_stray_stays_with_all_that_is_on_it_as_long_as_it_is_one() {
    let known = NamespaceDesired { remote: BTreeSet::new(), ..one_endpoint() };
    let mut kernel = with_links(&known);
    for step in plan(&known.tables(), &kernel.tables) {
        kernel.take(&step).expect("a plan that the kernel takes");
    }
    let unknown =
        |strays| NamespaceDesired { endpoints: BTreeMap::new(), strays, ..known.clone() }.tables();
    let one = || BTreeSet::from([endpoint(1)]);

    for strays in [Strays::Only(one()), Strays::AllBut([endpoint(2)].into())] {
        assert_eq!(plan(&unknown(strays), &kernel.tables), []);
    }
    for strays in [Strays::default(), Strays::AllBut(one())] {
        let steps = plan(&unknown(strays), &kernel.tables);
        assert!(steps.contains(&Step::RemoveLink(host_ifname(endpoint(1)))), "{steps:?}");
    }
}

#[test]
fn a_local_address_wins_over_what_others_say_about_it() {
    let routes = one_endpoint().tables().routes;

    let hop = routes.get(&RouteKey::ours(IpNet::from(v4(1))));

    assert_eq!(hop, Some(&Hop::Link(host_ifname(endpoint(1)))));
}

#[test]
fn sources_are_pinned_before_the_link_is_up() {
    let desired = one_endpoint();
    let kernel = with_links(&desired);

    let steps = plan(&desired.tables(), &kernel.tables);

    let last_rule = steps.iter().rposition(|step| matches!(step, Step::AddRule(_)));
    let first_link = steps.iter().position(|step| matches!(step, Step::SetLink(..)));
    assert!(last_rule.is_some() && last_rule < first_link, "{steps:?}");
}

#[tokio::test]
async fn what_the_kernel_refuses_is_reported_and_the_rest_is_done() {
    let desired = one_endpoint();
    let mut kernel = with_links(&desired);
    let disabled = super::tables::Sysctl::link("ipv6", TUN_NAME, "disable_ipv6");
    kernel.tables.sysctls.insert(disabled.clone(), "1".to_owned());
    let mut tables = desired.tables();
    tables.sysctls.remove(&disabled);

    let round = converge(&mut kernel, &tables).await.expect("a kernel that can be read");

    assert_eq!(round.errors.iter().map(|e| e.errno()).collect::<Vec<_>>(), [Some(libc::EACCES)]);
    assert!(
        kernel
            .tables
            .addresses
            .contains(&Address { link: TUN_NAME.to_owned(), address: IpNet::from(v4(101)) })
    );
}

#[tokio::test]
async fn an_endpoint_without_its_veth_is_missing_and_harms_nobody() {
    let desired = one_endpoint();
    let mut kernel = Fake::default();
    kernel.plug("lo", "");
    kernel.plug(TUN_NAME, "tun");

    let round = converge(&mut kernel, &desired.tables()).await.expect("a kernel that can be read");

    assert_eq!(round.missing, [host_ifname(endpoint(1))].into());
    assert!(round.errors.is_empty(), "{:?}", round.errors);
}

#[test]
fn a_ruleset_is_replaced_in_one_transaction_and_an_equal_one_stays() {
    let ruleset = |priority| {
        let chain = Chain {
            name: "names",
            kind: ChainKind::Nat,
            hook: Hook::Output,
            priority,
            rules: Vec::new(),
        };
        Ruleset { table: "overlay", chains: vec![chain] }
    };
    let (held, desired) = (ruleset(-100), ruleset(-110));

    assert_eq!(plan_ruleset(&desired, None), Some(Transaction { remove: None, make: &desired }));
    assert_eq!(
        plan_ruleset(&desired, Some(&held)),
        Some(Transaction { remove: Some(&held), make: &desired })
    );
    assert_eq!(plan_ruleset(&desired, Some(&desired.clone())), None);
}
