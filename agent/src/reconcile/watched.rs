//! A network's namespace with its sandboxes, and the changes in them that are heard of.

use std::collections::BTreeMap;
use std::sync::Arc;

use overlay_core::EndpointId;
use overlay_core::policy::Filter;
use tokio_util::task::TaskTracker;

use super::namespace_ops::NamespaceOps;
use super::queue::ReconcileQueue;
use crate::kernel::nft::{Enforced, Enforcement, FilterDesired, FlowLog, Guard, Guarded};
use crate::kernel::{
    ChangeScope, Changes, InterfaceOwner, KernelError, NamespaceDesired, NamespaceEvents, Netns,
    NetworkNamespace, ReconcileReport, SandboxDesired, Step, Subscription,
};

/// A namespace whose changes are heard of, and the changes in the sandboxes that we look after.
#[derive(Debug)]
pub(crate) struct Watched {
    namespace: NetworkNamespace,
    enforcement: Enforcement,
    /// Writes the flows that rules log, where any does.
    flows: Option<FlowLog>,
    queue: Arc<ReconcileQueue>,
    events: Option<Arc<NamespaceEvents>>,
    changes: Arc<Changes>,
    _own: Option<Subscription>,
    sandboxes: BTreeMap<EndpointId, Subscription>,
}

impl Watched {
    /// Hears of changes in the namespace from now on, where events can be heard, but for those of
    /// routes that it makes itself. `runs` knows of the programs that run for the namespace.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(crate) fn new(
        namespace: NetworkNamespace,
        queue: Arc<ReconcileQueue>,
        events: Option<Arc<NamespaceEvents>>,
        runs: &TaskTracker,
    ) -> Result<Self, KernelError> {
        let changes = Arc::default();
        let subscribe = |events: &Arc<NamespaceEvents>| {
            let (netns, own) = (namespace.netns(), namespace.own_port());
            events.subscribe_to_others(netns, ChangeScope::Network, &changes, own)
        };
        let own = events.as_ref().map(subscribe).transpose()?;

        Ok(Self {
            enforcement: namespace.enforcement(runs),
            flows: None,
            namespace,
            queue,
            events,
            changes,
            _own: own,
            sandboxes: BTreeMap::new(),
        })
    }

    /// Returns the namespace.
    pub(crate) fn namespace(&self) -> &NetworkNamespace {
        &self.namespace
    }

    /// Gives the namespace back; no more changes are heard of.
    #[cfg(feature = "bench")]
    pub(crate) fn into_namespace(self) -> NetworkNamespace {
        self.namespace
    }

    /// Returns the changes that nobody has looked into yet.
    pub(crate) fn changes(&self) -> Arc<Changes> {
        Arc::clone(&self.changes)
    }

    /// Writes the flows that rules log from now on, if any does.
    async fn log_flows(&mut self, desired: &FilterDesired) {
        let logs = |filter: &Filter| filter.rules.iter().any(|rule| rule.log);
        if !matches!(desired, FilterDesired::Filter(filter) if logs(filter)) {
            self.flows = None;
            return;
        }
        if self.flows.as_ref().is_some_and(FlowLog::is_heard) {
            return;
        }
        let (netns, network) = (self.namespace.netns(), self.namespace.network());
        self.flows = match FlowLog::open(netns, network).await {
            Ok(flows) => Some(flows),
            Err(error) => {
                // It is tried again at the next look.
                tracing::debug!(%error, %network, "Failed to listen for flows to be logged");
                None
            }
        };
    }

    /// Hears of changes in a sandbox. What becomes of an engine's container is the engine's
    /// business.
    fn watch(&mut self, endpoint: EndpointId, desired: &SandboxDesired) -> Result<(), KernelError> {
        let Some(events) = &self.events else { return Ok(()) };
        if desired.owner != InterfaceOwner::Agent || self.sandboxes.contains_key(&endpoint) {
            return Ok(());
        }
        // Attaching reports one that is gone.
        if let Ok(netns) = Netns::open(&desired.netns) {
            let subscription =
                events.subscribe(&netns, ChangeScope::Sandbox(endpoint), &self.changes)?;
            self.sandboxes.insert(endpoint, subscription);
        }

        Ok(())
    }
}

impl NamespaceOps for Watched {
    async fn reconcile(
        &mut self,
        desired: &NamespaceDesired,
    ) -> Result<ReconcileReport, KernelError> {
        self.sandboxes.retain(|id, _| desired.endpoints.contains_key(id));
        let reconciled = self.namespace.reconcile(desired).await;
        self.queue.note_step(self.namespace.network());

        reconciled
    }

    async fn reroute(
        &mut self,
        held: &NamespaceDesired,
        desired: &NamespaceDesired,
    ) -> Option<Vec<Step>> {
        let steps = self.namespace.reroute(held, desired).await;
        self.queue.note_step(self.namespace.network());

        steps
    }

    async fn guard(&mut self, desired: Arc<Guard>) -> Guarded {
        let guarded = self.enforcement.guard(desired).await;
        self.queue.note_step(self.namespace.network());

        guarded
    }

    async fn enforce(&mut self, desired: &FilterDesired) -> Enforced {
        let enforced = self.enforcement.enforce(desired.clone()).await;
        self.queue.note_step(self.namespace.network());
        self.log_flows(desired).await;

        enforced
    }

    async fn detach(&mut self, endpoint: EndpointId) -> Result<(), KernelError> {
        self.namespace.detach(endpoint).await
    }

    async fn attach(
        &mut self,
        endpoint: EndpointId,
        desired: &SandboxDesired,
    ) -> Result<ReconcileReport, KernelError> {
        // Before it is looked at, so that no change in between is missed.
        self.watch(endpoint, desired)?;
        let attached = self.namespace.attach(endpoint, desired).await;
        self.queue.note_step(self.namespace.network());
        if matches!(attached, Err(KernelError::SandboxGone { .. })) {
            self.sandboxes.remove(&endpoint);
        }

        attached
    }
}

#[cfg(test)]
#[path = "watched_tests.rs"]
mod tests;
