//! Why a store cannot be used, by cause; the message names the file and what to do.

use std::path::{Path, PathBuf};

use overlay_core::Revision;

use crate::registry::Contradiction;

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
    #[error("{} is damaged or no store of ours ({damage}); restore it from a backup, or move it away and init anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        damage: Damage,
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
    #[error("{} cannot be used: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An earlier write failed, after which the file was not opened again.
    #[error("{} cannot be used: an earlier write failed", path.display())]
    Unfinished {
        /// The file.
        path: PathBuf,
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

/// What is wrong with a file whose contents are not what was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Damage {
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// It was closed after a failed write.
    #[error("it is closed")]
    Closed,
    /// Its pages do not fit together.
    #[error("its pages contradict each other")]
    Pages,
    /// The database makes no sense of it.
    #[error("{0}")]
    Database(redb::Error),
    /// An entry is missing.
    #[error("no {0}")]
    MissingEntry(&'static str),
    /// An entry cannot be read.
    #[error("{entry}: {source}")]
    Entry {
        /// Its key.
        entry: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A row is under the key of another one.
    #[error("{0} holds another row")]
    OtherRow(String),
    /// A value cannot be written.
    #[error("{0}")]
    Unwritable(serde_json::Error),
    /// Its contents break a rule of the registry.
    #[error("{0}")]
    Contents(Contradiction),
}

fn parent(path: &Path) -> String {
    path.parent().unwrap_or(path).display().to_string()
}
