//! A network that is not for a node, and everything that a client with that node's certificate can
//! ask.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use overlay_core::View;
use overlay_proto::{Code, Refusal, v1};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tonic::{Response, Status};

use crate::harness::{Control, Node};
use crate::policies;

/// Random requests; each is one round trip.
const REQUESTS: usize = 10_000;
/// The id of the endpoint on the hidden network.
const VAULT: u64 = 0xfade;
/// The seed of the requests; another one finds other orders.
const SEED: u64 = 13;

/// A cluster with a network that is for databases, with an endpoint on it, and two strangers to it.
struct Vault {
    _control: Control,
    admin: Node,
    db: Node,
    /// Has the role `node`.
    web: Node,
    secret: v1::Network,
}

async fn token(admin: &Node, role: v1::Role, label: &str) -> overlay_proto::JoinLine {
    admin
        .token(v1::CreateTokenRequest {
            role: role.into(),
            labels: [("role".to_owned(), label.to_owned())].into(),
            ..Default::default()
        })
        .await
}

async fn create(node: &Node, name: &str, nodes: &str) -> Result<v1::Network, Refusal> {
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

async fn listed(node: &Node) -> Vec<v1::NetworkState> {
    let request = v1::ListNetworksRequest {};

    node.client.clone().list_networks(request).await.unwrap().into_inner().networks
}

async fn endpoints(node: &Node, network: &str) -> Result<Vec<v1::EndpointState>, Refusal> {
    let request = v1::ListEndpointsRequest { network: network.to_owned() };

    Ok(node.client.clone().list_endpoints(request).await?.into_inner().endpoints)
}

impl Vault {
    async fn new() -> Self {
        let control = Control::start().await;
        let admin = control.admin().await;
        let db = Node::join(&token(&admin, v1::Role::Node, "db").await, "database1").await.unwrap();
        let web = Node::join(&token(&admin, v1::Role::Node, "web").await, "web1").await.unwrap();
        let secret = create(&admin, "secret", "role=db").await.unwrap();
        let member = db.enter(&secret).await.unwrap();
        let address = member.blocks[0].prefix.replace(".0/24", ".9");
        db.put(vec![db.endpoint(&secret, VAULT, "vault", &address)]).await.unwrap();
        policies::apply(&admin, policies::DOCUMENT).await.unwrap();

        Self { _control: control, admin, db, web, secret }
    }

    /// Returns everything of the hidden network, as an admin sees it.
    async fn contents(&self) -> (v1::NetworkState, Vec<v1::EndpointState>) {
        let networks = listed(&self.admin).await;
        let state = networks.into_iter().find(|state| {
            state.network.as_ref().is_some_and(|network| network.id == self.secret.id)
        });

        (state.unwrap(), endpoints(&self.admin, "secret").await.unwrap())
    }

    /// Fails when a text tells something of the hidden network that its reader did not know.
    fn check_untold(&self, asked: &str, told: &impl Debug) {
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

/// What control must answer the stranger, computed beside it: the networks that are not hidden, and
/// what the stranger has on them.
#[derive(Default)]
struct Model {
    /// Whether the stranger made each network.
    networks: BTreeMap<String, bool>,
    entered: BTreeSet<String>,
}

impl Model {
    fn create(&mut self, name: &str) -> Result<(), Code> {
        match name {
            "secret" => Err(Code::NotAllowed),
            name if self.networks.contains_key(name) => Err(Code::NameTaken),
            name => {
                self.networks.insert(name.to_owned(), true);
                Ok(())
            }
        }
    }

    fn change(&self, name: &str) -> Result<(), Code> {
        match self.networks.get(name) {
            None => Err(Code::NotFound),
            Some(false) => Err(Code::NotAllowed),
            Some(true) => Ok(()),
        }
    }

    /// Only the admin's network has an endpoint, which is the admin's.
    fn remove(&mut self, name: &str, force: bool) -> Result<(), Code> {
        match self.networks.get(name) {
            None => return Err(Code::NotFound),
            Some(false) => return Err(if force { Code::NotAllowed } else { Code::InUse }),
            Some(true) => {}
        }
        self.networks.remove(name);
        self.entered.remove(name);

        Ok(())
    }

    fn enter(&mut self, name: &str) -> Result<(), Code> {
        self.known(name)?;
        self.entered.insert(name.to_owned());

        Ok(())
    }

    fn known(&self, name: &str) -> Result<(), Code> {
        if self.networks.contains_key(name) { Ok(()) } else { Err(Code::NotFound) }
    }
}

/// The stranger, with what it knows of networks.
struct Stranger<'a> {
    vault: &'a Vault,
    ids: BTreeMap<String, v1::Network>,
    model: Model,
    rng: StdRng,
}

/// What names the stranger uses: the hidden network, one of the admin's for all, its own, and one
/// that nobody has.
const NAMES: [&str; 5] = ["secret", "open", "own0", "own1", "nothing"];

impl Stranger<'_> {
    fn name(&mut self) -> &'static str {
        NAMES[self.rng.random_range(0..NAMES.len())]
    }

    fn network(&self, name: &str) -> v1::Network {
        let unknown = v1::Network { id: "00000000dead".to_owned(), ..Default::default() };

        self.ids.get(name).cloned().unwrap_or(unknown)
    }

    /// Notes an answer; returns its code.
    fn heard<T: Debug>(&self, asked: &str, answer: Result<Response<T>, Status>) -> Result<T, Code> {
        let answer = answer.map(Response::into_inner).map_err(Refusal::from);
        self.vault.check_untold(asked, &answer);

        answer.map_err(|refusal| refusal.code)
    }

    /// Makes one request, and compares the answer with the model's.
    async fn ask(&mut self) {
        let name = self.name();
        let network = self.network(name);
        let call = self.rng.random_range(0..17);
        match call {
            0..=2 => self.change(call, name, network).await,
            3..=7 => self.take_part(call, name, network).await,
            8..=10 => self.list(call, name, network).await,
            11..=14 => self.administer(call).await,
            _ => self.say(call, name, network).await,
        }
    }

    /// Returns how a request calls a network: by its name or its id.
    fn called(&mut self, name: &str, network: &v1::Network) -> String {
        if self.rng.random() { name.to_owned() } else { network.id.clone() }
    }

    async fn change(&mut self, call: u32, name: &str, network: v1::Network) {
        let mut client = self.vault.web.client.clone();
        let (text, asked) = (self.called(name, &network), format!("{name} {}", network.id));
        match call {
            0 => {
                let secret = self.vault.secret.id.clone();
                let request = v1::CreateNetworkRequest {
                    name: name.to_owned(),
                    mode: v1::NetworkMode::L3.into(),
                    id: if self.rng.random() { secret } else { String::new() },
                    ..Default::default()
                };
                let made = self.heard(&asked, client.create_network(request).await);
                assert_eq!(made.as_ref().map(drop).map_err(|code| *code), self.model.create(name));
                if let Some(network) = made.ok().and_then(|made| made.network) {
                    self.ids.insert(name.to_owned(), network);
                }
            }
            1 => {
                let force = self.rng.random();
                let request = v1::RemoveNetworkRequest { network: text, force };
                let removed = self.heard(&asked, client.remove_network(request).await);
                if removed.is_ok() {
                    self.ids.remove(name);
                }
                assert_eq!(removed.map(drop), self.model.remove(name, force), "{name}");
            }
            _ => {
                let request = v1::SetNetworkRequest {
                    network: text,
                    nodes: Some(String::new()),
                    ..Default::default()
                };
                let changed = self.heard(&asked, client.set_network(request).await);
                assert_eq!(changed.map(drop), self.model.change(name), "{name}");
            }
        }
    }

    async fn take_part(&mut self, call: u32, name: &str, network: v1::Network) {
        let (web, asked) = (&self.vault.web, format!("{name} {}", network.id));
        let mut client = web.client.clone();
        match call {
            3 | 4 => {
                let request = v1::EnterNetworkRequest {
                    network: network.id.clone(),
                    lane_keys: vec![vec![self.rng.random_range(1..255); 32]],
                    blocks: 1,
                };
                let entered = self.heard(&asked, client.enter_network(request).await);
                assert_eq!(entered.map(drop), self.model.enter(name), "{name}");
            }
            5 => {
                let request = v1::ExitNetworkRequest { network: network.id.clone() };
                let left = self.heard(&asked, client.exit_network(request).await);
                assert_eq!(left.map(drop), Ok(()));
                self.model.entered.remove(name);
            }
            6 => {
                // Not an address of the network, so that nothing comes of it where it may be.
                let row = web.endpoint(&network, self.rng.random_range(1..9), "vault", "1.2.3.4");
                let request = v1::PutEndpointsRequest { endpoints: vec![row] };
                let put = self.heard(&asked, client.put_endpoints(request).await);
                let expected = match self.model.known(name) {
                    Err(code) => code,
                    Ok(()) if self.model.entered.contains(name) => Code::InvalidInput,
                    Ok(()) => Code::WrongState,
                };
                assert_eq!(put.map(drop), Err(expected), "{name}");
            }
            _ => {
                let endpoint = format!("{VAULT:012x}");
                let key = v1::EndpointKey { network: network.id.clone(), endpoint };
                let request = v1::RemoveEndpointsRequest { endpoints: vec![key] };
                let gone = self.heard(&asked, client.remove_endpoints(request).await);
                assert_eq!(gone.map(drop), Ok(()));
            }
        }
    }

    async fn list(&mut self, call: u32, name: &str, network: v1::Network) {
        let mut client = self.vault.web.client.clone();
        match call {
            8 => {
                let request = v1::ListEndpointsRequest { network: self.called(name, &network) };
                let asked = format!("{name} {}", network.id);
                let list = self.heard(&asked, client.list_endpoints(request).await);
                let endpoints = self
                    .model
                    .known(name)
                    .map(|()| usize::from(name == "open" && self.model.entered.contains(name)));
                assert_eq!(list.map(|list| list.endpoints.len()), endpoints, "{name}");
            }
            9 => {
                let list = client.list_networks(v1::ListNetworksRequest {}).await;
                let list = self.heard("networks", list).unwrap().networks;
                let names = list.into_iter().filter_map(|state| Some(state.network?.name));
                assert!(names.collect::<BTreeSet<_>>().iter().eq(self.model.networks.keys()));
            }
            _ => {
                let list = client.list_nodes(v1::ListNodesRequest {}).await;
                let members = 1 + usize::from(self.model.entered.contains("open"));
                assert_eq!(self.heard("nodes", list).unwrap().nodes.len(), members);
            }
        }
    }

    async fn administer(&self, call: u32) {
        let mut client = self.vault.web.client.clone();
        let refused = match call {
            11 => {
                let request = v1::RemoveNodeRequest { node: "database1".to_owned() };
                self.heard("remove", client.remove_node(request).await).map(drop)
            }
            12 => {
                let request = v1::CreateTokenRequest {
                    role: v1::Role::Admin.into(),
                    labels: [("role".to_owned(), "db".to_owned())].into(),
                    ..Default::default()
                };
                // The answer holds a secret, and is not printed.
                let token = client.create_token(request).await.map(|token| token.map(drop));
                self.heard("create token", token)
            }
            13 => {
                let list = client.list_tokens(v1::ListTokensRequest {}).await;
                self.heard("tokens", list).map(drop)
            }
            _ => {
                let request = v1::RevokeTokenRequest { id: "00000000deadbeef".to_owned() };
                self.heard("revoke", client.revoke_token(request).await).map(drop)
            }
        };

        assert_eq!(refused, Err(Code::NotAllowed));
    }

    async fn say(&mut self, call: u32, name: &str, network: v1::Network) {
        let mut client = self.vault.web.client.clone();
        if call == 15 {
            let request = v1::AnnounceRequest {
                lane_ports: vec![self.rng.random_range(1..9)],
                differences: vec![v1::Difference {
                    network: name.to_owned(),
                    reason: "none".to_owned(),
                }],
                ..Default::default()
            };
            let asked = format!("{name} {}", network.id);
            assert!(self.heard(&asked, client.announce(request).await).is_ok());
        } else {
            let confirm = v1::ConfirmRequest { instance: "stranger".to_owned() };
            assert!(self.heard("confirm", client.confirm(confirm).await).is_ok());
            let policy = client.show_policy(v1::ShowPolicyRequest::default()).await;
            assert!(self.heard("policy", policy).is_ok());
            assert!(self.heard("version", client.version(v1::VersionRequest {}).await).is_ok());
        }
    }
}

/// Invariant 12.
#[tokio::test]
async fn ten_thousand_requests_of_a_stranger_show_and_change_nothing_of_a_network() {
    let vault = Vault::new().await;
    let open = create(&vault.admin, "open", "").await.unwrap();
    let member = vault.admin.enter(&open).await.unwrap();
    let address = member.blocks[0].prefix.replace(".0/24", ".9");
    let endpoint = vault.admin.endpoint(&open, 99, "shop", &address);
    vault.admin.put(vec![endpoint]).await.unwrap();
    let before = vault.contents().await;
    let mut watcher = vault.web.watch(View::default()).await.unwrap();
    let model =
        Model { networks: BTreeMap::from([("open".to_owned(), false)]), ..Model::default() };
    let ids = [("secret", &vault.secret), ("open", &open)];
    let ids = ids.map(|(name, network)| (name.to_owned(), network.clone()));
    let mut stranger =
        Stranger { vault: &vault, ids: ids.into(), model, rng: StdRng::seed_from_u64(SEED) };

    for _ in 0..REQUESTS {
        stranger.ask().await;
    }

    // The last change that the stranger may see.
    let last = create(&vault.admin, "last", "").await.unwrap();
    while !watcher.view.networks.keys().any(|id| id.to_string() == last.id) {
        watcher.step().await.unwrap();
        vault.check_untold("watch", &watcher.view);
    }
    let model = stranger.model;
    let mut names: BTreeSet<_> = model.networks.into_keys().collect();
    names.extend(["secret", "last"].map(str::to_owned));
    let there = listed(&vault.admin).await;
    let mut entered = BTreeSet::new();
    let mut all = BTreeSet::new();
    for state in there {
        let name = state.network.unwrap().name;
        if state.members.contains(&"web1".to_owned()) {
            entered.insert(name.clone());
        }
        all.insert(name);
    }
    assert_eq!((all, entered), (names, model.entered));
    assert_eq!(vault.contents().await, before);
}
