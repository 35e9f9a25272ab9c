//! A network's policy in a real namespace, with real packets.

mod log;
mod ping;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use overlay_core::Name;
use overlay_core::policy::{Filter, FilterMode, Policy, PolicyEndpoint};

use self::ping::Ping;
use super::rig::{Container, NODE, Rig, nothing_waits, receive, running, send, skipped, v4, v6};
use crate::kernel::nft::{FilterCounts, FilterTable, NftError};
use crate::kernel::{NetworkNamespace, Tun};

/// How long something may take that must happen.
const SOON: Duration = Duration::from_secs(5);

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// An endpoint of the rig with a label.
fn labelled(n: u8, role: &str) -> PolicyEndpoint {
    PolicyEndpoint {
        network: Some(name("shop")),
        name: Some(name(&format!("c{n}"))),
        labels: [("role".to_owned(), role.to_owned())].into(),
        addresses: vec![v4(n), v6(n)],
        ..PolicyEndpoint::default()
    }
}

fn policy(text: &str) -> Policy {
    Policy::parse(text).expect("a policy")
}

fn compiled(policy: &Policy, endpoints: &[PolicyEndpoint], mode: FilterMode) -> Filter {
    let nodes = BTreeSet::from([v4(NODE), v6(NODE)]);

    Filter::compile(policy, &name("shop"), endpoints.iter(), nodes, mode)
}

/// A network with containers, and its table.
struct Shop {
    containers: Vec<Container>,
    namespace: NetworkNamespace,
    table: FilterTable,
    _tun: Tun,
    _rig: Rig,
}

impl Shop {
    async fn open(numbers: &[u8]) -> Self {
        let rig = Rig::new();
        let containers: Vec<_> = numbers.iter().map(|n| Container::new(*n)).collect();
        let (namespace, tun) = running(&rig, 1, &containers.iter().collect::<Vec<_>>()).await;
        let table = FilterTable::new(namespace.netns().clone(), 0xfeed);

        Self { containers, namespace, table, _tun: tun, _rig: rig }
    }

    fn container(&self, n: u8) -> &Container {
        self.containers.iter().find(|one| one.n == n).expect("a container")
    }

    fn enforce(&mut self, policy: &Policy, endpoints: &[PolicyEndpoint]) {
        let filter = compiled(policy, endpoints, FilterMode::Enforced);
        self.table.apply(Arc::new(filter)).expect("a table");
    }

    /// Opens a socket of a container.
    fn udp(&self, address: IpAddr, n: u8, port: u16) -> UdpSocket {
        let netns = &self.container(n).netns;
        let socket = netns.within(|| UdpSocket::bind((address, port)));
        let socket = socket.expect("a namespace").expect("a socket");
        socket.set_read_timeout(Some(SOON)).expect("a timeout");

        socket
    }

    /// Reads what was counted, all together.
    fn counts(&self) -> BTreeMap<String, u64> {
        let FilterCounts { rules, default, unknown, invalid } =
            self.table.counts().expect("counts");
        let others = [("default", default), ("unknown", unknown), ("invalid", invalid)];
        let others = others.map(|(name, count)| (name.to_owned(), count));
        let rules = rules.into_iter().map(|(name, count)| (name.to_string(), count));

        rules.chain(others).map(|(name, count)| (name, count.packets)).collect()
    }

    /// Waits until so many packets have been counted, and returns what counted any.
    fn counted(&self, total: u64) -> BTreeMap<String, u64> {
        let end = Instant::now() + SOON;
        loop {
            let mut counts = self.counts();
            if counts.values().sum::<u64>() >= total || Instant::now() > end {
                counts.retain(|_, count| *count > 0);
                return counts;
            }
        }
    }

    /// Lists the rules as the kernel has them, with their handles.
    fn rules(&self) -> String {
        let list = || {
            let words = ["-a", "-s", "-t", "list", "table", "inet", "overlay"];
            std::process::Command::new("nft").args(words).output()
        };
        let output = self.namespace.netns().within(list).expect("a namespace").expect("nft");

        String::from_utf8(output.stdout).expect("text")
    }
}

const WEB_TO_DB: &str = "\
[network.shop]
default = \"deny\"
[[rule]]
name = \"web-to-db\"
from = { role = \"web\" }
to = { role = \"db\" }
allow = [\"udp/7777\"]
";

#[tokio::test]
async fn established_flows_follow_a_policy_that_changes() {
    if skipped() {
        return;
    }
    let mut shop = Shop::open(&[11, 12]).await;
    let endpoints = [labelled(11, "web"), labelled(12, "db")];
    let (open, closed) = (policy(WEB_TO_DB), policy(&WEB_TO_DB.replace("7777", "7778")));
    for address in [v4, v6] {
        let web = shop.container(11).socket(address(11));
        let db = shop.container(12).socket(address(12));
        let greet = |from: &UdpSocket, to: &UdpSocket, ends: (u8, u8)| {
            send(from, address(ends.1), "hello").expect("a route");
            assert_eq!(receive(to), ("hello".to_owned(), address(ends.0)));
        };
        for _turn in 0..2 {
            shop.enforce(&open, &endpoints);
            greet(&web, &db, (11, 12));
            greet(&db, &web, (12, 11));

            shop.enforce(&closed, &endpoints);
            send(&web, address(12), "too late").expect("a route");
            send(&db, address(11), "too late").expect("a route");
            assert_eq!(shop.counted(2)["default"], 2, "both directions of the flow");
            assert!(nothing_waits(&web) && nothing_waits(&db));
        }
        shop.enforce(&open, &endpoints);
        greet(&web, &db, (11, 12));
    }
}

/// Sends datagrams until told to stop, and returns how many.
fn send_until(socket: &UdpSocket, to: IpAddr, done: &AtomicBool) -> usize {
    let mut sent = 0;
    while !done.load(Ordering::Relaxed) {
        send(socket, to, "hello").expect("a route");
        sent += 1;
    }

    sent
}

#[tokio::test]
async fn a_packet_under_way_is_judged_by_the_policy_before_or_by_the_one_after() {
    if skipped() {
        return;
    }
    let mut shop = Shop::open(&[11, 12]).await;
    let endpoints = [labelled(11, "web"), labelled(12, "db")];
    let more =
        WEB_TO_DB.replace("web-to-db", "more").replace("[network.shop]\ndefault = \"deny\"", "");
    let policies = [WEB_TO_DB.to_owned(), format!("{WEB_TO_DB}{more}")].map(|text| policy(&text));
    shop.enforce(&policies[0], &endpoints);
    let (web, db) = (shop.container(11).socket(v4(11)), shop.container(12).socket(v4(12)));
    db.set_nonblocking(true).expect("set");
    // What comes during a change waits there.
    setsockopt(&db, sockopt::RcvBufForce, &(256 << 20)).expect("a large buffer");
    let (done, mut received) = (AtomicBool::new(false), 0);
    let mut drain = || {
        while db.recv(&mut [0; 64]).is_ok() {
            received += 1;
        }
    };

    let sent = std::thread::scope(|threads| {
        let sending = threads.spawn(|| send_until(&web, v4(12), &done));
        for turn in 0..40 {
            shop.enforce(&policies[turn % 2], &endpoints);
            drain();
        }
        done.store(true, Ordering::Relaxed);
        sending.join().expect("sent")
    });
    drain();

    assert_eq!(sent, received);
    let rules = shop.rules();
    assert_eq!(rules.matches("chain judge4").count(), 1, "nothing is left over: {rules}");
}

#[tokio::test]
async fn nobody_answers_whom_nobody_may_ask() {
    if skipped() {
        return;
    }
    let mut shop = Shop::open(&[11, 12]).await;
    shop.enforce(&policy(WEB_TO_DB), &[labelled(11, "web"), labelled(12, "db")]);

    for address in [v4, v6] {
        let (web, db) = (shop.container(11), shop.container(12));
        let (web, db) = (web.socket(address(11)), db.socket(address(12)));
        let before = shop.counts()["default"];
        // The same ports the other way round, as a flow of its own.
        send(&db, address(11), "hello").expect("a route");
        while shop.counts()["default"] == before {}
        assert!(nothing_waits(&web));
        assert_eq!(shop.counts()["default"], before + 1);
    }
}

#[tokio::test]
async fn an_endpoint_is_closed_until_it_is_known_and_changes_no_rule() {
    if skipped() {
        return;
    }
    let mut shop = Shop::open(&[11, 12, 13]).await;
    let [web, db] = [labelled(11, "web"), labelled(12, "db")];
    let policy = policy(WEB_TO_DB);
    shop.enforce(&policy, std::slice::from_ref(&web));
    let rules = shop.rules();
    let (from, to) = (shop.container(11).socket(v4(11)), shop.container(12).socket(v4(12)));

    send(&from, v4(12), "too early").expect("a route");
    assert_eq!(shop.counted(1)["unknown"], 1);
    shop.enforce(&policy, &[web.clone(), db]);
    send(&from, v4(12), "now").expect("a route");
    assert_eq!(receive(&to).0, "now");
    let settled = shop.counts();
    send(&from, v4(12), "again").expect("a route");
    assert_eq!(receive(&to).0, "again");
    assert_eq!(shop.counts(), settled, "a settled flow is not judged again");

    // An endpoint that came: the flow stays settled. One that got another label: it is judged.
    shop.enforce(&policy, &[web.clone(), labelled(12, "db"), labelled(13, "db")]);
    send(&from, v4(12), "still").expect("a route");
    assert_eq!(receive(&to).0, "still");
    assert_eq!(shop.counts(), settled);
    shop.enforce(&policy, &[web, labelled(12, "none"), labelled(13, "db")]);
    send(&from, v4(12), "no more").expect("a route");
    assert_eq!(shop.counted(3)["default"], 1);
    assert!(nothing_waits(&to));
    assert_eq!(shop.rules(), rules);
}

#[tokio::test]
async fn shadow_counts_what_would_be_dropped_and_drops_nothing() {
    if skipped() {
        return;
    }
    let mut shop = Shop::open(&[11, 12]).await;
    let endpoints = [labelled(11, "web"), labelled(12, "db")];
    let policy = policy(&WEB_TO_DB.replace("7777", "7778"));
    let (web, db) = (shop.container(11).socket(v4(11)), shop.container(12).socket(v4(12)));

    shop.table.apply(compiled(&policy, &endpoints, FilterMode::Shadow).into()).expect("a table");
    for _packet in 0..3 {
        send(&web, v4(12), "hello").expect("a route");
        assert_eq!(receive(&db).0, "hello");
        send(&db, v4(11), "an answer").expect("a route");
        assert_eq!(receive(&web).0, "an answer");
    }
    let shadow = shop.counted(3);
    shop.enforce(&policy, &endpoints);
    for _packet in 0..3 {
        send(&web, v4(12), "hello").expect("a route");
    }

    assert_eq!(shop.counted(3), shadow);
    assert!(nothing_waits(&db));
}

#[tokio::test]
async fn a_node_pings_endpoints_and_is_pinged_and_does_no_more() {
    if skipped() {
        return;
    }
    let mut shop = Shop::open(&[11, 12]).await;
    let nodes = BTreeSet::from([v4(12), v6(12)]);
    let (policy, endpoints) = (policy(WEB_TO_DB), [labelled(11, "web")]);
    let mode = FilterMode::Enforced;
    let filter = Filter::compile(&policy, &name("shop"), endpoints.iter(), nodes, mode);
    shop.table.apply(Arc::new(filter)).expect("a table");

    let mut refused = 0;
    for address in [v4, v6] {
        let (web, node) = (shop.container(11), shop.container(12));
        assert!(Ping::send(node, address(11), 1).answered());
        assert!(Ping::send(web, address(12), 1).answered());
        let (node, web) = (node.socket(address(12)), web.socket(address(11)));
        send(&node, address(11), "hello").expect("a route");
        refused += 1;
        assert_eq!(shop.counted(refused)["unknown"], refused);
        assert!(nothing_waits(&web));
    }
}

#[tokio::test]
async fn what_nft_refuses_leaves_what_was_there() {
    if skipped() {
        return;
    }
    let mut shop = Shop::open(&[11]).await;
    let one = compiled(&policy(WEB_TO_DB), &[labelled(11, "web")], FilterMode::Enforced);
    shop.table.apply(Arc::new(one.clone())).expect("a table");
    let rules = shop.rules();
    let mut wrong = one.clone();
    wrong.rules[0].from = Some(99);

    let refused = shop.table.apply(Arc::new(wrong)).expect_err("no such set");

    assert!(matches!(refused, NftError::Refused(_)), "{refused}");
    assert_eq!(shop.rules(), rules);
    shop.table.apply(Arc::new(one)).expect("the same again");
    assert_eq!(shop.rules(), rules);
}

#[tokio::test]
async fn a_table_that_somebody_took_away_comes_back_with_the_next_change() {
    if skipped() {
        return;
    }
    let mut shop = Shop::open(&[11, 12]).await;
    let policy = policy(WEB_TO_DB);
    shop.enforce(&policy, &[labelled(11, "web")]);
    let flush = || std::process::Command::new("nft").args(["flush", "ruleset"]).status();
    let flushed = shop.namespace.netns().within(flush).expect("a namespace").expect("nft");
    assert!(flushed.success());

    shop.enforce(&policy, &[labelled(11, "web"), labelled(12, "db")]);

    let (web, db) = (shop.container(11).socket(v4(11)), shop.container(12).socket(v4(12)));
    send(&web, v4(12), "hello").expect("a route");
    assert_eq!(receive(&db).0, "hello");
    assert_eq!(shop.counts()["web-to-db"], 1);
    shop.table.remove().expect("removed");
    shop.table.remove().expect("removed already");
    assert_eq!(shop.rules(), "");
}
