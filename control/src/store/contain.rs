//! What redb does with a file that was tampered with: an error of ours, never a panic.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;

use overlay_daemon::disk;

use super::error::{Damage, StoreError};

/// Sorts an error of redb by its cause.
pub(super) fn refuse(path: &Path, error: redb::Error) -> StoreError {
    let path = path.to_owned();
    // Files that are too short or hold garbage end up here.
    let nonsense =
        |kind| matches!(kind, std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof);
    if let redb::Error::Io(source) = error {
        return if disk::is_full(&source) {
            StoreError::Full { disk: disk::mount_point(&path), path }
        } else if nonsense(source.kind()) {
            StoreError::Damaged { path, damage: Damage::Database(redb::Error::Io(source)) }
        } else {
            StoreError::Io { path, source }
        };
    }
    if matches!(error, redb::Error::PreviousIo) {
        return StoreError::Unfinished { path };
    }
    if matches!(error, redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch) {
        return StoreError::Busy { path };
    }

    StoreError::Damaged { path, damage: Damage::Database(error) }
}

/// Turns a panic of redb over a file's contents into an error, and keeps its message off standard
/// error.
pub(super) fn contain<T>(path: &Path, work: impl FnOnce() -> T) -> Result<T, StoreError> {
    let _quiet = Quiet::begin();

    catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| StoreError::Damaged { path: path.to_owned(), damage: Damage::Pages })
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Suppresses the messages of this thread's panics while it exists, since they are reported as
/// errors.
struct Quiet;

impl Quiet {
    fn begin() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let print = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if !QUIET.get() {
                    print(info);
                }
            }));
        });
        QUIET.set(true);

        Self
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        QUIET.set(false);
    }
}
