//! Two networks whose namespaces are joined.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::rig::{
    Container, GATEWAY, NODE, Rig, clean, desired, endpoint, network, nothing_waits, prefixes,
    receive, reconcile, send, skipped, socket, v4, v6,
};
use crate::kernel::namespace_desired::join_ifname;
use crate::kernel::netlink::Netlink;
use crate::kernel::nft::{Guard, GuardReason, GuardTable};
use crate::kernel::tables::{Address, Step};
use crate::kernel::{
    ContainerInterface, InterfaceOwner, JoinDesired, NamespaceDesired, NetworkNamespace,
    SandboxDesired, Tun, VethDesired,
};

const HERE: u8 = 11;
const THERE: u8 = 21;

fn far4(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 43, 0, n).into()
}

fn far6(n: u8) -> IpAddr {
    Ipv6Addr::new(0xfd43, 0, 0, 0, 0, 0, 0, n.into()).into()
}

fn far_prefixes() -> Vec<IpNet> {
    ["10.43.0.0/16", "fd43::/64"].iter().map(|p| p.parse().expect("a prefix")).collect()
}

/// Network 1, with one endpoint, joined with network 2.
fn here() -> NamespaceDesired {
    let gateway = Ipv4Addr::new(10, 43, 0, GATEWAY);
    let join = JoinDesired { prefixes: far_prefixes(), gateway };

    NamespaceDesired {
        joins: BTreeMap::from([(network(2), join)]),
        linked: far_prefixes().into_iter().collect(),
        ..desired(1, &[HERE])
    }
}

/// Network 2, likewise.
fn there() -> NamespaceDesired {
    let gateway = Ipv4Addr::new(10, 42, 0, GATEWAY);
    let join = JoinDesired { prefixes: prefixes(), gateway };
    let near = desired(2, &[THERE]);
    let veth = VethDesired {
        addresses: vec![far4(THERE), far6(THERE)],
        ..near.endpoints[&endpoint(THERE)].clone()
    };

    NamespaceDesired {
        gateways: [far4(GATEWAY), far6(GATEWAY)].into(),
        node: [far4(NODE), far6(NODE)].into(),
        endpoints: BTreeMap::from([(endpoint(THERE), veth)]),
        joins: BTreeMap::from([(network(1), join)]),
        linked: prefixes().into_iter().collect(),
        remote: ["10.43.9.0/24".parse().expect("a prefix")].into(),
        unreachable: far_prefixes().into_iter().collect(),
        ..near
    }
}

fn sandbox_here(container: &Container) -> SandboxDesired {
    SandboxDesired { linked: far_prefixes(), ..container.desired() }
}

fn sandbox_there(container: &Container) -> SandboxDesired {
    SandboxDesired {
        addresses: vec![far4(THERE), far6(THERE)],
        gateway: Some(Ipv4Addr::new(10, 43, 0, GATEWAY)),
        prefixes: far_prefixes(),
        linked: prefixes(),
        ..container.desired()
    }
}

async fn attach(namespace: &mut NetworkNamespace, n: u8, sandbox: &SandboxDesired) {
    clean(namespace.attach(endpoint(n), sandbox).await.expect("attached"));
}

/// Opens both networks, each with its container.
async fn open_both(rig: &Rig, a: &Container, b: &Container) -> [(NetworkNamespace, Tun); 2] {
    let [mut one, mut two] = [rig.open(1).await, rig.open(2).await];
    reconcile(&mut one.0, &here()).await;
    reconcile(&mut two.0, &there()).await;
    attach(&mut one.0, HERE, &sandbox_here(a)).await;
    attach(&mut two.0, THERE, &sandbox_there(b)).await;
    reconcile(&mut one.0, &here()).await;
    reconcile(&mut two.0, &there()).await;

    [one, two]
}

fn talk(a: &Container, b: &Container) {
    for (from, to) in [(v4(HERE), far4(THERE)), (v6(HERE), far6(THERE))] {
        let (one, other) = (a.socket(from), b.socket(to));
        send(&one, to, "hello").expect("a route");
        assert_eq!(receive(&other), ("hello".to_owned(), from));
        send(&other, from, "back").expect("a route");
        assert_eq!(receive(&one), ("back".to_owned(), to));
    }
}

#[tokio::test]
async fn joined_networks_reach_each_other_heal_and_part_without_a_trace() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (a, b) = (Container::new(HERE), Container::new(THERE));
    let (mut one, _tun) = rig.open(1).await;
    reconcile(&mut one, &here()).await;
    // The other network comes second, and makes the pair.
    let (mut two, _tun) = rig.open(2).await;
    let report = reconcile(&mut two, &there()).await;
    assert!(report.steps.contains(&Step::MakeVeth(join_ifname(network(1)))), "{report:?}");
    attach(&mut one, HERE, &sandbox_here(&a)).await;
    attach(&mut two, THERE, &sandbox_there(&b)).await;
    reconcile(&mut two, &there()).await;
    reconcile(&mut one, &here()).await;
    talk(&a, &b);
    assert_eq!(reconcile(&mut one, &here()).await.steps, []);
    assert_eq!(reconcile(&mut two, &there()).await.steps, []);

    // Foreign hands, on either side.
    for (namespace, other) in [(&one, 2), (&two, 1)] {
        let mut hands = Netlink::open(namespace.netns()).await.expect("a connection");
        hands.remove_link(&join_ifname(network(other))).await.expect("removed");
    }
    reconcile(&mut one, &here()).await;
    reconcile(&mut two, &there()).await;
    talk(&a, &b);

    // Made anew, a network finds the pair of its earlier namespace in the way.
    one.delete().await.expect("deleted");
    let (mut one, _tun) = rig.open(1).await;
    reconcile(&mut one, &here()).await;
    attach(&mut one, HERE, &sandbox_here(&a)).await;
    reconcile(&mut one, &here()).await;
    reconcile(&mut two, &there()).await;
    talk(&a, &b);

    reconcile(&mut one, &desired(1, &[HERE])).await;
    reconcile(&mut two, &NamespaceDesired { joins: BTreeMap::new(), ..there() }).await;
    for (namespace, other, prefixes) in [(&one, 2, far_prefixes()), (&two, 1, prefixes())] {
        let mut left = Netlink::open(namespace.netns()).await.expect("a connection");
        assert!(!left.links().await.expect("links").contains_key(&join_ifname(network(other))));
        let routes = left.routes().await.expect("routes");
        assert!(!routes.keys().any(|key| prefixes.contains(&key.prefix)), "{routes:?}");
    }
}

/// A container whose engine set its interface up.
#[tokio::test]
async fn routes_to_a_linked_network_come_and_go_beside_those_of_an_engine() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let container = Container::new(HERE);
    let (mut one, _tun) = rig.open(1).await;
    let inside = ContainerInterface {
        netns: container.path(),
        ifname: "eth3".to_owned(),
        addresses: vec!["10.42.0.11/16".parse().unwrap(), "fd42::b/64".parse().unwrap()],
        routes: vec![
            ("10.42.0.1/32".parse().unwrap(), None),
            ("10.42.0.0/17".parse().unwrap(), Some(v4(GATEWAY))),
            ("fd42::1/128".parse().unwrap(), None),
            ("fd42::/65".parse().unwrap(), Some(v6(GATEWAY))),
        ],
    };
    let sandbox = |linked: Vec<IpNet>| SandboxDesired {
        owner: InterfaceOwner::Engine { joined: true, inside: Some(inside.clone()) },
        linked,
        ..container.desired()
    };
    let routes = async || {
        let mut within = Netlink::open(&container.netns).await.expect("a connection");
        within.links().await.expect("links");
        within.routes().await.expect("routes").into_keys().map(|key| key.prefix).collect()
    };
    attach(&mut one, HERE, &sandbox(Vec::new())).await;
    let before: BTreeSet<IpNet> = routes().await;

    attach(&mut one, HERE, &sandbox(far_prefixes())).await;
    let linked: BTreeSet<IpNet> = routes().await;
    let again = one.attach(endpoint(HERE), &sandbox(far_prefixes())).await.expect("as it is");
    attach(&mut one, HERE, &sandbox(Vec::new())).await;
    let after: BTreeSet<IpNet> = routes().await;

    assert_eq!(linked.difference(&before).copied().collect::<Vec<_>>(), far_prefixes());
    assert_eq!(clean(again).steps, []);
    assert_eq!(after, before);
    assert!(before.contains(&"10.42.0.0/17".parse().unwrap()), "{before:?}");
}

#[tokio::test]
async fn addresses_of_a_joined_network_cannot_be_forged() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (a, b) = (Container::new(HERE), Container::new(THERE));
    let [_one, _two] = open_both(&rig, &a, &b).await;
    talk(&a, &b);
    let mut inside = Netlink::open(&a.netns).await.expect("a connection");

    for (own, to, all) in [
        (v4(HERE), far4(THERE), [far4(99), far4(GATEWAY), v4(99), "10.44.0.9".parse().unwrap()]),
        (v6(HERE), far6(THERE), [far6(99), far6(GATEWAY), v6(99), "fd44::9".parse().unwrap()]),
    ] {
        let arrives = b.socket(to);
        for forged in all {
            let on_eth0 = Address { link: "eth0".to_owned(), address: IpNet::from(forged) };
            inside.add_address(&on_eth0).await.expect("root in a container may do that");
            let _refused_here_or_there = send(&a.socket(forged), to, "forged");
            send(&a.socket(own), to, "last").expect("a route");
            assert_eq!(receive(&arrives), ("last".to_owned(), own), "{forged}");
            assert!(nothing_waits(&arrives), "{forged}");
            inside.remove_address(&on_eth0).await.expect("an address");
        }
    }
}

#[tokio::test]
async fn the_guard_passes_from_a_joined_network_what_is_of_that_network_alone() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (a, b) = (Container::new(HERE), Container::new(THERE));
    let [(one, _tun1), (two, _tun2)] = open_both(&rig, &a, &b).await;
    let mut tables = [&one, &two].map(|namespace| GuardTable::new(namespace.netns().clone()));
    let keep = |table: &mut GuardTable, desired: &NamespaceDesired, n: u8, sandbox| {
        let sandboxes = BTreeMap::from([(endpoint(n), sandbox)]);
        table.keep(&Arc::new(Guard::new(desired, &sandboxes))).expect("a guard");
    };
    keep(&mut tables[0], &here(), HERE, sandbox_here(&a));
    keep(&mut tables[1], &there(), THERE, sandbox_there(&b));
    talk(&a, &b);
    let refused = |table: &GuardTable, reason: GuardReason| {
        table.counts().expect("counts").expect("a guard")[&reason].packets
    };
    let none = GuardReason::ALL.map(|reason| tables.each_ref().map(|one| refused(one, reason)));
    assert_eq!(none[..11], [[0, 0]; 11], "nothing of what they said");

    // A third network's address, by way of the first one.
    let mut hands = Netlink::open(one.netns()).await.expect("a connection");
    for (own, to, forged) in [
        (v4(HERE), far4(THERE), "10.44.0.9".parse::<IpAddr>().unwrap()),
        (v6(HERE), far6(THERE), "fd44::9".parse().unwrap()),
    ] {
        let before = refused(&tables[1], GuardReason::Source);
        let on_lo = Address { link: "lo".to_owned(), address: IpNet::from(forged) };
        hands.add_address(&on_lo).await.expect("an address");
        let arrives = b.socket(to);
        send(&socket(one.netns(), forged), to, "forged").expect("a route");
        send(&a.socket(own), to, "last").expect("a route");
        assert_eq!(receive(&arrives), ("last".to_owned(), own), "{forged}");
        assert_eq!(refused(&tables[1], GuardReason::Source), before + 1, "{forged}");
    }
    // What is of that network, to the gateway itself.
    let to_gateway = refused(&tables[1], GuardReason::Gateway);
    let asks = a.socket(v4(HERE));
    asks.send_to(b"name?", (far4(GATEWAY), 53)).expect("a route");
    let arrives = b.socket(far4(THERE));
    send(&asks, far4(THERE), "last").expect("a route");
    assert_eq!(receive(&arrives).0, "last");
    assert_eq!(refused(&tables[1], GuardReason::Gateway), to_gateway + 1);

    // Apart again.
    keep(&mut tables[0], &desired(1, &[HERE]), HERE, sandbox_here(&a));
    let outside = refused(&tables[0], GuardReason::Destination);
    send(&asks, far4(THERE), "late").expect("a route");
    assert_eq!(refused(&tables[0], GuardReason::Destination), outside + 1);
}
