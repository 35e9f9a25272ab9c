//! Under which names the problems of endpoints are told.

use overlay_core::EndpointId;

/// Under what containers without a working interface are told.
pub(crate) const BROKEN: &str = "container interface ";

/// Names the problem of a container's endpoint whose interface the kernel does not have.
pub(crate) fn about_interface(endpoint: EndpointId) -> String {
    format!("{BROKEN}{endpoint}")
}
