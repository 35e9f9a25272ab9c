//! What control must still be told of this node's endpoints. Pure.

use std::collections::{BTreeMap, BTreeSet};

use overlay_core::{Endpoint, EndpointId, NodeId, View};
use overlay_proto::v1;

use super::containers::Containers;
use crate::state::EndpointRecord;

/// Stopped containers of one host that keep their names, at the most: far below what control takes
/// of one node, so that they leave room for those that run.
const MAX_STOPPED: usize = 1_024;

/// What control must still be told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Unpublished {
    /// Rows it lacks or has otherwise.
    pub(crate) put: Vec<Endpoint>,
    /// Rows of endpoints whose containers were stopped: they keep their names alone.
    pub(crate) stop: Vec<Endpoint>,
    /// Rows it has too many.
    pub(crate) remove: Vec<v1::EndpointKey>,
}

impl Unpublished {
    /// Counts the changes.
    pub(crate) fn len(&self) -> usize {
        self.put.len() + self.stop.len() + self.remove.len()
    }
}

/// Returns how control is told which endpoint is meant.
pub(crate) fn key(endpoint: &Endpoint) -> v1::EndpointKey {
    v1::EndpointKey { network: endpoint.network.to_string(), endpoint: endpoint.id.to_string() }
}

/// What control's rows of a node are compared with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// The membership, with control's rows.
    pub(crate) view: &'a View,
    /// The endpoints of this node.
    pub(crate) journal: &'a BTreeMap<EndpointId, EndpointRecord>,
    /// This node.
    pub(crate) node: NodeId,
    /// Endpoints that the journal may lack: their rows stay.
    pub(crate) lost: &'a BTreeSet<EndpointId>,
    /// The containers of this host.
    pub(crate) containers: &'a Containers,
}

impl<'a> Rows<'a> {
    /// Compares the journal with control's rows of this node. Rows of networks that are gone have
    /// gone with them.
    pub(crate) fn unpublished(self) -> Unpublished {
        let possible = |e: &Endpoint| self.view.member(e.network, self.node).is_some();
        let ours = self.journal.values().map(|record| &record.endpoint);
        let put = ours.filter(|e| possible(e) && !self.is_published(e)).cloned().collect();
        let mut todo = Unpublished { put, ..Unpublished::default() };
        let is_gone = |id: &EndpointId| !self.journal.contains_key(id) && !self.lost.contains(id);
        let own = self.view.endpoints.values().filter(|e| e.node == self.node);
        let (stopped, running): (Vec<_>, Vec<_>) = own.partition(|e| e.is_stopped());
        let room = MAX_STOPPED.saturating_sub(stopped.len());
        let gone = |own: Vec<&'a Endpoint>| own.into_iter().filter(|e| is_gone(&e.id));
        let given_up = gone(stopped).filter(|e| !self.keeps_its_names(e));
        todo.remove.extend(given_up.map(key));
        for endpoint in gone(running) {
            if todo.stop.len() < room && self.keeps_its_names(endpoint) {
                todo.stop.push(endpoint.stopped());
            } else {
                todo.remove.push(key(endpoint));
            }
        }

        todo
    }

    fn is_published(self, endpoint: &Endpoint) -> bool {
        let known = self.view.endpoints.get(&(endpoint.network, endpoint.id));

        known.is_some_and(|known| known.is_same(endpoint))
    }

    /// Tells whether the container of an endpoint that ended keeps its names, until it has another
    /// endpoint that all know.
    fn keeps_its_names(self, ended: &Endpoint) -> bool {
        let mut own = self.journal.values().map(|record| &record.endpoint);
        let mut is_followed = || own.any(|e| e.is_of_container_of(ended) && self.is_published(e));

        self.containers.has(ended) && !is_followed()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Rows for tests.

    use overlay_core::{Change, Member, NetworkId, Revision, Runtime};

    use super::*;
    use crate::state::SandboxRecord;

    pub(crate) const ME: NodeId = NodeId::FIRST;
    pub(crate) const BLUE: NetworkId = NetworkId::FIRST;

    pub(crate) fn of_container(id: u64, container: &str) -> Endpoint {
        Endpoint {
            container: Some(container.parse().expect("an id")),
            addresses: vec!["10.0.0.9".parse().expect("an address")],
            ..endpoint(id, ME)
        }
    }

    pub(crate) fn endpoint(id: u64, node: NodeId) -> Endpoint {
        Endpoint {
            id: EndpointId::from_random(id),
            network: BLUE,
            node,
            name: format!("e{id}").parse().expect("a name"),
            aliases: BTreeSet::new(),
            addresses: Vec::new(),
            labels: BTreeMap::new(),
            runtime: Runtime::Host,
            group: None,
            container: None,
            taken: BTreeSet::new(),
        }
    }

    pub(crate) fn journal(ids: &[u64]) -> BTreeMap<EndpointId, EndpointRecord> {
        let record = |id: &u64| EndpointRecord {
            endpoint: endpoint(*id, ME),
            sandbox: SandboxRecord::Host,
            ifname: "ovh0".into(),
            owner: None,
        };

        ids.iter().map(|id| (EndpointId::from_random(*id), record(id))).collect()
    }

    pub(crate) fn view(ids: &[u64]) -> View {
        let member =
            Member { network: BLUE, node: ME, lane_keys: vec![[1; 32].into()], blocks: Vec::new() };
        let network = overlay_core::Network {
            id: BLUE,
            name: "blue".parse().expect("a name"),
            prefix: "10.0.0.0/16".parse().expect("a prefix"),
            prefix6: None,
            mode: overlay_core::NetworkMode::L3,
            labels: BTreeMap::new(),
            settings: overlay_core::NetworkSettings::default(),
            creator: None,
        };
        let rows = ids.iter().map(|id| Change::Endpoint(endpoint(*id, ME)));
        let foreign = Change::Endpoint(endpoint(99, NodeId::LAST));

        View::from_rows(
            Revision(1),
            rows.chain([Change::Network(network), Change::Member(member), foreign]),
        )
    }
}

#[cfg(test)]
mod tests {
    use overlay_core::{Change, RowKey};

    use super::testing::{BLUE, ME, endpoint, journal, of_container, view};
    use super::*;

    fn todo(
        view: &View,
        journal: &BTreeMap<EndpointId, EndpointRecord>,
        containers: &Containers,
    ) -> Unpublished {
        let lost = BTreeSet::new();

        Rows { view, journal, node: ME, lost: &lost, containers }.unpublished()
    }

    #[test]
    fn what_differs_is_told_and_nothing_else() {
        let told = todo(&view(&[1, 2]), &journal(&[2, 3]), &Containers::Unknown);

        assert_eq!(told.put, [endpoint(3, ME)]);
        assert_eq!(
            told.remove.iter().map(|key| key.endpoint.as_str()).collect::<Vec<_>>(),
            ["000000000001"]
        );
        assert_eq!(
            todo(&view(&[2, 3]), &journal(&[2, 3]), &Containers::Unknown),
            Unpublished::default()
        );
    }

    #[test]
    fn what_control_decides_is_not_told_back() {
        let mut view = view(&[1]);
        let mut decided = endpoint(1, ME);
        decided.taken.insert("e1".parse().expect("a name"));
        view.apply(Change::Endpoint(decided));

        let told = todo(&view, &journal(&[1]), &Containers::Unknown);

        assert_eq!(told, Unpublished::default());
    }

    #[test]
    fn a_changed_endpoint_is_told_anew() {
        let mut journal = journal(&[1]);
        for record in journal.values_mut() {
            record.endpoint.labels.insert("tier".into(), "web".into());
        }

        assert_eq!(todo(&view(&[1]), &journal, &Containers::Unknown).len(), 1);
    }

    #[test]
    fn endpoints_of_a_network_that_is_not_ours_wait() {
        let mut view = view(&[]);
        view.apply(Change::Removed(RowKey::Member(BLUE, ME)));

        assert_eq!(todo(&view, &journal(&[1]), &Containers::Unknown).len(), 0);
    }
    /// An endpoint of a container, the engine has it still, its row is as given.
    fn of(container: &str) -> Containers {
        let id = container.parse().expect("an id");

        Containers::Known([((BLUE, id), "e1".to_owned())].into())
    }

    #[test]
    fn an_endpoint_whose_container_is_stopped_keeps_its_names_until_that_is_gone() {
        let (running, mut known) = (of_container(1, "c1"), view(&[]));
        known.apply(Change::Endpoint(running.clone()));

        let told = todo(&known, &journal(&[]), &of("c1"));
        assert_eq!((told.stop.as_slice(), told.len()), ([running.stopped()].as_slice(), 1));
        known.apply(Change::Endpoint(running.stopped()));
        assert_eq!(todo(&known, &journal(&[]), &of("c1")), Unpublished::default());
        let told = todo(&known, &journal(&[]), &of("c2"));
        assert_eq!((told.remove, told.stop), (vec![key(&running)], vec![]));
    }

    #[test]
    fn the_names_stay_until_the_next_endpoint_of_the_container_is_known() {
        let (ended, next) = (of_container(1, "c1").stopped(), of_container(2, "c1"));
        let next = Endpoint { name: ended.name.clone(), ..next };
        let mut known = view(&[]);
        known.apply(Change::Endpoint(ended.clone()));
        let mut journal = journal(&[2]);
        for record in journal.values_mut() {
            record.endpoint = next.clone();
        }

        let told = todo(&known, &journal, &of("c1"));
        assert_eq!((told.put.as_slice(), told.len()), ([next.clone()].as_slice(), 1));
        known.apply(Change::Endpoint(next));
        let told = todo(&known, &journal, &of("c1"));
        assert_eq!((told.remove.as_slice(), told.len()), ([key(&ended)].as_slice(), 1));
    }

    #[test]
    fn stopped_containers_leave_room() {
        let mut known = view(&[]);
        let mut all = BTreeMap::new();
        for id in 1..=(MAX_STOPPED as u64 + 1) {
            let container = format!("c{id}");
            known.apply(Change::Endpoint(of_container(id, &container)));
            all.insert((BLUE, container.parse().expect("an id")), format!("e{id}"));
        }

        let told = todo(&known, &journal(&[]), &Containers::Known(all));

        assert_eq!((told.stop.len(), told.remove.len()), (MAX_STOPPED, 1));
    }
}
