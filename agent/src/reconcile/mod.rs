//! Brings kernel, backend and names to the desired state, and keeps them there.
//!
//! `supervisor` recomputes when the membership or the journal changes (`wanted`: only what
//! something touched) and has one `worker` a network; a worker owns that network's namespace.
//! `namespace_ops` is what a worker needs of the kernel, `pass` one pass over it, `pace` says when
//! the next one is due and `queue` when it has its turn. A network that nothing touches costs no
//! more than a sweep a minute.

#[cfg(feature = "bench")]
pub mod bench;
pub(crate) mod clean;
mod context;
mod namespace_ops;
mod pace;
mod pass;
#[cfg(test)]
mod policy_tests;
mod queue;
mod supervisor;
mod wanted;
mod watched;
mod worker;

use std::collections::BTreeMap;

use overlay_core::{EndpointId, NetworkId};

pub(crate) use context::ReconcileContext;
#[cfg(test)]
pub(crate) use queue::QueueLog;
pub(crate) use queue::ReconcileQueue;
pub(crate) use supervisor::run;

/// The prefix of the names under which the DNS servers' sockets are kept; the rest is the network.
const KEPT_DNS: &str = "dns/";

/// Returns the name under which the sockets of a network's DNS server are kept.
fn kept_dns(network: NetworkId) -> String {
    format!("{KEPT_DNS}{network}")
}

/// The state of all networks.
pub(crate) type NetworkReports = BTreeMap<NetworkId, NetworkReport>;

/// The state of one network in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NetworkReport {
    /// The endpoints that were attached, and the results.
    pub(crate) endpoints: BTreeMap<EndpointId, EndpointState>,
    /// Differences that were repaired and that neither the agent nor the end of a sandbox had
    /// caused.
    pub(crate) drift_healed: u32,
    /// The error of the kernel, if any.
    pub(crate) problem: Option<String>,
    /// Why the network's policy is not in force, if it is not.
    pub(crate) policy: Option<String>,
    /// Why the guard of its containers is not there, if it is not.
    pub(crate) guard: Option<String>,
}

/// The state of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EndpointState {
    /// It is ready.
    Ready,
    /// It was tried, and its network's problem holds it up.
    HeldUp,
    /// It is not ready, with the reason.
    Failed(String),
    /// Its sandbox is gone; it will be removed from the journal.
    Gone(String),
}
