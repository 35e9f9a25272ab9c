//! Handles: a link and a peer within their network, a link within its lane.

use overlay_core::NetworkId;

/// Identifies a link within its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkIndex(pub(crate) usize);

/// Identifies a peer within its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PeerIndex(pub(crate) usize);

/// Identifies a link within its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkHandle {
    pub(crate) network: NetworkId,
    pub(crate) link: LinkIndex,
}
