//! What this process needs from the host: a log that is written, descriptors, and room on the disk.

use std::sync::Arc;

use overlay_daemon::Condition;
use overlay_daemon::descriptors::Descriptors;
use overlay_daemon::log::Log;
use overlay_proto::Code;

use crate::problem::ProcessConditions;
use crate::problem_code::ProblemCode;
use crate::problem_key::ProblemKey;
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
    fn conditions(&self) -> Vec<(ProblemKey, ProblemCode, Condition)> {
        let conditions = [
            (ProblemKey::Storage, Code::Storage.into(), self.store.condition()),
            (ProblemKey::Log, ProblemCode::Log, self.log.condition()),
            (ProblemKey::Descriptors, ProblemCode::Descriptors, self.descriptors.condition()),
        ];

        conditions
            .into_iter()
            .filter_map(|(key, code, condition)| Some((key, code, condition?)))
            .collect()
    }
}
