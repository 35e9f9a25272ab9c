//! Memberships that are larger than a message, watches and lists that nobody reads, and requests
//! that never end.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use overlay_core::View;
use overlay_proto::{channel, v1};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::body::Body;
use tonic::client::GrpcService as _;
use tonic::codegen::Bytes;
use tonic::codegen::http::Request;
use tonic::transport::Channel;
use tonic::transport::channel::ResponseFuture;

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

/// Looks for some time how much more memory there is than before, and does `along` each time;
/// returns the most, in MiB.
async fn most_more(begun: usize, mut along: impl FnMut()) -> usize {
    let until = Instant::now() + Duration::from_secs(3);
    let mut most = 0;
    while Instant::now() < until {
        along();
        most = most.max(memory().saturating_sub(begun));
        sleep(Duration::from_millis(50)).await;
    }

    most
}

/// Starts control, with a network of 400 long rows; returns its admin, and another node in it.
async fn full() -> (Control, Node, Node) {
    let control = Control::start().await;
    let admin = control.admin().await;
    let network = admin.create_network("my-network", "10.8.0.0/14").await.unwrap();
    admin.enter(&network).await.unwrap();
    fill(&admin, &network, 400).await;
    let hostile = control.node(&admin, "hostile").await;
    hostile.enter(&network).await.unwrap();

    (control, admin, hostile)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_are_not_read_cost_next_to_nothing() {
    const WATCHES: usize = 60;
    let (control, admin, mut hostile) = full().await;
    let begun = memory();

    let (mut unread, mut opened): (Vec<Watcher>, usize) = (Vec::new(), 0);
    let mut ended = None;
    let mut most = 0;
    while opened < WATCHES {
        match hostile.watch(View::default()).await {
            Ok(watcher) => {
                unread.push(watcher);
                opened += 1;
            }
            Err(_) => {
                // The connection of the watches before is closed by now. What this side has of them
                // is not control's.
                let mut before = std::mem::take(&mut unread).into_iter();
                if let Some(mut watcher) = before.next() {
                    ended = watcher.end().await;
                }
                drop(before);
                hostile.reconnect(control.address).await;
            }
        }
        most = most.max(memory().saturating_sub(begun));
    }
    most = most.max(most_more(begun, || {}).await);

    // 400 rows of 14 KiB are 5.6 MiB: 60 of them would be 340 MiB.
    eprintln!("{WATCHES} unread watches: at most {most} MiB more");
    assert!(most < 24, "{most} MiB");
    // All but the last have been ended; whoever reads on is told, or cut off.
    let ended = ended.expect("they end with a reason");
    assert!(!ended.message.is_empty(), "{ended}");
    let mut watcher = admin.watch(View::default()).await.unwrap();
    assert!(watcher.step().await.unwrap(), "others are served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_waits_until_the_watches_that_it_does_not_read_are_closed() {
    const WATCHES: usize = 16;
    let (control, admin, mut hostile) = full().await;
    let begun = Instant::now();

    // Each on a connection of its own. When the first part has been read, control has the next one
    // ready, which is larger than what it may send.
    let mut unread = Vec::new();
    for _ in 0..WATCHES {
        hostile.reconnect(control.address).await;
        let mut watcher = hostile.watch(View::default()).await.unwrap();
        assert!(watcher.step().await.unwrap());
        unread.push(watcher);
    }

    // Each gives way to the next, and its connection is closed a second later; four are let in at
    // once, so the last waits three times for that.
    let opened = begun.elapsed();
    assert!(opened >= Duration::from_secs(2), "{WATCHES} unread watches after {opened:?}");
    let mut watcher = admin.watch(View::default()).await.unwrap();
    assert!(watcher.step().await.unwrap(), "others are served");
}

/// Begins a call whose request is nearly as long as it may be, and never ends.
async fn begin_endless(channel: &mut Channel) {
    let length = u32::try_from(overlay_control::MAX_REQUEST).unwrap() - 1;
    let header = [&[0][..], &length.to_be_bytes()].concat();
    let pieces = (0..255).map(|_| Bytes::from_static(&[0; 16 << 10]));
    let sent = stream::iter([Bytes::from(header)].into_iter().chain(pieces));
    let frames = sent.map(|bytes| Ok::<_, tonic::Status>(Frame::data(bytes)));
    let body = Body::new(StreamBody::new(frames.chain(stream::pending())));
    tokio::spawn(call(channel, "PutEndpoints", body).await);
}

/// Makes a call as no client would make it; what is returned waits for the answer.
async fn call(channel: &mut Channel, method: &str, body: Body) -> ResponseFuture {
    let uri = format!("https://control.overlay.internal/overlay.v1.Control/{method}");
    let request = Request::post(uri).header("content-type", "application/grpc").body(body);
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();

    channel.call(request.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_never_end_cost_next_to_nothing_and_stop_nobody() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let hostile = control.node(&admin, "hostile").await;
    let mut channels = Vec::new();
    for _ in 0..4 {
        channels.push(hostile.channel(control.address).await);
    }
    let begun = memory();

    for channel in &mut channels {
        for _ in 0..30 {
            begin_endless(channel).await;
        }
    }
    let most = most_more(begun, || {}).await;

    // All of it would be 480 MiB.
    eprintln!("120 endless requests: at most {most} MiB more");
    assert!(most < 48, "{most} MiB");
    let network = admin.create_network("my-network", "10.8.0.0/14").await.unwrap();
    admin.enter(&network).await.unwrap();
    fill(&admin, &network, 200).await;
    hostile.enter(&network).await.expect("its small calls are answered, too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_are_not_read_cost_next_to_nothing_and_end() {
    let (control, admin, hostile) = full().await;
    let mut channel = hostile.channel(control.address).await;
    let begun = memory();

    let mut calls = JoinSet::new();
    for _ in 0..30 {
        let empty = Body::new(http_body_util::Full::new(Bytes::from_static(&[0; 5])));
        calls.spawn(call(&mut channel, "ListEndpoints", empty).await);
    }
    let mut unread = Vec::new();
    let take = || unread.extend(std::iter::from_fn(|| calls.try_join_next()));
    let most = most_more(begun, take).await;

    // Each is 5.6 MiB: 30 of them would be 168 MiB.
    eprintln!("30 lists that are not read: at most {most} MiB more");
    assert!(most < 48, "{most} MiB");
    let first = unread.pop().expect("the first was answered").unwrap().unwrap();
    assert!(first.status().is_success());
    assert!(unread.is_empty(), "{} more were answered before it was read", unread.len());
    // Whoever does not read is cut off, and all others go on.
    let read = timeout(Duration::from_secs(15), first.into_body().collect()).await;
    drop(read.expect("it is read, or it is cut off"));
    let list = v1::ListEndpointsRequest::default();
    assert!(hostile.client.clone().list_endpoints(list.clone()).await.is_ok());
    assert!(admin.client.clone().list_endpoints(list).await.is_ok());
}
