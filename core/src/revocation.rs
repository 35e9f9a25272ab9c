//! That a node was removed, for good: what control signs and nodes pass on to each other.

use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::name::Name;
use crate::network::Creator;

/// A removed node. Its id says everything that must be refused: control gives an id once, and the
/// keys that nodes accept stand in the membership by the id of their node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// The node.
    pub node: NodeId,
    /// The name it had.
    pub name: Name,
    /// When it was removed, in seconds since 1970, by control's clock.
    pub at: u64,
    /// The admin that removed it; missing if the operator of control did.
    pub by: Option<Creator>,
}

impl std::fmt::Display for Revocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let by = self.by.as_ref().map_or("the operator of control", |by| by.name.as_str());
        let at = crate::instant::rfc3339(self.at);

        write!(f, "node {} ({}) was removed by {by} at {at}", self.name, self.node)
    }
}
