//! Two hosts with an underlay of 1,500 bytes between them and one overlay network on both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::link::{InfoData, InfoVeth};
use overlay_agent::kernel::{
    InterfaceDesired, NamespaceDesired, Netns, NetworkNamespace, Strays, Tun, TunDesired,
};
use overlay_agent::path::{LaneEvent, LaneReport, Lanes, LanesConfig};
use overlay_core::{Candidate, NetworkId, NodeId, PrivateKey};
use overlay_dataplane::{NetworkTable, PeerLane, PeerState, PeerTable, Tables, public_key};
use rtnetlink::{Handle, LinkUnspec, LinkVeth};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// What fits an underlay of 1,500 bytes of either family.
pub(crate) const MTU: u16 = 1408;
/// Longer than anything here takes; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// One host.
pub(crate) struct Host {
    node: NodeId,
    underlay: Ipv4Addr,
    /// Its address in the overlay network.
    pub(crate) address: Ipv4Addr,
    /// Its second address there.
    pub(crate) address6: IpAddr,
    /// Its own namespace.
    pub(crate) host: Netns,
    /// The overlay network's namespace on it.
    network: Option<NetworkNamespace>,
    tun: Option<Tun>,
    keys: Vec<PrivateKey>,
    /// Its lanes, while they run.
    pub(crate) lanes: Option<Lanes>,
    pub(crate) events: Option<mpsc::Receiver<LaneEvent>>,
    ports: Vec<u16>,
    run_dir: TempDir,
}

/// Both.
pub(crate) struct World {
    pub(crate) a: Host,
    pub(crate) b: Host,
}

/// The network.
pub(crate) fn network() -> NetworkId {
    NetworkId::from_random(0xA11)
}

impl World {
    /// Makes both hosts with this many lanes each, and their lanes know of each other.
    pub(crate) async fn new(lanes: usize) -> Self {
        Self::uneven(lanes, lanes).await
    }

    /// Makes hosts with different numbers of lanes.
    pub(crate) async fn uneven(lanes_a: usize, lanes_b: usize) -> Self {
        let mut a = Host::new(1, lanes_a).await;
        let mut b = Host::new(2, lanes_b).await;
        join(&a, &b).await;
        for (host, other) in [(&mut a, b.address), (&mut b, Ipv4Addr::new(10, 99, 0, 1))] {
            host.configure(other).await;
            host.start_lanes().await;
        }
        let world = Self { a, b };
        world.publish();
        // Lanes answer in the order in which they are told: what is sent from here on has a
        // network.
        for host in [&world.a, &world.b] {
            host.reports().await;
        }

        world
    }

    /// Tells all lanes of each other.
    pub(crate) fn publish(&self) {
        self.a.publish(&self.b);
        self.b.publish(&self.a);
    }

    /// Ends everything and removes it.
    pub(crate) async fn end(self) {
        for mut host in [self.a, self.b] {
            host.lanes = None;
            host.network.take().expect("open").delete().await.expect("deleted");
            drop(host.run_dir);
        }
    }
}

/// Opens a stream; returns the sender's end and the receiver's.
pub(crate) fn stream(from: &Host, to: &Host, address: IpAddr) -> (TcpStream, TcpStream) {
    let listener = to.inside(|| TcpListener::bind((address, 0))).expect("bound");
    let at = listener.local_addr().expect("an address");
    let sender = from.inside(|| TcpStream::connect_timeout(&at, PATIENCE)).expect("connected");
    let (receiver, _) = listener.accept().expect("accepted");

    (sender, receiver)
}

impl Host {
    async fn new(number: u8, lanes: usize) -> Self {
        let run_dir = tempfile::tempdir().expect("a folder");
        let queues = TunDesired { mtu: u32::from(MTU), queues: lanes };
        let (network, tun) =
            NetworkNamespace::open(run_dir.path(), network(), queues).await.expect("a network");
        let key = |lane: u8| PrivateKey::from([number * 16 + lane; 32]);

        Self {
            node: NodeId::from_random(number.into()),
            underlay: Ipv4Addr::new(192, 0, 2, number),
            address: Ipv4Addr::new(10, 99, 0, number),
            address6: IpAddr::from([0xfd99, 0, 0, 0, 0, 0, 0, u16::from(number)]),
            host: Netns::unnamed("host").expect("a namespace"),
            network: Some(network),
            tun: Some(tun),
            keys: (0..u8::try_from(lanes).expect("few")).map(key).collect(),
            lanes: None,
            events: None,
            ports: vec![0; lanes],
            run_dir,
        }
    }

    fn prefixes(&self) -> Vec<IpNet> {
        vec![IpNet::from(IpAddr::V4(self.address)), IpNet::from(self.address6)]
    }

    fn desired(&self, other: Ipv4Addr) -> NamespaceDesired {
        let other6 = IpAddr::from([0xfd99, 0, 0, 0, 0, 0, 0, u16::from(other.octets()[3])]);
        NamespaceDesired {
            network: network(),
            interface: InterfaceDesired::Tun(TunDesired {
                mtu: u32::from(MTU),
                queues: self.keys.len(),
            }),
            gateways: BTreeSet::new(),
            node: BTreeSet::from([IpAddr::V4(self.address), self.address6]),
            endpoints: BTreeMap::new(),
            joins: BTreeMap::new(),
            linked: BTreeSet::new(),
            strays: Strays::default(),
            forwards: true,
            remote: BTreeSet::from([IpNet::from(IpAddr::V4(other)), IpNet::from(other6)]),
            unreachable: ["10.99.0.0/16", "fd99::/64"]
                .iter()
                .map(|prefix| prefix.parse().expect("a prefix"))
                .collect(),
        }
    }

    async fn configure(&mut self, other: Ipv4Addr) {
        let desired = self.desired(other);
        let report =
            self.network.as_mut().expect("open").reconcile(&desired).await.expect("reconciled");
        assert!(report.errors.is_empty(), "{:?}", report.errors);
    }

    /// Starts the lanes on the ports they had before, if they ran before.
    pub(crate) async fn start_lanes(&mut self) {
        let unix_time =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let config = LanesConfig { ports: self.ports.clone(), unix_time };
        let (lanes, events) =
            self.host.within(|| Lanes::start(&config)).expect("entered").expect("lanes");
        self.ports = lanes.ports().to_vec();
        if self.tun.is_none() {
            // As a new process would.
            self.network = None;
            let queues = TunDesired { mtu: u32::from(MTU), queues: self.keys.len() };
            let (again, tun) = NetworkNamespace::open(self.run_dir.path(), network(), queues)
                .await
                .expect("a network");
            (self.network, self.tun) = (Some(again), Some(tun));
        }
        let tun = self.tun.take().expect("just opened");
        lanes.add_network(network(), tun.into(), BTreeSet::new()).expect("added");
        self.lanes = Some(lanes);
        self.events = Some(events);
    }

    /// Tells this host's lanes of the other host.
    pub(crate) fn publish(&self, other: &Self) {
        let peer_lanes: Vec<_> = other
            .keys
            .iter()
            .zip(&other.ports)
            .zip(0..)
            .map(|((key, &port), lane)| PeerLane {
                public_key: public_key(key),
                candidates: vec![Candidate::host(
                    SocketAddr::new(other.underlay.into(), port),
                    lane,
                )],
            })
            .collect();
        let tables = self.keys.iter().map(|key| {
            let peer = PeerTable {
                node: other.node,
                lanes: peer_lanes.clone(),
                allowed_ips: other.prefixes(),
            };
            let table = NetworkTable {
                id: network(),
                private_key: key.clone(),
                peers: Arc::new(vec![Arc::new(peer)]),
                local: self.prefixes(),
                links: Arc::default(),
                mtu: MTU,
            };
            Arc::new(Tables {
                networks: BTreeMap::from([(network(), Arc::new(table))]),
                ..Tables::default()
            })
        });
        self.lanes.as_ref().expect("running").publish(tables);
    }

    /// Runs `work` in the overlay network.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.network.as_ref().expect("open").netns().within(work).expect("entered")
    }

    /// Sets the MTU of this host's end of the underlay.
    pub(crate) async fn set_underlay_mtu(&self, mtu: u32) {
        let handle = netlink(&self.host);
        let found = handle
            .link()
            .get()
            .match_name("eth0")
            .execute()
            .try_next()
            .await
            .expect("found")
            .expect("a link");
        let link = LinkUnspec::new_with_index(found.header.index).mtu(mtu).build();
        handle.link().set(link).execute().await.expect("set");
    }

    /// Removes the TUN device behind the lanes' backs.
    pub(crate) async fn delete_tun(&self) {
        let handle = netlink(self.network.as_ref().expect("open").netns());
        let found = handle
            .link()
            .get()
            .match_name("ovt")
            .execute()
            .try_next()
            .await
            .expect("found")
            .expect("a link");
        handle.link().del(found.header.index).execute().await.expect("deleted");
    }

    /// Asks the lanes how they are.
    pub(crate) async fn reports(&self) -> Vec<LaneReport> {
        self.lanes.as_ref().expect("running").report().await
    }

    /// Returns where a lane is reached on the underlay.
    pub(crate) fn lane_address(&self, lane: usize) -> SocketAddr {
        SocketAddr::new(self.underlay.into(), self.ports[lane])
    }

    /// Waits until some lane has a session.
    pub(crate) async fn wait_established(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self
            .reports()
            .await
            .iter()
            .flat_map(|report| &report.peers)
            .any(|p| p.state == PeerState::Established)
        {
            assert!(Instant::now() < deadline, "no session: {:?}", self.reports().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until packets of a peer are held to `mtu` bytes.
    pub(crate) async fn wait_mtu(&self, mtu: u16) {
        let deadline = Instant::now() + PATIENCE;
        while !self
            .reports()
            .await
            .iter()
            .flat_map(|report| &report.peers)
            .any(|peer| peer.mtu == mtu)
        {
            assert!(Instant::now() < deadline, "another MTU: {:?}", self.reports().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Joins the hosts' own namespaces.
async fn join(a: &Host, b: &Host) {
    let handle = netlink(&a.host);
    let far =
        LinkUnspec::new_with_name("eth0").mtu(1500).setns_by_fd(b.host.as_fd().as_raw_fd()).build();
    let pair = LinkVeth::new("eth0", "eth0")
        .mtu(1500)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
        .build();
    handle.link().add(pair).execute().await.expect("a veth pair");
    for host in [a, b] {
        let handle = netlink(&host.host);
        for (name, address, prefix_len) in [("lo", None, 0), ("eth0", Some(host.underlay), 24)] {
            let found = handle
                .link()
                .get()
                .match_name(name)
                .execute()
                .try_next()
                .await
                .expect("found")
                .expect("a link");
            let index = found.header.index;
            if let Some(address) = address {
                handle
                    .address()
                    .add(index, address.into(), prefix_len)
                    .execute()
                    .await
                    .expect("an address");
            }
            handle
                .link()
                .set(LinkUnspec::new_with_index(index).up().build())
                .execute()
                .await
                .expect("up");
        }
    }
}

fn netlink(netns: &Netns) -> Handle {
    let runtime = tokio::runtime::Handle::current();
    let opened = netns.within(|| {
        let _reactor = runtime.enter();
        rtnetlink::new_connection()
    });
    let (connection, handle, _) = opened.expect("entered").expect("a netlink socket");
    tokio::spawn(connection);

    handle
}
