//! Writes a backup to a file: whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use overlay_core::{ClusterId, Revision};

use super::socket::fetch;
use super::{BackupError, Contents};
use crate::clock;
use crate::pki::AuthorityPem;
use crate::registry::ClusterState;
use crate::start_error::StartError;
use crate::store::embedded::Embedded;
use crate::store::{Store, StoreError};

/// What was backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSummary {
    /// The cluster.
    pub cluster: ClusterId,
    /// The revision.
    pub revision: Revision,
    /// How many nodes there are.
    pub nodes: usize,
    /// How many networks there are.
    pub networks: usize,
    /// How large the file is, in bytes.
    pub bytes: usize,
}

/// Backs up control, which may run, to a file that only its owner may read.
///
/// # Errors
///
/// [`BackupError`]; what was at the path before is still there then.
pub fn back_up(state: &Path, to: &Path, force: bool) -> Result<BackupSummary, BackupError> {
    if !force && to.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let bytes = match fetch(state)? {
        Some(bytes) => bytes,
        None => at_rest(state)?.encode()?,
    };
    // Whatever came: only what can be restored is a backup.
    let contents = Contents::decode(to, &bytes)?;
    let backed_up = contents.state(to)?;
    write(to, &bytes, force)?;

    Ok(BackupSummary {
        cluster: contents.settings.cluster,
        revision: contents.revision,
        nodes: backed_up.view().nodes.len(),
        networks: backed_up.view().networks.len(),
        bytes: bytes.len(),
    })
}

/// Reads everything of a control that does not run.
fn at_rest(state: &Path) -> Result<Contents, BackupError> {
    let start = |error: StoreError| {
        if matches!(error, StoreError::Busy { .. }) {
            let source = std::io::ErrorKind::ConnectionRefused.into();
            return BackupError::Silent { state: state.to_owned(), source };
        }
        BackupError::State(StartError::from(error))
    };
    let loaded = Embedded::open(state).and_then(|mut store| store.load()).map_err(start)?;
    let authority = AuthorityPem::read(state).map_err(|error| BackupError::State(error.into()))?;
    let loaded = ClusterState::from_records(loaded.settings, loaded.revision, loaded.records);

    Ok(Contents::of(&loaded, authority, clock::now_unix()))
}

fn write(to: &Path, bytes: &[u8], force: bool) -> Result<(), BackupError> {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let draft = to.with_file_name(name);
    let written = fill(&draft, bytes).and_then(|()| put_in_place(&draft, to, force));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }

    written
}

fn fill(draft: &Path, bytes: &[u8]) -> Result<(), BackupError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(draft).map_err(BackupError::io(draft))?;

    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(BackupError::io(draft))
}

fn put_in_place(draft: &Path, to: &Path, force: bool) -> Result<(), BackupError> {
    if force {
        fs::rename(draft, to).map_err(BackupError::io(to))?;
    } else {
        // Unlike a rename, a link replaces nothing.
        fs::hard_link(draft, to).map_err(|source| {
            if source.kind() == std::io::ErrorKind::AlreadyExists {
                return BackupError::Exists(to.to_owned());
            }
            BackupError::Io { path: to.to_owned(), source }
        })?;
        fs::remove_file(draft).map_err(BackupError::io(draft))?;
    }
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent: PathBuf = parent.unwrap_or(Path::new(".")).to_owned();

    File::open(&parent).and_then(|folder| folder.sync_all()).map_err(BackupError::io(&parent))
}
