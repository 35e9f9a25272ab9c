//! Ends a service for good.

use overlay_proto::{Code, Refusal};

use super::running::{GRACE, remove_note, running};
use super::{door, systemd};
use crate::failure::Outcome;
use crate::state::{Service, StateDir};

/// Ends a service that `init` or `join` started, however it was started, and with the agent the
/// door; tells whether there was one.
pub(crate) async fn stop(service: Service, state: &StateDir) -> Outcome<bool> {
    let mut found = systemd::remove(service, state).await?;
    // More than one only where a start was cut short; a supervisor of somebody else's is not
    // fought.
    for process in std::iter::from_fn(|| running(service, state)).take(3) {
        process.stop(GRACE).await.map_err(|error| {
            let text =
                format!("{} (pid {}) does not end: {error}", service.program(), process.pid());
            Refusal::new(Code::Fault, text)
        })?;
        found = true;
    }
    has_ended(service, state).await?;

    Ok(found)
}

/// Removes what a service has beside it while it runs.
pub(super) async fn has_ended(service: Service, state: &StateDir) -> Outcome {
    if service == Service::Agent {
        door::close(state).await?;
    }

    Ok(remove_note(&state.pid_file(service))?)
}
