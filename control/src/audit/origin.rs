//! Where a call comes from.
//!
//! It travels with the call's task, as a span of the log does, and not through the arguments of
//! every function between the connection and the writer.

use std::net::IpAddr;

use overlay_core::NodeId;
use overlay_proto::audit::RecordHash;

tokio::task_local! {
    static CURRENT: CallOrigin;
}

/// Where a call comes from; nothing is set for what control does by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CallOrigin {
    /// The address of the connection.
    pub(crate) address: Option<IpAddr>,
    /// The node that its certificate names, whether or not it still is one.
    pub(crate) node: Option<NodeId>,
    /// The SHA-256 of its certificate.
    pub(crate) certificate: Option<RecordHash>,
}

impl CallOrigin {
    /// Returns the origin of the call that is being answered.
    pub(crate) fn current() -> Self {
        CURRENT.try_with(|origin| *origin).unwrap_or_default()
    }

    /// Answers a call that comes from here.
    pub(crate) async fn scope<T>(self, call: impl Future<Output = T>) -> T {
        CURRENT.scope(self, call).await
    }
}
