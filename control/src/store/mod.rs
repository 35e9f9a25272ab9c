//! Where control's memory survives: a small trait, and the embedded store.

pub(crate) mod embedded;

use std::path::{Path, PathBuf};

use overlay_core::Revision;
use serde::{Deserialize, Serialize};

use crate::registry::{Record, Settings, Touched};

/// Commits whose touched rows are kept, so that a watcher that was away catches up without a snapshot.
pub(crate) const HISTORY: u64 = 4_096;

/// One revision's worth of change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// The revision it makes.
    pub(crate) to: Revision,
    /// The rows that change, in order.
    pub(crate) records: Vec<Record>,
    /// Which rows of the membership that were.
    pub(crate) touched: Vec<Touched>,
}

/// A step as history remembers it: rows are read from the present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Footprint {
    /// The revision it made.
    pub(crate) to: Revision,
    /// The rows of the membership that it changed.
    pub(crate) touched: Vec<Touched>,
}

/// Everything a store holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// What `init` decided.
    pub(crate) settings: Settings,
    /// Where the history stands.
    pub(crate) revision: Revision,
    /// Every row.
    pub(crate) records: Vec<Record>,
}

/// A store cannot be used; the text names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// There is none.
    #[error("{} is not there; make it: overlay-control init --state {}", path.display(), parent(path))]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// There is one already.
    #[error("{} is there already; this is an initialised state directory", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Another process has it.
    #[error("{} is in use by another overlay-control; stop that one first", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// It is not as we wrote it.
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
        /// In the file.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// The disk has no room.
    #[error("{} cannot be written: the disk mounted on {} is full; make room there, then it goes on by itself", path.display(), disk.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// Where the disk is mounted.
        disk: PathBuf,
    },
    /// The file system refuses.
    #[error("{} cannot be used: {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// Somebody else has written meanwhile.
    #[error("{} stands at revision {found}, {expected} was expected", path.display())]
    Moved {
        /// The file.
        path: PathBuf,
        /// In the file.
        found: Revision,
        /// Where we thought it stood.
        expected: Revision,
    },
}

fn parent(path: &Path) -> String {
    path.parent().unwrap_or(path).display().to_string()
}

/// Where control's memory survives.
pub(crate) trait Store: Send {
    /// Where it keeps things.
    fn path(&self) -> &Path;

    /// Reads everything.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; a broken store never reads as an empty one.
    fn load(&mut self) -> Result<Loaded, StoreError>;

    /// Makes consecutive steps last, all or none; when this returns, they survive a power cut.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the store then stands where it stood, or [`Store::load`] tells.
    fn commit(&mut self, expected: Revision, steps: &[Step]) -> Result<(), StoreError>;

    /// Reads the steps after a revision, or nothing when history does not reach back that far.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn history(&self, since: Revision) -> Result<Option<Vec<Footprint>>, StoreError>;
}
