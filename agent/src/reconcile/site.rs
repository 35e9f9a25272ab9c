//! What a worker needs of the kernel: a network's namespace, in four verbs.

use std::future::Future;

use overlay_core::EndpointId;

use crate::kernel::namespace::Report;
use crate::kernel::{KernelError, NamespaceDesired, NetworkNamespace, SandboxDesired};

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

impl Site for NetworkNamespace {
    async fn reconcile(&mut self, desired: &NamespaceDesired) -> Result<Report, KernelError> {
        self.reconcile(desired).await
    }

    async fn attach(&mut self, endpoint: EndpointId, desired: &SandboxDesired) -> Result<Report, KernelError> {
        self.attach(endpoint, desired).await
    }
}
