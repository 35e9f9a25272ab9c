use std::collections::BTreeMap;

use overlay_core::{
    Block, Change, EndpointId, LinkAccess, Member, Network, NetworkLink, NetworkMode,
    NetworkSettings, Node, Revision, Role, Runtime, View,
};

use overlay_core::policy::{ClusterPolicy, Filter, FilterMode};
use overlay_dataplane::NetworkTable;

use super::*;
use crate::backend::lane_tables::LaneTables;
use crate::dns::{Asker, Meaning, RecordKind};
use crate::kernel::TunDesired;
use crate::kernel::nft::FilterDesired;
use crate::state::EndpointRecord;

#[path = "wanted_random_tests.rs"]
mod random;

const ME: NodeId = NodeId::FIRST;
const MTU: u32 = 1408;

fn network(n: u8) -> NetworkId {
    NetworkId::from_random(n.into())
}

fn row(n: u8) -> Change {
    Change::Network(Network {
        id: network(n),
        name: format!("net{n}").parse().expect("a name"),
        prefix: format!("10.{n}.0.0/16").parse().expect("a prefix"),
        prefix6: None,
        mode: NetworkMode::L3,
        labels: BTreeMap::new(),
        settings: NetworkSettings::default(),
        creator: None,
    })
}

fn node(id: NodeId, underlay: u8) -> Change {
    Change::Node(Node {
        id,
        name: format!("node-{id}").parse().expect("a name"),
        role: Role::Node,
        labels: BTreeMap::new(),
        underlay: vec![[192, 0, 2, underlay].into()],
        lane_ports: vec![51820, 51821],
    })
}

fn member(n: u8, node: NodeId, block: u8) -> Change {
    Change::Member(Member {
        network: network(n),
        node,
        lane_keys: vec![[1; 32].into(), [2; 32].into()],
        blocks: vec![Block {
            prefix: format!("10.{n}.{block}.0/24").parse().expect("a prefix"),
            epoch: 1,
        }],
    })
}

fn endpoint(n: u8, node: NodeId, address: [u8; 2]) -> Endpoint {
    Endpoint {
        id: EndpointId::from_random(u16::from_be_bytes(address).into()),
        network: network(n),
        node,
        name: format!("e{}-{}", address[0], address[1]).parse().expect("a name"),
        aliases: BTreeSet::new(),
        addresses: vec![[10, n, address[0], address[1]].into()],
        labels: BTreeMap::new(),
        runtime: Runtime::Run,
        group: None,
        container: None,
        taken: BTreeSet::new(),
    }
}

/// Three networks with this node and another in each.
struct Fixture {
    membership: Membership,
    journal: Entries,
    own: Arc<BTreeSet<IpAddr>>,
    wanted: Wanted,
    lanes: LaneTables,
}

impl Fixture {
    fn new() -> Self {
        let of = |n| [row(n), member(n, ME, 255), member(n, NodeId::LAST, 254)];
        let rows = (1..=3).flat_map(of).chain([node(ME, 1), node(NodeId::LAST, 2)]);
        let membership = Membership::kept(View::from_rows(Revision(1), rows));

        Self {
            membership,
            journal: Entries::default(),
            own: Arc::default(),
            wanted: Wanted::new(),
            lanes: LaneTables::new(2),
        }
    }

    fn update(&mut self) -> BTreeSet<NetworkId> {
        let keys = |_| Some(vec![[8; 32].into(), [9; 32].into()]);
        let strays = Strays::default();
        let sources = Sources {
            node: ME,
            membership: &self.membership,
            journal: &self.journal,
            strays: &strays,
            own: &self.own,
            mtu: MTU,
            interface: &|_, mtu| InterfaceDesired::Tun(TunDesired { mtu, queues: 2 }),
            keys: &keys,
        };

        self.wanted.update(sources).networks
    }

    fn change(&mut self, change: Change) {
        self.membership.changed.note([change.key()]);
        Arc::make_mut(&mut self.membership.view).apply(change);
    }

    fn attach(&mut self, endpoint: Endpoint) {
        let record = EndpointRecord {
            endpoint,
            sandbox: SandboxRecord::Host,
            ifname: "ovh0".into(),
            owner: None,
        };
        Arc::make_mut(&mut self.journal).insert(record.endpoint.id, record);
    }

    /// Returns what is wanted of the kernel and what the lanes are told.
    fn said(&mut self) -> String {
        let tables = self.tables();
        let tables: Vec<_> =
            tables.iter().flatten().map(|t| (t.id, &t.peers, &t.local, &t.links)).collect();

        format!("{:?} {tables:?}", self.wanted.networks)
    }

    /// Computes everything from nothing.
    fn begin_anew(&mut self) {
        self.wanted = Wanted::new();
        self.lanes = LaneTables::new(2);
        self.update();
    }

    /// Returns what the two lanes are told.
    fn tables(&mut self) -> Vec<Vec<Arc<NetworkTable>>> {
        let tables = self.lanes.update(self.wanted.configs()).into_iter();

        tables.map(|tables| tables.networks.into_values().collect()).collect()
    }
}

#[test]
fn a_change_costs_the_network_that_it_touches_and_no_other() {
    let mut fixture = Fixture::new();
    let all: BTreeSet<_> = [1, 2, 3].map(network).into();
    assert_eq!(fixture.update(), all, "everything is new");
    let before = fixture.tables();

    assert_eq!(fixture.update(), [].into(), "nothing changed");
    fixture.change(Change::Endpoint(endpoint(2, NodeId::LAST, [9, 9])));
    assert_eq!(fixture.update(), [network(2)].into());

    let after = fixture.tables();
    for (before, after) in before.iter().zip(&after) {
        let same = before.iter().zip(after).map(|(before, after)| Arc::ptr_eq(before, after));
        assert_eq!(
            same.collect::<Vec<_>>(),
            [true, false, true],
            "lanes look at what is new alone"
        );
    }
    assert_eq!(fixture.wanted.names().find("e9-9").len(), 1);
    fixture.change(Change::Removed(RowKey::Endpoint(
        network(2),
        endpoint(2, NodeId::LAST, [9, 9]).id,
    )));
    assert_eq!(fixture.update(), [network(2)].into());
    assert_eq!(fixture.wanted.names().find("e9-9"), []);
}

/// The row of a network that is linked with another one.
fn linked_row(n: u8, other: u8, gateways: &[NodeId]) -> Change {
    let Change::Network(mut network) = row(n) else { panic!("a network") };
    let Change::Network(other) = row(other) else { panic!("a network") };
    network.settings.links.push(NetworkLink {
        network: other.id,
        name: other.name,
        prefix: other.prefix,
        prefix6: other.prefix6,
        access: LinkAccess::PolicyOnly,
        gateways: gateways.to_vec(),
    });

    Change::Network(network)
}

/// Finds a name for a container of network 1.
fn asked(fixture: &Fixture, labels: &[&str]) -> Meaning {
    let asker = Asker::Address { network: network(1), source: [10, 1, 255, 9].into() };

    fixture.wanted.names().meaning(asker, labels, RecordKind::A, 0)
}

#[test]
fn a_network_that_is_not_seen_is_reached_by_a_link_through_its_gateways() {
    let mut fixture = Fixture::new();
    let far = endpoint(9, NodeId::from_random(5), [1, 1]);
    let prefix = "10.9.0.0/16".parse().expect("a prefix");
    fixture.update();
    fixture.change(linked_row(1, 9, &[NodeId::LAST]));
    fixture.change(Change::Endpoint(far.clone()));

    assert_eq!(fixture.update(), [1, 9].map(network).into());
    let wanted = &fixture.wanted.networks()[&network(1)];
    assert!(wanted.namespace.remote.contains(&prefix) && wanted.namespace.joins.is_empty());
    assert_eq!(wanted.namespace.linked, [prefix].into());
    let FilterDesired::Filter(filter) = &wanted.filter else { panic!("it is closed") };
    assert!(filter.closed.contains(&far.addresses[0]) && filter.linked == filter.closed);
    assert_eq!(asked(&fixture, &["e1-1", "net9"]), Meaning::Addresses(far.addresses.clone()));
    assert_eq!(asked(&fixture, &["e1-1"]), Meaning::Nowhere);
    let table = Arc::clone(&fixture.tables()[0][0]);
    assert_eq!(table.links[0].gateways, [NodeId::LAST]);
    assert!(table.links[0].prefixes == [prefix] && !table.local.contains(&prefix));

    // An endpoint there touches those two networks alone; one that is gone is found no more.
    fixture.change(Change::Removed(RowKey::Endpoint(network(9), far.id)));
    assert_eq!(fixture.update(), [1, 9].map(network).into());
    assert_eq!(asked(&fixture, &["e1-1", "net9"]), Meaning::Elsewhere);
    let FilterDesired::Filter(filter) = &fixture.wanted.networks()[&network(1)].filter else {
        panic!("it is closed")
    };
    assert!(filter.linked.is_empty());

    fixture.change(Change::Endpoint(far.clone()));
    fixture.update();
    let said = fixture.said();
    fixture.begin_anew();
    assert_eq!(fixture.said(), said);
    fixture.change(Change::Removed(RowKey::Endpoint(network(9), far.id)));
    fixture.change(row(1));
    fixture.update();
    let wanted = &fixture.wanted.networks()[&network(1)];
    assert_eq!(wanted.filter, FilterDesired::Open);
    assert!(!wanted.namespace.remote.contains(&prefix) && wanted.namespace.linked.is_empty());
    assert!(!fixture.wanted.names.contains_key(&network(9)));
    assert!(fixture.tables()[0][0].links.is_empty());
}

#[test]
fn a_gateway_joins_its_two_networks_and_takes_packets_for_both() {
    let mut fixture = Fixture::new();
    fixture.update();
    for (n, other) in [(1, 2), (2, 1)] {
        fixture.change(linked_row(n, other, &[ME, NodeId::LAST]));
    }

    assert_eq!(fixture.update(), [1, 2].map(network).into());

    let wanted = &fixture.wanted.networks()[&network(1)].namespace;
    let prefix = "10.2.0.0/16".parse().expect("a prefix");
    assert_eq!(wanted.joins[&network(2)].prefixes, [prefix]);
    assert_eq!(IpAddr::from(wanted.joins[&network(2)].gateway), IpAddr::from([10, 2, 0, 1]));
    assert!(!wanted.remote.contains(&prefix));
    let table = Arc::clone(&fixture.tables()[0][0]);
    assert!(table.local.contains(&prefix));
    assert!(table.links[0].gateways.contains(&NodeId::LAST));
    // A container in both reaches each by its own interface.
    let [one, two] = [1, 2].map(|n| endpoint(n, ME, [255, n + 10]));
    fixture.attach(one.clone());
    fixture.update();
    let linked = |fixture: &Fixture| {
        fixture.wanted.networks()[&network(1)].sandboxes[&one.id].linked.clone()
    };
    assert_eq!(linked(&fixture), [prefix]);
    fixture.attach(two);
    fixture.update();
    assert_eq!(linked(&fixture), []);
}

#[test]
fn an_endpoint_of_this_node_touches_its_network_and_a_node_s_addresses_all_of_them() {
    let mut fixture = Fixture::new();
    fixture.update();

    fixture.attach(endpoint(3, ME, [255, 2]));
    assert_eq!(fixture.update(), [network(3)].into());
    assert_eq!(fixture.wanted.networks()[&network(3)].namespace.endpoints.len(), 1);
    fixture.journal = Entries::default();
    assert_eq!(fixture.update(), [network(3)].into());
    fixture.change(node(NodeId::LAST, 7));
    assert_eq!(fixture.update().len(), 3);
}

#[test]
fn what_is_computed_bit_by_bit_is_what_is_computed_at_once() {
    let mut fixture = Fixture::new();
    fixture.update();
    for address in 2..40 {
        fixture.change(Change::Endpoint(endpoint(address % 3 + 1, NodeId::LAST, [address, 1])));
        fixture.attach(endpoint(1, ME, [255, address]));
        fixture.update();
    }
    fixture.change(Change::Removed(RowKey::Member(network(2), ME)));
    fixture.change(Change::Removed(RowKey::Network(network(3))));
    fixture.update();
    let names = |fixture: &Fixture| format!("{:?}", fixture.wanted.names());
    let bit_by_bit = (fixture.said(), names(&fixture));

    fixture.begin_anew();

    assert_eq!(bit_by_bit, (fixture.said(), names(&fixture)));
}

#[test]
fn an_endpoint_that_moves_leaves_the_other_peers_of_its_network_as_they_are() {
    let mut fixture = Fixture::new();
    let third = NodeId::from_random(77);
    fixture.change(node(third, 3));
    fixture.change(member(2, third, 253));
    fixture.update();
    let peers = |fixture: &Fixture| Arc::clone(&fixture.wanted.configs()[&network(2)].peers);
    let before = peers(&fixture);

    fixture.change(Change::Endpoint(endpoint(2, third, [253, 9])));
    fixture.update();
    assert!(Arc::ptr_eq(&before, &peers(&fixture)), "its address is in its node's block");
    fixture.change(Change::Endpoint(endpoint(2, third, [9, 9])));
    fixture.update();

    let after = peers(&fixture);
    assert_eq!(after.len(), 2);
    for (before, after) in before.iter().zip(after.iter()) {
        assert_eq!(Arc::ptr_eq(before, after), before.node != third);
    }
}

/// Policies that look at everything; the second leaves the first network open.
const POLICIES: [&str; 3] = [
    "[network.net1]\ndefault = \"deny\"\n[[rule]]\nname = \"a\"\nfrom = { role = \"1\" }\n\
     to = [{ name = \"e*\", node = { site = \"2\" } }, { cidr = \"10.1.9.0/24\" }]\n\
     allow = [\"tcp/80\"]\n",
    "[network.net2]\ndefault = \"deny\"\n",
    "[[rule]]\nname = \"b\"\nfrom = { node = { site = \"1\" } }\nto = \"any\"\ndeny = \"any\"\n",
];

fn cluster_policy(text: &str) -> Change {
    Change::Policy(ClusterPolicy { revision: 1, mode: FilterMode::Enforced, text: text.to_owned() })
}

/// A node with a label of this number.
fn site(id: NodeId, number: u8) -> Change {
    let Change::Node(row) = node(id, number) else { unreachable!("it is a node") };

    Change::Node(Node { labels: [("site".to_owned(), number.to_string())].into(), ..row })
}

/// Returns what a network of the fixture is kept to.
fn filter(fixture: &Fixture, n: u8) -> FilterDesired {
    fixture.wanted.networks()[&network(n)].filter.clone()
}

/// Returns the filter of a network that is not open.
fn compiled(fixture: &Fixture, n: u8) -> Arc<Filter> {
    let FilterDesired::Filter(filter) = filter(fixture, n) else { panic!("it is open") };

    filter
}

#[test]
fn a_policy_concerns_the_networks_that_it_does_not_leave_open() {
    let mut fixture = Fixture::new();
    fixture.update();
    let before = fixture.wanted.networks().clone();

    fixture.change(cluster_policy(POLICIES[0]));
    fixture.update();

    for n in [2, 3] {
        assert_eq!(filter(&fixture, n), FilterDesired::Open);
        let (before, after) = (&before[&network(n)], &fixture.wanted.networks()[&network(n)]);
        assert!(Arc::ptr_eq(before, after), "nothing else is wanted of it");
    }
    let nodes = compiled(&fixture, 1).nodes.clone();
    assert_eq!(nodes.len(), 2, "each member has an address: {nodes:?}");
    fixture.change(Change::Removed(RowKey::Policy));
    fixture.update();
    assert_eq!(filter(&fixture, 1), FilterDesired::Open);
}

#[test]
fn an_endpoint_is_in_the_filter_of_its_network_before_control_knows_it() {
    let mut fixture = Fixture::new();
    fixture.change(cluster_policy(POLICIES[0]));
    fixture.update();
    let empty = compiled(&fixture, 1);

    let mut own = endpoint(1, ME, [255, 2]);
    own.labels.insert("role".to_owned(), "1".to_owned());
    fixture.attach(own.clone());
    fixture.update();

    let filter = compiled(&fixture, 1);
    assert!(filter.has_rules_of(&empty));
    assert_eq!(filter.known, own.addresses.iter().copied().collect());
    assert_eq!(filter.sets[0], filter.known, "by its label");
    fixture.change(Change::Endpoint(endpoint(2, NodeId::LAST, [254, 2])));
    fixture.update();
    assert!(Arc::ptr_eq(&filter, &compiled(&fixture, 1)), "an endpoint on another network");
}

#[test]
fn a_policy_that_is_not_understood_is_not_taken_for_none() {
    let mut fixture = Fixture::new();

    fixture.change(cluster_policy("[network.net1]\ndefault = \"perhaps\"\n"));
    fixture.update();

    assert!(matches!(filter(&fixture, 1), FilterDesired::Unreadable(_)));
}
