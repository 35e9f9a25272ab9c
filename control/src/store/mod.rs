//! Durable storage of control's state: a small trait, and the embedded store.

pub(crate) mod embedded;

use std::path::{Path, PathBuf};

use overlay_core::Revision;
use serde::{Deserialize, Serialize};

use crate::registry::{ChangedKey, Record, Settings};

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
}

/// A commit as the change log keeps it: keys only, since rows are read from the current state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChangeLogEntry {
    /// The revision that it resulted in.
    pub(crate) to: Revision,
    /// The keys of the membership rows that it changed.
    #[serde(rename = "touched")]
    pub(crate) changed: Vec<ChangedKey>,
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

/// Why a store cannot be used; the message names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// There is no store.
    #[error("{} is not there; make it: overlay-control init --state {}", path.display(), parent(path))]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A store exists already.
    #[error("{} is there already; this is an initialised state directory", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Another process has it open.
    #[error("{} is in use by another overlay-control; stop that one first", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// Its contents are not what was written.
    #[error("{} is damaged or no store of ours ({what}); restore it from a backup, or move it away and init anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// Another version wrote it.
    #[error("{} has format {found}, this version knows {known}; run the version that wrote it", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The format found in the file.
        found: u64,
        /// The format of this version.
        known: u64,
    },
    /// The disk is full.
    #[error("{} cannot be written: the disk mounted on {} is full; make room there, then it goes on by itself", path.display(), disk.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// Where the disk is mounted.
        disk: PathBuf,
    },
    /// The file system returned an error.
    #[error("{} cannot be used: {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// Another process has written to it in the meantime.
    #[error("{} stands at revision {found}, {expected} was expected", path.display())]
    Moved {
        /// The file.
        path: PathBuf,
        /// The revision found in the file.
        found: Revision,
        /// The revision that was expected.
        expected: Revision,
    },
}

fn parent(path: &Path) -> String {
    path.parent().unwrap_or(path).display().to_string()
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

    /// Stores consecutive commits: all of them or none. Once this returns, they survive a power
    /// failure.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the store is then unchanged, unless [`Store::load`] says otherwise.
    fn commit(&mut self, expected: Revision, commits: &[Commit]) -> Result<(), StoreError>;

    /// Reads the commits after a revision; `None` when the change log does not reach back that far.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn history(&self, since: Revision) -> Result<Option<Vec<ChangeLogEntry>>, StoreError>;
}
