//! Computes the desired state from the membership and the journal: namespaces, sandboxes and the lanes' tables. Pure.
//!
//! The longest prefix wins everywhere: an endpoint outside its node's blocks is reached by its own /32, which takes
//! precedence over the block that contains it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use overlay_core::{Endpoint, EndpointId, Member, Network, NetworkId, Node, NodeId, PrivateKey, View};
use overlay_dataplane::{NetworkTable, PeerLane, PeerTable};

use crate::docker::options;
use crate::endpoint::routes;
use crate::kernel::netns::NetnsId;
use crate::kernel::{ContainerInterface, InterfaceOwner, NamespaceDesired, SandboxDesired, TunDesired, VethDesired};
use crate::state::{EndpointRecord, ManagedSandbox, SandboxRecord};

/// The path of the host's own network namespace.
const HOST_NETNS: &str = "/proc/self/ns/net";

/// What one network needs on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetworkDesired {
    /// The network's namespace.
    pub(crate) namespace: NamespaceDesired,
    /// The container side of the endpoints on this node.
    pub(crate) sandboxes: BTreeMap<EndpointId, SandboxDesired>,
    /// The addresses of the host itself, if it is attached.
    pub(crate) host: BTreeSet<IpAddr>,
}

/// Parameters of this node's data path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DataPathParams {
    /// The number of lanes.
    pub(crate) lanes: u16,
    /// The largest inner packet, in bytes.
    pub(crate) mtu: u32,
}

/// Replaces what control knows about this node's endpoints by the journal, which is authoritative for them.
///
/// Where control knows them all, which is nearly always, the result is the view itself: a copy of a large one would be most of
/// what an agent takes for a moment.
pub(crate) fn local_view(view: &Arc<View>, journal: &BTreeMap<EndpointId, EndpointRecord>, node: NodeId) -> Arc<View> {
    let known = view.endpoints.values().filter(|endpoint| endpoint.node == node).count();
    let is_known = |own: &Endpoint| view.endpoints.get(&(own.network, own.id)) == Some(own);
    if known == journal.len() && journal.values().all(|record| is_known(&record.endpoint)) {
        return Arc::clone(view);
    }
    let mut local = View::clone(view);
    local.endpoints.retain(|_, endpoint| endpoint.node != node);
    let ours = journal.values().map(|record| record.endpoint.clone());
    local.endpoints.extend(ours.map(|endpoint| ((endpoint.network, endpoint.id), endpoint)));

    Arc::new(local)
}

/// Computes what each network of this node needs here. `view` is the local view.
pub(crate) fn networks(
    view: &View,
    journal: &BTreeMap<EndpointId, EndpointRecord>,
    node: NodeId,
    params: DataPathParams,
) -> BTreeMap<NetworkId, NetworkDesired> {
    view.memberships_of(node)
        .filter_map(|member| Some((member, view.networks.get(&member.network)?)))
        .map(|(member, network)| (network.id, desired(view, journal, member, network, params)))
        .collect()
}

fn desired(
    view: &View,
    journal: &BTreeMap<EndpointId, EndpointRecord>,
    member: &Member,
    network: &Network,
    params: DataPathParams,
) -> NetworkDesired {
    let records = || journal.values().filter(|record| record.endpoint.network == network.id);
    let veth = |record: &EndpointRecord| VethDesired {
        addresses: record.endpoint.addresses.clone(),
        mtu: options::mtu(&network.settings.options, params.mtu),
        gateway6: record.sandbox.is_managed().then(|| network.gateway6()).flatten(),
    };
    let peers = || view.members_of(network.id).filter(|peer| peer.node != member.node);
    let namespace = NamespaceDesired {
        network: network.id,
        tun: TunDesired { mtu: params.mtu, queues: params.lanes.into() },
        gateways: network.gateways().into_iter().collect(),
        node: member.node_address(network).map(|address| network.addresses(address)).into_iter().flatten().collect(),
        endpoints: records().map(|record| (record.endpoint.id, veth(record))).collect(),
        remote: peers().flat_map(|peer| held_by(view, network, peer)).collect(),
        unreachable: network.prefixes(network.prefix).into_iter().collect(),
    };
    let sandboxes = records().map(|record| (record.endpoint.id, sandbox(record, network, params)));
    let host = records().filter(|record| record.sandbox == SandboxRecord::Host);

    NetworkDesired {
        namespace,
        sandboxes: sandboxes.collect(),
        host: host.flat_map(|record| record.endpoint.addresses.clone()).collect(),
    }
}

fn sandbox(record: &EndpointRecord, network: &Network, params: DataPathParams) -> SandboxDesired {
    let (netns, identity) = match &record.sandbox {
        SandboxRecord::Host => (PathBuf::from(HOST_NETNS), None),
        SandboxRecord::Netns { path, device, inode, boot: _ } => {
            (path.clone(), Some(NetnsId { dev: *device, ino: *inode }))
        }
        SandboxRecord::Managed(_) => (PathBuf::from(HOST_NETNS), None),
    };
    let (owner, mac) = match &record.sandbox {
        SandboxRecord::Host | SandboxRecord::Netns { .. } => (InterfaceOwner::Agent, None),
        SandboxRecord::Managed(managed) => {
            let inside = inside(managed, &record.endpoint.addresses, network);
            (InterfaceOwner::Engine { joined: managed.joined, inside }, managed.mac)
        }
    };

    SandboxDesired {
        netns,
        identity,
        ifname: record.ifname.clone(),
        addresses: record.endpoint.addresses.clone(),
        gateway: Some(network.gateway()),
        prefixes: network.prefixes(network.prefix),
        mtu: options::mtu(&network.settings.options, params.mtu),
        owner,
        mac,
    }
}

/// What is known about underlay addresses, besides who published them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Underlays {
    /// Addresses of this node itself: never a peer's, whatever it claims.
    own: BTreeSet<SocketAddr>,
    /// Addresses that several nodes claim, such as that of the first card of every virtual machine on one host.
    shared: BTreeSet<IpAddr>,
}

impl Underlays {
    /// Collects the claims of all nodes; `own` are the current addresses of this host.
    pub(crate) fn new(view: &View, node: NodeId, own: &BTreeSet<IpAddr>) -> Self {
        let (mut claimed, mut shared) = (BTreeSet::new(), BTreeSet::new());
        for ip in view.nodes.values().flat_map(|node| node.underlay.iter().copied().collect::<BTreeSet<_>>()) {
            if !claimed.insert(ip) {
                shared.insert(ip);
            }
        }
        let row = view.nodes.get(&node);
        let ports = row.map(|row| row.lane_ports.as_slice()).unwrap_or_default();
        let ips = own.iter().chain(row.into_iter().flat_map(|row| &row.underlay));

        Self { own: ips.flat_map(|ip| ports.iter().map(|port| SocketAddr::new(*ip, *port))).collect(), shared }
    }

    /// Lists the addresses at which a lane of a peer may be reached, the likeliest first.
    fn candidates(&self, peer: &Node, lane: usize) -> Vec<SocketAddr> {
        let mut candidates = peer.underlay_addrs(lane);
        candidates.retain(|address| !self.own.contains(address));
        // The sort is stable.
        candidates.sort_by_key(|address| self.shared.contains(&address.ip()));

        candidates
    }
}

/// Returns how its engine set up an interface, once it was seen in its container.
fn inside(managed: &ManagedSandbox, addresses: &[IpAddr], network: &Network) -> Option<ContainerInterface> {
    Some(ContainerInterface {
        netns: managed.netns.clone()?,
        ifname: managed.inside.clone()?,
        addresses: routes::interface(network, addresses, managed.on_link),
        routes: routes::routes(network, addresses, managed.on_link),
    })
}

/// Computes the tables of a network for the lanes that have these keys. None when this node is no member.
pub(crate) fn tables(
    view: &View,
    underlays: &Underlays,
    node: NodeId,
    network: NetworkId,
    keys: Vec<PrivateKey>,
    mtu: u32,
) -> Vec<NetworkTable> {
    let member = view.member(network, node);
    let Some((member, network)) = member.zip(view.networks.get(&network)) else { return Vec::new() };
    let own = member.node_address(network).into_iter().flat_map(|address| network.addresses(address)).map(IpNet::from);
    let local: BTreeSet<IpNet> = held_by(view, network, member).into_iter().chain(own).collect();
    let others = view.members_of(network.id).filter(|peer| peer.node != node);
    let peers = Arc::new(others.map(|peer| peer_table(view, underlays, network, peer)).collect());
    let table = |private_key| NetworkTable {
        id: network.id,
        private_key,
        peers: Arc::clone(&peers),
        local: local.iter().copied().collect(),
        mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
    };

    keys.into_iter().map(table).collect()
}

/// Tells whether two tables of the same network and key are equal.
pub(crate) fn same_table(a: &NetworkTable, b: &NetworkTable) -> bool {
    a.private_key.expose() == b.private_key.expose() && a.peers == b.peers && a.local == b.local && a.mtu == b.mtu
}

fn peer_table(view: &View, underlays: &Underlays, network: &Network, peer: &Member) -> PeerTable {
    let node = view.nodes.get(&peer.node);
    let candidates = |lane| node.map(|node| underlays.candidates(node, lane)).unwrap_or_default();
    let lane = |(lane, &public_key)| PeerLane { public_key, candidates: candidates(lane) };

    PeerTable {
        node: peer.node,
        lanes: peer.lane_keys.iter().enumerate().map(lane).collect(),
        allowed_ips: held_by(view, network, peer).into_iter().collect(),
    }
}

/// Lists the prefixes on a member's node: its blocks, and the addresses of its endpoints outside of them.
fn held_by(view: &View, network: &Network, member: &Member) -> BTreeSet<IpNet> {
    let blocks: BTreeSet<IpNet> = member.blocks.iter().flat_map(|block| network.prefixes(block.prefix)).collect();
    let whole = [Some(IpNet::V4(network.prefix)), network.prefix6.map(IpNet::V6)];
    let of_network = |address: &IpAddr| whole.iter().flatten().any(|prefix| prefix.contains(address));
    let endpoints = view.endpoints_of(network.id).filter(|endpoint| endpoint.node == member.node);
    let moved = endpoints
        .flat_map(|endpoint| &endpoint.addresses)
        .filter(|address| of_network(address) && !blocks.iter().any(|block| block.contains(*address)))
        .map(|address| IpNet::from(*address));

    blocks.iter().copied().chain(moved).collect()
}

#[cfg(test)]
mod tests {
    use overlay_core::{Block, Change, Endpoint, NetworkMode, Node, Revision, Role, RowKey, Runtime};

    use std::net::Ipv4Addr;

    use super::*;

    const PARAMS: DataPathParams = DataPathParams { lanes: 2, mtu: 1408 };

    fn me() -> NodeId {
        NodeId::from_random(1)
    }

    fn other() -> NodeId {
        NodeId::from_random(2)
    }

    fn blue() -> NetworkId {
        NetworkId::from_random(7)
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    fn network() -> Change {
        Change::Network(Network {
            id: blue(),
            name: "blue".parse().expect("a name"),
            prefix: "10.1.0.0/16".parse().expect("a prefix"),
            prefix6: Some("fd01::/64".parse().expect("a prefix")),
            mode: NetworkMode::L3,
            labels: BTreeMap::new(),
            settings: overlay_core::NetworkSettings::default(),
        })
    }

    fn node(id: NodeId, underlay: &str) -> Change {
        Change::Node(Node {
            id,
            name: format!("node-{id}").parse().expect("a name"),
            role: Role::Node,
            labels: BTreeMap::new(),
            underlay: vec![underlay.parse().expect("an address")],
            lane_ports: vec![51820, 51821],
        })
    }

    fn member(node: NodeId, block: &str) -> Change {
        Change::Member(Member {
            network: blue(),
            node,
            lane_keys: vec![[1; 32].into(), [2; 32].into()],
            blocks: vec![Block { prefix: block.parse().expect("a prefix"), epoch: 1 }],
        })
    }

    fn endpoint(id: u64, node: NodeId, address: &str) -> Endpoint {
        let v4: Ipv4Addr = address.parse().expect("an address");
        Endpoint {
            id: EndpointId::from_random(id),
            network: blue(),
            node,
            name: format!("e{id}").parse().expect("a name"),
            aliases: BTreeSet::new(),
            addresses: vec![IpAddr::V4(v4), IpAddr::V6(format!("fd01::{v4}").parse().expect("an address"))],
            labels: BTreeMap::new(),
            runtime: Runtime::Run,
        }
    }

    fn record(id: u64, address: &str) -> (EndpointId, EndpointRecord) {
        let endpoint = endpoint(id, me(), address);
        let sandbox = SandboxRecord::Netns { path: "/run/netns/x".into(), device: 4, inode: 9, boot: "b".into() };

        (endpoint.id, EndpointRecord { endpoint, sandbox, ifname: "eth0".into(), owner: None })
    }

    fn rows() -> Vec<Change> {
        vec![
            network(),
            node(me(), "192.0.2.1"),
            node(other(), "192.0.2.2"),
            member(me(), "10.1.255.0/24"),
            member(other(), "10.1.254.0/24"),
            Change::Endpoint(endpoint(20, other(), "10.1.254.9")),
            Change::Endpoint(endpoint(21, other(), "10.1.255.77")),
        ]
    }

    fn view(rows: impl IntoIterator<Item = Change>) -> Arc<View> {
        Arc::new(View::from_rows(Revision(1), rows))
    }

    /// Everything that is computed, in one value.
    fn everything(view: &Arc<View>, journal: &BTreeMap<EndpointId, EndpointRecord>) -> String {
        let local = local_view(view, journal, me());
        let underlays = Underlays::new(&local, me(), &BTreeSet::new());
        let tables = tables(&local, &underlays, me(), blue(), vec![[9; 32].into()], PARAMS.mtu);
        let tables: Vec<_> = tables.into_iter().map(|t| (t.peers, t.local, t.mtu)).collect();

        format!("{:?} {tables:?}", networks(&local, journal, me(), PARAMS))
    }

    #[test]
    fn blocks_and_moved_addresses_of_others_lead_to_the_tunnel() {
        let view = view(rows());
        let journal = BTreeMap::from([record(10, "10.1.255.5")]);

        let desired = &networks(&local_view(&view, &journal, me()), &journal, me(), PARAMS)[&blue()];

        let remote = ["10.1.254.0/24", "10.1.255.77/32", "fd01::a01:fe00/120", "fd01::a01:ff4d/128"].map(net);
        assert_eq!(desired.namespace.remote, remote.into());
        assert_eq!(
            desired.namespace.node,
            ["10.1.255.1", "fd01::a01:ff01"].map(|a| a.parse().expect("an address")).into()
        );
        assert_eq!(
            desired.namespace.gateways,
            ["10.1.0.1", "fd01::a01:1"].map(|a| a.parse().expect("an address")).into()
        );
        assert_eq!(desired.namespace.endpoints.len(), 1);
        assert_eq!(desired.sandboxes[&EndpointId::from_random(10)].gateway, Some(Ipv4Addr::new(10, 1, 0, 1)));
    }

    #[test]
    fn the_lanes_learn_who_may_use_which_address() {
        let view = view(rows());
        let journal = BTreeMap::from([record(10, "10.1.3.3")]);
        let local = local_view(&view, &journal, me());

        let underlays = Underlays::new(&local, me(), &BTreeSet::new());
        let keys = [8, 9].map(|byte| PrivateKey::from([byte; 32]));
        let tables = tables(&local, &underlays, me(), blue(), keys.to_vec(), PARAMS.mtu);

        let [table, second] = tables.as_slice() else { panic!("two lanes") };
        assert!(Arc::ptr_eq(&table.peers, &second.peers), "a thousand peers are there once");
        let [peer] = table.peers.as_slice() else { panic!("one peer") };
        assert_eq!(peer.node, other());
        assert!(peer.allowed_ips.contains(&net("10.1.254.0/24")));
        assert!(peer.allowed_ips.contains(&net("10.1.255.77/32")));
        assert_eq!(peer.lanes[1].candidates, ["192.0.2.2:51821".parse().expect("an address")]);
        assert!(table.local.contains(&net("10.1.3.3/32")), "{:?}", table.local);
        assert!(table.local.contains(&net("10.1.255.0/24")));
    }

    #[test]
    fn the_journal_is_right_about_our_own_endpoints() {
        let stale = Change::Endpoint(endpoint(11, me(), "10.1.255.6"));
        let view = view(rows().into_iter().chain([stale]));
        let journal = BTreeMap::from([record(10, "10.1.255.5")]);

        let local = local_view(&view, &journal, me());

        let ours: Vec<_> = local.endpoints.values().filter(|e| e.node == me()).map(|e| e.id).collect();
        assert_eq!(ours, [EndpointId::from_random(10)]);
    }

    #[test]
    fn a_view_that_is_right_about_our_endpoints_is_not_copied() {
        let record = record(10, "10.1.255.5");
        let told = Change::Endpoint(record.1.endpoint.clone());
        let view = view(rows().into_iter().chain([told]));

        let local = local_view(&view, &BTreeMap::from([record]), me());

        assert!(Arc::ptr_eq(&local, &view));
    }

    #[test]
    fn a_network_with_an_mtu_has_it_on_both_ends_of_its_interfaces() {
        let narrow = |row| {
            let Change::Network(mut network) = row else { return row };
            network.settings.options.insert("com.docker.network.driver.mtu".to_owned(), "1300".to_owned());
            Change::Network(network)
        };
        let view = view(rows().into_iter().map(narrow));
        let journal = BTreeMap::from([record(10, "10.1.255.5")]);

        let desired = &networks(&local_view(&view, &journal, me()), &journal, me(), PARAMS)[&blue()];

        let id = EndpointId::from_random(10);
        assert_eq!((desired.namespace.endpoints[&id].mtu, desired.sandboxes[&id].mtu), (1300, 1300));
        assert_eq!(desired.namespace.tun.mtu, PARAMS.mtu);
    }

    #[test]
    fn a_network_we_are_no_member_of_needs_nothing_here() {
        let view = view(rows().into_iter().filter(|r| r.key() != RowKey::Member(blue(), me())));

        assert!(networks(&view, &BTreeMap::new(), me(), PARAMS).is_empty());
        let keys = vec![[9; 32].into()];
        assert!(tables(&view, &Underlays::default(), me(), blue(), keys, PARAMS.mtu).is_empty());
    }

    #[test]
    fn own_addresses_are_never_a_peers_and_shared_ones_are_tried_last() {
        let with = |id, underlay: &[&str]| {
            let Change::Node(node) = node(id, "192.0.2.1") else { unreachable!() };
            let underlay = underlay.iter().map(|text| text.parse().expect("an address")).collect();
            Change::Node(Node { underlay, ..node })
        };
        let third = NodeId::from_random(3);
        let rows = [
            with(me(), &["10.0.2.15", "192.0.2.1"]),
            with(other(), &["10.0.2.15", "172.17.9.9", "198.51.100.4", "192.0.2.2", "192.0.2.3"]),
            with(third, &["10.0.2.15", "172.17.9.9"]),
        ];
        let view = View::from_rows(Revision(1), rows);
        // Not advertised, but here.
        let own = ["192.0.2.3".parse().expect("an address")].into();

        let underlays = Underlays::new(&view, me(), &own);

        let candidates = underlays.candidates(&view.nodes[&other()], 1);
        let expected = ["198.51.100.4", "192.0.2.2", "172.17.9.9"];
        assert_eq!(candidates, expected.map(|ip| SocketAddr::new(ip.parse().expect("an address"), 51821)));
    }

    #[test]
    fn neither_the_order_of_rows_nor_detours_change_what_is_desired() {
        let journal = BTreeMap::from([record(10, "10.1.255.5"), record(12, "10.1.0.200")]);
        let straight = view(rows());
        let reversed = view(rows().into_iter().rev());
        let detour = [
            member(other(), "10.1.9.0/24"),
            node(other(), "198.51.100.1"),
            Change::Endpoint(endpoint(33, other(), "10.1.255.5")),
        ];
        let undo = Change::Removed(RowKey::Endpoint(blue(), EndpointId::from_random(33)));
        let winding = view(detour.into_iter().chain([undo]).chain(rows()));

        let expected = everything(&straight, &journal);

        assert_eq!(everything(&reversed, &journal), expected);
        assert_eq!(everything(&winding, &journal), expected);
        assert_ne!(everything(&Arc::default(), &journal), expected);
    }
}
