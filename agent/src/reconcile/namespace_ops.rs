//! What a worker needs from the kernel: a network's namespace with a few operations.

use std::future::Future;
use std::sync::Arc;

use overlay_core::EndpointId;

use crate::kernel::nft::{Enforced, FilterDesired, Guard, Guarded};
use crate::kernel::{KernelError, NamespaceDesired, ReconcileReport, SandboxDesired, Step};

/// A network's namespace.
pub(crate) trait NamespaceOps: Send {
    /// Brings the namespace to `desired`; writes only what differs.
    fn reconcile(
        &mut self,
        desired: &NamespaceDesired,
    ) -> impl Future<Output = Result<ReconcileReport, KernelError>> + Send;

    /// Brings the namespace from `held`, which it holds, to `desired` by the routes that differ,
    /// and reads nothing back. Returns the steps; nothing when it takes a `reconcile`.
    fn reroute(
        &mut self,
        held: &NamespaceDesired,
        desired: &NamespaceDesired,
    ) -> impl Future<Output = Option<Vec<Step>>> + Send;

    /// Keeps the containers of the network to this guard from now on; looks whether somebody else
    /// changed it.
    fn guard(&mut self, desired: Arc<Guard>) -> impl Future<Output = Guarded> + Send;

    /// Keeps the network to this from now on; looks whether somebody else changed what is in force
    /// already.
    fn enforce(&mut self, desired: &FilterDesired) -> impl Future<Output = Enforced> + Send;

    /// Takes an endpoint's interface away, container side and all.
    fn detach(
        &mut self,
        endpoint: EndpointId,
    ) -> impl Future<Output = Result<(), KernelError>> + Send;

    /// Creates or repairs the container side of an endpoint.
    fn attach(
        &mut self,
        endpoint: EndpointId,
        desired: &SandboxDesired,
    ) -> impl Future<Output = Result<ReconcileReport, KernelError>> + Send;
}
