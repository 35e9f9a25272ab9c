//! Makes control's rows of this node equal to the journal, whatever happened in between.
//!
//! Level-triggered: what differs is computed afresh each time, so a change made while control was
//! away, or a lost answer, needs no queue.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use overlay_core::{Endpoint, EndpointId, NodeId, View};
use overlay_proto::{Code, v1};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::control_error::ControlError;
use super::control_link::ControlLink;
use super::{Membership, back_off, connection};
use crate::problem::Problems;
use crate::problem_key::ProblemKey;
use crate::state::EndpointRecord;
use crate::state::journal::Journal;

/// Endpoints in one call at the most, as the contract says.
const BATCH: usize = 1_000;
/// How long a change of ours may take to come back with the watch before it is sent again.
const ECHO: Duration = Duration::from_secs(5);
/// How often it is looked at when nothing calls.
const LOOK: Duration = Duration::from_secs(5);

/// What control must still be told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Unpublished {
    /// Rows it lacks or has otherwise.
    pub(crate) put: Vec<Endpoint>,
    /// Rows it has too many.
    pub(crate) remove: Vec<v1::EndpointKey>,
}

impl Unpublished {
    /// Compares the journal with control's rows of this node. Rows of networks that are gone have
    /// gone with them; those of `lost` endpoints stay.
    pub(crate) fn new(
        view: &View,
        journal: &BTreeMap<EndpointId, EndpointRecord>,
        node: NodeId,
        lost: &BTreeSet<EndpointId>,
    ) -> Self {
        let published = |e: &Endpoint| view.endpoints.get(&(e.network, e.id)) == Some(e);
        let possible = |e: &Endpoint| view.member(e.network, node).is_some();
        let ours = journal.values().map(|record| &record.endpoint);
        let put = ours.filter(|e| possible(e) && !published(e)).cloned().collect();
        let is_gone = |id: &EndpointId| !journal.contains_key(id) && !lost.contains(id);
        let stale = view.endpoints.values().filter(|e| e.node == node && is_gone(&e.id));
        let remove = stale.map(|e| v1::EndpointKey {
            network: e.network.to_string(),
            endpoint: e.id.to_string(),
        });

        Self { put, remove: remove.collect() }
    }

    /// Counts the changes.
    pub(crate) fn len(&self) -> usize {
        self.put.len() + self.remove.len()
    }
}

/// How long a request to control waits until pending changes are published.
const TELLING: Duration = Duration::from_millis(500);

/// Tells control of this node's endpoints.
#[derive(Debug)]
pub(crate) struct Publisher {
    /// This node.
    pub(crate) node: NodeId,
    /// The endpoints of this node.
    pub(crate) journal: Arc<Journal>,
    /// The membership, with control's rows of this node.
    pub(crate) membership: watch::Sender<Membership>,
    /// Whom to tell.
    pub(crate) control: Arc<ControlLink>,
    /// Where what control refuses is told.
    pub(crate) problems: Arc<Problems>,
}

impl Publisher {
    /// Returns the changes that are not yet published.
    pub(crate) fn unpublished(&self) -> Unpublished {
        let membership = self.membership.borrow();
        let lost = self.journal.lost(&membership.view, self.node);

        Unpublished::new(&membership.view, &self.journal.entries(), self.node, &lost)
    }

    /// Waits briefly until everything is published; called before requests to control.
    pub(crate) async fn published(&self) {
        let mut journal = self.journal.subscribe();
        let mut membership = self.membership.subscribe();
        let all_told = async {
            while self.control.connection.is_connected() && self.unpublished().len() > 0 {
                tokio::select! {
                    _ = journal.changed() => {}
                    _ = membership.changed() => {}
                }
            }
        };
        // Changes that control refuses stay unpublished.
        let _ = timeout(TELLING, all_told).await;
    }

    /// Publishes while the node is joined.
    pub(crate) async fn run(&self) {
        let mut journal = self.journal.subscribe();
        let mut membership = self.membership.subscribe();
        let mut wholeness = self.journal.wholeness();
        let mut pauses = back_off();
        loop {
            journal.mark_unchanged();
            membership.mark_unchanged();
            let todo = self.unpublished();
            let ready = membership.borrow().live && self.control.connection.is_connected();
            if ready && todo.len() > 0 {
                match self.publish(todo).await {
                    Ok(()) => pauses = back_off(),
                    Err(error) => {
                        tracing::debug!(%error, "Control did not take our changes");
                        sleep(pauses.next().unwrap_or(LOOK)).await;
                    }
                }
                continue;
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                _ = journal.changed() => {}
                _ = membership.changed() => {}
                _ = wholeness.changed() => {}
            }
        }
    }

    /// Removes first: what is taken back may be what is put again.
    async fn publish(&self, todo: Unpublished) -> Result<(), ControlError> {
        let mut client = self.control.connection.client()?;
        let mut revision = 0;
        for batch in todo.remove.chunks(BATCH) {
            let request = v1::RemoveEndpointsRequest { endpoints: batch.to_vec() };
            revision = connection::call(client.remove_endpoints(request)).await?.revision;
        }
        for batch in todo.put.chunks(BATCH) {
            match self.put(batch).await {
                Ok(done) => {
                    revision = done;
                    for endpoint in batch {
                        self.problems.clear(&ProblemKey::Publication(endpoint.id));
                    }
                }
                Err(error) if batch.len() == 1 => return Err(self.refused(batch, error)),
                // All or none: one by one, so that only the refused ones stay behind.
                Err(_) => revision = self.put_singly(batch).await?,
            }
        }
        let mut membership = self.membership.subscribe();
        // Where the echo does not come, the next round sends again.
        let _ = timeout(ECHO, membership.wait_for(|m| m.view.revision.0 >= revision)).await;

        Ok(())
    }

    async fn put_singly(&self, batch: &[Endpoint]) -> Result<u64, ControlError> {
        let mut outcome = Ok(0);
        for endpoint in batch {
            let one = std::slice::from_ref(endpoint);
            match self.put(one).await {
                Ok(revision) => {
                    self.problems.clear(&ProblemKey::Publication(endpoint.id));
                    outcome = outcome.map(|_| revision);
                }
                Err(error) => outcome = Err(self.refused(one, error)),
            }
        }

        outcome
    }

    /// Publishes endpoints at once; returns the revision that holds them.
    pub(crate) async fn put(&self, endpoints: &[Endpoint]) -> Result<u64, ControlError> {
        let mut client = self.control.connection.client()?;
        let request = v1::PutEndpointsRequest {
            endpoints: endpoints.iter().cloned().map(Into::into).collect(),
        };

        Ok(connection::call(client.put_endpoints(request)).await?.revision)
    }

    fn refused(&self, endpoints: &[Endpoint], error: ControlError) -> ControlError {
        if error.code() != Code::ControlAway {
            for endpoint in endpoints {
                let text =
                    format!("endpoint {} is not known to other nodes: {error}", endpoint.name);
                self.problems.raise(ProblemKey::Publication(endpoint.id), error.code(), text);
            }
        }

        error
    }

    /// Takes back what was said of an endpoint that is no more.
    pub(crate) fn forget(&self, endpoint: EndpointId) {
        self.problems.clear(&ProblemKey::Publication(endpoint));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use overlay_core::{Change, Member, NetworkId, Revision, RowKey, Runtime};

    use super::*;
    use crate::state::SandboxRecord;

    const ME: NodeId = NodeId::FIRST;
    const BLUE: NetworkId = NetworkId::FIRST;

    fn endpoint(id: u64, node: NodeId) -> Endpoint {
        Endpoint {
            id: EndpointId::from_random(id),
            network: BLUE,
            node,
            name: format!("e{id}").parse().expect("a name"),
            aliases: BTreeSet::new(),
            addresses: Vec::new(),
            labels: BTreeMap::new(),
            runtime: Runtime::Host,
        }
    }

    fn journal(ids: &[u64]) -> BTreeMap<EndpointId, EndpointRecord> {
        let record = |id: &u64| EndpointRecord {
            endpoint: endpoint(*id, ME),
            sandbox: SandboxRecord::Host,
            ifname: "ovh0".into(),
            owner: None,
        };

        ids.iter().map(|id| (EndpointId::from_random(*id), record(id))).collect()
    }

    fn view(ids: &[u64]) -> View {
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

    #[test]
    fn what_differs_is_told_and_nothing_else() {
        let todo = Unpublished::new(&view(&[1, 2]), &journal(&[2, 3]), ME, &BTreeSet::new());

        assert_eq!(todo.put, [endpoint(3, ME)]);
        assert_eq!(
            todo.remove.iter().map(|key| key.endpoint.as_str()).collect::<Vec<_>>(),
            ["000000000001"]
        );
        assert_eq!(
            Unpublished::new(&view(&[2, 3]), &journal(&[2, 3]), ME, &BTreeSet::new()),
            Unpublished::default()
        );
    }

    #[test]
    fn a_changed_endpoint_is_told_anew() {
        let mut journal = journal(&[1]);
        for record in journal.values_mut() {
            record.endpoint.labels.insert("tier".into(), "web".into());
        }

        assert_eq!(Unpublished::new(&view(&[1]), &journal, ME, &BTreeSet::new()).len(), 1);
    }

    #[test]
    fn endpoints_of_a_network_that_is_not_ours_wait() {
        let mut view = view(&[]);
        view.apply(Change::Removed(RowKey::Member(BLUE, ME)));

        assert_eq!(Unpublished::new(&view, &journal(&[1]), ME, &BTreeSet::new()).len(), 0);
    }
}
