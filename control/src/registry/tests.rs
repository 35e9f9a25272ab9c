//! What the registry refuses, and what it gives.

use std::collections::{BTreeMap, BTreeSet};

use overlay_core::{
    Endpoint, EndpointId, HostPrefix, Member, NetworkId, NetworkMode, NetworkSettings, NodeId, Role,
};
use overlay_proto::{Code, Refusal};

use super::testing::*;
use super::*;

/// A cluster with one network and some nodes.
pub(super) struct Fixture {
    pub(super) state: ClusterState,
    pub(super) network: NetworkId,
    pub(super) nodes: Vec<NodeId>,
}

pub(super) fn create(name: &str, prefix: Option<&str>) -> Operation {
    create_for(name, prefix, "")
}

/// Returns the operation that creates a network for the nodes of a selector.
pub(crate) fn create_for(name: &str, prefix: Option<&str>, nodes: &str) -> Operation {
    Operation::CreateNetwork(CreateNetwork {
        name: name.parse().expect("a name"),
        prefix: prefix.map(|p| p.parse().expect("a prefix")),
        prefix6: None,
        mode: NetworkMode::L3,
        labels: BTreeMap::new(),
        settings: NetworkSettings {
            nodes: nodes.parse().expect("a selector"),
            ..NetworkSettings::default()
        },
        candidate: NetworkId::from_random(7),
    })
}

/// Makes a cluster with a network of this prefix and four nodes, the first an admin.
pub(super) fn fixture(prefix: &str) -> Fixture {
    let mut state = ClusterState::new(settings());
    token(&mut state, 1, 1, Role::Admin);
    token(&mut state, 2, 9, Role::Node);
    let nodes = (0..4u8)
        .map(|i| {
            let command = join_with(if i == 0 { 1 } else { 2 }, i, &format!("node{i}"));
            match ask(&mut state, Actor::Operator, command) {
                Ok(Reply::Joined(node)) => node.id,
                other => panic!("{other:?}"),
            }
        })
        .collect::<Vec<_>>();
    let network = match ask(&mut state, Actor::Node(nodes[0]), create("net", Some(prefix))) {
        Ok(Reply::Network(network)) => network.id,
        other => panic!("{other:?}"),
    };

    Fixture { state, network, nodes }
}

impl Fixture {
    fn enter(&mut self, node: usize, key: u8) -> Member {
        let lane_keys = vec![[key; 32].into()];
        let command = Operation::EnterNetwork { network: self.network, lane_keys, blocks: 1 };
        match ask(&mut self.state, Actor::Node(self.nodes[node]), command) {
            Ok(Reply::Member(member)) => member,
            other => panic!("{other:?}"),
        }
    }

    fn endpoint(&self, node: usize, id: u64, address: &str) -> Endpoint {
        Endpoint {
            name: format!("e{id}").parse().expect("a name"),
            ..endpoint_at(
                self.network,
                self.nodes[node],
                EndpointId::from_random(id),
                address.parse::<std::net::IpAddr>().expect("an address"),
            )
        }
    }

    fn put(&mut self, node: usize, rows: Vec<Endpoint>) -> Result<Reply, Refusal> {
        ask(&mut self.state, Actor::Node(self.nodes[node]), Operation::PutEndpoints(rows))
    }

    fn try_put(&mut self, node: usize, row: Endpoint) -> Result<Reply, Code> {
        self.as_node(node, Operation::PutEndpoints(vec![row]))
    }

    fn as_node(&mut self, node: usize, command: Operation) -> Result<Reply, Code> {
        ask(&mut self.state, Actor::Node(self.nodes[node]), command).map_err(|refusal| refusal.code)
    }
}

#[test]
fn the_same_key_and_token_give_the_same_identity_even_when_used_up() {
    let mut fixture = fixture("10.9.0.0/16");
    let first = fixture.nodes[0];
    let before = fixture.state.clone();

    let again = ask(&mut fixture.state, Actor::Operator, join_with(1, 0, "node0"));

    assert!(matches!(again, Ok(Reply::Joined(node)) if node.id == first));
    assert_eq!(fixture.state, before);
    let other = ask(&mut fixture.state, Actor::Operator, join_with(1, 9, "node9"))
        .expect_err("the token is used up");
    assert_eq!(other.code, Code::TokenRefused);
}

#[test]
fn every_bad_token_gets_the_same_answer() {
    let fixture = fixture("10.9.0.0/16");
    let refusal = |state: &ClusterState, command, now| {
        Refusal::from(apply(state, Actor::Operator, command, now).expect_err("refused"))
    };
    let mut revoked = fixture.state.clone();
    ask(&mut revoked, Actor::Operator, Operation::RevokeToken(format!("{:016x}", 2)))
        .expect("it is there");

    let unknown = refusal(&fixture.state, join_with(3, 9, "n"), NOW);
    let used = refusal(&fixture.state, join_with(1, 9, "n"), NOW);
    let expired = refusal(&fixture.state, join_with(2, 9, "n"), NOW + 3_600);
    let gone = refusal(&revoked, join_with(2, 9, "n"), NOW);

    assert_eq!(unknown.code, Code::TokenRefused);
    assert!([used, expired, gone].iter().all(|other| *other == unknown));
}

#[test]
fn a_name_is_taken_once_and_costs_no_use() {
    let mut fixture = fixture("10.9.0.0/16");
    let before = fixture.state.clone();

    let refusal = ask(&mut fixture.state, Actor::Operator, join_with(2, 9, "NODE0"))
        .expect_err("the name is taken");

    assert_eq!(refusal.code, Code::NameTaken);
    assert_eq!(fixture.state, before);
}

#[test]
fn a_prefix_in_use_is_refused_with_node_and_holder() {
    let mut fixture = fixture("10.9.0.0/16");
    let announce = Announce {
        underlay: vec!["192.0.2.1".parse().expect("an address")],
        lane_ports: vec![1],
        prefixes: vec![
            HostPrefix {
                prefix: "172.18.0.0/16".parse().expect("a prefix"),
                holder: "docker_gwbridge".to_owned(),
            },
            HostPrefix { prefix: "10.64.0.0/15".parse().expect("a prefix"), holder: String::new() },
            HostPrefix {
                prefix: "0.0.0.0/0".parse().expect("a prefix"),
                holder: "eth0".to_owned(),
            },
        ],
        differences: Vec::new(),
        version: "1".to_owned(),
    };
    fixture.as_node(1, Operation::Announce(announce)).expect("announced");
    let refused = |fixture: &mut Fixture, prefix| {
        ask(&mut fixture.state, Actor::Operator, create("other", Some(prefix))).expect_err("taken")
    };

    let refusal = refused(&mut fixture, "172.18.4.0/24");
    assert_eq!(refusal.code, Code::AddressTaken);
    assert!(refusal.message.contains("node1 by docker_gwbridge"), "{refusal}");
    for prefix in
        ["10.0.0.0/8", "192.0.2.0/24", "172.17.0.0/16", "10.255.255.0/24", "172.16.0.0/12"]
    {
        assert_eq!(refused(&mut fixture, prefix).code, Code::AddressTaken, "{prefix}");
    }
    let chosen = ask(&mut fixture.state, Actor::Operator, create("other", None));
    assert!(matches!(chosen, Ok(Reply::Network(n)) if n.prefix.to_string() == "10.66.0.0/16"));
}

#[test]
fn the_prefix_of_another_network_may_be_asked_for_but_is_never_chosen() {
    let mut fixture = fixture("10.64.0.0/16");

    let same = fixture.as_node(1, create("second", Some("10.64.0.0/16")));
    let chosen = fixture.as_node(1, create("third", None));
    let repeated = fixture.as_node(1, create("second", Some("10.64.0.0/16")));

    assert!(matches!(same, Ok(Reply::Network(n)) if n.prefix.to_string() == "10.64.0.0/16"));
    assert!(matches!(chosen, Ok(Reply::Network(n)) if n.prefix.to_string() == "10.65.0.0/16"));
    assert_eq!(repeated, Err(Code::NameTaken));
}

#[test]
fn the_pool_gives_every_network_addresses_of_its_own() {
    let mut state = ClusterState::new(settings());
    let mut prefixes = BTreeSet::new();
    for i in 0..300 {
        match ask(&mut state, Actor::Operator, create(&format!("n{i}"), None)) {
            Ok(Reply::Network(network)) => assert!(prefixes.insert(network.prefix)),
            other => panic!("{other:?}"),
        }
    }

    let lens: BTreeSet<_> = prefixes.iter().map(|prefix| prefix.prefix_len()).collect();
    assert_eq!(lens, BTreeSet::from([16, 20, 24]));
    let all: Vec<_> = prefixes.into_iter().collect();
    assert!(all.windows(2).all(|pair| !pair[0].contains(&pair[1]) && !pair[1].contains(&pair[0])));
}

#[test]
fn a_pool_that_is_used_up_says_what_to_do() {
    let mut state = ClusterState::new(Settings {
        pool: "10.64.0.0/24".parse().expect("a prefix"),
        ..settings()
    });

    let refusal = (0..1_000)
        .find_map(|i| ask(&mut state, Actor::Operator, create(&format!("n{i}"), None)).err())
        .expect("a /24 holds few networks");

    assert_eq!(refusal.code, Code::Exhausted);
    assert!(refusal.message.contains("--subnet"), "{refusal}");
}

fn dual(mut row: Endpoint, v6: &str) -> Endpoint {
    row.addresses.push(v6.parse().expect("an address"));
    row
}

/// Returns the operation that creates a network with IPv6 and these settings.
fn create_with(name: &str, settings: NetworkSettings) -> Operation {
    Operation::CreateNetwork(CreateNetwork {
        name: name.parse().expect("a name"),
        prefix: "10.8.0.0/16".parse().ok(),
        prefix6: "fd08::/64".parse().ok(),
        mode: NetworkMode::L3,
        labels: BTreeMap::new(),
        settings,
        candidate: NetworkId::from_random(8),
    })
}

#[test]
fn an_ipv6_address_comes_out_of_the_block_it_belongs_to_or_is_claimed() {
    let mut fixture = fixture("10.9.0.0/16");
    let made = fixture.as_node(0, create_with("dual", NetworkSettings::default()));
    let Ok(Reply::Network(network)) = made else { panic!("{made:?}") };
    fixture.network = network.id;
    fixture.enter(1, 1);
    fixture.enter(2, 2);

    // In the node's own block, though it differs from the IPv4 address.
    fixture
        .put(1, vec![dual(fixture.endpoint(1, 1, "10.8.255.2"), "fd08::a08:ff07")])
        .expect("its own block");
    fixture
        .put(1, vec![dual(fixture.endpoint(1, 2, "10.8.255.3"), "fd08::77:1")])
        .expect("a claim");
    let refused = |v6: &str, fixture: &mut Fixture| {
        fixture.try_put(2, dual(fixture.endpoint(2, 9, "10.8.254.9"), v6))
    };
    for taken in ["fd08::a08:ff07", "fd08::77:1", "fd08::a08:ff08", "fd08::a08:1"] {
        assert_eq!(refused(taken, &mut fixture), Err(Code::AddressTaken), "{taken}");
    }
    assert_eq!(refused("fd09::1", &mut fixture), Err(Code::InvalidInput));
}

#[test]
fn where_an_engine_numbers_its_containers_nobody_else_takes_from_outside_the_blocks() {
    let mut fixture = fixture("10.9.0.0/16");
    let numbered =
        NetworkSettings { numbered_by: Some(fixture.nodes[1]), ..NetworkSettings::default() };
    assert_eq!(fixture.as_node(2, create_with("plain", numbered.clone())), Err(Code::NotAllowed));
    let made = fixture.as_node(1, create_with("plain", numbered));
    let Ok(Reply::Network(network)) = made else { panic!("{made:?}") };
    fixture.network = network.id;
    fixture.enter(1, 1);
    fixture.enter(2, 2);

    assert!(fixture.put(1, vec![dual(fixture.endpoint(1, 1, "10.8.0.2"), "fd08::2")]).is_ok());
    assert_eq!(fixture.try_put(2, fixture.endpoint(2, 2, "10.8.0.3")), Err(Code::AddressTaken));
    assert_eq!(fixture.try_put(1, fixture.endpoint(1, 3, "10.8.254.3")), Err(Code::AddressTaken));
    assert!(fixture.put(2, vec![fixture.endpoint(2, 4, "10.8.254.3")]).is_ok());
}

#[test]
fn blocks_come_out_of_the_range_and_settings_must_fit_the_prefix() {
    let mut fixture = fixture("10.9.0.0/16");
    let address = |text: &str| text.parse().expect("an address");
    let wrong = [
        NetworkSettings { gateway: Some([10, 9, 0, 1].into()), ..NetworkSettings::default() },
        NetworkSettings { gateway: Some([10, 8, 255, 255].into()), ..NetworkSettings::default() },
        NetworkSettings { gateway6: "fd09::1".parse().ok(), ..NetworkSettings::default() },
        NetworkSettings { range: "10.9.0.0/24".parse().ok(), ..NetworkSettings::default() },
        NetworkSettings { range: "10.8.0.0/31".parse().ok(), ..NetworkSettings::default() },
        NetworkSettings {
            reserved: [("a".to_owned(), address("10.9.0.1"))].into(),
            ..NetworkSettings::default()
        },
    ];
    for settings in wrong {
        assert_eq!(
            fixture.as_node(1, create_with("ranged", settings.clone())),
            Err(Code::InvalidInput),
            "{settings:?}"
        );
    }
    let settings = NetworkSettings {
        range: "10.8.16.0/20".parse().ok(),
        reserved: [("router".to_owned(), address("10.8.31.193"))].into(),
        ..NetworkSettings::default()
    };
    let made = fixture.as_node(1, create_with("ranged", settings));
    let Ok(Reply::Network(network)) = made else { panic!("{made:?}") };
    fixture.network = network.id;

    let member = fixture.enter(1, 1);

    assert_eq!(member.blocks[0].prefix.to_string(), "10.8.31.192/26");
    assert_eq!(member.node_address(&network), Some([10, 8, 31, 194].into()));
    assert_eq!(fixture.try_put(1, fixture.endpoint(1, 1, "10.8.31.193")), Err(Code::AddressTaken));
}

#[test]
fn entering_twice_changes_nothing_and_a_new_key_replaces_the_old() {
    let mut fixture = fixture("10.9.0.0/16");
    let first = fixture.enter(1, 1);
    let revision = fixture.state.view().revision;

    assert_eq!(fixture.enter(1, 1), first);
    assert_eq!(fixture.state.view().revision, revision);
    let changed = fixture.enter(1, 2);
    assert_eq!(changed.blocks, first.blocks);
    assert_eq!(changed.lane_keys, vec![[2; 32].into()]);
}

#[test]
fn addresses_that_are_not_free_are_refused_and_nothing_of_the_call_stays() {
    let mut fixture = fixture("10.9.0.0/16");
    fixture.enter(1, 1);
    fixture.enter(2, 2);
    fixture
        .put(1, vec![fixture.endpoint(1, 1, "10.9.255.2"), fixture.endpoint(1, 2, "10.9.3.3")])
        .expect("free");
    let before = fixture.state.clone();
    let cases = [
        ("10.9.255.2", Code::AddressTaken),
        ("10.9.3.3", Code::AddressTaken),
        ("10.9.255.9", Code::AddressTaken),
        ("10.9.254.1", Code::AddressTaken),
        ("10.9.0.0", Code::AddressTaken),
        ("10.9.0.1", Code::AddressTaken),
        ("10.9.255.255", Code::AddressTaken),
        ("10.10.0.7", Code::InvalidInput),
        ("fd00::1", Code::InvalidInput),
    ];
    for (address, code) in cases {
        let rows = vec![fixture.endpoint(2, 11, "10.9.254.9"), fixture.endpoint(2, 12, address)];
        let refusal = fixture.put(2, rows).expect_err(address);
        assert_eq!(refusal.code, code, "{address}: {refusal}");
        assert_eq!(fixture.state, before, "{address}");
    }
    let twice = vec![fixture.endpoint(2, 11, "10.9.254.9"), fixture.endpoint(2, 12, "10.9.254.9")];
    assert_eq!(fixture.put(2, twice).expect_err("twice").code, Code::AddressTaken);
}

#[test]
fn addresses_may_change_hands_within_one_call() {
    let mut fixture = fixture("10.9.0.0/16");
    fixture.enter(1, 1);
    fixture
        .put(1, vec![fixture.endpoint(1, 1, "10.9.255.2"), fixture.endpoint(1, 2, "10.9.255.3")])
        .expect("free");

    fixture
        .put(1, vec![fixture.endpoint(1, 1, "10.9.255.3"), fixture.endpoint(1, 2, "10.9.255.2")])
        .expect("swapped");

    assert_eq!(fixture.state.contradiction(), None);
    assert_eq!(
        fixture.put(1, vec![fixture.endpoint(1, 3, "10.9.255.2")]).expect_err("taken").code,
        Code::AddressTaken
    );
}

#[test]
fn no_node_speaks_for_another() {
    let mut fixture = fixture("10.9.0.0/16");
    fixture.enter(1, 1);
    fixture.enter(2, 2);
    fixture.put(1, vec![fixture.endpoint(1, 1, "10.9.255.2")]).expect("free");
    let (network, theirs) = (fixture.network, EndpointId::from_random(1));

    let forged = fixture.put(2, vec![fixture.endpoint(1, 5, "10.9.255.5")]).expect_err("forged");
    assert_eq!(forged.code, Code::NotAllowed);
    let stolen = fixture.put(2, vec![fixture.endpoint(2, 1, "10.9.254.5")]).expect_err("stolen");
    assert_eq!(stolen.code, Code::NotAllowed);
    assert_eq!(
        fixture.as_node(2, Operation::RemoveEndpoints(vec![(network, theirs)])),
        Err(Code::NotAllowed)
    );
    let stranger =
        fixture.put(3, vec![fixture.endpoint(3, 6, "10.9.253.5")]).expect_err("no member");
    assert_eq!(stranger.code, Code::WrongState);
    let key_of_another = vec![[1; 32].into()];
    let enter = Operation::EnterNetwork { network, lane_keys: key_of_another, blocks: 1 };
    assert_eq!(fixture.as_node(3, enter), Err(Code::InvalidInput));
    for command in [
        Operation::RemoveNode("node2".to_owned()),
        Operation::RevokeToken(format!("{:016x}", 1)),
        Operation::RemoveNetwork { network: "net".to_owned(), force: true },
    ] {
        assert_eq!(fixture.as_node(3, command), Err(Code::NotAllowed));
    }
}

#[test]
fn a_removed_node_leaves_nothing_and_may_ask_nothing() {
    let mut fixture = fixture("10.9.0.0/16");
    fixture.enter(1, 1);
    fixture.put(1, vec![fixture.endpoint(1, 1, "10.9.255.2")]).expect("free");

    fixture.as_node(0, Operation::RemoveNode("node1".to_owned())).expect("an admin may");

    assert_eq!(fixture.state.view().endpoints.len() + fixture.state.view().members.len(), 0);
    assert_eq!(fixture.as_node(1, Operation::Leave), Err(Code::NotAllowed));
    let same_key = ask(&mut fixture.state, Actor::Operator, join_with(2, 1, "late"));
    let refused = same_key.expect_err("its key is refused with it");
    assert_eq!(refused.code, Code::NotAllowed);
    let again =
        ask(&mut fixture.state, Actor::Operator, join_with(2, 9, "node1")).expect("a new node");
    assert!(matches!(again, Reply::Joined(node) if node.id != fixture.nodes[1]));
}

#[test]
fn networks_and_memberships_in_use_stay() {
    let mut fixture = fixture("10.9.0.0/16");
    fixture.enter(1, 1);
    fixture.put(1, vec![fixture.endpoint(1, 1, "10.9.255.2")]).expect("free");
    let (network, remove) =
        (fixture.network, |force| Operation::RemoveNetwork { network: "net".to_owned(), force });

    assert_eq!(fixture.as_node(1, Operation::ExitNetwork(network)), Err(Code::InUse));
    assert_eq!(fixture.as_node(0, remove(false)), Err(Code::InUse));
    assert_eq!(fixture.as_node(0, remove(true)), Ok(Reply::Done));
    let view = fixture.state.view();
    assert_eq!(view.networks.len() + view.members.len() + view.endpoints.len(), 0);
}
