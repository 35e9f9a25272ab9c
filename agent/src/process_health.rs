//! What this process needs from the host: a log that is written, descriptors, and room on the disk.

use std::sync::Arc;

use overlay_daemon::Condition;
use overlay_daemon::descriptors::Descriptors;
use overlay_daemon::log::Log;

use crate::problem::ProcessConditions;
use crate::state::StateStore;

/// What this process needs from the host.
#[derive(Debug)]
pub(crate) struct ProcessHealth {
    /// The log.
    pub(crate) log: Log,
    /// The file descriptors.
    pub(crate) descriptors: Arc<Descriptors>,
    /// The state on disk.
    pub(crate) store: StateStore,
}

impl ProcessConditions for ProcessHealth {
    fn conditions(&self) -> Vec<(&'static str, Condition)> {
        let conditions = [
            ("storage", self.store.condition()),
            ("log", self.log.condition()),
            ("descriptors", self.descriptors.condition()),
        ];

        conditions.into_iter().filter_map(|(code, condition)| Some((code, condition?))).collect()
    }
}
