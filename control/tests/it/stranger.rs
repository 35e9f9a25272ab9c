//! A node to which a network is hidden asks everything that there is to ask, at random.

mod call;
mod model;
mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use overlay_core::View;
use overlay_proto::v1::control_client::ControlClient;
use overlay_proto::{Code, Refusal, v1};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rcgen::KeyPair;
use tonic::transport::Channel;
use tonic::{Response, Status};

use self::call::Call;
use self::model::Model;
use self::seen::{links, others};
use crate::admission::{VAULT, Vault, create, listed, token};
use crate::harness::{Node, Watcher, ask_to_join, csr};
use crate::policies;

/// Random requests; each is one round trip or more.
const REQUESTS: usize = 10_000;
/// The seed of the requests; another one finds other orders.
const SEED: u64 = 13;
/// How often a slow call is asked, compared with another one.
const SLOW: f64 = 0.1;

/// The stranger, with what it knows of networks.
struct Stranger<'a> {
    vault: &'a Vault,
    ids: BTreeMap<String, v1::Network>,
    model: Model,
    rng: StdRng,
    watcher: Watcher,
    /// The tokens by which others came and went.
    tokens: BTreeSet<String>,
    asked: BTreeMap<Call, usize>,
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

    /// Chooses what a request calls a network: its name or its id.
    fn called(&mut self, name: &str, network: &v1::Network) -> String {
        if self.rng.random() { name.to_owned() } else { network.id.clone() }
    }

    fn client(&self) -> ControlClient<Channel> {
        self.vault.web.client.clone()
    }

    /// Notes an answer; returns its code.
    fn heard<T: Debug>(&self, asked: &str, answer: Result<Response<T>, Status>) -> Result<T, Code> {
        let answer = answer.map(Response::into_inner).map_err(Refusal::from);
        self.vault.check_untold(asked, &answer);

        answer.map_err(|refusal| refusal.code)
    }

    /// Checks the answer to a call that is for admins.
    fn refused<T: Debug>(&self, asked: &str, answer: Result<Response<T>, Status>) {
        assert_eq!(self.heard(asked, answer).map(drop), Err(Code::NotAllowed), "{asked}");
    }

    /// Chooses a call.
    fn call(&mut self) -> Call {
        loop {
            let call = Call::ALL[self.rng.random_range(0..Call::ALL.len())];
            if !call.is_slow() || self.rng.random_bool(SLOW) {
                return call;
            }
        }
    }

    /// Makes one request, and compares the answer with the model's.
    async fn ask(&mut self) {
        let (call, name) = (self.call(), self.name());
        let network = self.network(name);
        *self.asked.entry(call).or_default() += 1;
        match call {
            Call::Join => self.join().await,
            Call::Watch => self.follow().await,
            Call::Report => self.report(network).await,
            Call::Renew => self.renew().await,
            Call::Confirm => self.confirm().await,
            Call::TellRevocations => self.tell_revocations().await,
            Call::Announce => self.announce(name, network).await,
            Call::Leave => self.leave().await,
            Call::CreateNetwork => self.create(name, network).await,
            Call::SetNetwork => self.set(name, network).await,
            Call::LinkNetworks => self.link(name, network).await,
            Call::UnlinkNetworks => self.unlink(name, network).await,
            Call::RemoveNetwork => self.remove(name, network).await,
            Call::EnterNetwork => self.enter(name, network).await,
            Call::ExitNetwork => self.exit(name, network).await,
            Call::PutEndpoints => self.put(name, network).await,
            Call::RemoveEndpoints => self.withdraw(name, network).await,
            Call::ListNodes => self.list_nodes().await,
            Call::ListNetworks => self.list_networks().await,
            Call::ListEndpoints => self.list_endpoints(name, network).await,
            Call::ShowPolicy => self.show_policy().await,
            Call::Version => {
                let version = self.client().version(v1::VersionRequest {}).await;
                assert!(self.heard("version", version).is_ok());
            }
            Call::CreateToken => self.create_token().await,
            Call::ListTokens => {
                let answer = self.client().list_tokens(v1::ListTokensRequest {}).await;
                self.refused("tokens", answer);
            }
            Call::RevokeToken => self.revoke_token().await,
            Call::RemoveNode => self.remove_node().await,
            Call::ApplyPolicy => self.apply_policy().await,
            Call::RollbackPolicy => self.roll_back().await,
            Call::ListPolicies => {
                let answer = self.client().list_policies(v1::ListPoliciesRequest {}).await;
                self.refused("policies", answer);
            }
            Call::ListAudit => {
                let answer = self.client().list_audit(v1::ListAuditRequest::default()).await;
                self.refused("audit", answer);
            }
        }
    }

    /// Joins as another node, with a token that nobody made.
    async fn join(&mut self) {
        let mut line = self.vault.line();
        line.token_id = format!("{:016x}", self.rng.random::<u64>());
        let answer = ask_to_join(&line, "database2", &KeyPair::generate().unwrap()).await;

        self.vault.check_untold("join", &answer);
        assert_eq!(answer.map(drop).map_err(|refusal| refusal.code), Err(Code::TokenRefused));
    }

    /// Has another node with the same labels come and go; it is none then.
    async fn leave(&mut self) {
        let line = token(&self.vault.admin, v1::Role::Node, "web").await;
        let node = Node::join(&line, "passer-by").await.unwrap();
        let mut client = node.client.clone();

        let left = self.heard("leave", client.leave(v1::LeaveRequest {}).await);
        let after = client.list_networks(v1::ListNetworksRequest {}).await;

        assert!(left.is_ok(), "{left:?}");
        assert!(self.heard("networks", after).is_err());
        self.tokens.insert(line.token_id);
    }

    /// Opens its watch again, from nothing or where it stands, and follows until it sees what the
    /// model has.
    async fn follow(&mut self) {
        let (vault, known) = (self.vault, self.known());
        let from = if self.rng.random() { View::default() } else { self.watcher.view.clone() };
        let snapshots = usize::from(from == View::default());
        let mut watcher = vault.web.watch(from).await.unwrap();
        let is_there = |watcher: &Watcher| {
            let names = watcher.view.networks.values().map(|network| network.name.to_string());
            watcher.snapshots >= snapshots && names.collect::<BTreeSet<_>>() == known
        };
        while !is_there(&watcher) {
            assert!(watcher.step().await.unwrap(), "the watch ended");
            vault.check_untold("watch", &watcher.view);
        }
        self.watcher = watcher;
    }

    /// Returns the names of the networks that it may know of.
    fn known(&self) -> BTreeSet<String> {
        self.model.networks.keys().cloned().collect()
    }

    /// Tells that it is in a network, with the keys, the block and the endpoint of another node
    /// there. Nobody has asked, so nothing comes of it.
    async fn report(&mut self, network: v1::Network) {
        let asked = format!("secret {}", network.id);
        let member = v1::Member { network: network.id.clone(), ..self.vault.member.clone() };
        let endpoint = v1::ReportedEndpoint {
            network: network.id,
            endpoint: format!("{VAULT:012x}"),
            addresses: vec![member.blocks[0].prefix.replace(".0/24", ".9")],
        };
        let request = v1::ReportRequest {
            lineage: String::new(),
            revision: self.rng.random_range(0..9),
            members: vec![member],
            endpoints: vec![endpoint],
        };
        let answer = self.client().report(request).await;

        assert!(self.heard(&asked, answer).is_ok());
    }

    /// Asks for a certificate: for its key, or for none.
    async fn renew(&mut self) {
        let is_whole = self.rng.random();
        let csr = if is_whole { csr(&self.vault.web.key) } else { b"secret".to_vec() };
        let answer = self.client().renew(v1::RenewRequest { csr }).await;

        let renewed = self.heard("renew", answer).map(drop);
        assert_eq!(renewed, if is_whole { Ok(()) } else { Err(Code::InvalidInput) });
    }

    async fn confirm(&mut self) {
        let confirm = v1::ConfirmRequest { instance: "stranger".to_owned() };
        let answer = self.client().confirm(confirm).await;

        assert!(self.heard("confirm", answer).is_ok());
    }

    /// Tells of a removal that nobody signed.
    async fn tell_revocations(&mut self) {
        let forged = (0..self.rng.random_range(0..200)).map(|_| self.rng.random()).collect();
        let request = v1::TellRevocationsRequest { signed: vec![forged] };
        let answer = self.client().tell_revocations(request).await;

        assert_eq!(self.heard("revocations", answer).map(|told| told.added), Ok(0));
    }

    async fn announce(&mut self, name: &str, network: v1::Network) {
        let difference = v1::Difference { network: name.to_owned(), reason: "none".to_owned() };
        let request = v1::AnnounceRequest {
            lane_ports: vec![self.rng.random_range(1..9)],
            differences: vec![difference],
            ..Default::default()
        };
        let answer = self.client().announce(request).await;

        assert!(self.heard(&format!("{name} {}", network.id), answer).is_ok());
    }

    async fn create(&mut self, name: &str, network: v1::Network) {
        let asked = format!("{name} {}", network.id);
        let secret = self.vault.secret.id.clone();
        let request = v1::CreateNetworkRequest {
            name: name.to_owned(),
            mode: v1::NetworkMode::L3.into(),
            id: if self.rng.random() { secret } else { String::new() },
            ..Default::default()
        };
        let answer = self.client().create_network(request).await;

        let made = self.heard(&asked, answer);
        assert_eq!(made.as_ref().map(drop).map_err(|code| *code), self.model.create(name));
        if let Some(network) = made.ok().and_then(|made| made.network) {
            self.ids.insert(name.to_owned(), network);
        }
    }

    async fn set(&mut self, name: &str, network: v1::Network) {
        let request = v1::SetNetworkRequest {
            network: self.called(name, &network),
            nodes: Some(String::new()),
            ..Default::default()
        };
        let answer = self.client().set_network(request).await;

        let changed = self.heard(&format!("{name} {}", network.id), answer);
        assert_eq!(changed.map(drop), self.model.change(name), "{name}");
    }

    /// Chooses another network, or the same one; returns its name and what it is called.
    fn other(&mut self) -> (&'static str, String) {
        let name = self.name();
        let network = self.network(name);
        let called = self.called(name, &network);

        (name, called)
    }

    async fn link(&mut self, name: &str, network: v1::Network) {
        let (other, called) = self.other();
        let asked = format!("{name} {} {other} {called}", network.id);
        let accesses = [v1::LinkAccess::Defaults, v1::LinkAccess::PolicyOnly];
        let access = accesses[self.rng.random_range(0..2)].into();
        let one = self.called(name, &network);
        let request = v1::LinkNetworksRequest { one, other: called, access };
        let answer = self.client().link_networks(request).await;

        let linked = self.heard(&asked, answer);
        assert_eq!(linked.map(drop), self.model.link(name, other), "{name} {other}");
    }

    async fn unlink(&mut self, name: &str, network: v1::Network) {
        let (other, called) = self.other();
        let asked = format!("{name} {} {other} {called}", network.id);
        let one = self.called(name, &network);
        let request = v1::UnlinkNetworksRequest { one, other: called };
        let answer = self.client().unlink_networks(request).await;

        let unlinked = self.heard(&asked, answer);
        assert_eq!(unlinked.map(drop), self.model.unlink(name, other), "{name} {other}");
    }

    async fn remove(&mut self, name: &str, network: v1::Network) {
        let (called, force) = (self.called(name, &network), self.rng.random());
        let request = v1::RemoveNetworkRequest { network: called, force };
        let answer = self.client().remove_network(request).await;

        let removed = self.heard(&format!("{name} {}", network.id), answer);
        if removed.is_ok() {
            self.ids.remove(name);
        }
        assert_eq!(removed.map(drop), self.model.remove(name, force), "{name}");
    }

    async fn enter(&mut self, name: &str, network: v1::Network) {
        let request = v1::EnterNetworkRequest {
            network: network.id.clone(),
            lane_keys: vec![vec![self.rng.random_range(1..255); 32]],
            blocks: 1,
        };
        let answer = self.client().enter_network(request).await;

        let entered = self.heard(&format!("{name} {}", network.id), answer);
        assert_eq!(entered.map(drop), self.model.enter(name), "{name}");
    }

    async fn exit(&mut self, name: &str, network: v1::Network) {
        let request = v1::ExitNetworkRequest { network: network.id.clone() };
        let answer = self.client().exit_network(request).await;

        let left = self.heard(&format!("{name} {}", network.id), answer);
        assert_eq!(left.map(drop), Ok(()));
        self.model.entered.remove(name);
    }

    /// Publishes an endpoint with an address that is not the network's, so that nothing comes of it
    /// where it may be.
    async fn put(&mut self, name: &str, network: v1::Network) {
        let id = self.rng.random_range(1..9);
        let row = self.vault.web.endpoint(&network, id, "vault", "1.2.3.4");
        let request = v1::PutEndpointsRequest { endpoints: vec![row] };
        let answer = self.client().put_endpoints(request).await;

        let put = self.heard(&format!("{name} {}", network.id), answer);
        let expected = match self.model.known(name) {
            Err(code) => code,
            Ok(()) if self.model.entered.contains(name) => Code::InvalidInput,
            Ok(()) => Code::WrongState,
        };
        assert_eq!(put.map(drop), Err(expected), "{name}");
    }

    async fn withdraw(&mut self, name: &str, network: v1::Network) {
        let endpoint = format!("{VAULT:012x}");
        let key = v1::EndpointKey { network: network.id.clone(), endpoint };
        let request = v1::RemoveEndpointsRequest { endpoints: vec![key] };
        let answer = self.client().remove_endpoints(request).await;

        let gone = self.heard(&format!("{name} {}", network.id), answer);
        assert_eq!(gone.map(drop), Ok(()));
    }

    async fn list_nodes(&mut self) {
        let answer = self.client().list_nodes(v1::ListNodesRequest {}).await;

        let members = 1 + usize::from(self.model.entered.contains("open"));
        assert_eq!(self.heard("nodes", answer).unwrap().nodes.len(), members);
    }

    async fn list_networks(&mut self) {
        let request = v1::ListNetworksRequest {};
        let answer = self.client().list_networks(request).await;

        let list = self.heard("networks", answer).unwrap().networks;
        assert_eq!(links(&list), self.model.links);
        let names = list.into_iter().filter_map(|state| Some(state.network?.name));
        assert_eq!(names.collect::<BTreeSet<_>>(), self.known());
    }

    async fn list_endpoints(&mut self, name: &str, network: v1::Network) {
        let request = v1::ListEndpointsRequest { network: self.called(name, &network) };
        let answer = self.client().list_endpoints(request).await;

        let list = self.heard(&format!("{name} {}", network.id), answer);
        let has_one = name == "open" && self.model.entered.contains(name);
        let expected = self.model.known(name).map(|()| usize::from(has_one));
        assert_eq!(list.map(|list| list.endpoints.len()), expected, "{name}");
    }

    /// Asks for the live policy, of which it sees its part, or for an earlier one.
    async fn show_policy(&mut self) {
        let revision = self.rng.random::<bool>().then_some(1);
        let request = v1::ShowPolicyRequest { revision };
        let answer = self.client().show_policy(request).await;

        match revision {
            Some(_) => self.refused("policy", answer),
            None => assert!(self.heard("policy", answer).is_ok_and(|shown| shown.partial)),
        }
    }

    async fn create_token(&mut self) {
        let request = v1::CreateTokenRequest {
            role: v1::Role::Admin.into(),
            labels: [("role".to_owned(), "db".to_owned())].into(),
            ..Default::default()
        };
        // The answer holds a secret, and is not printed.
        let token = self.client().create_token(request).await.map(|token| token.map(drop));

        self.refused("create token", token);
    }

    async fn revoke_token(&mut self) {
        let request = v1::RevokeTokenRequest { id: "00000000deadbeef".to_owned() };

        self.refused("revoke", self.client().revoke_token(request).await);
    }

    async fn remove_node(&mut self) {
        let request = v1::RemoveNodeRequest { node: "database1".to_owned() };

        self.refused("remove", self.client().remove_node(request).await);
    }

    async fn apply_policy(&mut self) {
        let documents = [policies::DOCUMENT, "no = \"policy\""];
        let document = documents[self.rng.random_range(0..2)].to_owned();
        let mode = v1::PolicyMode::Enforced.into();
        let request = v1::ApplyPolicyRequest { document, mode, expected: None, strict: false };

        self.refused("apply", self.client().apply_policy(request).await);
    }

    async fn roll_back(&mut self) {
        let to = self.rng.random_range(0..3);
        let request = v1::RollbackPolicyRequest { to, expected: None };

        self.refused("rollback", self.client().rollback_policy(request).await);
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
    let (before, others_before) = (vault.contents().await, others(&vault.admin).await);
    let model =
        Model { networks: BTreeMap::from([("open".to_owned(), false)]), ..Model::default() };
    let ids = [("secret", &vault.secret), ("open", &open)];
    let ids = ids.map(|(name, network)| (name.to_owned(), network.clone()));
    let mut stranger = Stranger {
        vault: &vault,
        ids: ids.into(),
        model,
        rng: StdRng::seed_from_u64(SEED),
        watcher: vault.web.watch(View::default()).await.unwrap(),
        tokens: BTreeSet::new(),
        asked: BTreeMap::new(),
    };

    for _ in 0..REQUESTS {
        stranger.ask().await;
    }

    // The last change that the stranger may see.
    let last = create(&vault.admin, "last", "").await.unwrap();
    let watcher = &mut stranger.watcher;
    while !watcher.view.networks.keys().any(|id| id.to_string() == last.id) {
        watcher.step().await.unwrap();
        vault.check_untold("watch", &watcher.view);
    }
    let Stranger { model, asked, tokens, .. } = stranger;
    eprintln!("{asked:?}");
    assert_eq!(asked.len(), Call::ALL.len(), "every call was asked");
    let there = listed(&vault.admin).await;
    assert_eq!(links(&there), model.links);
    let mut names: BTreeSet<_> = model.networks.into_keys().collect();
    names.extend(["secret", "last"].map(str::to_owned));
    let (all, entered) = seen::names(there);
    assert_eq!((all, entered), (names, model.entered));
    assert_eq!(vault.contents().await, before);
    let (nodes, mut left, policies) = others(&vault.admin).await;
    left.retain(|token| !tokens.contains(token));
    assert_eq!((nodes, left, policies), others_before);
}
