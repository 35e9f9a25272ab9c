//! Makes control's rows of this node equal to the journal, whatever happened in between.
//!
//! Level-triggered: what differs is computed afresh each time, so a change made while control was
//! away, or a lost answer, needs no queue.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use overlay_core::claims::Conflicts;
use overlay_core::{Endpoint, EndpointId, NodeId};
use overlay_proto::{Code, v1};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::containers::Containers;
use super::control_error::ControlError;
use super::control_link::ControlLink;
use super::unpublished::{Rows, Unpublished};
use super::{Membership, back_off, connection, unpublished};
use crate::problem::Problems;
use crate::problem_key::ProblemKey;
use crate::state::journal::Journal;

/// Endpoints in one call at the most, as the contract says.
const BATCH: usize = 1_000;
/// How long a change of ours may take to come back with the watch before it is sent again.
const ECHO: Duration = Duration::from_secs(5);
/// How often it is looked at when nothing calls.
const LOOK: Duration = Duration::from_secs(5);

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
    /// The containers of this host.
    pub(crate) containers: watch::Sender<Containers>,
}

impl Publisher {
    /// Returns the changes that are not yet published.
    pub(crate) fn unpublished(&self) -> Unpublished {
        let membership = self.membership.borrow();
        let lost = self.journal.lost(&membership.view, self.node);

        Rows {
            view: &membership.view,
            journal: &self.journal.entries(),
            node: self.node,
            lost: &lost,
            containers: &self.containers.borrow(),
        }
        .unpublished()
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
        let mut containers = self.containers.subscribe();
        let mut pauses = back_off();
        loop {
            journal.mark_unchanged();
            membership.mark_unchanged();
            containers.mark_unchanged();
            self.tell_conflicts();
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
                _ = containers.changed() => {}
            }
        }
    }

    /// Tells of names that endpoints of this node and others claim: whoever has it and whoever has
    /// not may not know of each other.
    fn tell_conflicts(&self) {
        let membership = self.membership.borrow();
        let conflicts = Conflicts::new(&membership.view);
        let told = |endpoint: &Endpoint, about: Option<String>| {
            let own = about.filter(|_| endpoint.node == self.node);
            own.map(|about| (endpoint.id, format!("endpoint {}: {about}", endpoint.name)))
        };
        let lacking = conflicts.lacking().filter_map(|e| told(e, conflicts.of(e)));
        let lacking: BTreeMap<_, _> = lacking.collect();
        let sharing = conflicts.contested().filter_map(|e| told(e, conflicts.with(e)));
        let sharing: BTreeMap<_, _> = sharing.collect();
        let is_over = |key: &ProblemKey| {
            matches!(key, ProblemKey::NameTaken(id) if !lacking.contains_key(id))
                || matches!(key, ProblemKey::NameShared(id) if !sharing.contains_key(id))
        };
        self.problems.retain(|key| !is_over(key));
        for (id, text) in lacking {
            self.problems.raise(ProblemKey::NameTaken(id), Code::NameTaken, text);
        }
        for (id, text) in sharing {
            self.problems.raise(ProblemKey::NameShared(id), Code::NameTaken, text);
        }
    }

    /// Removes and stops first: what is taken back may be what is put again.
    async fn publish(&self, todo: Unpublished) -> Result<(), ControlError> {
        let mut revision = 0;
        for batch in todo.remove.chunks(BATCH) {
            revision = self.remove(batch.to_vec()).await?;
        }
        for batch in todo.stop.chunks(BATCH) {
            revision = self.stop(batch).await?;
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

    async fn remove(&self, endpoints: Vec<v1::EndpointKey>) -> Result<u64, ControlError> {
        let mut client = self.control.connection.client()?;
        let request = v1::RemoveEndpointsRequest { endpoints };

        Ok(connection::call(client.remove_endpoints(request)).await?.revision)
    }

    /// Tells of endpoints whose containers are stopped. A control of an earlier version knows only
    /// of such that have addresses; theirs must not stay.
    async fn stop(&self, endpoints: &[Endpoint]) -> Result<u64, ControlError> {
        match self.put(endpoints).await {
            Err(error) if error.code() == Code::InvalidInput => {
                self.remove(endpoints.iter().map(unpublished::key).collect()).await
            }
            told => told,
        }
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
