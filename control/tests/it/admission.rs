//! A network that is not for a node. Everything that a client with that node's certificate can ask
//! is in `stranger`.

use std::fmt::Debug;

use overlay_core::View;
use overlay_proto::{Code, JoinLine, Refusal, v1};

use crate::harness::{Control, Node};
use crate::policies;

/// The id of the endpoint on the hidden network.
pub(crate) const VAULT: u64 = 0xfade;

/// A cluster with a network that is for databases, with an endpoint on it, and two strangers to it.
pub(crate) struct Vault {
    control: Control,
    pub(crate) admin: Node,
    db: Node,
    /// Has the role `node`.
    pub(crate) web: Node,
    pub(crate) secret: v1::Network,
    /// The membership that it has a member by.
    pub(crate) member: v1::Member,
}

pub(crate) async fn token(admin: &Node, role: v1::Role, label: &str) -> JoinLine {
    admin
        .token(v1::CreateTokenRequest {
            role: role.into(),
            labels: [("role".to_owned(), label.to_owned())].into(),
            ..Default::default()
        })
        .await
}

pub(crate) async fn create(node: &Node, name: &str, nodes: &str) -> Result<v1::Network, Refusal> {
    let request = v1::CreateNetworkRequest {
        name: name.to_owned(),
        mode: v1::NetworkMode::L3.into(),
        settings: Some(v1::NetworkSettings { nodes: nodes.to_owned(), ..Default::default() }),
        ..Default::default()
    };

    Ok(node.client.clone().create_network(request).await?.into_inner().network.unwrap())
}

async fn set(node: &Node, name: &str, nodes: &str) -> Result<u64, Refusal> {
    let request = v1::SetNetworkRequest {
        network: name.to_owned(),
        nodes: Some(nodes.to_owned()),
        ..Default::default()
    };

    Ok(node.client.clone().set_network(request).await?.into_inner().revision)
}

async fn remove(node: &Node, name: &str) -> Result<(), Refusal> {
    let request = v1::RemoveNetworkRequest { network: name.to_owned(), force: true };
    node.client.clone().remove_network(request).await?;

    Ok(())
}

pub(crate) async fn listed(node: &Node) -> Vec<v1::NetworkState> {
    let request = v1::ListNetworksRequest {};

    node.client.clone().list_networks(request).await.unwrap().into_inner().networks
}

async fn endpoints(node: &Node, network: &str) -> Result<Vec<v1::EndpointState>, Refusal> {
    let request = v1::ListEndpointsRequest { network: network.to_owned() };

    Ok(node.client.clone().list_endpoints(request).await?.into_inner().endpoints)
}

impl Vault {
    pub(crate) async fn new() -> Self {
        let control = Control::start().await;
        let admin = control.admin().await;
        let db = Node::join(&token(&admin, v1::Role::Node, "db").await, "database1").await.unwrap();
        let web = Node::join(&token(&admin, v1::Role::Node, "web").await, "web1").await.unwrap();
        let secret = create(&admin, "secret", "role=db").await.unwrap();
        let member = db.enter(&secret).await.unwrap();
        let address = member.blocks[0].prefix.replace(".0/24", ".9");
        db.put(vec![db.endpoint(&secret, VAULT, "vault", &address)]).await.unwrap();
        policies::apply(&admin, policies::DOCUMENT).await.unwrap();

        Self { control, admin, db, web, secret, member }
    }

    /// Returns the line that the first node joined by.
    pub(crate) fn line(&self) -> JoinLine {
        self.control.line.clone()
    }

    /// Returns everything of the hidden network, as an admin sees it.
    pub(crate) async fn contents(&self) -> (v1::NetworkState, Vec<v1::EndpointState>) {
        let networks = listed(&self.admin).await;
        let state = networks.into_iter().find(|state| {
            state.network.as_ref().is_some_and(|network| network.id == self.secret.id)
        });

        (state.unwrap(), endpoints(&self.admin, "secret").await.unwrap())
    }

    /// Fails when a text tells something of the hidden network that its reader did not know.
    pub(crate) fn check_untold(&self, asked: &str, told: &impl Debug) {
        let told = format!("{told:?}");
        for mark in ["vault", "database1", &self.db.id, &self.secret.prefix] {
            assert!(!told.contains(mark), "{asked} is answered with {mark}: {told}");
        }
        for mark in ["secret", self.secret.id.as_str()] {
            assert!(
                !told.contains(mark) || asked.contains(mark),
                "{asked} is answered with {mark}: {told}"
            );
        }
    }
}

/// Invariant 12.
#[tokio::test]
async fn a_node_that_may_not_enter_a_network_gets_nothing_of_it_by_any_call() {
    let vault = Vault::new().await;
    let (web, secret) = (&vault.web, &vault.secret);
    let before = vault.contents().await;
    let code = |refusal: Refusal| refusal.code;

    let entered = web.enter(secret).await.map(drop).map_err(code);
    let row = web.endpoint(secret, VAULT, "vault", "10.64.255.9");
    let put = web.put(vec![row]).await.map(drop).map_err(code);
    let removed = remove(web, "secret").await.map_err(code);
    let opened = set(web, "secret", "").await.map(drop).map_err(code);
    let shown = endpoints(web, "secret").await.map(drop).map_err(code);
    let by_id = endpoints(web, &secret.id).await.map(drop).map_err(code);
    let created = create(web, "secret", "").await.map(drop).map_err(code);
    let mut watcher = web.watch(View::default()).await.unwrap();
    watcher.step().await.unwrap();

    assert_eq!([entered, put, removed, opened, shown, by_id], [Err(Code::NotFound); 6]);
    assert_eq!(created, Err(Code::NotAllowed));
    assert_eq!(listed(web).await, []);
    assert_eq!(endpoints(web, "").await.unwrap(), []);
    let nodes = web.client.clone().list_nodes(v1::ListNodesRequest {}).await.unwrap().into_inner();
    assert_eq!(nodes.nodes.len(), 1);
    vault.check_untold("watch", &watcher.view);
    assert_eq!(vault.contents().await, before);
}

/// Invariant 12.
#[tokio::test]
async fn watchers_see_a_network_come_and_go_with_the_nodes_that_it_is_for() {
    let vault = Vault::new().await;
    let (web, secret) = (&vault.web, &vault.secret);
    let mut watcher = web.watch(View::default()).await.unwrap();
    watcher.step().await.unwrap();
    let alone = watcher.view.clone();

    let opened = set(&vault.admin, "secret", "role in (db,web)").await.unwrap();
    watcher.reach(opened).await;
    assert_eq!((watcher.view.networks.len(), watcher.view.members.len()), (1, 0));
    web.enter(secret).await.unwrap();
    let member = &web.enter(secret).await.unwrap();
    let address = member.blocks[0].prefix.replace(".0/24", ".9");
    let put = web.put(vec![web.endpoint(secret, 7, "site", &address)]).await.unwrap();
    watcher.reach(put).await;
    assert_eq!((watcher.view.members.len(), watcher.view.endpoints.len()), (2, 2));

    let closed = set(&vault.admin, "secret", "role=db").await.unwrap();
    watcher.reach(closed).await;
    let (revision, stamp) = (watcher.view.revision, watcher.view.stamp);
    assert_eq!(watcher.view, View { revision, stamp, ..alone });
    let (network, endpoints) = vault.contents().await;
    assert_eq!((network.members, endpoints.len()), (vec!["database1".to_owned()], 1));
    assert_eq!(watcher.snapshots, 1);
}

#[tokio::test]
async fn reports_of_hosts_do_not_name_hidden_networks() {
    let vault = Vault::new().await;
    let announce = v1::AnnounceRequest {
        lane_ports: vec![51_820],
        differences: vec![v1::Difference {
            network: "secret".to_owned(),
            reason: "vault is on it".to_owned(),
        }],
        ..Default::default()
    };
    vault.db.client.clone().announce(announce).await.unwrap();
    let mut watcher = vault.web.watch(View::default()).await.unwrap();
    watcher.step().await.unwrap();

    let report = watcher.view.hosts.values().next().unwrap();

    assert_eq!(report.differences, []);
    let (network, _) = vault.contents().await;
    assert_eq!(network.differences.len(), 1);
}
