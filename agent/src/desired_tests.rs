use overlay_core::{
    Block, Change, Endpoint, NetworkId, NetworkMode, Node, Revision, Role, RowKey, Runtime,
};

use std::net::Ipv4Addr;

use overlay_dataplane::NetworkTable;

use super::*;
use crate::backend::lane_tables::LaneTables;
use crate::kernel::TunDesired;

const MTU: u32 = 1408;
const INTERFACE: InterfaceDesired = InterfaceDesired::Tun(TunDesired { mtu: MTU, queues: 2 });

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
        creator: None,
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
        addresses: vec![
            IpAddr::V4(v4),
            IpAddr::V6(format!("fd01::{v4}").parse().expect("an address")),
        ],
        labels: BTreeMap::new(),
        runtime: Runtime::Run,
        group: None,
        container: None,
        taken: BTreeSet::new(),
    }
}

fn record(id: u64, address: &str) -> (EndpointId, EndpointRecord) {
    let endpoint = endpoint(id, me(), address);
    let sandbox =
        SandboxRecord::Netns { path: "/run/netns/x".into(), device: 4, inode: 9, boot: "b".into() };

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

/// Computes what each network of this node needs here. `view` is the local view.
fn networks(
    view: &View,
    journal: &BTreeMap<EndpointId, EndpointRecord>,
    node: NodeId,
    interface: InterfaceDesired,
) -> BTreeMap<NetworkId, NetworkDesired> {
    let rows = EndpointRows { view, journal, node };
    let of = |network: &Network| {
        Some((network.id, super::network(rows, network, &Holdings::new(rows, network), interface)?))
    };

    view.networks.values().filter_map(of).collect()
}

/// Computes the tables of a network, with our endpoints as the local view has them.
fn tables(
    view: &View,
    underlays: &Underlays,
    node: NodeId,
    network: NetworkId,
    keys: Vec<PrivateKey>,
    mtu: u32,
) -> Vec<Arc<NetworkTable>> {
    let own = view.endpoints.values().filter(|endpoint| endpoint.node == node);
    let record = |endpoint: &Endpoint| EndpointRecord {
        endpoint: endpoint.clone(),
        sandbox: SandboxRecord::Host,
        ifname: "ovh0".to_owned(),
        owner: None,
    };
    let journal = own.map(|endpoint| (endpoint.id, record(endpoint))).collect();
    let rows = EndpointRows { view, journal: &journal, node };
    let Some(network) = view.networks.get(&network) else { return Vec::new() };
    let holdings = Holdings::new(rows, network);

    let sources = PeerSources { view, network, holdings: &holdings, underlays, node };
    let config = sources.config(keys, sources.peers(&Arc::default()), mtu);
    let networks = config.into_iter().map(|config| (config.id, Arc::new(config))).collect();
    let lanes = LaneTables::new(2).update(&networks).into_iter();

    lanes.flat_map(|tables| tables.networks.into_values()).collect()
}

/// Everything that is computed, in one value.
fn everything(view: &Arc<View>, journal: &BTreeMap<EndpointId, EndpointRecord>) -> String {
    let local = local_view(view, journal, me());
    let underlays = Underlays::new(&local, me(), &BTreeSet::new());
    let tables = tables(&local, &underlays, me(), blue(), vec![[9; 32].into()], MTU);
    let tables: Vec<_> = tables.iter().map(|t| (&t.peers, &t.local, t.mtu)).collect();

    format!("{:?} {tables:?}", networks(&local, journal, me(), INTERFACE))
}

/// Lists which names of this node's endpoint belong to others, as this node has it.
fn taken(view: &Arc<View>, journal: &BTreeMap<EndpointId, EndpointRecord>) -> Vec<String> {
    let local = local_view(view, journal, me());
    let own = local.endpoints.values().find(|endpoint| endpoint.node == me());

    own.expect("it is there").taken.iter().map(|name| name.as_str().to_owned()).collect()
}

#[test]
fn an_own_endpoint_waits_for_a_name_that_others_have_until_control_has_decided() {
    let (id, mut own) = record(10, "10.1.255.5");
    own.endpoint.name = "e20".parse().expect("a name");
    own.endpoint.aliases.insert("front".parse().expect("a name"));
    let journal = BTreeMap::from([(id, own.clone())]);

    assert_eq!(taken(&view(rows()), &journal), ["e20"], "before it is published");
    let decided = |names: &[&str]| {
        let names = names.iter().map(|name| name.parse().expect("a name"));
        let published = Endpoint { taken: names.collect(), ..own.endpoint.clone() };
        taken(&view(rows().into_iter().chain([Change::Endpoint(published)])), &journal)
    };
    assert_eq!(decided(&["e20"]), ["e20"]);
    assert_eq!(decided(&["front"]), ["front"]);
    assert_eq!(decided(&[]), [""; 0]);
}

#[test]
fn blocks_and_moved_addresses_of_others_lead_to_the_tunnel() {
    let view = view(rows());
    let journal = BTreeMap::from([record(10, "10.1.255.5")]);

    let desired = &networks(&local_view(&view, &journal, me()), &journal, me(), INTERFACE)[&blue()];

    let remote =
        ["10.1.254.0/24", "10.1.255.77/32", "fd01::a01:fe00/120", "fd01::a01:ff4d/128"].map(net);
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
    assert_eq!(
        desired.sandboxes[&EndpointId::from_random(10)].gateway,
        Some(Ipv4Addr::new(10, 1, 0, 1))
    );
}

#[test]
fn the_lanes_learn_who_may_use_which_address() {
    let view = view(rows());
    let journal = BTreeMap::from([record(10, "10.1.3.3")]);
    let local = local_view(&view, &journal, me());

    let underlays = Underlays::new(&local, me(), &BTreeSet::new());
    let keys = [8, 9].map(|byte| PrivateKey::from([byte; 32]));
    let tables = tables(&local, &underlays, me(), blue(), keys.to_vec(), MTU);

    let [table, second] = tables.as_slice() else { panic!("two lanes") };
    assert!(Arc::ptr_eq(&table.peers, &second.peers), "a thousand peers are there once");
    let [peer] = table.peers.as_slice() else { panic!("one peer") };
    assert_eq!(peer.node, other());
    assert!(peer.allowed_ips.contains(&net("10.1.254.0/24")));
    assert!(peer.allowed_ips.contains(&net("10.1.255.77/32")));
    assert_eq!(
        peer.lanes[1].candidates,
        [Candidate::host("192.0.2.2:51821".parse().expect("an address"), 1)]
    );
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
        network
            .settings
            .options
            .insert("com.docker.network.driver.mtu".to_owned(), "1300".to_owned());
        Change::Network(network)
    };
    let view = view(rows().into_iter().map(narrow));
    let journal = BTreeMap::from([record(10, "10.1.255.5")]);

    let desired = &networks(&local_view(&view, &journal, me()), &journal, me(), INTERFACE)[&blue()];

    let id = EndpointId::from_random(10);
    assert_eq!((desired.namespace.endpoints[&id].mtu, desired.sandboxes[&id].mtu), (1300, 1300));
    assert_eq!(desired.namespace.interface.mtu(), MTU);
}

#[test]
fn a_network_we_are_no_member_of_needs_nothing_here() {
    let view = view(rows().into_iter().filter(|r| r.key() != RowKey::Member(blue(), me())));

    assert!(networks(&view, &BTreeMap::new(), me(), INTERFACE).is_empty());
    let keys = vec![[9; 32].into()];
    assert!(tables(&view, &Underlays::default(), me(), blue(), keys, MTU).is_empty());
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
    let addresses: Vec<_> = candidates.iter().map(|candidate| candidate.address).collect();
    assert_eq!(
        addresses,
        expected.map(|ip| SocketAddr::new(ip.parse().expect("an address"), 51821))
    );
    assert_eq!(candidates.iter().map(|candidate| candidate.lane).collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(candidates[2].kind, CandidateKind::Shared);
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
