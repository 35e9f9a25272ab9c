//! What is refused, and what a container sees.

use std::path::PathBuf;

use super::rig::{Container, Rig, change, endpoint, listen, running, skipped};
use crate::kernel::netlink::{Netlink, VethPeer};
use crate::kernel::tables::{Hop, RouteKey};
use crate::kernel::{ChangeScope, KernelError, Netns, SandboxDesired};
use std::os::fd::AsFd;

#[tokio::test]
async fn an_interface_of_that_name_that_is_not_ours_is_refused_and_left_alone() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (a, elsewhere) = (Container::new(11), Container::new(12));
    let (mut namespace, _tun) = running(&rig, 1, &[]).await;
    let mut inside = Netlink::open(&a.netns).await.expect("a connection");
    let peer = VethPeer { netns: elsewhere.netns.as_fd(), name: "eth0", mac: [2, 0, 0, 0, 0, 1] };
    inside.add_veth("eth0", 1500, 0, peer).await.expect("a container's own interface");
    let before = inside.link("eth0").await.expect("a link");

    let refused = namespace.attach(endpoint(11), &a.desired()).await;

    assert!(matches!(refused, Err(KernelError::IfnameTaken { .. })), "{refused:?}");
    assert_eq!(inside.link("eth0").await.expect("a link"), before);
    let mut network = Netlink::open(namespace.netns()).await.expect("a connection");
    assert!(network.links().await.expect("links").keys().all(|name| name == "lo" || name == "ovt"));
}

#[tokio::test]
async fn bad_names_and_bad_sandboxes_are_refused() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let a = Container::new(11);
    let (mut namespace, _tun) = running(&rig, 1, &[]).await;
    let with = |change: fn(&mut SandboxDesired)| {
        let mut desired = a.desired();
        change(&mut desired);
        desired
    };

    for ifname in ["", "0123456789abcdef", "a/b", "a b", "..", "lo", "all", "eth0:1", "a\n"] {
        let mut desired = a.desired();
        desired.ifname = ifname.to_owned();
        let refused = namespace.attach(endpoint(11), &desired).await;
        assert!(
            matches!(refused, Err(KernelError::InvalidIfname { .. })),
            "{ifname:?}: {refused:?}"
        );
    }
    let gone = with(|d| d.netns = PathBuf::from("/nonexistent/netns"));
    assert!(matches!(
        namespace.attach(endpoint(11), &gone).await,
        Err(KernelError::SandboxGone { .. })
    ));
    let file = with(|d| d.netns = PathBuf::from("/etc/hostname"));
    assert!(matches!(
        namespace.attach(endpoint(11), &file).await,
        Err(KernelError::NotANamespace { .. })
    ));
    let other_kind = with(|d| d.netns = PathBuf::from("/proc/self/ns/mnt"));
    assert!(matches!(
        namespace.attach(endpoint(11), &other_kind).await,
        Err(KernelError::NotANamespace { .. })
    ));
    let impostor = with(|d| d.netns = PathBuf::from("/proc/self/ns/net"));
    assert!(matches!(
        namespace.attach(endpoint(11), &impostor).await,
        Err(KernelError::SandboxGone { .. })
    ));
}

#[tokio::test]
async fn a_container_has_the_network_s_routes_and_no_default_route() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let a = Container::new(11);
    let (_namespace, _tun) = running(&rig, 1, &[&a]).await;
    let mut inside = Netlink::open(&a.netns).await.expect("a connection");

    let links = inside.links().await.expect("links");
    let routes = inside.routes().await.expect("routes");

    let names: Vec<_> = links.keys().map(String::as_str).collect();
    assert_eq!(names, ["eth0", "lo"]);
    let route = |prefix: &str| {
        routes.get(&RouteKey::ours(prefix.parse().expect("a prefix"))).map(|r| r.hop.clone())
    };
    let via = |ip: &str| Some(Hop::Via("eth0".to_owned(), ip.parse().expect("an address")));
    assert_eq!(route("10.42.0.1/32"), Some(Hop::Link("eth0".to_owned())));
    assert_eq!(route("10.42.0.0/16"), via("10.42.0.1"));
    assert_eq!(route("fd42::/64"), via("fe80::1"));
    assert_eq!(routes.len(), 3, "{routes:?}");
}

#[tokio::test]
async fn a_detached_endpoint_leaves_nothing_on_either_side() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let a = Container::new(11);
    let (mut namespace, _tun) = running(&rig, 1, &[&a]).await;

    namespace.detach(endpoint(11)).await.expect("an endpoint");
    namespace.detach(endpoint(11)).await.expect("the same again");

    let mut inside = Netlink::open(&a.netns).await.expect("a connection");
    assert_eq!(inside.link("eth0").await.expect("a namespace"), None);
}

#[tokio::test]
async fn a_sandbox_is_not_kept_alive_by_its_attachment() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let a = Container::new(11);
    let (mut namespace, _tun) = running(&rig, 1, &[&a]).await;
    let (events, changes, _subscription) = listen(&namespace).await;
    // What is heard of is not kept alive either.
    let _inside = events
        .subscribe(&a.netns, ChangeScope::Sandbox(endpoint(11)), &changes)
        .expect("a subscription");
    let mut desired = a.desired();
    desired.netns = PathBuf::from("/nonexistent/netns");

    drop(a);

    // The kernel takes the pair down with the sandbox, a moment later.
    let gone = async {
        while !super::rig::reconcile(&mut namespace, &super::rig::desired(1, &[11]))
            .await
            .missing
            .contains(&endpoint(11))
        {
            change(&changes).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), gone)
        .await
        .expect("the veth is gone in time");
    assert!(matches!(
        namespace.attach(endpoint(11), &desired).await,
        Err(KernelError::SandboxGone { .. })
    ));
}

#[tokio::test]
async fn the_host_s_network_is_listed_for_advertising_and_for_conflicts() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let a = Container::new(11);
    let (_namespace, _tun) = running(&rig, 1, &[&a]).await;

    let host = crate::kernel::host::HostNetwork::list(&a.netns).await.expect("a namespace");

    let found: Vec<_> =
        host.addresses.iter().map(|a| (a.address.to_string(), a.link.as_str(), a.mtu)).collect();
    assert_eq!(
        found,
        [("10.42.0.11".to_owned(), "eth0", 1408), ("fd42::b".to_owned(), "eth0", 1408)]
    );
    let taken = host.conflict("10.42.7.0/24".parse().expect("a prefix"));
    assert_eq!(taken.map(|(_, holder)| holder), Some("eth0"));
    assert!(Netns::host().is_ok());
}
