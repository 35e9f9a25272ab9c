//! What a worker needs of the kernel: a network's namespace, in two verbs.

use std::future::Future;

use overlay_core::EndpointId;

use crate::kernel::namespace::Report;
use crate::kernel::{KernelError, NamespaceDesired, SandboxDesired};

/// A network's namespace.
pub(crate) trait Site: Send {
    /// Brings the namespace to `desired`; what differs nothing is written for.
    fn reconcile(&mut self, desired: &NamespaceDesired) -> impl Future<Output = Result<Report, KernelError>> + Send;

    /// Makes or heals the container side of an endpoint.
    fn attach(
        &mut self,
        endpoint: EndpointId,
        desired: &SandboxDesired,
    ) -> impl Future<Output = Result<Report, KernelError>> + Send;
}
