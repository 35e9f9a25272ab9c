//! Which services run, and the notes of their processes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use overlay_proto::Refusal;

use crate::failure::storage;
use crate::pidfd::{self, Process};
use crate::state::{Service, StateDir};

/// How long a service may take to end when asked to.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// Removes the note of a process that is gone, if there is one.
pub(super) fn remove_note(pid_file: &Path) -> Result<(), Refusal> {
    match fs::remove_file(pid_file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(storage(pid_file.display(), &error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Finds the service's process: a start that was cut short, or a supervisor, may have left one
/// without its note.
pub(super) fn running(service: Service, state: &StateDir) -> Option<Process> {
    Process::of_file(&state.pid_file(service))
        .or_else(|| pidfd::find(service.program(), &state.of(service)))
}

/// Tells whether the service runs.
pub(crate) fn runs(service: Service, state: &StateDir) -> bool {
    running(service, state).is_some()
}
