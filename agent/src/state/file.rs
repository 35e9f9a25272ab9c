//! The file itself: made whole or not at all, and checked before anything in it is believed.

use std::cell::Cell;
use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use overlay_daemon::disk;
use redb::backends::FileBackend;
use redb::{Database, DatabaseError, StorageError};

use super::error::{StateError, damaged, failed, io_error};
use super::tables::{CURSORS, DOCKER, ENDPOINTS, KEYS, REVOCATIONS, SCHEMA, VIEW, put_meta};

/// Bytes of the file kept in memory. Everything is read once, so a small cache serves.
const CACHE: usize = 1 << 20;

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Says whether a panic on this thread is expected and will be reported as damage; a panic hook
/// need not tell of it.
pub fn panic_is_contained() -> bool {
    CONTAINED.get()
}

/// Runs what may panic on a damaged file.
pub(super) fn contained<T>(
    path: &Path,
    work: impl FnOnce() -> Result<T, StateError>,
) -> Result<T, StateError> {
    CONTAINED.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(false);

    outcome.unwrap_or_else(|_| Err(damaged(path, "its structure makes no sense")))
}

/// Opens the file and checks all of it.
pub(super) fn open_checked(path: &Path) -> Result<Database, StateError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(|source| failed(path, "opened", source))?;
    let metadata = file.metadata().map_err(|source| failed(path, "read", source))?;
    if metadata.len() == 0 {
        return Err(damaged(path, "it is empty"));
    }
    file.set_permissions(Permissions::from_mode(0o600))
        .map_err(|source| failed(path, "protected", source))?;
    let backend = FileBackend::new(file).map_err(|error| damaged(path, error))?;
    let opened = Database::builder()
        .set_cache_size(CACHE)
        .set_check_integrity_on_open(true)
        .create_with_backend(backend);

    opened.map_err(|error| {
        if let DatabaseError::Storage(StorageError::Io(error)) = error {
            return if disk::is_full(&error) {
                failed(path, "opened", error)
            } else {
                damaged(path, error)
            };
        }

        damaged(path, error)
    })
}

/// Makes the file under another name first, so that a crash in between leaves none rather than half
/// of one.
pub(super) fn create(path: &Path) -> Result<Database, StateError> {
    let draft = path.with_extension("redb.new");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .map_err(|source| failed(&draft, "made", source))?;
    let make = || -> Result<Database, redb::Error> {
        let backend = FileBackend::new(file)?;
        let database = Database::builder().set_cache_size(CACHE).create_with_backend(backend)?;
        let write = database.begin_write()?;
        put_meta(&write, "schema", &SCHEMA.to_le_bytes())?;
        for open in [write.open_table(KEYS).map(drop), write.open_table(VIEW).map(drop)] {
            open?;
        }
        write.open_table(ENDPOINTS)?;
        write.open_table(CURSORS)?;
        write.open_table(DOCKER)?;
        write.open_table(REVOCATIONS)?;
        write.commit()?;

        Ok(database)
    };
    let database = make().map_err(|error| failed(&draft, "written", io_error(error)))?;
    std::fs::rename(&draft, path).map_err(|source| failed(path, "made", source))?;
    if let Some(directory) = path.parent() {
        let synced = std::fs::File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|source| failed(directory, "synced", source))?;
    }

    Ok(database)
}
