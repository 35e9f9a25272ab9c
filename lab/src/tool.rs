//! Small programs that change a host of the lab, watch its processes, or are a node or many.

pub(crate) mod change;
pub(crate) mod crowd;
mod enrolled_node;
pub(crate) mod fill;
pub(crate) mod hostile_node;
pub(crate) mod plugin;
pub(crate) mod processes;
pub(crate) mod successor;
pub(crate) mod uapi;
pub(crate) mod usage;

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit of descriptors to what the system allows: tools that are many hosts at once
/// need more than a process may have by default.
///
/// # Errors
///
/// If the kernel refuses.
pub(crate) fn raise_descriptor_limit() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;

    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of descriptors")
}
