//! Why control is not backed up or restored.

use std::io;
use std::path::{Path, PathBuf};

use crate::start_error::StartError;

/// Why control is not backed up or restored, in one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file is there already.
    #[error("{} is there already; name another file, or use --force to replace it", .0.display())]
    Exists(PathBuf),
    /// The file cannot be used.
    #[error("{} is no backup that can be restored: {what}; take another one", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A later version made it.
    #[error(
        "{} is a backup of format {found}, this version knows {known}; use the version that made \
         it, or a later one",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The format found in the file.
        found: u64,
        /// The format of this version.
        known: u64,
    },
    /// Control runs, and makes no backup.
    #[error("control on {} runs and does not answer: {source}; see its log", state.display())]
    Silent {
        /// Its state directory.
        state: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Control runs.
    #[error(
        "control runs on {}; stop it first: overlayctl stop, or systemctl stop overlay-control",
        state.display()
    )]
    Running {
        /// Its state directory.
        state: PathBuf,
    },
    /// There is a cluster in the state directory.
    #[error("{} holds a cluster already; --keep-old moves it aside", .0.display())]
    Occupied(PathBuf),
    /// A value cannot be written.
    #[error("the state cannot be written")]
    Unwritable(#[source] serde_json::Error),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StartError),
}

impl BackupError {
    pub(super) fn damaged(path: &Path, what: &str) -> Self {
        Self::Damaged { path: path.to_owned(), what: what.to_owned() }
    }

    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();

        |source| Self::Io { path, source }
    }
}
