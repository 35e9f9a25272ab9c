//! What is to be done so that the engine's networks are those of the cluster, and the other way
//! round: a value, computed from what both have. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use overlay_core::{Network, NetworkId, NodeId, View};

use super::engine::EngineNetwork;
use super::plugin_store::PluginState;
use super::publish;
use crate::state::{DockerNetwork, IpamMode};

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
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
pub(super) struct Plan {
    /// What is to be done, in order.
    pub(super) actions: Vec<Action>,
    /// Why a network of Docker's cannot be used, by Docker's id.
    pub(super) conflicts: BTreeMap<String, String>,
    /// Why Docker has no replica of a network.
    pub(super) missing: BTreeMap<NetworkId, String>,
}

/// What is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    /// The membership.
    pub(super) view: &'a View,
    /// This node.
    pub(super) node: NodeId,
    /// What Docker was promised.
    pub(super) plugin_state: &'a PluginState,
    /// The engine's networks.
    pub(super) engine: &'a [EngineNetwork],
    /// Docker's ids of the networks that containers here are on.
    pub(super) busy: &'a BTreeSet<String>,
    /// Networks on which control knew containers of this node: one that is gone was removed by
    /// force.
    pub(super) served: &'a BTreeSet<NetworkId>,
    /// Networks that this node may not enter any more, though they are there.
    pub(super) put_out: &'a BTreeMap<NetworkId, String>,
}

impl Facts<'_> {
    /// Lists what is to be done, and what cannot be.
    pub(super) fn plan(self) -> Plan {
        let mut plan = Plan::default();
        for network in self.engine.iter().filter(|network| network.is_ours()) {
            if let Some(known) = self.plugin_state.networks.get(&network.id) {
                match known.network {
                    None => self.plan_unbound(network, known, &mut plan),
                    Some(id) if !self.view.networks.contains_key(&id) => {
                        self.plan_orphan(network, id, &mut plan)
                    }
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
                let text = format!(
                    "{:?} is no name that all hosts can use: it has no letter or digit",
                    engine.name
                );
                plan.conflicts.insert(id.clone(), text);
            } else {
                plan.actions.push(Action::Publish(id.clone(), None));
            }
            return;
        };
        if self.plugin_state.removals.contains(&there.id) {
            // The previous one goes first.
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
        let other = self.plugin_state.bound_to(there.id).filter(|other| other.id != *id);
        if same && numbers_alike {
            match other {
                None => return plan.actions.push(Action::Adopt(id.clone(), there.id)),
                // Made at the same instant, before Docker knew the person's. It is adopted in the
                // next pass.
                Some(other) if self.is_replica(other) && !self.busy.contains(&other.id) => {
                    return plan.actions.push(Action::Remove(other.id.clone()));
                }
                Some(_) => {}
            }
        }
        let text = format!(
            "network {} is there already, with prefix {}, made on another host",
            there.title(),
            there.prefix
        );
        if self.busy.contains(id) {
            let text = format!("{text}; stop its containers here, and it becomes that one");
            plan.conflicts.insert(id.clone(), text);
        } else {
            plan.conflicts.insert(
                id.clone(),
                format!("{text}; this one gives way to it, start the container again"),
            );
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

    /// It is removed everywhere else, or no longer for this node.
    fn plan_orphan(self, engine: &EngineNetwork, network: NetworkId, plan: &mut Plan) {
        let busy = self.busy.contains(&engine.id);
        let is_removed = !self.put_out.contains_key(&network);
        if busy && is_removed && !self.served.contains(&network) {
            // Whoever removed it did not know of our container yet: no running container loses its
            // network.
            plan.actions.push(Action::Publish(engine.id.clone(), Some(network)));
        } else {
            plan.actions.push(Action::Remove(engine.id.clone()));
        }
    }

    /// Tells whether Docker may be making this very network because a person asked for it: it does
    /// so with the prefix, and says the name only of networks that are made. What never comes is
    /// struck from the store.
    fn may_be_coming(self, network: &Network) -> bool {
        let is_listed = |id: &String| self.engine.iter().any(|engine| engine.id == *id);
        let asked_for = self.plugin_state.pools.values().any(|pool| {
            pool.network.is_none()
                && pool.docker_network.is_none()
                && pool.prefix == IpNet::V4(network.prefix)
        });
        let unlisted = self.plugin_state.networks.values().any(|known| {
            known.network.is_none() && known.prefix == network.prefix && !is_listed(&known.id)
        });

        asked_for || unlisted
    }

    /// Tells whether Docker was asked by this agent to make a network.
    fn is_replica(self, known: &DockerNetwork) -> bool {
        match &known.ipam_mode {
            IpamMode::Ours { pool, .. } => {
                self.plugin_state.pools.get(pool).is_some_and(|pool| pool.network.is_some())
            }
            IpamMode::Engine => false,
        }
    }

    fn plan_replicas(self, plan: &mut Plan) {
        for network in self.view.networks.values() {
            let adopted = plan
                .actions
                .iter()
                .any(|step| matches!(step, Action::Adopt(_, id) if *id == network.id));
            let stands = self.plugin_state.bound_to(network.id).is_some();
            if adopted || stands || self.plugin_state.removals.contains(&network.id) {
                continue;
            }
            match self.engine.iter().find(|engine| engine.name == network.title()) {
                None if self.may_be_coming(network) => {}
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

#[cfg(test)]
mod tests {
    use overlay_core::{Change, NetworkMode, NetworkSettings, Revision};

    use super::*;
    use crate::docker::testing;
    use crate::state::DockerPool;

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
            creator: None,
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
        put_out: BTreeMap<NetworkId, String>,
    }

    impl Fixture {
        fn new(
            rows: Vec<Change>,
            books: Vec<(String, DockerNetwork)>,
            engine: Vec<EngineNetwork>,
        ) -> Self {
            let plugin_state =
                PluginState { networks: books.into_iter().collect(), ..PluginState::default() };
            Self {
                view: View::from_rows(Revision(1), rows),
                plugin_state,
                engine,
                ..Self::default()
            }
        }

        fn plan(&self) -> Plan {
            let (busy, served) = (&self.busy, &self.served);
            Facts {
                view: &self.view,
                node: ME,
                plugin_state: &self.plugin_state,
                engine: &self.engine,
                busy,
                served,
                put_out: &self.put_out,
            }
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

        assert_eq!(
            fixture.plan().actions,
            [Action::Publish("aa".into(), None), Action::Replicate(id(1))]
        );
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
    fn what_docker_may_be_making_for_a_person_is_not_made_beside_it() {
        let mut fixture =
            Fixture::new(vec![network(1, "red", "10.2.0.0/16")], Vec::new(), Vec::new());
        let replicate = [Action::Replicate(id(1))];
        assert_eq!(fixture.plan().actions, replicate);

        let asked_for = testing::pool("p", "10.2.0.0/16");
        fixture.plugin_state.pools.insert("p".into(), asked_for.clone());
        assert_eq!(fixture.plan().actions, [], "its prefix was asked for");
        let taken = DockerPool { docker_network: Some("aa".into()), ..asked_for.clone() };
        fixture.plugin_state.pools.insert("p".into(), taken);
        fixture.plugin_state.networks.extend([known("aa", "10.2.0.0/16", None)]);
        assert_eq!(fixture.plan().actions, [], "it is not listed yet");

        fixture.engine.push(engine("aa", "blue", "overlay-wg"));
        assert!(fixture.plan().actions.contains(&replicate[0]), "it has another name");
        let other = DockerPool { prefix: "10.3.0.0/16".parse().expect("a prefix"), ..asked_for };
        fixture.plugin_state.pools.insert("p".into(), other);
        fixture.plugin_state.networks.clear();
        assert!(fixture.plan().actions.contains(&replicate[0]), "it has another prefix");
    }

    #[test]
    fn a_replica_gives_way_to_what_a_person_made_at_the_same_instant() {
        let books = vec![known("aa", "10.2.0.0/16", None), known("bb", "10.2.0.0/16", Some(id(1)))];
        let listed = vec![engine("aa", "red", "overlay-wg"), engine("bb", "red", "overlay-wg")];
        let mut fixture = Fixture::new(vec![network(1, "red", "10.2.0.0/16")], books, listed);
        fixture.plugin_state.networks.get_mut("aa").expect("it").ipam_mode =
            IpamMode::Ours { pool: "q".into(), pool6: None };
        let replica = DockerPool {
            network: Some(id(1)),
            docker_network: Some("bb".into()),
            ..testing::pool("p", "10.2.0.0/16")
        };
        fixture.plugin_state.pools.insert("p".into(), replica.clone());
        assert_eq!(fixture.plan().actions, [Action::Remove("bb".into())]);

        fixture.busy.insert("bb".into());
        assert_eq!(fixture.plan().actions, [Action::Remove("aa".into())], "it is in use");
        fixture.busy.clear();
        fixture.plugin_state.pools.insert("p".into(), DockerPool { network: None, ..replica });
        assert_eq!(fixture.plan().actions, [Action::Remove("aa".into())], "a person made both");
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
        fixture.put_out.insert(id(1), "red".into());
        assert_eq!(fixture.plan().actions, [Action::Remove("aa".into())], "put out");
        fixture.put_out.clear();
        fixture.served.insert(id(1));
        assert_eq!(fixture.plan().actions, [Action::Remove("aa".into())], "by force");
    }

    #[test]
    fn one_that_was_just_removed_here_is_not_made_again_and_a_foreign_one_stands_in_the_way() {
        let mut fixture = Fixture::new(
            vec![network(1, "red", "10.2.0.0/16")],
            vec![],
            vec![engine("bb", "red", "bridge")],
        );
        assert!(fixture.plan().missing[&id(1)].contains("bridge network called red"));
        fixture.engine.clear();
        fixture.plugin_state.removals.insert(id(1));

        assert_eq!(fixture.plan(), Plan::default());
    }
}
