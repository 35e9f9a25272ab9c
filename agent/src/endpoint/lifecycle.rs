//! The endpoints of this node from when they are in the journal until they are out of it: the kernel follows, control hears of it
//! later.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use overlay_core::{EndpointId, NodeId, View};
use overlay_proto::{Code, Refusal};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::host_state::HostState;
use crate::membership::control_link::ControlLink;
use crate::membership::network_membership::NetworkMemberships;
use crate::membership::publish::Publisher;
use crate::problem::Problems;
use crate::reconcile::{EndpointState, NetworkReports};
use crate::state::EndpointRecord;
use crate::state::journal::Journal;

/// How long the kernel may take for one endpoint.
const KERNEL: Duration = Duration::from_secs(15);

/// The endpoints of this node, for every runtime that has some.
#[derive(Debug)]
pub(crate) struct Endpoints {
    /// Where they are written down.
    pub(crate) journal: Arc<Journal>,
    /// The networks that they are on.
    pub(crate) memberships: Arc<NetworkMemberships>,
    /// Who tells control of them.
    pub(crate) publisher: Arc<Publisher>,
    /// The state of each network in the kernel.
    pub(crate) reports: watch::Sender<NetworkReports>,
    /// Where the namespaces of networks are pinned.
    pub(crate) run_dir: PathBuf,
    /// The host's network.
    pub(crate) host: Arc<HostState>,
    /// Where it is told what is wrong.
    pub(crate) problems: Arc<Problems>,
}

impl Endpoints {
    /// Returns this node.
    pub(crate) fn node(&self) -> NodeId {
        self.memberships.node
    }

    /// Returns the membership as control has it.
    pub(crate) fn view(&self) -> Arc<View> {
        self.memberships.view()
    }

    /// Returns what this node has of control.
    pub(crate) fn control(&self) -> &ControlLink {
        &self.memberships.control
    }

    /// Waits until the kernel has an endpoint.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or takes too long.
    pub(crate) async fn brought_up(&self, record: &EndpointRecord) -> Result<(), Refusal> {
        let (network, id) = (record.endpoint.network, record.endpoint.id);
        let mut reports = self.reports.subscribe();
        let state = |reports: &NetworkReports| reports.get(&network)?.endpoints.get(&id).cloned();
        let waited = timeout(KERNEL, reports.wait_for(|reports| state(reports).is_some())).await;

        match waited.ok().and_then(Result::ok).and_then(|reports| state(&reports)) {
            Some(EndpointState::Ready) => Ok(()),
            Some(EndpointState::Failed(text)) => Err(Refusal::new(Code::Kernel, text)),
            Some(EndpointState::Gone(text)) => Err(Refusal::new(Code::NotFound, text)),
            None => {
                let problem = self.reports.borrow().get(&network).and_then(|report| report.problem.clone());
                let problem = problem.unwrap_or_else(|| "the kernel was not done within 15 seconds".to_owned());
                Err(Refusal::new(Code::Kernel, problem))
            }
        }
    }

    /// Takes endpoints out of the journal and waits for the kernel to follow; returns those that were in it.
    ///
    /// # Errors
    ///
    /// When the journal cannot be written.
    pub(crate) async fn remove(&self, ids: Vec<EndpointId>, why: &str) -> Result<Vec<EndpointRecord>, Refusal> {
        let removed = self.journal.remove(ids).await?;
        for record in &removed {
            let endpoint = &record.endpoint;
            tracing::info!(endpoint = %endpoint.id, name = %endpoint.name, why, "Detached endpoint");
            self.publisher.forget(endpoint.id);
        }
        let gone = |reports: &NetworkReports| {
            removed.iter().all(|record| {
                reports
                    .get(&record.endpoint.network)
                    .is_none_or(|report| !report.endpoints.contains_key(&record.endpoint.id))
            })
        };
        // What the kernel still refuses is tried again and shown as a problem.
        let _ = timeout(KERNEL, self.reports.subscribe().wait_for(gone)).await;

        Ok(removed)
    }
}
