//! Why the state file cannot be used, told with the file and what to do.

use std::io;
use std::path::{Path, PathBuf};

use overlay_daemon::disk;
use overlay_proto::Code;
use tokio::task::JoinError;

use super::tables::SCHEMA;
use crate::problem::explain;

/// The state file does not serve.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It is not what was written.
    #[error(
        "{} is damaged ({why}); put a copy of it back, or move it away and join again: this node's endpoints are then lost",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It comes from another version.
    #[error("{} has layout {found}, this version reads layout {SCHEMA}; start the version that wrote it", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: u64,
    },
    /// The disk has no room for it.
    #[error(
        "{} cannot be {action}: the disk mounted on {} is full; make room there, then it goes on by itself",
        path.display(), disk.display()
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// What was tried, as a participle.
        action: &'static str,
        /// Where the disk is mounted.
        disk: PathBuf,
    },
    /// Another process has it, which takes this one's place.
    #[error("{} is being handed over to another program; try again", path.display())]
    Closed {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error("{} cannot be {action}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried, as a participle.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Why work on the store was not done; its text has the whole cause.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreFailure {
    /// The state file does not serve.
    #[error("{}", explain(.0))]
    State(StateError),
    /// The work panicked.
    #[error(transparent)]
    Task(#[from] JoinError),
}

impl StoreFailure {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::State(_) => Code::Storage,
            Self::Task(_) => Code::Fault,
        }
    }
}

/// Takes the error of the disk out of one of the database.
pub(super) fn io_error(error: redb::Error) -> io::Error {
    if let redb::Error::Io(error) = error { error } else { io::Error::other(error) }
}

/// Says that the file could not be read or written; `action` is a participle.
pub(super) fn failed(path: &Path, action: &'static str, source: io::Error) -> StateError {
    if disk::is_full(&source) {
        return StateError::Full { path: path.to_owned(), action, disk: disk::mount_point(path) };
    }

    StateError::Io { path: path.to_owned(), action, source }
}

/// Says that the file is not what was written.
pub(super) fn damaged(path: &Path, why: impl std::fmt::Display) -> StateError {
    StateError::Damaged { path: path.to_owned(), why: why.to_string() }
}
