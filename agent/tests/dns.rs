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
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
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

        let sandbox = Netns::unnamed("sandbox").expect("a namespace");
        let desired = SandboxDesired {
            netns: PathBuf::from(format!(
                "/proc/self/fd/{}",
                std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&sandbox))
            )),
            identity: None,
            ifname: "eth0".to_owned(),
            addresses: vec![ADDRESS.into()],
            gateway: Some(GATEWAY),
            prefixes: vec!["10.7.0.0/24".parse().expect("a prefix")],
            mtu: 1408,
            owner: InterfaceOwner::Agent,
            mac: None,
        };
        namespace.attach(endpoint, &desired).await.expect("attached");
        let veth = VethDesired { addresses: vec![ADDRESS.into()], mtu: 1408, gateway6: None };
        let desired = NamespaceDesired {
            network: id,
            interface: InterfaceDesired::Tun(tun),
            gateways: BTreeSet::from([GATEWAY.into()]),
            node: BTreeSet::new(),
            endpoints: BTreeMap::from([(endpoint, veth)]),
            strays: Strays::default(),
            forwards: true,
            remote: BTreeSet::new(),
            unreachable: BTreeSet::from(["10.7.0.0/24".parse().expect("a prefix")]),
        };
        let report = namespace.reconcile(&desired).await.expect("reconciled");
        assert!(report.errors.is_empty(), "{:?}", report.errors);

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
    assert_eq!(red.ask("service2.blue.").await, (ResponseCode::ServFail, Vec::new()));

    drop(servers);
    for net in [blue, red] {
        net.namespace.delete().await.expect("deleted");
    }
}

#[test]
fn networks_of_one_prefix_answer_only_their_own_names() {
    support::as_root(two_networks());
}
