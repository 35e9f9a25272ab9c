//! Foreign hands, and how it is all back after one reconcile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ipnet::IpNet;
use nix::mount::{MntFlags, umount2};

use super::rig::{
    Container, GATEWAY, NODE, Rig, TUN, change, clean, desired, endpoint, listen, network, receive,
    reconcile, running, send, skipped, v4, v6,
};
use crate::kernel::container_interface::name_inside;
use crate::kernel::namespace_desired::{TUN_NAME, host_ifname};
use crate::kernel::netlink::Netlink;
use crate::kernel::sysctl;
use crate::kernel::tables::{Address, Hop, LinkChange, RouteKey, Rule, RuleAction, Step, Sysctl};
use crate::kernel::{
    ChangeScope, Changes, ContainerInterface, Drift, InterfaceOwner, KernelError, NetworkInterface,
    NetworkNamespace, SandboxDesired,
};

async fn hands(namespace: &NetworkNamespace) -> Netlink {
    Netlink::open(namespace.netns()).await.expect("a connection")
}

#[tokio::test]
async fn a_second_reconcile_does_nothing() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (a, b) = (Container::new(11), Container::new(12));
    let (mut namespace, _tun) = running(&rig, 1, &[&a, &b]).await;

    let report = reconcile(&mut namespace, &desired(1, &[11, 12])).await;

    assert_eq!(report.steps, []);
    assert_eq!(a.attach(&mut namespace).await.steps, []);
    assert_eq!(namespace.check(endpoint(12), &b.desired()).await.expect("a check"), []);
}

#[tokio::test]
async fn what_foreign_hands_take_from_the_network_comes_back() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (a, b) = (Container::new(11), Container::new(12));
    let (mut namespace, _tun) = running(&rig, 1, &[&a, &b]).await;
    let wanted = desired(1, &[11, 12]);
    let mut hands = hands(&namespace).await;
    let veth = host_ifname(endpoint(11));
    let rule = wanted.tables().rules.into_iter().find(|r| r.from.is_some()).expect("a pin");

    hands.remove_route(RouteKey::ours(IpNet::from(v4(11)))).await.expect("a route");
    hands.remove_route(RouteKey::ours(IpNet::from(v6(11)))).await.expect("a route");
    hands
        .remove_route(RouteKey::ours("10.42.0.0/16".parse().expect("a prefix")))
        .await
        .expect("a route");
    hands
        .remove_address(&Address { link: "lo".to_owned(), address: IpNet::from(v4(GATEWAY)) })
        .await
        .expect("one");
    hands
        .remove_address(&Address { link: TUN_NAME.to_owned(), address: IpNet::from(v6(NODE)) })
        .await
        .expect("one");
    hands.remove_rule(&rule).await.expect("a rule");
    hands.set_link(&veth, LinkChange::Mtu(1300)).await.expect("a link");
    hands.set_link(TUN_NAME, LinkChange::QueueLen(10)).await.expect("a link");
    let set = |path: &str, value: &str| {
        let sysctl = Sysctl::global(path);
        namespace
            .netns()
            .within(|| sysctl::set(&sysctl, value))
            .expect("a namespace")
            .expect("a parameter");
    };
    set("ipv4/ip_forward", "0");
    set("ipv6/conf/all/forwarding", "0");
    set(&format!("ipv4/conf/{veth}/rp_filter"), "0");
    let healed = reconcile(&mut namespace, &wanted).await;

    assert!(healed.steps.len() >= 11, "{:?}", healed.steps);
    assert_eq!(reconcile(&mut namespace, &wanted).await.steps, []);
    for address in [v4, v6] {
        let (from, to) = (a.socket(address(11)), b.socket(address(12)));
        send(&from, address(12), "hello").expect("a route");
        assert_eq!(receive(&to).0, "hello");
    }
}

#[tokio::test]
async fn what_foreign_hands_put_into_the_network_goes() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let a = Container::new(11);
    let (mut namespace, _tun) = running(&rig, 1, &[&a]).await;
    let wanted = desired(1, &[11]);
    let mut hands = hands(&namespace).await;
    let default: IpNet = "0.0.0.0/0".parse().expect("a prefix");

    hands
        .set_route(RouteKey { prefix: default, metric: 7 }, &Hop::Link(TUN_NAME.to_owned()))
        .await
        .expect("a route");
    hands.set_route(RouteKey::ours(IpNet::from(v4(11))), &Hop::Unreachable).await.expect("a route");
    hands
        .set_route(RouteKey { prefix: IpNet::from(v6(11)), metric: 1 }, &Hop::Unreachable)
        .await
        .expect("a route");
    let stolen = Address { link: "lo".to_owned(), address: IpNet::from(v4(50)) };
    hands.add_address(&stolen).await.expect("an address");
    let wide =
        Address { link: TUN_NAME.to_owned(), address: IpNet::new(v6(NODE), 64).expect("a length") };
    hands
        .remove_address(&Address { address: IpNet::from(v6(NODE)), ..wide.clone() })
        .await
        .expect("an address");
    hands.add_address(&wide).await.expect("an address");
    let pass_all = Rule { priority: 1, iif: None, from: None, action: RuleAction::Lookup(254) };
    hands.add_rule(&pass_all).await.expect("a rule");
    reconcile(&mut namespace, &wanted).await;

    assert_eq!(reconcile(&mut namespace, &wanted).await.steps, []);
    hands.links().await.expect("links");
    assert!(!hands.rules().await.expect("rules").contains(&pass_all));
    assert!(!hands.addresses().await.expect("addresses").contains(&stolen));
    assert!(hands.routes().await.expect("routes").keys().all(|key| key.prefix != default));
}

#[tokio::test]
async fn a_link_set_down_comes_back_with_all_that_was_on_it() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (a, b) = (Container::new(11), Container::new(12));
    let (mut namespace, _tun) = running(&rig, 1, &[&a, &b]).await;
    let wanted = desired(1, &[11, 12]);

    for link in [host_ifname(endpoint(11)), TUN_NAME.to_owned(), "lo".to_owned()] {
        hands(&namespace).await.set_down(&link).await.expect("a link");
        reconcile(&mut namespace, &wanted).await;
        assert_eq!(reconcile(&mut namespace, &wanted).await.steps, [], "{link}");
    }

    for address in [v4, v6] {
        let (from, to) = (a.socket(address(11)), b.socket(address(12)));
        send(&from, address(12), "hello").expect("a route");
        assert_eq!(receive(&to).0, "hello");
    }
}

#[tokio::test]
async fn a_removed_veth_is_reported_and_made_again() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (a, b) = (Container::new(11), Container::new(12));
    let (mut namespace, _tun) = running(&rig, 1, &[&a, &b]).await;
    let wanted = desired(1, &[11, 12]);
    hands(&namespace).await.remove_link(&host_ifname(endpoint(11))).await.expect("a link");

    let report = reconcile(&mut namespace, &wanted).await;
    assert_eq!(report.missing, [endpoint(11)].into());
    assert_eq!(
        namespace.check(endpoint(11), &a.desired()).await.expect("a check"),
        [Drift::Missing]
    );
    a.attach(&mut namespace).await;
    assert!(reconcile(&mut namespace, &wanted).await.missing.is_empty());

    let (from, to) = (a.socket(v4(11)), b.socket(v4(12)));
    send(&from, v4(12), "hello").expect("a route");
    assert_eq!(receive(&to).0, "hello");
}

#[tokio::test]
async fn a_removed_tun_is_made_again_with_new_queues() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (mut namespace, _old) = running(&rig, 1, &[]).await;
    let wanted = desired(1, &[]);
    hands(&namespace).await.remove_link(TUN_NAME).await.expect("a link");

    let report = reconcile(&mut namespace, &wanted).await;

    assert_eq!(
        report.interface.map(|NetworkInterface::Tun(tun)| tun.queues.len()),
        Some(TUN.queues)
    );
    let report = reconcile(&mut namespace, &wanted).await;
    assert!(report.interface.is_none() && report.steps.is_empty(), "{report:?}");
}

#[tokio::test]
async fn a_lost_pin_is_pinned_again() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (mut namespace, _tun) = running(&rig, 1, &[]).await;
    let path = namespace.path();
    umount2(&path, MntFlags::MNT_DETACH).expect("a pin");
    std::fs::remove_file(&path).expect("a file");
    assert!(!namespace.is_pinned());

    let report = reconcile(&mut namespace, &desired(1, &[])).await;

    assert!(matches!(report.steps[..], [Step::Pin(_)]), "{:?}", report.steps);
    assert!(namespace.is_pinned());
    assert_eq!(reconcile(&mut namespace, &desired(1, &[])).await.steps, []);
}

#[tokio::test]
async fn what_is_lost_in_a_sandbox_is_found_and_healed() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (a, b) = (Container::new(11), Container::new(12));
    let (mut namespace, _tun) = running(&rig, 1, &[&a, &b]).await;
    let mut inside = Netlink::open(&a.netns).await.expect("a connection");
    let own =
        Address { link: "eth0".to_owned(), address: "192.0.2.1/24".parse().expect("an address") };
    let own_route = RouteKey::ours("198.51.100.0/24".parse().expect("a prefix"));

    inside.add_address(&own).await.expect("a container's own address");
    inside
        .set_route(own_route, &Hop::Link("lo".to_owned()))
        .await
        .expect("a container's own route");
    inside
        .remove_route(RouteKey::ours("10.42.0.0/16".parse().expect("a prefix")))
        .await
        .expect("a route");
    inside
        .remove_address(&Address { link: "eth0".to_owned(), address: IpNet::from(v6(11)) })
        .await
        .expect("one");
    inside.set_link("eth0", LinkChange::Mtu(1300)).await.expect("a link");
    let drift = namespace.check(endpoint(11), &a.desired()).await.expect("a check");
    let healed = clean(namespace.attach(endpoint(11), &a.desired()).await.expect("a sandbox"));

    assert_eq!(drift, healed.steps.iter().cloned().map(Drift::Differs).collect::<Vec<_>>());
    assert!(drift.len() >= 3, "{drift:?}");
    assert_eq!(namespace.check(endpoint(11), &a.desired()).await.expect("a check"), []);
    inside.links().await.expect("links");
    assert!(inside.addresses().await.expect("addresses").contains(&own));
    assert!(inside.routes().await.expect("routes").contains_key(&own_route));
    for address in [v4, v6] {
        let (from, to) = (a.socket(address(11)), b.socket(address(12)));
        send(&from, address(12), "hello").expect("a route");
        assert_eq!(receive(&to).0, "hello");
    }
}

#[tokio::test]
async fn a_foreign_change_is_an_event_and_rest_is_none() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (mut namespace, _tun) = running(&rig, 1, &[]).await;
    let (_events, changes, _subscription) = listen(&namespace).await;
    let mut hands = hands(&namespace).await;
    let soon = Duration::from_millis(500);
    // The kernel's link watch is late with what came before.
    while tokio::time::timeout(soon, change(&changes)).await.is_ok() {}

    reconcile(&mut namespace, &desired(1, &[])).await;
    assert!(
        tokio::time::timeout(soon, change(&changes)).await.is_err(),
        "reading back is no change"
    );
    hands
        .remove_address(&Address { link: "lo".to_owned(), address: IpNet::from(v4(GATEWAY)) })
        .await
        .expect("one");
    tokio::time::timeout(soon, change(&changes)).await.expect("an event in time");
    hands
        .remove_route(RouteKey::ours("10.42.9.0/24".parse().expect("a prefix")))
        .await
        .expect("a route");
    tokio::time::timeout(soon, change(&changes)).await.expect("an event in time");
    namespace
        .netns()
        .within(|| sysctl::set(&Sysctl::global("ipv4/ip_forward"), "0"))
        .expect("a namespace")
        .expect("a parameter");
    tokio::time::timeout(soon, change(&changes)).await.expect("an event in time");
}

#[tokio::test]
async fn changes_are_heard_of_from_every_namespace_and_told_apart() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let a = Container::new(11);
    let (namespace, _tun) = running(&rig, 1, &[&a]).await;
    let (events, changes, _network) = listen(&namespace).await;
    let _sandbox = events
        .subscribe(&a.netns, ChangeScope::Sandbox(endpoint(11)), &changes)
        .expect("a subscription");
    let (other, _other_tun) = running(&rig, 2, &[]).await;
    let elsewhere = Arc::<Changes>::default();
    let dropped =
        events.subscribe(other.netns(), ChangeScope::Network, &elsewhere).expect("a subscription");
    let soon = Duration::from_millis(500);
    while tokio::time::timeout(soon, change(&changes)).await.is_ok() {}

    let mut inside = Netlink::open(&a.netns).await.expect("a connection");
    inside
        .remove_route(RouteKey::ours("10.42.0.0/16".parse().expect("a prefix")))
        .await
        .expect("a route");
    let heard = tokio::time::timeout(soon, change(&changes)).await.expect("an event in time");
    assert_eq!(heard, [ChangeScope::Sandbox(endpoint(11))].into());

    let address = Address { link: "lo".to_owned(), address: IpNet::from(v4(GATEWAY)) };
    hands(&namespace).await.remove_address(&address).await.expect("an address");
    let heard = tokio::time::timeout(soon, change(&changes)).await.expect("an event in time");
    assert_eq!(heard, [ChangeScope::Network].into());

    let mut hands = hands(&other).await;
    hands.remove_address(&address).await.expect("an address");
    tokio::time::timeout(soon, change(&elsewhere)).await.expect("an event in time");
    drop(dropped);
    hands.add_address(&address).await.expect("an address");
    assert!(
        tokio::time::timeout(soon / 4, change(&elsewhere)).await.is_err(),
        "nobody listens there any more"
    );
}

/// An interface in a container as an engine set it up.
fn as_an_engine_left_it(container: &Container) -> ContainerInterface {
    ContainerInterface {
        netns: container.path(),
        ifname: "eth3".to_owned(),
        addresses: vec!["10.42.0.11/16".parse().expect("an address"), IpNet::from(v6(11))],
        routes: vec![
            (IpNet::from(v4(GATEWAY)), None),
            ("10.42.0.0/17".parse().expect("a prefix"), Some(v4(GATEWAY))),
        ],
    }
}

/// The container side of an endpoint whose interface is an engine's.
fn engines(
    container: &Container,
    joined: bool,
    inside: Option<ContainerInterface>,
) -> SandboxDesired {
    SandboxDesired {
        netns: "/proc/self/ns/net".into(),
        identity: None,
        ifname: "ovcheal".to_owned(),
        mac: Some([2, 0, 0, 0, 0, 11]),
        owner: InterfaceOwner::Engine { joined, inside },
        ..container.desired()
    }
}

#[tokio::test]
async fn a_pair_that_an_engine_took_is_made_again_where_it_was() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (mut namespace, _tun) = running(&rig, 1, &[]).await;
    let container = Container::new(11);
    let inside = as_an_engine_left_it(&container);
    let owner = |joined, inside| engines(&container, joined, inside);

    // As engines do where the first network has no IPv6.
    let off = Sysctl::link("ipv6", "default", "disable_ipv6");
    container.netns.within(|| sysctl::set(&off, "1")).expect("a namespace").expect("a parameter");
    let astray = namespace.attach(endpoint(11), &owner(true, None)).await;
    let made = namespace
        .attach(endpoint(11), &owner(true, Some(inside.clone())))
        .await
        .expect("made again");
    // That takes no descriptor: there may be none.
    let unopened = SandboxDesired { netns: "/nowhere".into(), ..owner(true, Some(inside.clone())) };
    let rested = namespace.attach(endpoint(11), &unopened).await.expect("as it is");

    assert!(
        matches!(astray, Err(KernelError::SandboxGone { .. })),
        "it may be anywhere before it was seen"
    );
    assert!(clean(made).steps.contains(&Step::MakeVeth(host_ifname(endpoint(11)))));
    assert_eq!(clean(rested).steps, [], "it is the engine's as long as it exists");
    let mut within = Netlink::open(&container.netns).await.expect("a connection");
    let link = within.links().await.expect("links").remove("eth3").expect("the interface");
    assert!(link.up && link.mtu == desired(1, &[]).interface.mtu());
    let own =
        Address { link: "eth3".to_owned(), address: "10.42.0.11/16".parse().expect("an address") };
    assert!(within.addresses().await.expect("addresses").contains(&own));
    let key = RouteKey::ours("10.42.0.0/17".parse().expect("a prefix"));
    let hop = Hop::Via("eth3".to_owned(), v4(GATEWAY));
    assert_eq!(
        within.routes().await.expect("routes").get(&key).map(|route| route.hop.clone()),
        Some(hop)
    );

    let (container, none) = (container.path(), BTreeSet::new());
    let name = |taken| name_inside(rig.dir(), network(1), endpoint(11), &container, taken);
    let far = name(&none).await.expect("both are there");
    within.remove_link("eth3").await.expect("an interface");
    let free = name(&none).await.expect("both are there");
    let next = name(&["eth0".to_owned()].into()).await.expect("both are there");
    namespace.attach(endpoint(11), &owner(true, Some(inside))).await.expect("made again");

    assert_eq!([far, free, next].map(Option::unwrap_or_default), ["eth3", "eth0", "eth1"]);
    assert!(within.link("eth3").await.expect("links").is_some());
}

/// Dropped where it waits for the kernel, an attempt leaves what a process leaves that is killed
/// there.
#[tokio::test]
async fn whoever_is_killed_while_making_it_again_leaves_no_half() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (mut namespace, _tun) = running(&rig, 1, &[]).await;
    let container = Container::new(11);
    let inside = as_an_engine_left_it(&container);
    let wanted = engines(&container, true, Some(inside.clone()));
    let mut within = Netlink::open(&container.netns).await.expect("a connection");
    let mut halves = 0;

    for polls in 1.. {
        let is_done = {
            let mut attempt = Box::pin(namespace.attach(endpoint(11), &wanted));
            let mut left = polls;
            std::future::poll_fn(|context| match attempt.as_mut().poll(context) {
                Poll::Ready(made) => Poll::Ready(Some(clean(made.expect("made again")))),
                Poll::Pending if left == 1 => Poll::Ready(None),
                Poll::Pending => {
                    left -= 1;
                    Poll::Pending
                }
            })
            .await
            .is_some()
        };
        let is_there = within.links().await.expect("links").contains_key("eth3");
        let had = within.addresses().await.expect("addresses").len();
        halves += usize::from(is_there && had < inside.addresses.len());

        namespace.attach(endpoint(11), &wanted).await.map(clean).expect("made again");

        within.links().await.expect("links");
        let addresses = within.addresses().await.expect("addresses");
        let own = addresses.iter().filter(|a| a.link == "eth3").map(|a| a.address);
        assert_eq!(own.collect::<BTreeSet<_>>(), inside.addresses.iter().copied().collect());
        let routes = within.routes().await.expect("routes");
        for (prefix, _) in &inside.routes {
            assert!(routes.contains_key(&RouteKey::ours(*prefix)), "{prefix} after {polls} polls");
        }
        if is_done {
            break;
        }
        within.remove_link("eth3").await.expect("an interface");
    }

    assert!(halves > 2, "{halves} halves were seen");
}
