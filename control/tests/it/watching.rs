//! Watches that break, fall behind or are many.

use std::time::{Duration, Instant};

use overlay_core::{Revision, Stamp, View};
use overlay_proto::{Code, v1};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::{Control, Node, PATIENCE, Watcher};

/// Has the admin make a network, enter it, and watch; returns all three, the watcher with a view.
async fn watching(control: &Control) -> (Node, v1::Network, Watcher) {
    let admin = control.admin().await;
    let network = admin.create_network("my-network", "10.9.0.0/16").await.unwrap();
    admin.enter(&network).await.unwrap();
    let mut watcher = admin.watch(View::default()).await.unwrap();
    watcher.step().await.unwrap();

    (admin, network, watcher)
}

#[tokio::test]
async fn a_watch_goes_on_where_it_broke_off() {
    let control = Control::start().await;
    let (admin, network, watcher) = watching(&control).await;
    let view = watcher.view.clone();
    drop(watcher);

    let revision =
        admin.put(vec![admin.endpoint(&network, 1, "service1", "10.9.3.3")]).await.unwrap();
    let mut watcher = admin.watch(view).await.unwrap();
    watcher.reach(revision).await;

    assert_eq!((watcher.snapshots, watcher.deltas, watcher.view.endpoints.len()), (0, 1, 1));
}

#[tokio::test]
async fn a_watch_goes_on_after_a_restart_of_control() {
    let mut control = Control::start().await;
    let mut admin = control.admin().await;
    let mut watcher = admin.watch(View::default()).await.unwrap();
    watcher.step().await.unwrap();
    admin.create_network("my-network", "10.9.0.0/16").await.unwrap();
    let view = watcher.view.clone();

    control.stop().await;
    control.serve().await;
    admin.reconnect(control.address).await;
    let mut watcher = admin.watch(view).await.unwrap();
    watcher.step().await.unwrap();

    assert_eq!((watcher.snapshots, watcher.deltas, watcher.view.networks.len()), (0, 1, 1));
}

#[tokio::test]
async fn a_view_from_elsewhere_or_from_the_future_is_replaced() {
    let control = Control::start().await;
    let admin = control.admin().await;
    for (revision, cluster) in
        [(u64::MAX, admin.cluster.as_str()), (1, "0000deadbeef"), (1, "junk"), (0, "")]
    {
        let request = v1::WatchRequest {
            revision,
            cluster: cluster.to_owned(),
            ..v1::WatchRequest::default()
        };
        let mut stream = admin.client.clone().watch(request).await.unwrap().into_inner();

        let first = stream.message().await.unwrap().unwrap().event.unwrap();

        assert!(matches!(first, v1::watch_response::Event::Snapshot(_)), "{revision} of {cluster}");
    }
}

/// A revision says nothing about another history.
#[tokio::test]
async fn a_view_of_another_history_or_of_none_is_replaced_and_ones_own_goes_on() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let mut watcher = admin.watch(View::default()).await.unwrap();
    watcher.step().await.unwrap();
    let view = watcher.view.clone();
    let stamp = view.stamp.expect("every history has a lineage");
    let forged = Stamp { mark: Some([9; 32].into()), ..stamp };
    let other = Stamp { lineage: [9; 16].into(), ..stamp };
    let mut snapshots = Vec::new();

    for stamp in [None, Some(other), Some(forged), Some(Stamp { mark: None, ..stamp }), Some(stamp)]
    {
        let mut watcher = admin.watch(View { stamp, ..view.clone() }).await.unwrap();
        watcher.step().await.unwrap();
        snapshots.push(watcher.snapshots);
        assert_eq!(watcher.view, view);
    }

    assert_eq!(snapshots, [1, 1, 1, 1, 0]);
    // A node that makes up a later revision moves nothing.
    let ahead = View { revision: Revision(1_000), stamp: Some(forged), ..view.clone() };
    let mut watcher = admin.watch(ahead).await.unwrap();
    watcher.step().await.unwrap();
    assert_eq!(watcher.view.lineage(), view.lineage());
}

/// An older agent gets whole messages.
#[tokio::test]
async fn who_does_not_take_chunks_gets_one_message() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let request = v1::WatchRequest { cluster: admin.cluster.clone(), ..Default::default() };

    let mut stream = admin.client.clone().watch(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap().event.unwrap();

    assert!(matches!(first, v1::watch_response::Event::Snapshot(_)), "{first:?}");
}

#[tokio::test]
async fn changes_that_do_not_concern_a_watcher_move_it_along() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let node = control.node(&admin, "host2").await;
    let network = admin.create_network("my-network", "10.9.0.0/16").await.unwrap();
    let mut watcher = node.watch(View::default()).await.unwrap();
    watcher.step().await.unwrap();
    admin.enter(&network).await.unwrap();
    let revision =
        admin.put(vec![admin.endpoint(&network, 1, "service1", "10.9.3.3")]).await.unwrap();

    watcher.reach(revision).await;

    assert_eq!(watcher.view.revision, Revision(revision));
    assert_eq!(
        (watcher.view.endpoints.len(), watcher.view.members.len(), watcher.view.nodes.len()),
        (0, 0, 1)
    );
}

#[tokio::test]
async fn the_second_watch_of_a_node_ends_the_first_and_says_so() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let mut first = admin.watch(View::default()).await.unwrap();
    first.step().await.unwrap();

    let mut second = admin.watch(View::default()).await.unwrap();
    second.step().await.unwrap();

    let end = first.end().await.expect("it ends with a reason");
    assert_eq!(end.code, Code::WrongState);
    assert!(end.message.contains("state directory"), "{end}");
}

/// Follows a watch and confirms, whenever control asks, that its process is still there; returns
/// what control sent last.
fn answering(
    node: &Node,
    instance: &'static str,
    mut watcher: Watcher,
) -> watch::Receiver<v1::Alive> {
    let (said, heard) = watch::channel(v1::Alive::default());
    let mut client = node.client.clone();
    tokio::spawn(async move {
        while let Ok(true) = watcher.step().await {
            if watcher.alive.answer {
                client.confirm(v1::ConfirmRequest { instance: instance.to_owned() }).await.unwrap();
            }
            said.send_replace(watcher.alive.clone());
        }
    });

    heard
}

#[tokio::test]
async fn of_two_processes_with_one_identity_the_first_is_kept_and_both_are_told() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let first = admin.watch_as("first", View::default()).await.unwrap();
    let mut heard = answering(&admin, "first", first);

    let refused = [
        admin.watch_as("copy", View::default()).await.err().expect("it came second"),
        admin.watch_as("copy", View::default()).await.err().expect("it still is the second"),
    ];
    let told = heard.wait_for(|alive| alive.clash.is_some()).await.unwrap().clash.clone().unwrap();

    assert!(refused.iter().all(|refusal| refusal.code == Code::IdentityClash), "{refused:?}");
    assert!(refused[0].message.contains("another host (127.0.0.1)"), "{}", refused[0]);
    assert_eq!(told.address, "127.0.0.1");
    // The copy does not return, and the first process learns that it is gone.
    timeout(PATIENCE, heard.wait_for(|alive| alive.clash.is_none()))
        .await
        .expect("in time")
        .unwrap();
    assert!(heard.has_changed().is_ok(), "its watch goes on");
}

#[tokio::test]
async fn a_process_that_is_gone_gives_way_to_the_next_one_of_its_node() {
    let control = Control::start().await;
    let admin = control.admin().await;
    // It does not answer, as after a crash of its host.
    let mut before = admin.watch_as("before", View::default()).await.unwrap();
    before.step().await.unwrap();

    let begun = Instant::now();
    let mut after = admin.watch_as("after", View::default()).await.unwrap();
    assert!(after.step().await.unwrap());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());

    let begun = Instant::now();
    let mut again = admin.watch_as("after", View::default()).await.unwrap();
    assert!(again.step().await.unwrap());
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "the same process is not asked: {:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn watchers_are_told_where_control_is_and_which_of_them_are_on_its_host() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let mut watcher = admin.watch(View::default()).await.unwrap();

    while watcher.alive.control.is_none() {
        watcher.step().await.unwrap();
    }

    let place = watcher.alive.control.unwrap();
    assert_eq!(
        (place.addresses, place.nodes),
        (vec![control.address.to_string()], vec![admin.id.clone()])
    );
}

#[tokio::test]
async fn a_watcher_that_does_not_read_stops_nobody() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let lazy = control.node(&admin, "lazy").await;
    let network = admin.create_network("my-network", "10.9.0.0/16").await.unwrap();
    admin.enter(&network).await.unwrap();
    lazy.enter(&network).await.unwrap();
    let mut slow = lazy.watch(View::default()).await.unwrap();
    let mut keen = admin.watch(View::default()).await.unwrap();

    // Some 20 MiB, far more than the windows of a connection hold.
    let mut revision = 0;
    for round in 0..20u64 {
        let rows = (0..250u64).map(|i| {
            let address = format!("10.9.{}.{}", i / 200 + 3, i % 200 + 2);
            let mut row = admin.endpoint(&network, i + 1, &format!("e{i}-{round}"), &address);
            row.labels = (0..8).map(|n| (format!("label{n}"), "x".repeat(240))).collect();
            row
        });
        revision = admin.put(rows.collect()).await.unwrap();
        keen.reach(revision).await;
    }

    slow.reach(revision).await;
    assert_eq!(slow.view.endpoints, keen.view.endpoints);
    assert!(slow.deltas < keen.deltas, "{} deltas against {}", slow.deltas, keen.deltas);
}

/// Measures how long it takes until every one of many watchers knows of a change. OVERLAY_WATCHERS
/// sets how many there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_reaches_every_member() {
    let count: usize =
        std::env::var("OVERLAY_WATCHERS").ok().and_then(|n| n.parse().ok()).unwrap_or(50);
    let control = Control::start().await;
    let admin = control.admin().await;
    let network = admin.create_network("my-network", "10.8.0.0/14").await.unwrap();
    admin.enter(&network).await.unwrap();
    let uses = u32::try_from(count).unwrap();
    let line = admin.token(v1::CreateTokenRequest { uses, ..Default::default() }).await;
    let begun = Instant::now();
    let mut watchers = Vec::new();
    for i in 0..count {
        let node = Node::join(&line, &format!("node{i}")).await.unwrap();
        node.enter(&network).await.unwrap();
        let mut watcher = node.watch(View::default()).await.unwrap();
        watcher.step().await.unwrap();
        watchers.push((node, watcher));
    }
    let joined = begun.elapsed();
    let settled = admin.put(vec![admin.endpoint(&network, 1, "first", "10.8.3.3")]).await.unwrap();
    for (_, watcher) in &mut watchers {
        watcher.reach(settled).await;
    }

    let begun = Instant::now();
    let revision =
        admin.put(vec![admin.endpoint(&network, 2, "second", "10.8.3.4")]).await.unwrap();
    let mut reached = JoinSet::new();
    for (node, mut watcher) in watchers {
        reached.spawn(async move {
            watcher.reach(revision).await;
            (begun.elapsed(), node, watcher)
        });
    }
    let mut times: Vec<Duration> =
        reached.join_all().await.into_iter().map(|(time, ..)| time).collect();
    times.sort();

    let p99 = times[times.len() * 99 / 100];
    assert!(p99 < Duration::from_secs(2), "{p99:?}");
    eprintln!(
        "{count} nodes joined, entered and watched in {joined:?}; a change reached them in {:?} (median), {p99:?} (p99)",
        times[times.len() / 2]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_changes_something_all_the_time_does_not_keep_all_watchers_busy() {
    const CHANGES: u64 = 400;
    let control = Control::start().await;
    let (admin, network, mut watcher) = watching(&control).await;
    let begun = Instant::now();

    let busy = async {
        let mut revision = 0;
        for n in 0..CHANGES {
            let name = format!("service{n}");
            let row = admin.endpoint(&network, 1, &name, "10.9.3.3");
            revision = admin.put(vec![row]).await.unwrap();
        }
        revision
    };
    let last = network_revision(&mut watcher, busy).await;

    // Twenty at once, and two in each 100 ms at most.
    let most = 22 + begun.elapsed().as_millis() / 50;
    assert!(u128::try_from(watcher.deltas).unwrap() <= most, "{} deltas", watcher.deltas);
    let begun = Instant::now();
    watcher.reach(last).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "the last change is told soon");
}

/// Follows a watch until changes have been made; returns the revision of the last.
async fn network_revision(watcher: &mut Watcher, changes: impl Future<Output = u64>) -> u64 {
    let mut changes = std::pin::pin!(changes);
    loop {
        tokio::select! {
            last = &mut changes => return last,
            stepped = watcher.step() => assert!(stepped.unwrap()),
        }
    }
}
