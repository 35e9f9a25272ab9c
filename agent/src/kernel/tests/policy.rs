//! A network's policy in a real namespace, with real packets.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt,
};
use overlay_core::Name;
use overlay_core::policy::{
    Filter, FilterMode, FilterReason, Policy, PolicyAction, PolicyEndpoint, Traffic,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::rig::{Container, NODE, Rig, nothing_waits, receive, running, send, skipped, v4, v6};
use crate::kernel::nft::{FilterCounts, FilterTable, LOG_GROUP, NftError};
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
    socket::setsockopt(&db, sockopt::RcvBufForce, &(256 << 20)).expect("a large buffer");
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

/// Policies in which rules overlap in every way.
fn policies() -> [String; 4] {
    let rule = |name, from, to, action| {
        format!("[[rule]]\nname = \"{name}\"\nfrom = {from}\nto = {to}\n{action}\n")
    };
    let (any, web, db) = ("\"any\"", "{ role = \"web\" }", "{ role = \"db\" }");
    let several = "[{ role = \"web\" }, { cidr = \"fd42::c/128\" }]";
    let deny = "[network.shop]\ndefault = \"deny\"\n".to_owned();

    [
        WEB_TO_DB.to_owned(),
        rule("a", web, any, "deny = [\"tcp\", \"udp/1-2\"]")
            + &rule("b", any, "{ name = \"c12\" }", "allow = [\"udp/2-3\"]")
            + &rule("c", any, db, "deny = \"any\""),
        deny + &rule(
            "a",
            "{ cidr = \"10.42.0.12/31\" }",
            several,
            "allow = [\"tcp/3\", \"udp/1\", \"udp/3\"]",
        ) + &rule("b", any, any, "deny = [\"udp/3\"]\nlog = true")
            + &rule("c", "{ network = \"shop\", role = \"web\" }", any, "allow = [\"udp\"]"),
        rule("a", any, any, "network = \"other\"\ndeny = \"any\"")
            + &rule("b", "{ role = \"x\" }", any, "deny = [\"icmp\", \"tcp/1-2\"]"),
    ]
}

/// Policies of random rules, the same each time.
fn random_policies(count: usize) -> Vec<String> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut pick = |texts: &[&str]| {
        // Xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let len = u64::try_from(texts.len()).expect("few");
        texts[usize::try_from(state % len).expect("few")].to_owned()
    };
    let sides = [
        "\"any\"",
        "{ role = \"web\" }",
        "{ role = \"db\" }",
        "{ name = \"c1*\" }",
        "{ name = \"c11\" }",
        "[{ name = \"c12\" }, { name = \"c13\" }]",
        "{ cidr = \"fd42::c/127\" }",
        "{ role = \"web\", network = \"ops\" }",
    ];
    let terms = ["tcp", "udp", "icmp", "tcp/1", "tcp/2-3", "udp/2-7777", "udp/0-1", "tcp/3-65535"];
    let mut policy = || {
        let mut text = format!("[network.shop]\ndefault = \"{}\"\n", pick(&["allow", "deny"]));
        for name in ["a", "b", "c", "d", "e"] {
            let (from, to, action) = (pick(&sides), pick(&sides), pick(&["allow", "deny"]));
            let (one, other, log) = (pick(&terms), pick(&terms), pick(&["true", "false"]));
            text += &format!(
                "[[rule]]\nname = \"{name}\"\nfrom = {from}\nto = {to}\n\
                 {action} = [\"{one}\", \"{other}\"]\nlog = {log}\n"
            );
        }
        text
    };

    (0..count).map(|_| policy()).collect()
}

/// What is sent by one container to another.
#[derive(Debug, Clone, Copy)]
struct Probe {
    from: u8,
    to: u8,
    port: u16,
    address: fn(u8) -> IpAddr,
}

/// Every pair, some ports, both families.
fn probes(numbers: &[u8]) -> Vec<Probe> {
    let pairs = numbers.iter().flat_map(|from| numbers.iter().map(move |to| (*from, *to)));
    let pairs = pairs.filter(|(from, to)| from != to);
    let ports = pairs.flat_map(|pair| [1, 2, 3, 7777].map(|port| (pair, port)));
    let families: [fn(u8) -> IpAddr; 2] = [v4, v6];

    ports
        .flat_map(|((from, to), port)| families.map(|address| Probe { from, to, port, address }))
        .collect()
}

#[tokio::test]
async fn the_kernel_decides_as_the_policy_does() {
    if skipped() {
        return;
    }
    let numbers = [11, 12, 13];
    let endpoints = [labelled(11, "web"), labelled(12, "db"), labelled(13, "web")];
    let mut shop = Shop::open(&numbers).await;
    let probes = probes(&numbers);
    let receivers: Vec<_> =
        probes.iter().map(|probe| (probe.to, probe.port, (probe.address)(probe.to))).collect();
    let receivers: BTreeMap<_, _> = receivers
        .into_iter()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(|(n, port, address)| ((address, port), shop.udp(address, n, port)))
        .collect();

    for text in policies().into_iter().chain(random_policies(20)) {
        let policy = policy(&text);
        let filter = compiled(&policy, &endpoints, FilterMode::Enforced);
        // Anew: what was counted before is forgotten.
        shop.table.remove().expect("removed");
        shop.table.apply(Arc::new(filter.clone())).expect("a table");
        let mut wanted: BTreeMap<String, u64> = BTreeMap::new();
        for probe in &probes {
            let mut decided = |traffic| {
                let (passes, by) = verdict(&filter, probe, traffic);
                *wanted.entry(by).or_default() += 1;
                passes
            };
            let sender = shop.udp((probe.address)(probe.from), probe.from, 0);
            let to = SocketAddr::new((probe.address)(probe.to), probe.port);
            sender.send_to(b"probe", to).expect("a route");
            if decided(Traffic::Udp(probe.port)) {
                let receiver = &receivers[&(to.ip(), to.port())];
                assert_eq!(receive(receiver).1, (probe.address)(probe.from), "{text} {probe:?}");
            }
            decided(Traffic::Tcp(probe.port));
            knock(shop.container(probe.from), to);
            let ping = Ping::send(shop.container(probe.from), to.ip(), probe.port);
            if decided(Traffic::Icmp) {
                assert!(ping.answered(), "{text} {probe:?}");
            }
        }

        let counts = shop.counted(3 * u64::try_from(probes.len()).expect("few"));
        assert_eq!(counts, wanted, "{text}");
        for receiver in receivers.values() {
            assert!(nothing_waits(receiver), "{text}");
        }
    }
}

/// Says whether a probe is to pass, and what counts it.
fn verdict(filter: &Filter, probe: &Probe, traffic: Traffic) -> (bool, String) {
    let (action, reason) =
        filter.decide((probe.address)(probe.from), (probe.address)(probe.to), traffic);
    let by = match reason {
        FilterReason::Rule(rule) => rule.name.to_string(),
        FilterReason::Default => "default".to_owned(),
        FilterReason::Unknown | FilterReason::Node => panic!("all are endpoints"),
    };

    (action == PolicyAction::Allow, by)
}

fn domain(address: IpAddr) -> Domain {
    if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }
}

/// Sends the first packet of a TCP connection, and no further one.
fn knock(container: &Container, to: SocketAddr) {
    let open = || Socket::new(domain(to.ip()), Type::STREAM, None);
    let socket = container.netns.within(open).expect("a namespace").expect("a socket");
    socket.set_nonblocking(true).expect("a socket");
    // In progress, or refused at once.
    drop(socket.connect(&to.into()));
}

/// An echo request on its way.
struct Ping {
    socket: Socket,
    to: IpAddr,
}

impl Ping {
    /// Sends one; the identifier tells its flow from others.
    fn send(container: &Container, to: IpAddr, id: u16) -> Self {
        // The kernel writes the checksum of ICMPv6.
        let (protocol, kind, checksum) = if to.is_ipv4() {
            (Protocol::ICMPV4, 8u8, !(0x0800 + id))
        } else {
            (Protocol::ICMPV6, 128, 0)
        };
        let words = [u16::from(kind) << 8, checksum, id, 0].map(u16::to_be_bytes);
        let open = || Socket::new(domain(to), Type::RAW, Some(protocol));
        let socket = container.netns.within(open).expect("a namespace").expect("a socket");
        socket.set_read_timeout(Some(SOON)).expect("a timeout");
        socket.send_to(&words.concat(), &SocketAddr::new(to, 0).into()).expect("a route");

        Self { socket, to }
    }

    /// Waits for the answer.
    fn answered(mut self) -> bool {
        let mut buffer = [0; 128];
        while let Ok(len) = self.socket.read(&mut buffer) {
            // IPv4 shows its header.
            let kind = buffer[..len].get(if self.to.is_ipv4() { 20 } else { 0 });
            if kind == Some(&if self.to.is_ipv4() { 0 } else { 129 }) {
                return true;
            }
        }

        false
    }
}

#[tokio::test]
async fn the_first_packet_of_each_flow_is_logged_with_the_rule_s_name() {
    if skipped() {
        return;
    }
    let mut shop = Shop::open(&[11, 12]).await;
    let text = WEB_TO_DB.replace("allow", "log = true\nallow");
    let deny =
        "[[rule]]\nname = \"rest\"\nfrom = \"any\"\nto = \"any\"\ndeny = \"any\"\nlog = true\n";
    shop.enforce(&policy(&format!("{text}{deny}")), &[labelled(11, "web"), labelled(12, "db")]);
    let log = shop.namespace.netns().within(Log::open).expect("a namespace");

    for address in [v4, v6] {
        let (web, db) = (shop.container(11), shop.container(12));
        let (web, db) = (web.socket(address(11)), db.socket(address(12)));
        for _packet in 0..3 {
            send(&web, address(12), "allowed").expect("a route");
            assert_eq!(receive(&db).0, "allowed");
            web.send_to(b"refused", (address(12), 9)).expect("a route");
        }
        assert_eq!([log.next(), log.next()], ["web-to-db", "rest"]);
    }
    // A flow of its own, whose packet comes after all that could have been logged before.
    let other = shop.udp(v4(11), 11, 9);
    other.send_to(b"refused", (v4(12), 9)).expect("a route");
    assert_eq!(log.next(), "rest");
    assert!(log.waiting().is_empty());
}

/// Listens to the packets that are logged in a namespace.
struct Log {
    socket: std::os::fd::OwnedFd,
    waiting: std::cell::RefCell<Vec<String>>,
}

impl Log {
    fn open() -> Self {
        let (flags, protocol) = (SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter);
        let socket = socket::socket(AddressFamily::Netlink, SockType::Raw, flags, protocol);
        let socket = socket.expect("a socket");
        socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).expect("bound");
        let timeout = nix::sys::time::TimeVal::new(5, 0);
        socket::setsockopt(&socket, sockopt::ReceiveTimeout, &timeout).expect("set");
        let log = Self { socket, waiting: std::cell::RefCell::default() };
        // NFULNL_MSG_CONFIG with NFULNL_CFG_CMD_BIND, and then a queue of one packet
        // (NFULA_CFG_QTHRESH), so that nothing waits for a timer.
        log.configure(1, &[1]);
        log.configure(5, &1u32.to_be_bytes());

        log
    }

    /// Sends one attribute of the group's configuration.
    fn configure(&self, attribute: u16, value: &[u8]) {
        let mut body = vec![0, 0];
        body.extend(LOG_GROUP.to_be_bytes());
        let len = u16::try_from(4 + value.len()).expect("short");
        body.extend([len.to_ne_bytes(), attribute.to_ne_bytes()].concat());
        body.extend(value);
        body.resize(body.len().next_multiple_of(4), 0);
        let mut message = u32::try_from(16 + body.len()).expect("short").to_ne_bytes().to_vec();
        // NFNL_SUBSYS_ULOG, NFULNL_MSG_CONFIG; NLM_F_REQUEST and NLM_F_ACK.
        message.extend([(4u16 << 8 | 1).to_ne_bytes(), 5u16.to_ne_bytes()].concat());
        message.extend([0; 8]);
        message.extend(body);
        socket::send(self.socket.as_raw_fd(), &message, MsgFlags::empty()).expect("sent");
        let mut answer = [0; 256];
        let len = socket::recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty());
        let code = answer[16..].first_chunk().map(|code| i32::from_ne_bytes(*code));
        assert_eq!((len.is_ok(), code), (true, Some(0)), "the group is ours");
    }

    /// Waits for the next packet's prefix.
    fn next(&self) -> String {
        if self.waiting.borrow().is_empty() {
            assert!(self.read(MsgFlags::empty()), "no packet in time");
        }

        self.waiting.borrow_mut().remove(0)
    }

    /// Returns what else was logged.
    fn waiting(&self) -> Vec<String> {
        while self.read(MsgFlags::MSG_DONTWAIT) {}

        self.waiting.take()
    }

    fn read(&self, flags: MsgFlags) -> bool {
        let mut buffer = vec![0; 1 << 16];
        let Ok(len) = socket::recv(self.socket.as_raw_fd(), &mut buffer, flags) else {
            return false;
        };
        let mut rest = &buffer[..len];
        while let Some(size) = rest.first_chunk().map(|size| u32::from_ne_bytes(*size)) {
            let size = usize::try_from(size).expect("short").max(16).min(rest.len());
            self.waiting.borrow_mut().extend(prefix(rest.get(20..size).unwrap_or_default()));
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }

        true
    }
}

/// Finds NFULA_PREFIX among the attributes of a packet.
fn prefix(mut attributes: &[u8]) -> Option<String> {
    loop {
        let len = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        if kind == 10 {
            let text = attributes.get(4..len)?.split(|byte| *byte == 0).next()?;
            return String::from_utf8(text.to_vec()).ok();
        }
        attributes = attributes.get(len.max(4).next_multiple_of(4)..)?;
    }
}
