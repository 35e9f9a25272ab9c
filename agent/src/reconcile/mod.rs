//! Brings kernel, lanes and names to what is desired, and keeps them there.
//!
//! `supervisor` recomputes when the membership or the journal changes and has one `worker` a network; a worker owns that
//! network's namespace. `site` is what a worker needs of the kernel, `pass` one round over it, `pace` says when the next
//! one is. A network that nobody touches costs nothing but a sweep a minute.

pub(crate) mod clean;
mod pace;
mod pass;
mod site;
mod supervisor;
mod watched;
mod worker;

use std::collections::BTreeMap;

use overlay_core::{EndpointId, NetworkId};

use crate::path::Offload;

pub(crate) use supervisor::run;

/// How all networks are doing.
pub(crate) type NetworkReports = BTreeMap<NetworkId, NetworkReport>;

/// How one network is doing in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NetworkReport {
    /// The endpoints that were tried, and how that went.
    pub(crate) endpoints: BTreeMap<EndpointId, EndpointState>,
    /// Differences put right that neither we nor the end of a sandbox had made.
    pub(crate) drift_healed: u32,
    /// What the kernel refuses.
    pub(crate) trouble: Option<String>,
    /// What the TUN takes and gives super-packets of.
    pub(crate) offload: Offload,
}

/// How one endpoint is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EndpointState {
    /// It can be used.
    Ready,
    /// It cannot, and why.
    Failed(String),
    /// What it lived in is gone; it will be taken out of the journal.
    Gone(String),
}
