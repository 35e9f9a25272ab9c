//! Makes the engine's networks those of the cluster, and the other way round. What is to be done is computed as a value from what
//! both have, afresh each time: no order of events, no lost one and no restart makes a difference.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::Ipv4Net;
use overlay_core::{NetworkId, NodeId, View};
use overlay_proto::convert::{MAX_DIFFERENCES, difference};
use overlay_proto::{Code, Refusal, v1};

use super::client::{DockerClient, EngineError, EngineNetwork};
use super::plugin_store::PluginState;
use super::{gwbridge, prefixes, publish};
use crate::endpoint::lifecycle;
use crate::joined_node::JoinedNode;
use crate::kernel::{KernelError, Netns, reservation};
use crate::membership::{connection, network_membership};
use crate::problem::explain;
use crate::state::{DockerKey, DockerNetwork, DockerRow, EndpointRecord, IpamMode};

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    /// Control is asked to make it, with this id where it had one before.
    Publish(String, Option<NetworkId>),
    /// Docker's network stands for this one from now on.
    Adopt(String, NetworkId),
    /// Docker is asked to remove it.
    Remove(String),
    /// Docker is asked to make a replica.
    Replicate(NetworkId),
}

/// What is to be done, and what cannot be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    actions: Vec<Action>,
    /// Why a network of Docker's cannot be used, by Docker's id.
    conflicts: BTreeMap<String, String>,
    /// Why Docker has no replica of a network.
    missing: BTreeMap<NetworkId, String>,
}

/// What is there.
#[derive(Debug, Clone, Copy)]
struct Facts<'a> {
    view: &'a View,
    node: NodeId,
    plugin_state: &'a PluginState,
    engine: &'a [EngineNetwork],
    /// Docker's ids of the networks that containers here are on.
    busy: &'a BTreeSet<String>,
    /// Networks on which control knew containers of this node: one that is gone was removed by force.
    served: &'a BTreeSet<NetworkId>,
}

impl Facts<'_> {
    fn plan(self) -> Plan {
        let mut plan = Plan::default();
        for network in self.engine.iter().filter(|network| network.is_ours()) {
            if let Some(known) = self.plugin_state.networks.get(&network.id) {
                match known.network {
                    None => self.plan_unbound(network, known, &mut plan),
                    Some(id) if !self.view.networks.contains_key(&id) => self.plan_orphan(network, id, &mut plan),
                    Some(id) => self.plan_bound(network, id, &mut plan),
                }
            }
        }
        self.plan_replicas(&mut plan);

        plan
    }

    /// A person made it here.
    fn plan_unbound(self, engine: &EngineNetwork, known: &DockerNetwork, plan: &mut Plan) {
        let id = &engine.id;
        let Some(there) = publish::find(self.view, &engine.name) else {
            if publish::name_of(&engine.name).is_none() {
                let text = format!("{:?} is no name that all hosts can use: it has no letter or digit", engine.name);
                plan.conflicts.insert(id.clone(), text);
            } else {
                plan.actions.push(Action::Publish(id.clone(), None));
            }
            return;
        };
        if self.plugin_state.removals.contains(&there.id) {
            // The one of before goes first.
            return;
        }
        if there.title() != engine.name {
            let text = format!(
                "on all hosts {:?} would be called {}, which network {:?} is: remove it here and create it with another name",
                engine.name,
                there.name,
                there.title()
            );
            plan.conflicts.insert(id.clone(), text);
            return;
        }
        let same = there.prefix == known.prefix && there.prefix6 == known.prefix6;
        let numbers_alike = match known.ipam_mode {
            IpamMode::Ours { .. } => true,
            IpamMode::Engine => there.settings.numbered_by == Some(self.node),
        };
        let stands = self.plugin_state.bound_to(there.id).is_some_and(|other| other.id != *id);
        if same && numbers_alike && !stands {
            return plan.actions.push(Action::Adopt(id.clone(), there.id));
        }
        let text =
            format!("network {} is there already, with prefix {}, made on another host", there.title(), there.prefix);
        if self.busy.contains(id) {
            let text = format!("{text}; stop its containers here, and it becomes that one");
            plan.conflicts.insert(id.clone(), text);
        } else {
            plan.conflicts.insert(id.clone(), format!("{text}; this one gives way to it, start the container again"));
            plan.actions.push(Action::Remove(id.clone()));
        }
    }

    /// It stands for one of the cluster, which should have its name.
    fn plan_bound(self, engine: &EngineNetwork, id: NetworkId, plan: &mut Plan) {
        let title = self.view.networks.get(&id).map(|network| network.title());
        if title.is_some_and(|title| title != engine.name) && !self.busy.contains(&engine.id) {
            plan.actions.push(Action::Remove(engine.id.clone()));
        }
    }

    /// It is removed everywhere else.
    fn plan_orphan(self, engine: &EngineNetwork, network: NetworkId, plan: &mut Plan) {
        let busy = self.busy.contains(&engine.id);
        if busy && !self.served.contains(&network) {
            // Who removed it did not know of our container yet: no running container loses its network.
            plan.actions.push(Action::Publish(engine.id.clone(), Some(network)));
        } else {
            plan.actions.push(Action::Remove(engine.id.clone()));
        }
    }

    fn plan_replicas(self, plan: &mut Plan) {
        for network in self.view.networks.values() {
            let adopted = plan.actions.iter().any(|step| matches!(step, Action::Adopt(_, id) if *id == network.id));
            let stands = self.plugin_state.bound_to(network.id).is_some();
            if adopted || stands || self.plugin_state.removals.contains(&network.id) {
                continue;
            }
            match self.engine.iter().find(|engine| engine.name == network.title()) {
                None => plan.actions.push(Action::Replicate(network.id)),
                Some(ours) if ours.is_ours() => {}
                Some(other) => {
                    let text = format!(
                        "Docker on this host has a {} network called {}: remove it, or take another name",
                        other.driver, other.name
                    );
                    plan.missing.insert(network.id, text);
                }
            }
        }
    }
}

/// What is remembered between passes.
#[derive(Debug, Default)]
pub(super) struct Sync {
    served: BTreeSet<NetworkId>,
    /// Networks of the book that the engine did not list, and how often in a row: one that is just being made is not listed yet.
    unlisted: BTreeMap<String, u32>,
    /// The prefixes that Docker was kept from choosing last.
    reserved: Option<BTreeSet<Ipv4Net>>,
}

/// Passes in which a network may be missing from the engine's list before it counts as removed.
const UNLISTED: u32 = 3;

impl Sync {
    /// Goes over everything once; tells whether another pass should follow soon.
    pub(super) async fn pass(
        &mut self,
        joined: &JoinedNode,
        engine: &DockerClient,
        regular: bool,
    ) -> Result<bool, EngineError> {
        let mut again = tell_removals(joined).await;
        let listed = engine.networks().await?;
        let membership = joined.membership.borrow().clone();
        if let Err(error) = gwbridge::ensure(engine, &listed).await {
            tracing::warn!(error = %explain(&error), "docker_gwbridge was not made beforehand");
        }
        if !membership.live {
            return Ok(again);
        }
        if regular {
            self.strike_unlisted(joined, &listed).await;
        }
        let view = &membership.view;
        self.reserve(joined, view, regular).await;
        let entries = joined.journal.entries();
        let docker = |record: &EndpointRecord| record.sandbox.docker().map(|docker| docker.network.clone());
        let busy = entries.values().filter_map(docker).collect();
        let shown = view.endpoints.values().filter(|endpoint| endpoint.node == joined.node);
        self.served.extend(shown.map(|endpoint| endpoint.network));
        let plugin_state = joined.docker.state();
        let facts = Facts {
            view,
            node: joined.node,
            plugin_state: &plugin_state,
            engine: &listed,
            busy: &busy,
            served: &self.served,
        };
        let mut plan = facts.plan();
        // Before anything is removed: a container that starts meanwhile is told.
        joined.docker.set_conflicts(plan.conflicts.clone());
        for step in std::mem::take(&mut plan.actions) {
            let done = perform(joined, engine, &listed, view, &plugin_state, &step).await;
            again |= matches!(step, Action::Publish(..) | Action::Remove(_)) && done.is_ok();
            if let Err((about, text)) = done {
                match about {
                    About::Docker(id) => drop(plan.conflicts.insert(id, text)),
                    About::Network(id) => drop(plan.missing.insert(id, text)),
                }
            }
        }
        joined.docker.set_conflicts(plan.conflicts.clone());
        report(joined, &listed, view, &plan);
        self.served.retain(|network| plugin_state.bound_to(*network).is_some());

        Ok(again)
    }

    /// Keeps Docker from choosing what other hosts have in use; what foreign hands removed is back with the next regular pass.
    async fn reserve(&mut self, joined: &JoinedNode, view: &View, regular: bool) {
        let wanted = prefixes::reserved(view, joined.node, &joined.docker.state().engine.default_pools);
        if !regular && self.reserved.as_ref() == Some(&wanted) {
            return;
        }
        let about = "docker prefixes";
        match set_reserved(&wanted).await {
            Ok(()) => {
                joined.problems.clear(about);
                self.reserved = Some(wanted);
            }
            Err(error) => {
                let text = format!("Docker is not kept from choosing prefixes in use elsewhere: {}", explain(&error));
                joined.problems.raise(about, "kernel", text);
                self.reserved = None;
            }
        }
    }

    /// Forgets networks that were removed while this process was away. What stands for one of the cluster comes back.
    async fn strike_unlisted(&mut self, joined: &JoinedNode, listed: &[EngineNetwork]) {
        let plugin_state = joined.docker.state();
        let missing = plugin_state.networks.keys().filter(|id| listed.iter().all(|network| network.id != **id));
        let missing: BTreeSet<&String> = missing.collect();
        self.unlisted.retain(|id, _| missing.contains(id));
        let mut struck = Vec::new();
        for id in missing {
            let passes = self.unlisted.entry(id.clone()).or_default();
            *passes += 1;
            if *passes >= UNLISTED {
                struck.push(DockerKey::Network(id.clone()));
            }
        }
        if let Err(refusal) = joined.docker.write(Vec::new(), struck).await {
            // The store says itself that it keeps nothing; the next look tries again.
            tracing::debug!(%refusal, "Failed to write the docker book");
        }
    }
}

async fn set_reserved(prefixes: &BTreeSet<Ipv4Net>) -> Result<(), KernelError> {
    reservation::set(&Netns::host()?, prefixes).await
}

/// What a failure is about.
enum About {
    Docker(String),
    Network(NetworkId),
}

/// Tells control of the networks that were removed here; tells whether one waits for control.
async fn tell_removals(joined: &JoinedNode) -> bool {
    let mut waits = false;
    for network in joined.docker.state().removals.iter().copied() {
        joined.published().await;
        let asked = match joined.connection.client() {
            Ok(mut client) => {
                let request = v1::RemoveNetworkRequest { network: network.to_string(), force: false };
                connection::call(client.remove_network(request)).await.map(|revised| revised.revision)
            }
            Err(away) => Err(away),
        };
        let comes_back = match asked {
            Ok(revision) => {
                let mut membership = joined.membership.subscribe();
                let arrived = membership.wait_for(|membership| membership.view.revision.0 >= revision);
                let _ = tokio::time::timeout(std::time::Duration::from_secs(2), arrived).await;
                false
            }
            Err(refusal) if refusal.code == Code::NotFound => false,
            Err(refusal) if refusal.code == Code::InUse || refusal.code == Code::NotAllowed => {
                tracing::warn!(%network, reason = %refusal, "A network removed with Docker is in use elsewhere and comes back");
                true
            }
            Err(_) => {
                waits = true;
                continue;
            }
        };
        if !comes_back && joined.membership.borrow().view.networks.contains_key(&network) {
            // As long as the news has not come, it would be made again.
            waits = true;
            continue;
        }
        if let Err(refusal) = joined.docker.write(Vec::new(), vec![DockerKey::Removal(network)]).await {
            // The store says itself that it keeps nothing; the next look tries again.
            tracing::debug!(%refusal, "Failed to write the docker book");
        }
    }

    waits
}

async fn perform(
    joined: &JoinedNode,
    engine: &DockerClient,
    listed: &[EngineNetwork],
    view: &Arc<View>,
    plugin_state: &PluginState,
    step: &Action,
) -> Result<(), (About, String)> {
    match step {
        Action::Adopt(docker, network) => {
            tracing::info!(%network, docker, "Docker's network stands for one of the cluster");
            joined
                .docker
                .bind(docker, Some(*network))
                .await
                .map(drop)
                .map_err(|r| (About::Docker(docker.clone()), r.to_string()))
        }
        Action::Publish(docker, id) => {
            let told = publish(joined, listed, plugin_state, docker, *id).await;
            told.map_err(|refusal| (About::Docker(docker.clone()), refusal.to_string()))
        }
        Action::Remove(docker) => {
            let of = |record: &EndpointRecord| record.sandbox.docker().is_some_and(|d| d.network == *docker);
            let entries = joined.journal.entries();
            let lost = entries.values().filter(|record| of(record)).map(|record| record.endpoint.id).collect();
            // What is left on it was cut off by force.
            let removed = lifecycle::remove(joined, lost, "its network was removed by force").await;
            removed.map_err(|refusal| (About::Docker(docker.clone()), refusal.to_string()))?;
            let bound = plugin_state.networks.get(docker).and_then(|known| known.network);
            // Docker's call for it must not count as a person's.
            let unbound = joined.docker.bind(docker, None).await;
            unbound.map_err(|refusal| (About::Docker(docker.clone()), refusal.to_string()))?;
            let Err(error) = engine.remove_network(docker).await else { return Ok(()) };
            // It stays what it was, and must not pass for one that a person made.
            let bound = joined.docker.bind(docker, bound).await;
            bound.map_err(|refusal| (About::Docker(docker.clone()), refusal.to_string()))?;
            Err((About::Docker(docker.clone()), explain(&error)))
        }
        Action::Replicate(id) => {
            let Some(network) = view.networks.get(id) else { return Ok(()) };
            let made = engine.create_network(publish::replica(network)).await;
            made.map(drop).map_err(|error| (About::Network(*id), explain(&error)))
        }
    }
}

/// Asks control to make a network that Docker has.
async fn publish(
    joined: &JoinedNode,
    listed: &[EngineNetwork],
    plugin_state: &PluginState,
    docker: &str,
    id: Option<NetworkId>,
) -> Result<(), Refusal> {
    let engine = listed.iter().find(|network| network.id == docker);
    let Some((engine, known)) = engine.zip(plugin_state.networks.get(docker)) else { return Ok(()) };
    let Some(request) = publish::request(engine, known, joined.node, id) else { return Ok(()) };
    let mut client = joined.connection.client()?;
    let answer = match connection::call(client.create_network(request)).await {
        // Somebody was faster; the next pass sees it.
        Err(refusal) if refusal.code == Code::NameTaken => return Ok(()),
        answer => answer?,
    };
    let network = answer.network.map(|network| network.id).unwrap_or_default();
    let network: NetworkId = overlay_proto::convert::field("network.id", &network)?;
    if !joined.docker.bind(docker, Some(network)).await? {
        // A person removed it meanwhile.
        return joined.docker.write(vec![DockerRow::Removal(network)], Vec::new()).await;
    }
    tracing::info!(%network, name = %engine.name, "Made a network that Docker has");
    let arrived = async {
        let mut membership = joined.membership.subscribe();
        membership.wait_for(|membership| membership.view.networks.contains_key(&network)).await.map(drop)
    };
    // Who made it will use it; where the news does not come at once, the first container enters.
    if matches!(tokio::time::timeout(std::time::Duration::from_secs(2), arrived).await, Ok(Ok(()))) {
        let _ = network_membership::enter(joined, network, 1).await;
    }

    Ok(())
}

/// States as problems what cannot be, here and to all nodes.
fn report(joined: &JoinedNode, listed: &[EngineNetwork], view: &View, plan: &Plan) {
    let mut differences = Vec::new();
    joined.problems.keep_only("docker network ", |about| {
        let of =
            |id: &str| plan.conflicts.contains_key(id) || plan.missing.keys().any(|network| network.to_string() == id);
        about.strip_prefix("docker network ").is_some_and(of)
    });
    for (id, text) in &plan.conflicts {
        let name = listed.iter().find(|network| network.id == *id).map_or(id.as_str(), |network| network.name.as_str());
        differences.push(difference(name, text));
        joined.problems.raise(
            &format!("docker network {id}"),
            "docker-conflict",
            format!("Docker's network {name}: {text}"),
        );
    }
    for (id, text) in &plan.missing {
        let name = view.networks.get(id).map_or_else(|| id.to_string(), |network| network.title().to_owned());
        differences.push(difference(&name, text));
        joined.problems.raise(
            &format!("docker network {id}"),
            "docker-missing",
            format!("network {name} is not in Docker: {text}"),
        );
    }
    differences.truncate(MAX_DIFFERENCES);
    joined.differences.send_if_modified(|told| {
        let is_news = *told != differences;
        *told = differences;
        is_news
    });
}

/// Removes from Docker what this node's networks were, for it leaves the cluster.
pub(crate) async fn withdraw(joined: &JoinedNode, socket: &std::path::Path) -> Result<(), EngineError> {
    if let Err(error) = set_reserved(&BTreeSet::new()).await {
        tracing::warn!(error = %explain(&error), "Prefixes stay reserved");
    }
    if !socket.exists() {
        return Ok(());
    }
    let engine = DockerClient::connect(socket).await?;
    let networks = engine.networks().await?;
    let mut outcome = Ok(());
    for network in networks.iter().filter(|network| network.is_ours()) {
        if joined.docker.bind(&network.id, None).await.is_ok() {
            outcome = outcome.and(engine.remove_network(&network.id).await);
        }
    }

    outcome.and(gwbridge::remove(&engine).await)
}

#[cfg(test)]
mod tests {
    use overlay_core::{Change, Network, NetworkMode, NetworkSettings, Revision};

    use super::*;
    use crate::docker::testing;

    const ME: NodeId = NodeId::FIRST;

    fn id(n: u64) -> NetworkId {
        NetworkId::from_random(n)
    }

    fn network(n: u64, name: &str, prefix: &str) -> Change {
        Change::Network(Network {
            id: id(n),
            name: name.parse().expect("a name"),
            prefix: prefix.parse().expect("a prefix"),
            prefix6: None,
            mode: NetworkMode::L3,
            labels: BTreeMap::new(),
            settings: NetworkSettings::default(),
        })
    }

    fn engine(docker: &str, name: &str, driver: &str) -> EngineNetwork {
        EngineNetwork {
            id: docker.into(),
            name: name.into(),
            driver: driver.into(),
            ipam: driver.into(),
            prefix: None,
            range: None,
            prefix6: None,
            internal: false,
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    fn known(docker: &str, prefix: &str, network: Option<NetworkId>) -> (String, DockerNetwork) {
        let row = testing::network(docker, prefix, network);

        (row.id.clone(), row)
    }

    #[derive(Default)]
    struct Fixture {
        view: View,
        plugin_state: PluginState,
        engine: Vec<EngineNetwork>,
        busy: BTreeSet<String>,
        served: BTreeSet<NetworkId>,
    }

    impl Fixture {
        fn new(rows: Vec<Change>, books: Vec<(String, DockerNetwork)>, engine: Vec<EngineNetwork>) -> Self {
            let plugin_state = PluginState { networks: books.into_iter().collect(), ..PluginState::default() };
            Self { view: View::from_rows(Revision(1), rows), plugin_state, engine, ..Self::default() }
        }

        fn plan(&self) -> Plan {
            let (busy, served) = (&self.busy, &self.served);
            Facts { view: &self.view, node: ME, plugin_state: &self.plugin_state, engine: &self.engine, busy, served }
                .plan()
        }
    }

    #[test]
    fn a_network_made_here_is_published_and_one_made_elsewhere_replicated() {
        let fixture = Fixture::new(
            vec![network(1, "red", "10.2.0.0/16")],
            vec![known("aa", "10.1.0.0/16", None)],
            vec![engine("aa", "blue", "overlay-wg"), engine("bb", "bridge", "bridge")],
        );

        assert_eq!(fixture.plan().actions, [Action::Publish("aa".into(), None), Action::Replicate(id(1))]);
    }

    #[test]
    fn nothing_is_done_where_both_have_the_same() {
        let fixture = Fixture::new(
            vec![network(1, "red", "10.2.0.0/16")],
            vec![known("aa", "10.2.0.0/16", Some(id(1)))],
            vec![engine("aa", "red", "overlay-wg")],
        );

        assert_eq!(fixture.plan(), Plan::default());
    }

    #[test]
    fn made_by_hand_on_both_sides_it_is_adopted_when_alike_and_gives_way_when_not() {
        let make = |prefix| {
            Fixture::new(
                vec![network(1, "red", "10.2.0.0/16")],
                vec![known("aa", prefix, None)],
                vec![engine("aa", "red", "overlay-wg")],
            )
        };
        assert_eq!(make("10.2.0.0/16").plan().actions, [Action::Adopt("aa".into(), id(1))]);
        let mut other = make("10.3.0.0/16");
        assert_eq!(other.plan().actions, [Action::Remove("aa".into())]);
        other.busy.insert("aa".into());
        assert_eq!(other.plan().actions, []);
        assert!(other.plan().conflicts["aa"].contains("10.2.0.0/16"));
    }

    #[test]
    fn one_whose_name_comes_out_as_that_of_another_is_told_and_stays() {
        let fixture = Fixture::new(
            vec![network(1, "my-net", "10.2.0.0/16")],
            vec![known("aa", "10.1.0.0/16", None)],
            vec![engine("aa", "my net", "overlay-wg"), engine("bb", "my-net", "overlay-wg")],
        );
        let plan = fixture.plan();

        assert_eq!(plan.actions, []);
        assert!(plan.conflicts["aa"].contains("another name"), "{:?}", plan.conflicts);
    }

    #[test]
    fn a_network_removed_elsewhere_goes_unless_a_container_here_was_not_known_there() {
        let mut fixture = Fixture::new(
            vec![],
            vec![known("aa", "10.2.0.0/16", Some(id(1)))],
            vec![engine("aa", "red", "overlay-wg")],
        );
        assert_eq!(fixture.plan().actions, [Action::Remove("aa".into())]);
        fixture.busy.insert("aa".into());
        assert_eq!(fixture.plan().actions, [Action::Publish("aa".into(), Some(id(1)))]);
        fixture.served.insert(id(1));
        assert_eq!(fixture.plan().actions, [Action::Remove("aa".into())], "by force");
    }

    #[test]
    fn one_that_was_just_removed_here_is_not_made_again_and_a_foreign_one_stands_in_the_way() {
        let mut fixture =
            Fixture::new(vec![network(1, "red", "10.2.0.0/16")], vec![], vec![engine("bb", "red", "bridge")]);
        assert!(fixture.plan().missing[&id(1)].contains("bridge network called red"));
        fixture.engine.clear();
        fixture.plugin_state.removals.insert(id(1));

        assert_eq!(fixture.plan(), Plan::default());
    }
}
