//! A folder for pins, networks in it, sandboxes that go with their value.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use overlay_core::{EndpointId, NetworkId};
use tempfile::TempDir;

use crate::kernel::netlink::Netlink;
use crate::kernel::tables::RouteKey;
use crate::kernel::{
    ChangeScope, Changes, InterfaceDesired, InterfaceOwner, NamespaceDesired, NamespaceEvents,
    Netns, NetworkNamespace, Pins, ReconcileReport, SandboxDesired, Strays, Subscription, Tun,
    TunDesired, VethDesired,
};

/// How long a packet may take that must arrive.
const ARRIVAL: Duration = Duration::from_secs(5);
const PORT: u16 = 7777;
pub(crate) const MTU: u32 = 1408;
pub(crate) const TUN: TunDesired = TunDesired { mtu: MTU, queues: 2 };

/// Says so, loudly, when the tests of this folder cannot run.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
pub(crate) fn skipped() -> bool {
    let root = nix::unistd::geteuid().is_root() && Netns::unnamed("probe").is_ok();
    if !root {
        eprintln!("SKIPPED: needs root and network namespaces");
    }

    !root
}

/// Removes its pins whatever happens.
pub(crate) struct Rig {
    dir: TempDir,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self { dir: TempDir::with_prefix("overlay-kernel").expect("a temporary folder") }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn pins(&self) -> Pins {
        Pins::new(self.dir())
    }

    pub(crate) async fn open(&self, n: u8) -> (NetworkNamespace, Tun) {
        NetworkNamespace::open(self.dir(), network(n), TUN).await.expect("a namespace")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for network in self.pins().list().unwrap_or_default() {
            let _next_to_last_resort = self.pins().remove(network);
        }
    }
}

pub(crate) fn network(n: u8) -> NetworkId {
    NetworkId::from_random(0xABC0 + u64::from(n))
}

pub(crate) fn endpoint(n: u8) -> EndpointId {
    EndpointId::from_random(0xE0 + u64::from(n))
}

pub(crate) fn v4(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 42, 0, n))
}

pub(crate) fn v6(n: u8) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd42, 0, 0, 0, 0, 0, 0, n.into()))
}

/// The far block, behind the TUN.
pub(crate) fn remote(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 42, 9, n))
}

pub(crate) const GATEWAY: u8 = 1;
pub(crate) const NODE: u8 = 2;

pub(crate) fn prefixes() -> Vec<IpNet> {
    ["10.42.0.0/16", "fd42::/64"].iter().map(|p| p.parse().expect("a prefix")).collect()
}

pub(crate) fn desired(n: u8, endpoints: &[u8]) -> NamespaceDesired {
    let veth = |&n: &u8| {
        (endpoint(n), VethDesired { addresses: vec![v4(n), v6(n)], mtu: MTU, gateway6: None })
    };

    NamespaceDesired {
        network: network(n),
        interface: InterfaceDesired::Tun(TUN),
        gateways: [v4(GATEWAY), v6(GATEWAY)].into(),
        node: [v4(NODE), v6(NODE)].into(),
        endpoints: endpoints.iter().map(veth).collect::<BTreeMap<_, _>>(),
        joins: BTreeMap::new(),
        linked: BTreeSet::new(),
        strays: Strays::default(),
        forwards: true,
        remote: ["10.42.9.0/24", "fd42::900/120"]
            .iter()
            .map(|p| p.parse().expect("a prefix"))
            .collect(),
        unreachable: prefixes().into_iter().collect(),
    }
}

/// Somebody else who changes a network's namespace, by a connection of their own.
pub(crate) struct Hands(Netlink);

impl Hands {
    pub(crate) async fn of(namespace: &NetworkNamespace) -> Self {
        Self(Netlink::open(namespace.netns()).await.expect("a connection"))
    }

    pub(crate) async fn take_route(&mut self, prefix: IpNet) {
        self.0.remove_route(RouteKey::ours(prefix)).await.expect("a route");
    }

    pub(crate) async fn take_link(&mut self, name: &str) {
        self.0.remove_link(name).await.expect("a link");
    }

    pub(crate) async fn has_route(&mut self, prefix: IpNet) -> bool {
        self.0.links().await.expect("links");

        self.0.routes().await.expect("routes").contains_key(&RouteKey::ours(prefix))
    }
}

/// A container's namespace with its endpoint's number.
pub(crate) struct Container {
    pub(crate) n: u8,
    pub(crate) netns: Netns,
}

impl Container {
    pub(crate) fn new(n: u8) -> Self {
        Self { n, netns: Netns::unnamed("container").expect("a namespace") }
    }

    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.netns.as_fd().as_raw_fd()).into()
    }

    pub(crate) fn desired(&self) -> SandboxDesired {
        SandboxDesired {
            netns: self.path(),
            identity: Some(self.netns.identity()),
            ifname: "eth0".to_owned(),
            addresses: vec![v4(self.n), v6(self.n)],
            gateway: Some(Ipv4Addr::new(10, 42, 0, GATEWAY)),
            prefixes: prefixes(),
            linked: Vec::new(),
            mtu: MTU,
            owner: InterfaceOwner::Agent,
            mac: None,
        }
    }

    pub(crate) async fn attach(&self, namespace: &mut NetworkNamespace) -> ReconcileReport {
        clean(
            namespace
                .attach(endpoint(self.n), &self.desired())
                .await
                .expect("an attached endpoint"),
        )
    }

    pub(crate) fn socket(&self, address: IpAddr) -> UdpSocket {
        socket(&self.netns, address)
    }
}

/// Returns a report that has no error in it.
pub(crate) fn clean(report: ReconcileReport) -> ReconcileReport {
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    report
}

pub(crate) async fn reconcile(
    namespace: &mut NetworkNamespace,
    desired: &NamespaceDesired,
) -> ReconcileReport {
    clean(namespace.reconcile(desired).await.expect("a namespace that can be read"))
}

/// A network with these endpoints attached and everything in place.
pub(crate) async fn running(
    rig: &Rig,
    n: u8,
    containers: &[&Container],
) -> (NetworkNamespace, Tun) {
    let (mut namespace, tun) = rig.open(n).await;
    reconcile(&mut namespace, &desired(n, &[])).await;
    for container in containers {
        container.attach(&mut namespace).await;
    }
    let numbers: Vec<_> = containers.iter().map(|c| c.n).collect();
    let report = reconcile(&mut namespace, &desired(n, &numbers)).await;
    assert!(report.missing.is_empty(), "{:?}", report.missing);

    (namespace, tun)
}

/// A socket inside a namespace.
pub(crate) fn socket(netns: &Netns, address: IpAddr) -> UdpSocket {
    let socket =
        netns.within(|| UdpSocket::bind((address, PORT))).expect("a namespace").expect("a socket");
    socket.set_read_timeout(Some(ARRIVAL)).expect("a timeout");
    socket
}

pub(crate) fn send(socket: &UdpSocket, to: IpAddr, text: &str) -> io::Result<usize> {
    socket.send_to(text.as_bytes(), SocketAddr::new(to, PORT))
}

/// Waits for the next packet.
pub(crate) fn receive(socket: &UdpSocket) -> (String, IpAddr) {
    let mut buffer = [0; 2048];
    let (len, from) = socket.recv_from(&mut buffer).expect("a packet in time");

    (String::from_utf8_lossy(&buffer[..len]).into_owned(), from.ip())
}

/// Says that nothing else has arrived by now.
pub(crate) fn nothing_waits(socket: &UdpSocket) -> bool {
    socket.set_nonblocking(true).expect("a socket");
    let waits = socket.recv_from(&mut [0; 2048]).is_ok();
    socket.set_nonblocking(false).expect("a socket");

    !waits
}

/// Hears of changes in the namespace of a network.
pub(crate) async fn listen(
    namespace: &NetworkNamespace,
) -> (NamespaceEvents, Arc<Changes>, Subscription) {
    let (events, changes) = (NamespaceEvents::open().await.expect("events"), Arc::default());
    let subscription = events
        .subscribe(namespace.netns(), ChangeScope::Network, &changes)
        .expect("a subscription");

    (events, changes, subscription)
}

/// Waits for a change, and takes it.
pub(crate) async fn change(changes: &Changes) -> BTreeSet<ChangeScope> {
    changes.changed().await;

    changes.take()
}
