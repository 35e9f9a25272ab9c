//! The endpoints of this node from when they are in the journal until they are out of it: the
//! kernel follows, control hears of it later.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use overlay_core::{EndpointId, NodeId, View};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::host_state::HostState;
use crate::membership::control_link::ControlLink;
use crate::membership::network_membership::NetworkMemberships;
use crate::membership::publish::Publisher;
use crate::problem::Problems;
use crate::reconcile::{NetworkReports, ReconcileQueue};
use crate::state::journal::Journal;
use crate::state::{EndpointRecord, StoreFailure};

/// How long the kernel may take to take endpoints away.
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
    /// The order in which the kernel gets them.
    pub(crate) queue: Arc<ReconcileQueue>,
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

    /// Takes endpoints out of the journal and waits for the kernel to follow; returns those that
    /// were in it.
    ///
    /// # Errors
    ///
    /// When the journal cannot be written.
    pub(crate) async fn remove(
        &self,
        ids: Vec<EndpointId>,
        why: &str,
    ) -> Result<Vec<EndpointRecord>, StoreFailure> {
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
