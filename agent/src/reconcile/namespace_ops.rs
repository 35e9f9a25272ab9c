//! What a worker needs from the kernel: a network's namespace with two operations.

use std::future::Future;

use overlay_core::EndpointId;

use crate::kernel::ReconcileReport;
use crate::kernel::{KernelError, NamespaceDesired, SandboxDesired};

/// A network's namespace.
pub(crate) trait NamespaceOps: Send {
    /// Brings the namespace to `desired`; writes only what differs.
    fn reconcile(
        &mut self,
        desired: &NamespaceDesired,
    ) -> impl Future<Output = Result<ReconcileReport, KernelError>> + Send;

    /// Creates or repairs the container side of an endpoint.
    fn attach(
        &mut self,
        endpoint: EndpointId,
        desired: &SandboxDesired,
    ) -> impl Future<Output = Result<ReconcileReport, KernelError>> + Send;
}
