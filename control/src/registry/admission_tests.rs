//! Who may enter, see, make, change and remove which networks.

use overlay_core::{
    EndpointId, Member, Network, NetworkId, NetworkSettings, NodeId, Role, Selector,
};
use overlay_proto::{Code, Refusal};

use super::testing::*;
use super::tests::create_for;
use super::*;

/// A cluster with an admin, two hosts for databases (`db0`, `db1`), one for the web, and a worker.
struct Hosts {
    state: ClusterState,
    admin: NodeId,
    db: [NodeId; 2],
    web: NodeId,
    worker: NodeId,
}

fn hosts() -> Hosts {
    let mut state = ClusterState::new(settings());
    token(&mut state, 1, 1, Role::Admin);
    labelled_token(&mut state, 2, 2, Role::Node, &[("role", "db")]);
    labelled_token(&mut state, 3, 1, Role::Node, &[("role", "web")]);
    labelled_token(&mut state, 4, 1, Role::Worker, &[("role", "db")]);
    let mut join = |token, key, name: &str| match ask(
        &mut state,
        Actor::Operator,
        join_with(token, key, name),
    ) {
        Ok(Reply::Joined(node)) => node.id,
        other => panic!("{other:?}"),
    };
    let admin = join(1, 0, "admin");
    let db = [join(2, 1, "db0"), join(2, 2, "db1")];
    let (web, worker) = (join(3, 3, "web"), join(4, 4, "worker"));

    Hosts { state, admin, db, web, worker }
}

impl Hosts {
    fn ask(&mut self, node: NodeId, command: Operation) -> Result<Reply, Refusal> {
        ask(&mut self.state, Actor::Node(node), command)
    }

    fn code(&mut self, node: NodeId, command: Operation) -> Result<Reply, Code> {
        self.ask(node, command).map_err(|refusal| refusal.code)
    }

    fn create(&mut self, node: NodeId, name: &str, nodes: &str) -> Network {
        match self.ask(node, create_for(name, None, nodes)) {
            Ok(Reply::Network(network)) => network,
            other => panic!("{other:?}"),
        }
    }

    fn enter(&mut self, node: NodeId, network: NetworkId, key: u8) -> Member {
        match self.ask(node, enter(network, key)) {
            Ok(Reply::Member(member)) => member,
            other => panic!("{other:?}"),
        }
    }

    /// Puts an endpoint into the node's block.
    fn put(&mut self, member: &Member, id: u64) {
        let row = endpoint(member.node, member.network, id, member);
        self.ask(member.node, Operation::PutEndpoints(vec![row])).expect("it is free");
    }
}

fn enter(network: NetworkId, key: u8) -> Operation {
    Operation::EnterNetwork { network, lane_keys: vec![[key; 32].into()], blocks: 1 }
}

fn endpoint(node: NodeId, network: NetworkId, id: u64, member: &Member) -> overlay_core::Endpoint {
    let first = u32::from(member.blocks[0].prefix.network());
    let host = u32::try_from(id).expect("few endpoints") + 4;
    let address = std::net::Ipv4Addr::from_bits(first + host);

    overlay_core::Endpoint {
        name: format!("vault{id}").parse().expect("a name"),
        ..endpoint_at(network, node, EndpointId::from_random(id), address)
    }
}

fn set(network: &str, nodes: &str) -> Operation {
    Operation::SetNetwork {
        network: network.to_owned(),
        nodes: Some(nodes.parse().expect("a selector")),
        lease: None,
    }
}

fn remove(network: &str) -> Operation {
    Operation::RemoveNetwork { network: network.to_owned(), force: true }
}

/// Invariant 12.
#[test]
fn to_a_node_that_may_not_enter_a_network_it_does_not_exist() {
    let mut hosts = hosts();
    let secret = hosts.create(hosts.admin, "secret", "role=db");
    let member = hosts.enter(hosts.db[0], secret.id, 1);
    hosts.put(&member, 1);
    let before = hosts.state.clone();
    let nowhere = NetworkId::from_random(0xdead_beef);
    let (web, id) = (hosts.web, EndpointId::from_random(1));
    let row = |network| endpoint(web, network, 9, &member);

    let told = hosts.ask(web, enter(secret.id, 9)).expect_err("it is not for the web");
    let unknown = hosts.ask(web, enter(nowhere, 9)).expect_err("there is none");
    assert_eq!((told.code, unknown.code), (Code::NotFound, Code::NotFound));
    let same = told.message.replace(&secret.id.to_string(), &nowhere.to_string());
    assert_eq!(same, unknown.message);
    for network in [secret.id, nowhere] {
        let put = Operation::PutEndpoints(vec![row(network)]);
        assert_eq!(hosts.code(web, put), Err(Code::NotFound));
        let taken = overlay_core::Endpoint { id, ..row(network) };
        let put = Operation::PutEndpoints(vec![taken]);
        assert_eq!(hosts.code(web, put), Err(Code::NotFound));
        let remove = Operation::RemoveEndpoints(vec![(network, id)]);
        assert_eq!(hosts.code(web, remove), Ok(Reply::Done));
        assert_eq!(hosts.code(web, Operation::ExitNetwork(network)), Ok(Reply::Done));
    }
    for name in ["secret", &secret.id.to_string()] {
        for command in [remove(name), set(name, "")] {
            let told = hosts.ask(web, command).expect_err("it is not for the web");
            assert_eq!(told.code, Code::NotFound);
            assert!(told.message.starts_with("there is no network"), "{told}");
        }
    }
    assert_eq!(hosts.state, before);
}

#[test]
fn that_a_name_is_taken_is_all_that_is_told_of_a_hidden_network() {
    let mut hosts = hosts();
    let secret = hosts.create(hosts.db[0], "secret", "role=db");

    let told = hosts.ask(hosts.web, create_for("secret", None, "")).expect_err("taken");
    let known = hosts.ask(hosts.db[1], create_for("secret", None, "")).expect_err("taken");

    assert_eq!(told.code, Code::NotAllowed);
    assert_eq!(
        told.message,
        "the name secret is taken by a network that is not for this node; choose another name, or \
         ask an admin to let this node in"
    );
    assert_eq!(known.code, Code::NameTaken);
    assert!(known.message.contains(&secret.prefix.to_string()), "{known}");
}

/// Invariant 12.
#[test]
fn nodes_that_do_not_match_any_more_are_put_out_at_once() {
    let mut hosts = hosts();
    let network = hosts.create(hosts.admin, "shop", "");
    let [kept, _] = hosts.db;
    let members = [hosts.enter(kept, network.id, 1), hosts.enter(hosts.web, network.id, 2)];
    members.iter().zip(1..).for_each(|(member, id)| hosts.put(member, id));
    let revision = hosts.state.view().revision;

    hosts.ask(hosts.admin, set("shop", "role=db")).expect("an admin may");

    let view = hosts.state.view();
    assert_eq!(view.revision, revision.next());
    assert_eq!(view.members.keys().collect::<Vec<_>>(), [&(network.id, kept)]);
    assert_eq!(
        view.endpoints.keys().collect::<Vec<_>>(),
        [&(network.id, EndpointId::from_random(1))]
    );
    assert_eq!(hosts.state.contradiction(), None);
    assert_eq!(hosts.code(hosts.web, enter(network.id, 2)), Err(Code::NotFound));
    // Its block is free.
    let next = hosts.enter(hosts.db[1], network.id, 3);
    assert_eq!(next.blocks[0].prefix, members[1].blocks[0].prefix);
    hosts.ask(hosts.admin, set("shop", "")).expect("an admin may");
    hosts.enter(hosts.web, network.id, 2);
}

#[test]
fn setting_what_is_set_already_changes_nothing() {
    let mut hosts = hosts();
    hosts.create(hosts.admin, "shop", "role in (web,db)");
    let before = hosts.state.clone();

    let same = hosts.ask(hosts.admin, set("shop", "role in (db, web)"));

    assert!(matches!(same, Ok(Reply::Network(network)) if network.name.as_str() == "shop"));
    assert_eq!(hosts.state, before);
}

#[test]
fn who_may_enter_a_network_is_said_by_the_node_that_made_it_and_by_admins() {
    let mut hosts = hosts();
    let (one, other) = (hosts.db[0], hosts.db[1]);
    let network = hosts.create(one, "shop", "");
    assert_eq!(network.creator.map(|by| (by.node, by.name.to_string())), Some((one, "db0".into())));
    ask(&mut hosts.state, Actor::Operator, create_for("ops", None, "")).expect("the operator may");

    let told = hosts.ask(other, set("shop", "role=db")).expect_err("it is of another");
    assert_eq!(told.code, Code::NotAllowed);
    assert_eq!(
        told.message,
        "network shop was made on node db0; say there, or on an admin node, who may enter it"
    );
    let told = hosts.ask(one, set("ops", "role=db")).expect_err("it is the operator's");
    assert!(told.message.starts_with("network ops was made by an admin;"), "{told}");
    assert!(hosts.ask(one, set("shop", "role=db")).is_ok());
    assert!(hosts.ask(hosts.admin, set("shop", "role=web")).is_ok());
    assert_eq!(hosts.code(one, remove("shop")), Err(Code::NotFound), "it is not for it any more");
    assert_eq!(hosts.code(hosts.admin, remove("shop")), Ok(Reply::Done));
}

#[test]
fn a_node_removes_networks_that_are_for_it_while_no_other_is_on_them() {
    let mut hosts = hosts();
    let (one, other) = (hosts.db[0], hosts.db[1]);
    let network = hosts.create(one, "shop", "role=db");
    let member = hosts.enter(one, network.id, 1);
    hosts.put(&member, 1);

    assert_eq!(hosts.code(hosts.web, remove("shop")), Err(Code::NotFound), "it is not for it");
    assert!(hosts.code(other, remove("shop")).is_err(), "a container is on it");
    hosts.create(one, "idle", "role=db");
    assert_eq!(hosts.code(other, remove("idle")), Ok(Reply::Done), "as with Docker's own");
}

#[test]
fn a_worker_uses_networks_and_makes_changes_and_removes_none() {
    let mut hosts = hosts();
    let network = hosts.create(hosts.admin, "shop", "role=db");

    for command in [create_for("own", None, ""), set("shop", ""), remove("shop")] {
        let told = hosts.ask(hosts.worker, command).expect_err("it is a worker");
        assert_eq!(told.code, Code::NotAllowed);
        assert!(told.message.starts_with("node worker has the role worker, which"), "{told}");
    }
    let told = hosts.ask(hosts.worker, Operation::RevokeToken("x".into())).expect_err("a worker");
    assert!(told.message.contains("has the role worker, and this needs the role admin"), "{told}");
    let member = hosts.enter(hosts.worker, network.id, 1);
    hosts.put(&member, 1);
}

#[test]
fn only_an_admin_makes_networks_that_it_may_not_enter() {
    let mut hosts = hosts();
    hosts.create(hosts.admin, "vault", "role=db");
    hosts.create(hosts.web, "own", "");

    for command in [create_for("other", None, "role=db"), set("own", "role!=web")] {
        let told = hosts.ask(hosts.web, command).expect_err("it would not see it");
        assert_eq!(told.code, Code::NotAllowed);
        assert!(told.message.contains("node web does not match it"), "{told}");
    }
}

#[test]
fn the_host_whose_engine_gives_out_addresses_stays_in() {
    let mut hosts = hosts();
    let origin = hosts.web;
    let numbered = |nodes: &str| {
        let Operation::CreateNetwork(create) = create_for("plain", Some("10.8.0.0/16"), nodes)
        else {
            unreachable!("it creates a network")
        };
        let settings = NetworkSettings { numbered_by: Some(origin), ..create.settings };
        Operation::CreateNetwork(CreateNetwork { settings, ..create })
    };
    hosts.ask(origin, numbered("")).expect("it is for all");

    let told = hosts.ask(hosts.admin, set("plain", "role=db")).expect_err("the origin is needed");

    assert_eq!(told.code, Code::WrongState);
    assert!(
        told.message.contains("node web does not match it, and its container engine"),
        "{told}"
    );
    assert!(hosts.ask(hosts.admin, set("plain", "role=web")).is_ok());
}

#[test]
fn container_engines_know_no_two_networks_by_one_name() {
    let mut hosts = hosts();
    let titled = |name: &str, title: &str| {
        let Operation::CreateNetwork(create) = create_for(name, None, "") else {
            unreachable!("it creates a network")
        };
        let settings = NetworkSettings { title: Some(title.into()), ..create.settings };
        Operation::CreateNetwork(CreateNetwork { settings, ..create })
    };
    hosts.create(hosts.db[0], "secret", "role=db");
    hosts.ask(hosts.web, titled("my-net", "My.Net")).expect("it is new");

    let told = hosts.ask(hosts.web, titled("other", "My.Net")).expect_err("it is taken");
    assert_eq!(told.code, Code::NameTaken);
    assert!(told.message.contains("know network my-net as \"My.Net\" already"), "{told}");
    let hidden = hosts.ask(hosts.web, titled("other", "secret")).expect_err("it is taken");
    assert_eq!(hidden.code, Code::NotAllowed);
    assert!(!hidden.message.contains("secret"), "{hidden}");
}

#[test]
fn a_store_in_which_a_node_is_where_it_may_not_be_is_refused() {
    let mut hosts = hosts();
    let network = hosts.create(hosts.admin, "shop", "");
    hosts.enter(hosts.web, network.id, 1);
    let mut closed = network;
    closed.settings.nodes = "role=db".parse::<Selector>().expect("a selector");

    hosts.state.commit([Record::Row(overlay_core::Change::Network(closed))]);

    assert_eq!(hosts.state.contradiction(), Some(Contradiction::BarredMember));
}
