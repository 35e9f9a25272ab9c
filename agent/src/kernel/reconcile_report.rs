//! What a reconcile found and did.

use std::collections::BTreeSet;

use overlay_core::EndpointId;

use super::error::KernelError;
use super::tables::Step;
use super::tun::NetworkInterface;

/// What a reconcile found and did.
#[derive(Debug, Default)]
pub struct ReconcileReport {
    /// The changes made; none when nothing differed.
    pub steps: Vec<Step>,
    /// The changes that the kernel refused; tried again next time.
    pub errors: Vec<KernelError>,
    /// Endpoints whose veth pair is not there: [`super::NetworkNamespace::attach`] makes it, then
    /// reconcile again.
    pub missing: BTreeSet<EndpointId>,
    /// The new interface, when it had to be made again: descriptors of the old one are dead.
    pub interface: Option<NetworkInterface>,
}
