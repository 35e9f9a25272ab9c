//! A network's namespace from its birth over its owner's death to its end.

use std::fs;

use super::rig::{
    Container, MTU, Rig, TUN, desired, endpoint, network, receive, reconcile, running, send,
    skipped, v4,
};
use crate::kernel::namespace_desired::TUN_NAME;
use crate::kernel::netlink::Netlink;
use crate::kernel::{KernelError, Netns, NetworkNamespace, Offload};

/// Invariant 7.
#[tokio::test]
async fn all_stands_while_its_owner_is_dead_and_the_next_one_changes_nothing() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (a, b) = (Container::new(11), Container::new(12));
    let (namespace, tun) = running(&rig, 1, &[&a, &b]).await;
    let before = namespace.netns().identity();
    let index = tun_index(namespace.netns()).await;

    drop((namespace, tun));
    let (from, to) = (a.socket(v4(11)), b.socket(v4(12)));
    send(&from, v4(12), "nobody home").expect("a route");
    assert_eq!(receive(&to).0, "nobody home");
    let (mut namespace, tun) = rig.open(1).await;

    assert_eq!(namespace.netns().identity(), before);
    assert_eq!(tun_index(namespace.netns()).await, index);
    assert_eq!(tun.queues.len(), TUN.queues);
    let report = reconcile(&mut namespace, &desired(1, &[11, 12])).await;
    assert!(
        report.steps.is_empty() && report.missing.is_empty() && report.interface.is_none(),
        "{report:?}"
    );
}

async fn tun_index(netns: &Netns) -> Option<u32> {
    let mut netlink = Netlink::open(netns).await.expect("a connection");

    netlink.link(TUN_NAME).await.expect("links").map(|link| link.index)
}

#[tokio::test]
async fn the_tun_has_what_the_lanes_need() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (namespace, tun) = running(&rig, 1, &[]).await;

    let mut netlink = Netlink::open(namespace.netns()).await.expect("a connection");
    let link = netlink.link(TUN_NAME).await.expect("links").expect("a TUN");

    assert!(link.up && link.queue_len >= 4000 && link.mtu == MTU, "{link:?}");
    assert_eq!((tun.name.as_str(), tun.mtu), (TUN_NAME, MTU));
    assert!(tun.offload >= Offload::Tcp, "{:?}", tun.offload);
    for queue in &tun.queues {
        let flags = nix::fcntl::fcntl(queue, nix::fcntl::FcntlArg::F_GETFL).expect("a descriptor");
        assert_ne!(flags & libc::O_NONBLOCK, 0);
    }
}

#[tokio::test]
async fn a_second_process_is_told_that_the_network_is_in_use() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (namespace, _tun) = rig.open(1).await;

    let second = NetworkNamespace::open(rig.dir(), network(1), TUN).await;
    assert!(matches!(second, Err(KernelError::InUse { .. })), "{second:?}");
    let deleted = NetworkNamespace::delete_leftover(rig.dir(), network(1)).await;
    assert!(matches!(deleted, Err(KernelError::InUse { .. })), "{deleted:?}");

    drop(namespace);
    assert!(NetworkNamespace::open(rig.dir(), network(1), TUN).await.is_ok());
}

#[tokio::test]
async fn a_deleted_network_leaves_nothing_behind() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let a = Container::new(11);
    let (namespace, tun) = running(&rig, 1, &[&a]).await;
    let netns = namespace.netns().clone();

    // The lanes still hold their queues.
    namespace.delete().await.expect("a deletion");

    assert_eq!(rig.pins().list().expect("a folder"), []);
    for folder in ["netns", "lock"] {
        assert_eq!(fs::read_dir(rig.dir().join(folder)).expect("a folder").count(), 0, "{folder}");
    }
    assert!(
        !fs::read_to_string("/proc/self/mounts")
            .expect("mounts")
            .contains(&rig.dir().display().to_string())
    );
    let mut inside = Netlink::open(&a.netns).await.expect("a connection");
    assert_eq!(inside.link("eth0").await.expect("a namespace"), None);
    assert_eq!(tun_index(&netns).await, None);
    drop(tun);
}

#[tokio::test]
async fn a_process_with_no_memory_finds_and_removes_what_is_left() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let a = Container::new(11);
    drop(running(&rig, 1, &[&a]).await);
    drop(running(&rig, 2, &[]).await);

    let found = rig.pins().list().expect("a folder");
    assert_eq!(found, [network(1), network(2)]);
    for network in found {
        NetworkNamespace::delete_leftover(rig.dir(), network).await.expect("a deletion");
        NetworkNamespace::delete_leftover(rig.dir(), network).await.expect("the same again");
    }

    assert_eq!(rig.pins().list().expect("a folder"), []);
    let mut inside = Netlink::open(&a.netns).await.expect("a connection");
    assert_eq!(inside.link("eth0").await.expect("a namespace"), None);
}

#[tokio::test]
async fn a_pin_that_a_crash_left_half_done_is_made_whole() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    fs::create_dir_all(rig.dir().join("netns")).expect("a folder");
    fs::write(rig.pins().path(network(1)), "").expect("a file");

    let (namespace, _tun) = rig.open(1).await;

    assert!(namespace.is_pinned());
}

#[tokio::test]
async fn an_endpoint_that_is_not_wanted_any_more_goes_with_its_rules() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (a, b) = (Container::new(11), Container::new(12));
    let (mut namespace, _tun) = running(&rig, 1, &[&a, &b]).await;

    reconcile(&mut namespace, &desired(1, &[12])).await;

    assert_eq!(reconcile(&mut namespace, &desired(1, &[12])).await.steps, []);
    let check = namespace.check(endpoint(11), &a.desired()).await.expect("a check");
    assert_eq!(check, [crate::kernel::Drift::Missing]);
}

#[tokio::test]
async fn inside_is_another_namespace_and_outside_is_not() {
    if skipped() {
        return;
    }
    let netns = Netns::unnamed("inside").expect("a namespace");
    let look = || fs::read_link("/proc/thread-self/ns/net").expect("a link");
    let outside = look();

    let inside = netns.within(look).expect("a namespace");

    assert_ne!(inside, outside);
    assert_eq!(netns.enter(look).await.expect("a namespace"), inside);
    assert_eq!(look(), outside);
}

/// The owner runs these in tasks of a multi-threaded runtime.
#[test]
fn the_namespace_s_futures_may_move_between_threads() {
    fn may_move<T: Send>(_: &T) {}

    let _never_called = |mut namespace: NetworkNamespace, container: Container| {
        may_move(&NetworkNamespace::open("/run".as_ref(), network(1), TUN));
        may_move(&namespace.reconcile(&desired(1, &[])));
        may_move(&namespace.attach(endpoint(1), &container.desired()));
        may_move(&namespace.check(endpoint(1), &container.desired()));
        may_move(&namespace.delete());
    };
}

/// Not a test of right and wrong: prints what a round costs, for the record.
#[tokio::test]
#[ignore = "prints a figure"]
#[expect(clippy::print_stderr, reason = "its purpose")]
async fn what_a_round_with_nothing_to_do_costs() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    for count in [1_u8, 10, 100] {
        let containers: Vec<_> = (0..count).map(|n| Container::new(n + 11)).collect();
        let all: Vec<_> = containers.iter().collect();
        let started = std::time::Instant::now();
        let (mut namespace, _tun) = running(&rig, count, &all).await;
        let made = started.elapsed();
        let numbers: Vec<_> = all.iter().map(|c| c.n).collect();
        let wanted = desired(count, &numbers);

        let started = std::time::Instant::now();
        for _ in 0..20 {
            assert_eq!(reconcile(&mut namespace, &wanted).await.steps, []);
        }
        let round = started.elapsed() / 20;
        let started = std::time::Instant::now();
        for container in &containers {
            assert_eq!(
                namespace
                    .check(endpoint(container.n), &container.desired())
                    .await
                    .expect("a check"),
                []
            );
        }
        let check = started.elapsed() / u32::from(count);
        eprintln!(
            "{count} endpoints: made in {made:?}, a round {round:?}, a sandbox check {check:?}"
        );
    }
}
