//! What the workers and their supervisor share.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use overlay_core::{NetworkId, NodeId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{NetworkReports, ReconcileQueue};
use crate::backend::Backend;
use crate::dns::{DnsCounts, Names};
use crate::event_source::EventSource;
use crate::hand_over::DescriptorStore;
use crate::host_state::HostState;
use crate::membership::Membership;
use crate::membership::admission::AdmissionState;
use crate::problem::Problems;
use crate::state::journal::Journal;
use crate::state::keyring::Keyring;

/// What it takes to keep this node's networks.
#[derive(Debug)]
pub(crate) struct ReconcileContext {
    /// This node.
    pub(crate) node: NodeId,
    /// Where namespaces are pinned.
    pub(crate) run_dir: PathBuf,
    /// The membership as it was heard last.
    pub(crate) membership: watch::Sender<Membership>,
    /// The endpoints of this node.
    pub(crate) journal: Arc<Journal>,
    /// Whether this host may carry packets.
    pub(crate) admission: Arc<AdmissionState>,
    /// The networks that carry no packets because their lease has run out.
    pub(crate) lapsed: watch::Sender<Arc<BTreeSet<NetworkId>>>,
    /// The host's network.
    pub(crate) host: Arc<HostState>,
    /// This node's private keys.
    pub(crate) keyring: Arc<Keyring>,
    /// What carries their packets.
    pub(crate) backend: Arc<dyn Backend>,
    /// Where the DNS names of all networks are published.
    pub(crate) names: watch::Sender<Arc<Names>>,
    /// Counts the questions of containers that are refused.
    pub(crate) dns_counts: Arc<DnsCounts>,
    /// Where the state of each network in the kernel is published.
    pub(crate) reports: watch::Sender<NetworkReports>,
    /// The order in which networks are worked on.
    pub(crate) queue: Arc<ReconcileQueue>,
    /// The source of events in namespaces.
    pub(crate) events: Arc<EventSource>,
    /// Where problems are reported.
    pub(crate) problems: Arc<Problems>,
    /// Ends the workers and their supervisor.
    pub(crate) stop: CancellationToken,
    /// What outlives a session while the agent is handed over.
    pub(crate) descriptors: DescriptorStore,
}
