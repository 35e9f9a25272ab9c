//! What one node cannot take from all others, however it asks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use overlay_core::{Endpoint, EndpointId, HostPrefix, Member, NetworkSettings, NodeId};
use overlay_proto::Code;

use super::testing::*;
use super::tests::{Fixture, create, fixture};
use super::*;

/// Labels of `count` times 250 bytes.
fn labels(count: u8) -> BTreeMap<String, String> {
    (0..count).map(|n| (format!("{n:050}"), "x".repeat(200))).collect()
}

fn announce(underlay: &str) -> Announce {
    Announce {
        underlay: vec![underlay.parse().expect("an address")],
        lane_ports: vec![51_820],
        prefixes: Vec::new(),
        differences: Vec::new(),
        version: "1".to_owned(),
    }
}

fn endpoint(member: &Member, id: u64, address: Ipv4Addr) -> Endpoint {
    endpoint_at(member.network, member.node, EndpointId::from_random(id), address)
}

fn refused(state: &mut ClusterState, node: NodeId, command: Operation) -> (Code, String) {
    let before = state.clone();
    let refusal = ask(state, Actor::Node(node), command).expect_err("it is too much");
    assert_eq!(*state, before);

    (refusal.code, refusal.message)
}

#[test]
fn a_row_has_a_bound_as_a_whole() {
    let Fixture { mut state, network, nodes } = fixture("10.9.0.0/16");
    let large = |reserved: u32| {
        let Operation::CreateNetwork(create) = create("large", None) else { unreachable!() };
        // Each is within its own bound.
        let reserved = (0..reserved).map(|n| (format!("{n:0200}"), [10, 1, 0, 9].into()));
        let settings = NetworkSettings {
            options: labels(16),
            reserved: reserved.collect(),
            ..create.settings
        };
        let prefix = Some("10.1.0.0/16".parse().expect("a prefix"));
        let labels = labels(16);
        Operation::CreateNetwork(CreateNetwork { labels, settings, prefix, ..create })
    };

    let (code, text) = refused(&mut state, nodes[1], large(60));
    assert_eq!(code, Code::InvalidInput);
    assert!(text.starts_with("network large has ") && text.contains("more than 16384"), "{text}");
    ask(&mut state, Actor::Node(nodes[1]), large(20)).expect("it is not too large");

    let keys = vec![[1; 32].into()];
    let enter = Operation::EnterNetwork { network, lane_keys: keys, blocks: 1 };
    let Ok(Reply::Member(member)) = ask(&mut state, Actor::Node(nodes[1]), enter) else { panic!() };
    let first = u32::from(member.blocks[0].prefix.network());
    let row = Endpoint {
        aliases: (0..200).map(|n| format!("{n:063}").parse().expect("a name")).collect(),
        labels: labels(16),
        ..endpoint(&member, 1, Ipv4Addr::from_bits(first + 5))
    };
    let (_, text) = refused(&mut state, nodes[1], Operation::PutEndpoints(vec![row]));
    assert!(text.starts_with("endpoint e000000000001 has "), "{text}");
}

#[test]
fn what_a_node_reports_has_a_bound_as_a_whole() {
    let Fixture { mut state, nodes, .. } = fixture("10.9.0.0/16");
    let report = |count: u32, holder: usize| {
        let prefix = |n: u32| ipnet::Ipv4Net::new(Ipv4Addr::from_bits(n << 12), 24);
        let prefixes = (1..=count).map(|n| HostPrefix {
            prefix: prefix(n).expect("a prefix").into(),
            holder: "h".repeat(holder),
        });
        Operation::Announce(Announce { prefixes: prefixes.collect(), ..announce("192.0.2.7") })
    };

    let (code, text) = refused(&mut state, nodes[1], report(1_024, 200));

    assert_eq!(code, Code::InvalidInput);
    assert!(text.starts_with("the report of this host has "), "{text}");
    ask(&mut state, Actor::Node(nodes[1]), report(1_024, 15)).expect("as hosts have them");
}

#[test]
fn nobody_is_sent_to_where_no_node_can_be() {
    let Fixture { mut state, nodes, .. } = fixture("10.9.0.0/16");
    let cases = [
        ("127.0.0.1", "a loopback address"),
        ("::1", "a loopback address"),
        ("::ffff:127.8.0.1", "a loopback address"),
        ("169.254.169.254", "a link-local address"),
        ("fe80::7", "a link-local address"),
        ("224.0.0.5", "a multicast address"),
        ("ff02::1", "a multicast address"),
        ("0.0.0.0", "no address"),
        ("100.100.100.200", "an address of a cloud's metadata service"),
        ("fd00:ec2::254", "an address of a cloud's metadata service"),
    ];
    for (address, kind) in cases {
        let (code, text) = refused(&mut state, nodes[1], Operation::Announce(announce(address)));
        assert_eq!(code, Code::InvalidInput);
        let start = format!("underlay address {address} is {kind}: ");
        assert!(text.starts_with(&start), "{text}");
    }
    for address in ["192.0.2.7", "10.0.2.15", "100.64.0.1", "fd00::7", "2001:db8::7"] {
        let heard = ask(&mut state, Actor::Node(nodes[1]), Operation::Announce(announce(address)));
        assert_eq!(heard, Ok(Reply::Done));
    }
    let node = state.node(nodes[1]).expect("a node");
    assert_eq!(node.underlay, ["2001:db8::7".parse::<IpAddr>().expect("an address")]);
}

#[test]
fn a_node_that_is_no_admin_leaves_room_for_the_networks_of_others() {
    let Fixture { mut state, nodes, .. } = fixture("10.9.0.0/16");
    let network = |n: usize| create(&format!("own-{n}"), None);
    for n in 0..limits::MAX_NODE_NETWORKS {
        ask(&mut state, Actor::Node(nodes[1]), network(n)).expect("there is room");
    }

    let (code, text) = refused(&mut state, nodes[1], network(9_999));

    assert_eq!(code, Code::Exhausted);
    assert!(text.starts_with("node node1 has made 512 networks"), "{text}");
    for node in [nodes[2], nodes[0]] {
        ask(&mut state, Actor::Node(node), create(&format!("of-{node}"), None)).expect("room");
    }
    let gone = Operation::RemoveNetwork { network: "own-7".into(), force: false };
    ask(&mut state, Actor::Node(nodes[1]), gone).expect("it is its own");
    ask(&mut state, Actor::Node(nodes[1]), network(7)).expect("there is room again");
}

#[test]
fn blocks_are_granted_by_use() {
    let Fixture { mut state, network, nodes } = fixture("10.9.0.0/22");
    let node = nodes[1];
    let enter =
        |blocks| Operation::EnterNetwork { network, lane_keys: vec![[1; 32].into()], blocks };

    let (code, text) = refused(&mut state, node, enter(2));
    assert_eq!(code, Code::Exhausted);
    assert!(text.contains("holds 0 blocks of network net, and 0 of their 0 addresses"), "{text}");
    let Ok(Reply::Member(member)) = ask(&mut state, Actor::Node(node), enter(1)) else { panic!() };
    let block = member.blocks[0].prefix;
    let (_, text) = refused(&mut state, node, enter(2));
    assert!(text.contains("it gets one block more when half of them are"), "{text}");

    let half = 1usize << (31 - block.prefix_len());
    let hosts = block.hosts().skip(1).take(half).enumerate();
    let rows = hosts.map(|(n, address)| endpoint(&member, n as u64 + 1, address));
    ask(&mut state, Actor::Node(node), Operation::PutEndpoints(rows.collect())).expect("they fit");
    let Ok(Reply::Member(member)) = ask(&mut state, Actor::Node(node), enter(2)) else { panic!() };
    assert_eq!(member.blocks.len(), 2);
    assert_eq!(refused(&mut state, node, enter(3)).0, Code::Exhausted);
}

#[test]
fn what_a_node_that_is_no_admin_publishes_has_a_bound_in_all() {
    let Fixture { mut state, network, nodes } = fixture("10.9.0.0/16");
    let stopped = |node, from: u64, count: u64| {
        let row = |id| {
            let id = EndpointId::from_random(id);
            let row = endpoint_at(network, node, id, Ipv4Addr::LOCALHOST);
            let container = Some(format!("{id}").parse().expect("an id"));
            Endpoint { addresses: Vec::new(), container, labels: labels(15), ..row }
        };
        Operation::PutEndpoints((from..from + count).map(row).collect())
    };
    let enter =
        |key| Operation::EnterNetwork { network, lane_keys: vec![[key; 32].into()], blocks: 1 };
    for (key, node) in [(1, nodes[0]), (2, nodes[1]), (3, nodes[2])] {
        ask(&mut state, Actor::Node(node), enter(key)).expect("it may enter");
    }
    ask(&mut state, Actor::Node(nodes[1]), stopped(nodes[1], 1, 480)).expect("there is room");

    let (code, text) = refused(&mut state, nodes[1], stopped(nodes[1], 1_001, 100));

    assert_eq!(code, Code::Exhausted);
    let start = "endpoints, networks and memberships of node node1 would have 2";
    assert!(text.starts_with(start) && text.contains("more than 2097152"), "{text}");
    ask(&mut state, Actor::Node(nodes[1]), stopped(nodes[1], 1, 480)).expect("they are no more");
    ask(&mut state, Actor::Node(nodes[2]), stopped(nodes[2], 2_001, 100)).expect("it has its own");
    ask(&mut state, Actor::Node(nodes[0]), stopped(nodes[0], 3_001, 900)).expect("it is an admin");
    let keys = (1..=100).map(|id| (network, EndpointId::from_random(id))).collect();
    ask(&mut state, Actor::Node(nodes[1]), Operation::RemoveEndpoints(keys)).expect("its own");
    ask(&mut state, Actor::Node(nodes[1]), stopped(nodes[1], 1_001, 100)).expect("room again");
}

#[test]
fn a_node_that_takes_the_whole_pool_keeps_nobody_from_making_networks() {
    let Fixture { mut state, nodes, .. } = fixture("10.9.0.0/16");
    ask(&mut state, Actor::Node(nodes[2]), create("before", None)).expect("there is room");
    for (name, half) in [("one", "10.64.0.0/11"), ("other", "10.96.0.0/11")] {
        let taken = create(name, Some(half));
        ask(&mut state, Actor::Node(nodes[1]), taken).expect("nobody has it");
    }

    let made = ask(&mut state, Actor::Node(nodes[2]), create("after", None));

    let Ok(Reply::Network(made)) = made else { panic!("{made:?}") };
    assert_eq!(made.prefix, "10.65.0.0/16".parse().expect("a prefix"), "beside the first");
}
