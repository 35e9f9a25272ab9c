//! The DNS server where it belongs: at a network's gateway, in the network's namespace, asked by a
//! sandbox.
//!
//! Needs root. Leaves nothing behind.
#![expect(clippy::print_stdout, reason = "tests say what they skipped")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use nix::sys::resource::{UsageWho, getrusage};
use overlay_agent::dns::{DnsServers, DnsSockets, Names};
use overlay_agent::kernel::{
    InterfaceDesired, InterfaceOwner, NamespaceDesired, Netns, NetworkNamespace, SandboxDesired,
    Strays, TunDesired, VethDesired,
};
use overlay_core::network::NetworkMode;
use overlay_core::{
    Change, Endpoint, EndpointId, Network, NetworkId, NodeId, Revision, Runtime, View,
};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);

/// One network with one endpoint of the same address as the other's, in a sandbox of its own.
struct Net {
    id: NetworkId,
    endpoint: EndpointId,
    namespace: NetworkNamespace,
    sandbox: Netns,
}

fn row(id: NetworkId, name: &str) -> Change {
    Change::Network(Network {
        id,
        name: name.parse().expect("a name"),
        prefix: "10.7.0.0/24".parse().expect("a prefix"),
        prefix6: None,
        mode: NetworkMode::L3,
        labels: BTreeMap::new(),
        settings: overlay_core::NetworkSettings::default(),
        creator: None,
    })
}

fn endpoint(network: NetworkId, number: u64, name: &str, address: Ipv4Addr) -> Change {
    Change::Endpoint(Endpoint {
        id: EndpointId::from_random(number),
        network,
        node: NodeId::from_random(1),
        name: name.parse().expect("a name"),
        aliases: BTreeSet::new(),
        addresses: vec![address.into()],
        labels: BTreeMap::new(),
        runtime: Runtime::Run,
        group: None,
        container: None,
        taken: BTreeSet::new(),
    })
}

/// Attaches a new sandbox with this address.
async fn attach(
    namespace: &mut NetworkNamespace,
    endpoint: EndpointId,
    address: Ipv4Addr,
) -> Netns {
    let sandbox = Netns::unnamed("sandbox").expect("a namespace");
    let desired = SandboxDesired {
        netns: PathBuf::from(format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&sandbox))
        )),
        identity: None,
        ifname: "eth0".to_owned(),
        addresses: vec![address.into()],
        gateway: Some(GATEWAY),
        prefixes: vec!["10.7.0.0/24".parse().expect("a prefix")],
        linked: Vec::new(),
        mtu: 1408,
        owner: InterfaceOwner::Agent,
        mac: None,
    };
    namespace.attach(endpoint, &desired).await.expect("attached");

    sandbox
}

async fn reconcile(
    namespace: &mut NetworkNamespace,
    network: NetworkId,
    endpoints: &[(EndpointId, Ipv4Addr)],
) {
    let veth = |address: Ipv4Addr| VethDesired {
        addresses: vec![address.into()],
        mtu: 1408,
        gateway6: None,
    };
    let desired = NamespaceDesired {
        network,
        interface: InterfaceDesired::Tun(TunDesired { mtu: 1408, queues: 1 }),
        gateways: BTreeSet::from([GATEWAY.into()]),
        node: BTreeSet::new(),
        endpoints: endpoints.iter().map(|&(id, address)| (id, veth(address))).collect(),
        joins: BTreeMap::new(),
        linked: BTreeSet::new(),
        strays: Strays::default(),
        forwards: true,
        remote: BTreeSet::new(),
        unreachable: BTreeSet::from(["10.7.0.0/24".parse().expect("a prefix")]),
    };
    let report = namespace.reconcile(&desired).await.expect("reconciled");
    assert!(report.errors.is_empty(), "{:?}", report.errors);
}

impl Net {
    /// Makes the network's namespace, starts its server before the gateway's address is there, then
    /// attaches the sandbox.
    async fn new(run_dir: &Path, number: u64, servers: &mut DnsServers) -> Self {
        let (id, endpoint) = (NetworkId::from_random(number), EndpointId::from_random(number));
        let tun = TunDesired { mtu: 1408, queues: 1 };
        let (mut namespace, _) = NetworkNamespace::open(run_dir, id, tun).await.expect("a network");
        let sockets =
            namespace.netns().within(|| DnsSockets::bind([IpAddr::V4(GATEWAY)])).expect("entered");
        servers.add(id, sockets.expect("sockets")).expect("served");

        let sandbox = attach(&mut namespace, endpoint, ADDRESS).await;
        reconcile(&mut namespace, id, &[(endpoint, ADDRESS)]).await;

        Self { id, endpoint, namespace, sandbox }
    }

    /// Asks the gateway from inside the sandbox.
    async fn ask(&self, name: &str) -> (ResponseCode, Vec<String>) {
        let mut message = Message::new(1, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::A));
        let query = message.to_vec().expect("encodes");
        let asked = self.sandbox.enter(move || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            socket.connect((GATEWAY, 53))?;
            socket.send(&query)?;
            let mut buffer = vec![0; 4096];
            let len = socket.recv(&mut buffer)?;
            buffer.truncate(len);
            Ok::<_, std::io::Error>(buffer)
        });
        let answer = Message::from_vec(&asked.await.expect("entered").expect("an answer"))
            .expect("a sound answer");

        (
            answer.metadata.response_code,
            answer.answers.iter().map(|record| record.data.to_string()).collect(),
        )
    }
}

async fn two_networks() {
    let run_dir = tempfile::tempdir().expect("a folder");
    let mut servers = DnsServers::start(run_dir.path().join("no-resolv.conf"));
    let blue = Net::new(run_dir.path(), 1, &mut servers).await;
    let red = Net::new(run_dir.path(), 2, &mut servers).await;
    let rows = [
        row(blue.id, "blue"),
        row(red.id, "red"),
        endpoint(blue.id, 1, "asker", ADDRESS),
        endpoint(red.id, 2, "asker", ADDRESS),
        endpoint(blue.id, 11, "service2", Ipv4Addr::new(10, 7, 0, 77)),
        endpoint(red.id, 12, "other", Ipv4Addr::new(10, 7, 0, 99)),
    ];
    let sandboxes = [[(blue.id, blue.endpoint)], [(red.id, red.endpoint)]];
    servers.publish(Arc::new(Names::new(&View::from_rows(Revision(1), rows), sandboxes)));

    assert_eq!(blue.ask("service2.").await, (ResponseCode::NoError, vec!["10.7.0.77".to_owned()]));
    assert_eq!(
        blue.ask("service2.blue.").await,
        (ResponseCode::NoError, vec!["10.7.0.77".to_owned()])
    );
    assert_eq!(red.ask("other.").await, (ResponseCode::NoError, vec!["10.7.0.99".to_owned()]));
    assert_eq!(red.ask("service2.").await, (ResponseCode::NXDomain, Vec::new()));
    assert_eq!(red.ask("service2.blue.").await, (ResponseCode::NXDomain, Vec::new()));
    assert_eq!(red.ask("nobody.blue.").await, (ResponseCode::NXDomain, Vec::new()));
    assert_eq!(red.ask("example.com.").await, (ResponseCode::ServFail, Vec::new()));

    drop(servers);
    for net in [blue, red] {
        net.namespace.delete().await.expect("deleted");
    }
}

/// The resolver of the host in the test of a flood: an address that no real one has.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 7, 7, 7);
const MODEST: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 3);
/// How long a container floods.
const FLOOD: Duration = Duration::from_secs(3);
/// The most of a core that a flood may cost the agent, in percent; this build may not be optimized.
const CORE: u128 = if cfg!(debug_assertions) { 50 } else { 10 };

/// What somebody used of the processor.
fn used(who: UsageWho) -> Duration {
    let usage = getrusage(who).expect("a usage");
    let times = [usage.user_time(), usage.system_time()].map(|time| {
        let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    });

    times.iter().sum()
}

fn query(name: &str) -> Vec<u8> {
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::A));

    message.to_vec().expect("encodes")
}

/// Asks for as many names as it can, each once. Returns how many, and the time it used.
fn flood() -> (u64, Duration) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect((GATEWAY, 53)).expect("connected");
    socket.set_nonblocking(true).expect("set");
    let (begun, mut query, mut sent) = (Instant::now(), query("x00000000.example.com."), 0_u64);
    while begun.elapsed() < FLOOD {
        // The first label, after the header and its length.
        query[14..22].copy_from_slice(format!("{sent:08}").as_bytes());
        drop(socket.send(&query));
        sent += 1;
    }

    (sent, used(UsageWho::RUSAGE_THREAD))
}

#[expect(clippy::disallowed_methods, reason = "how often it asks, not what it waits for")]
fn pause() {
    thread::sleep(Duration::from_millis(5));
}

/// Asks for one name again and again. Returns how long each answer took, and the time it used.
fn ask_modestly() -> (Vec<Duration>, Duration) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect((GATEWAY, 53)).expect("connected");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("set");
    let (begun, query, mut took) = (Instant::now(), query("service2."), Vec::new());
    while begun.elapsed() < FLOOD {
        let asked = Instant::now();
        socket.send(&query).expect("sent");
        drop(socket.recv(&mut [0; 512]));
        took.push(asked.elapsed());
        pause();
    }

    (took, used(UsageWho::RUSAGE_THREAD))
}

/// Answers that there is no such name, until nothing comes. Returns how often it was asked.
fn answer_nothing(socket: &UdpSocket) -> (u64, Duration) {
    let (mut asked, mut buffer) = (0, [0; 512]);
    while let Ok((len, from)) = socket.recv_from(&mut buffer) {
        buffer[2] |= 0x80;
        buffer[3] = 0x83;
        socket.send_to(&buffer[..len], from).expect("sent");
        asked += 1;
    }

    (asked, used(UsageWho::RUSAGE_THREAD))
}

async fn a_flood_of_one() {
    let run_dir = tempfile::tempdir().expect("a folder");
    let resolv_conf = run_dir.path().join("resolv.conf");
    std::fs::write(&resolv_conf, format!("nameserver {RESOLVER}\n")).expect("written");
    let upstream = UdpSocket::bind((RESOLVER, 53)).expect("a socket");
    upstream.set_read_timeout(Some(FLOOD)).expect("set");
    let mut servers = DnsServers::start(resolv_conf);
    let mut blue = Net::new(run_dir.path(), 3, &mut servers).await;
    let other = EndpointId::from_random(33);
    let modest = attach(&mut blue.namespace, other, MODEST).await;
    reconcile(&mut blue.namespace, blue.id, &[(blue.endpoint, ADDRESS), (other, MODEST)]).await;
    let rows = [
        row(blue.id, "blue"),
        endpoint(blue.id, 3, "greedy", ADDRESS),
        endpoint(blue.id, 33, "modest", MODEST),
        endpoint(blue.id, 11, "service2", Ipv4Addr::new(10, 7, 0, 77)),
    ];
    let sandboxes = [[(blue.id, blue.endpoint)], [(blue.id, other)]];
    servers.publish(Arc::new(Names::new(&View::from_rows(Revision(1), rows), sandboxes)));
    assert_eq!(blue.ask("service2.").await.0, ResponseCode::NoError);

    let (begun, before) = (Instant::now(), used(UsageWho::RUSAGE_SELF));
    let (greedy, sandbox) = (blue.sandbox.clone(), modest.clone());
    let flooding = tokio::task::spawn_blocking(move || greedy.within(flood));
    let modestly = tokio::task::spawn_blocking(move || sandbox.within(ask_modestly));
    let answering = thread::spawn(move || answer_nothing(&upstream));
    let (sent, of_flood) = flooding.await.expect("ran").expect("entered");
    let (mut took, of_modest) = modestly.await.expect("ran").expect("entered");
    let (took_all, own) = (begun.elapsed(), used(UsageWho::RUSAGE_SELF) - before);
    let (forwarded, of_upstream) = answering.join().expect("ran");
    took.sort();
    let p99 = took[took.len() * 99 / 100];
    let agent = own.saturating_sub(of_flood + of_modest + of_upstream);
    let percent = agent.as_millis() * 100 / took_all.as_millis();
    println!(
        "{sent} questions in {took_all:?}: {forwarded} went upstream, the agent used {percent} % \
         of a core, {} others' answers took {p99:?} (p99), {:?} (most)",
        took.len(),
        took.last()
    );

    let seconds = took_all.as_secs() + 1;
    assert!(sent > 20_000, "no flood: {sent}");
    assert!((100..=128 + 250 * seconds + 50).contains(&forwarded), "{forwarded}");
    assert!(took.len() > 100 && p99 <= Duration::from_millis(50), "{p99:?} of {}", took.len());
    assert!(percent <= CORE, "{percent} % of a core");

    drop(servers);
    blue.namespace.delete().await.expect("deleted");
}

#[test]
fn a_container_that_floods_with_questions_costs_little_and_leaves_others_their_answers() {
    support::as_root(a_flood_of_one());
}

#[test]
fn networks_of_one_prefix_answer_only_their_own_names() {
    support::as_root(two_networks());
}
