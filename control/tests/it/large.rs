//! Memberships that are larger than a message, and watches that nobody reads.

use std::time::Duration;

use overlay_core::View;
use overlay_proto::{channel, v1};
use tokio::time::{Instant, sleep};

use crate::harness::{Control, Node, Watcher};

/// Publishes endpoints of 15 KiB each, in calls of 200.
async fn fill(node: &Node, network: &v1::Network, endpoints: u64) -> u64 {
    let mut revision = 0;
    for from in (0..endpoints).step_by(200) {
        let rows = (from..(from + 200).min(endpoints)).map(|i| {
            let address = format!("10.8.{}.{}", i / 200 + 1, i % 200 + 2);
            let mut row = node.endpoint(network, i + 1, &format!("e{i}"), &address);
            row.labels = (0..15).map(|n| (format!("l{n}"), "x".repeat(255))).collect();
            let long = ["y".repeat(60), "y".repeat(60), "y".repeat(60)].join(".");
            row.aliases = (0..55).map(|n| format!("a{n:02}-{i}.{long}")).collect();
            row
        });
        revision = node.put(rows.collect()).await.unwrap();
    }

    revision
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_membership_of_any_size_is_followed() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let network = admin.create_network("my-network", "10.8.0.0/14").await.unwrap();
    admin.enter(&network).await.unwrap();
    let other = control.node(&admin, "host2").await;
    let mut late = other.watch(View::default()).await.unwrap();
    late.step().await.unwrap();
    let revision = fill(&admin, &network, 5_000).await;

    // Changes while the parts are on their way: all of them together are right.
    let mut watcher = admin.watch(View::default()).await.unwrap();
    watcher.step().await.unwrap();
    let changed = admin.endpoint(&network, 1, "changed", "10.8.1.2");
    let removed =
        v1::EndpointKey { network: network.id.clone(), endpoint: format!("{:012x}", 5_000) };
    admin.put(vec![changed]).await.unwrap();
    let request = v1::RemoveEndpointsRequest { endpoints: vec![removed] };
    admin.client.clone().remove_endpoints(request).await.unwrap();
    watcher.reach(revision + 2).await;

    let bytes = overlay_proto::convert::view_len(&watcher.view);
    assert!(bytes > channel::MAX_MESSAGE, "{bytes} bytes fit into one message");
    assert!(watcher.chunks > 200, "{} parts", watcher.chunks);
    assert_eq!(watcher.view.endpoints.len(), 4_999);
    let renamed = watcher.view.endpoints.values().filter(|row| row.name.as_str() == "changed");
    assert_eq!(renamed.count(), 1);
    // Whoever enters the network gets all of it by one delta in parts.
    let (chunks, entered) = (late.chunks, other.enter(&network).await);
    entered.unwrap();
    while late.view.endpoints.len() < 4_999 {
        assert!(late.step().await.unwrap());
    }
    assert!(late.deltas > 0 && late.snapshots == 1 && late.chunks > chunks + 200);
}

/// Reads how much memory this process has, control and its clients together, in MiB.
fn memory() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split_whitespace().nth(1).unwrap().parse().unwrap();

    pages * 4 / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_are_not_read_cost_next_to_nothing() {
    const WATCHES: usize = 200;
    let control = Control::start().await;
    let admin = control.admin().await;
    let network = admin.create_network("my-network", "10.8.0.0/14").await.unwrap();
    admin.enter(&network).await.unwrap();
    fill(&admin, &network, 400).await;
    let mut hostile = control.node(&admin, "hostile").await;
    hostile.enter(&network).await.unwrap();
    let begun = memory();

    let mut unread: Vec<Watcher> = Vec::new();
    let mut most = 0;
    while unread.len() < WATCHES {
        match hostile.watch(View::default()).await {
            Ok(watcher) => unread.push(watcher),
            // The connection of the watches before is closed by now.
            Err(_) => hostile.reconnect(control.address).await,
        }
        most = most.max(memory().saturating_sub(begun));
    }
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        most = most.max(memory().saturating_sub(begun));
        sleep(Duration::from_millis(50)).await;
    }

    // 400 rows of 14 KiB are 5.6 MiB: 200 of them would be 1.1 GiB.
    eprintln!("{WATCHES} unread watches: at most {most} MiB more");
    assert!(most < 96, "{most} MiB");
    // All but the last have been ended; whoever reads on is told, or cut off.
    let ended = unread[0].end().await.expect("it ends with a reason");
    assert!(ended.message.contains("another watch") || !ended.message.is_empty(), "{ended}");
    let mut watcher = admin.watch(View::default()).await.unwrap();
    assert!(watcher.step().await.unwrap(), "others are served");
}
