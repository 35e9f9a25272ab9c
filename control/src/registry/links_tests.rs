//! Who may link networks, which may be linked, and who carries packets between them.

use std::net::Ipv4Addr;

use overlay_core::visibility::visible;
use overlay_core::{Endpoint, EndpointId, Member};
use overlay_proto::{Code, Refusal};

use super::super::testing::*;
use super::super::tests::create_for;
use super::super::{Operation, apply};
use super::*;

const NETWORKS: [&str; 3] = ["a", "b", "c"];

/// A cluster with an admin (node 1), two nodes (2, 3) and a worker (4), and networks a, b and c,
/// made by node 2 but for c.
fn cluster() -> ClusterState {
    let mut state = with_tokens();
    for (key, token) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
        ask(&mut state, Actor::Operator, join_with(token, key, &format!("node{key}"))).unwrap();
    }
    for (name, maker) in NETWORKS.into_iter().zip([node(2), node(2), node(1)]) {
        ask(&mut state, maker, create_for(name, None, "")).unwrap();
    }

    state
}

fn node(n: u64) -> Actor {
    Actor::Node(NodeId::from_random(n))
}

fn link(one: &str, other: &str) -> Operation {
    let (one, other) = (one.to_owned(), other.to_owned());

    Operation::LinkNetworks { one, other, access: LinkAccess::Defaults }
}

fn unlink(one: &str, other: &str) -> Operation {
    Operation::UnlinkNetworks { one: one.to_owned(), other: other.to_owned() }
}

fn id(state: &ClusterState, name: &str) -> NetworkId {
    state.network_of(name).expect("it is there").id
}

fn enter(state: &mut ClusterState, n: u64, name: &str) -> Member {
    let key = u8::try_from(n).unwrap() * 16 + name.as_bytes()[0] % 16;
    let network = id(state, name);
    let enter = Operation::EnterNetwork { network, lane_keys: vec![[key; 32].into()], blocks: 1 };
    match ask(state, node(n), enter) {
        Ok(Reply::Member(member)) => member,
        other => panic!("{other:?}"),
    }
}

/// Returns which nodes are gateways between two networks, as both of them have it.
fn gateways_of(state: &ClusterState, one: &str, other: &str) -> Vec<NodeId> {
    let (one, other) = (state.network_of(one).unwrap(), state.network_of(other).unwrap());
    let there = one.link_with(other.id).expect("they are linked");
    let back = other.link_with(one.id).expect("both ways");
    assert_eq!(there.gateways, back.gateways);
    assert_eq!((&back.name, back.prefix), (&one.name, one.prefix));

    there.gateways.clone()
}

#[test]
fn admins_and_the_node_that_made_both_link_networks_and_nobody_else() {
    let mut state = cluster();
    let mut refused = |actor, operation| {
        let refusal = ask(&mut state, actor, operation).expect_err("refused");
        assert_eq!(refusal.code, Code::NotAllowed);
        refusal.message
    };

    let said = refused(node(3), link("a", "b"));
    assert!(said.contains("network a was made on node node1"), "{said}");
    let said = refused(node(2), link("a", "c"));
    assert!(said.contains("network c was made on node node0"), "{said}");
    assert!(refused(node(4), link("a", "b")).contains("role worker"));
    ask(&mut state, node(2), link("a", "b")).expect("it made both");
    ask(&mut state, node(1), link("a", "c")).expect("an admin");
    let refusal = ask(&mut state, node(3), unlink("a", "b")).expect_err("refused");
    assert_eq!(refusal.code, Code::NotAllowed);
    ask(&mut state, node(2), unlink("b", "a")).expect("either order");

    assert!(state.network_of("b").unwrap().settings.links.is_empty());
    assert_eq!(state.network_of("a").unwrap().settings.links.len(), 1);
}

#[test]
fn what_is_so_already_changes_nothing_and_what_cannot_be_is_refused_with_the_remedy() {
    let mut state = cluster();
    ask(&mut state, node(1), link("a", "b")).unwrap();
    let nothing = |operation| apply(&state, node(1), operation, NOW).expect("fine").1;

    assert_eq!(nothing(link("b", "a")), []);
    assert_eq!(nothing(unlink("a", "c")), []);
    let refused = |operation| Refusal::from(apply(&state, node(1), operation, NOW).unwrap_err());
    assert_eq!(refused(link("a", "a")).code, Code::InvalidInput);
    assert_eq!(refused(link("a", "nowhere")).code, Code::NotFound);

    // Engines may choose prefixes that others have.
    let mut twin = state.network_of("a").unwrap().clone();
    (twin.id, twin.name) = (NetworkId::from_random(99), "twin".parse().unwrap());
    twin.settings.links.clear();
    state.commit([row(twin)]);
    for with in ["a", "b"] {
        let refusal = ask(&mut state, node(1), link("twin", with)).expect_err("they overlap");
        assert_eq!(refusal.code, Code::AddressTaken);
        assert!(refusal.message.contains("--subnet CIDR"), "{}", refusal.message);
    }
}

#[test]
fn gateways_are_the_nodes_that_are_in_both_networks() {
    let mut state = cluster();
    ask(&mut state, node(1), link("a", "b")).unwrap();
    assert_eq!(gateways_of(&state, "a", "b"), []);

    for (n, name) in [(1, "a"), (2, "a"), (2, "b"), (3, "b"), (1, "b")] {
        enter(&mut state, n, name);
    }
    assert_eq!(gateways_of(&state, "a", "b"), [1, 2].map(NodeId::from_random));

    let exit = Operation::ExitNetwork(id(&state, "b"));
    ask(&mut state, node(1), exit).unwrap();
    assert_eq!(gateways_of(&state, "a", "b"), [NodeId::from_random(2)]);

    // By labels, in the commit that puts it out.
    let nodes = Some("site=c".parse().unwrap());
    ask(&mut state, node(1), Operation::SetNetwork { network: "a".to_owned(), nodes, lease: None })
        .unwrap();
    assert_eq!(gateways_of(&state, "a", "b"), []);
    assert!(!state.network_of("a").unwrap().settings.nodes.is_everything());
    enter(&mut state, 3, "a");
    assert_eq!(gateways_of(&state, "a", "b"), [NodeId::from_random(3)]);
    ask(&mut state, node(3), Operation::Leave).unwrap();
    assert_eq!(gateways_of(&state, "a", "b"), []);
}

#[test]
fn a_network_that_is_removed_takes_its_links_along() {
    let mut state = cluster();
    ask(&mut state, node(1), link("a", "b")).unwrap();
    enter(&mut state, 2, "a");
    enter(&mut state, 2, "b");

    let remove = Operation::RemoveNetwork { network: "a".to_owned(), force: false };
    ask(&mut state, node(1), remove).unwrap();

    assert!(state.network_of("b").unwrap().settings.links.is_empty());
    assert_eq!(state.contradiction(), None);
}

#[test]
fn links_are_bounded() {
    let mut state = with_tokens();
    let hub = NetworkId::from_random(7);
    ask(&mut state, Actor::Operator, create_for("hub", None, "")).unwrap();
    for n in 0..=MAX_LINKS {
        ask(&mut state, Actor::Operator, create_for(&format!("n{n}"), None, "")).unwrap();
        let linked = ask(&mut state, Actor::Operator, link("hub", &format!("n{n}")));
        assert_eq!(linked.is_ok(), n < MAX_LINKS);
        let code = linked.err().map(|refusal| refusal.code);
        assert_eq!(code, (n == MAX_LINKS).then_some(Code::Exhausted));
    }
    assert_eq!(state.view().networks[&hub].settings.links.len(), MAX_LINKS);
}

/// Invariant 12.
#[test]
fn a_member_sees_of_a_linked_network_what_reaching_takes_and_no_key() {
    let mut state = cluster();
    let nodes = Some("site=b".parse().unwrap());
    let close = Operation::SetNetwork { network: "b".to_owned(), nodes, lease: None };
    ask(&mut state, Actor::Operator, close).unwrap();
    let first = enter(&mut state, 2, "b").blocks[0].prefix.network();
    let address = Ipv4Addr::from_bits(first.to_bits() + 9);
    let (net, host) = (id(&state, "b"), NodeId::from_random(2));
    let vault = Endpoint {
        name: "vault".parse().unwrap(),
        ..endpoint_at(net, host, EndpointId::from_random(1), address)
    };
    ask(&mut state, node(2), Operation::PutEndpoints(vec![vault])).unwrap();
    enter(&mut state, 3, "a");
    let stranger = NodeId::from_random(3);
    let before = visible(state.view(), stranger);
    assert!(!format!("{before:?}").contains("vault"));

    ask(&mut state, Actor::Operator, link("a", "b")).unwrap();

    let seen = visible(state.view(), stranger);
    let (network, of) = (id(&state, "b"), NodeId::from_random(2));
    assert!(!seen.networks.contains_key(&network));
    assert_eq!(seen.members_of(network).count(), 0);
    assert_eq!(seen.endpoints_of(network).map(|e| e.name.as_str()).collect::<Vec<_>>(), ["vault"]);
    assert_eq!(seen.nodes[&of].labels, state.view().nodes[&of].labels);
    assert!(seen.nodes[&of].underlay.is_empty() && seen.nodes[&of].lane_ports.is_empty());

    ask(&mut state, Actor::Operator, unlink("a", "b")).unwrap();
    assert_eq!(
        visible(state.view(), stranger).rows().count(),
        before.rows().count(),
        "all of it is gone"
    );
}
