//! Durable storage of control's state: a small trait, and the embedded store.

mod audit;
mod contain;
pub(crate) mod embedded;
mod error;

use std::collections::BTreeMap;
use std::path::Path;

use overlay_core::Revision;
use serde::{Deserialize, Serialize};

use crate::audit::Sum;
use crate::registry::{ChangedKey, Record, Settings};

pub(crate) use audit::{AuditExtent, AuditPage, AuditQuery, AuditWrites};
pub(crate) use error::{Damage, StoreError};

/// How many commits the change log keeps, so that a watcher that was away catches up without a
/// snapshot.
pub(crate) const HISTORY: u64 = 4_096;

/// The changes of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit {
    /// The revision that it results in.
    pub(crate) to: Revision,
    /// The rows to replace or remove, in order.
    pub(crate) records: Vec<Record>,
    /// The keys of the membership rows among them.
    pub(crate) changed: Vec<ChangedKey>,
    /// Random, by which the revision is marked; 0 for none.
    pub(crate) nonce: u64,
}

/// A commit as the change log keeps it: keys only, since rows are read from the current state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChangeLogEntry {
    /// The revision that it resulted in.
    pub(crate) to: Revision,
    /// The keys of the membership rows that it changed.
    #[serde(rename = "touched")]
    pub(crate) changed: Vec<ChangedKey>,
    /// Random, by which the revision is marked; 0 for none.
    #[serde(default)]
    pub(crate) nonce: u64,
}

/// Everything in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// The settings that `init` chose.
    pub(crate) settings: Settings,
    /// The latest revision.
    pub(crate) revision: Revision,
    /// Every row.
    pub(crate) records: Vec<Record>,
}

/// Durable storage of control's state.
pub(crate) trait Store: Send {
    /// Returns the path of the store.
    fn path(&self) -> &Path;

    /// Reads everything.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; a broken store never reads as an empty one.
    fn load(&mut self) -> Result<Loaded, StoreError>;

    /// Stores consecutive commits and what they leave in the audit log: all of it or nothing. Once
    /// this returns, it survives a power failure.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the store is then unchanged, unless [`Store::load`] says otherwise.
    fn commit_audited(
        &mut self,
        expected: Revision,
        commits: &[Commit],
        audit: &AuditWrites,
    ) -> Result<(), StoreError>;

    /// Stores commits that leave nothing in the audit log.
    ///
    /// # Errors
    ///
    /// Those of [`Store::commit_audited`].
    fn commit(&mut self, expected: Revision, commits: &[Commit]) -> Result<(), StoreError> {
        self.commit_audited(expected, commits, &AuditWrites::default())
    }

    /// Reads all commits that the change log has, the latest at the end.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn recent(&self) -> Result<Vec<ChangeLogEntry>, StoreError>;

    /// Reads the commits after a revision; `None` when the change log does not reach back that far.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn history(&self, since: Revision) -> Result<Option<Vec<ChangeLogEntry>>, StoreError>;

    /// Reads from where to where the audit log reaches; `None` if nothing was ever written there.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn audit_extent(&self) -> Result<Option<AuditExtent>, StoreError>;

    /// Reads the sums of the audit log that are not closed.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn audit_sums(&self) -> Result<BTreeMap<String, Sum>, StoreError>;

    /// Reads records of the audit log.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn audit(&self, query: AuditQuery) -> Result<AuditPage, StoreError>;
}
