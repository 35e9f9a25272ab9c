//! Work on the store, done where blocking is allowed.

use overlay_proto::{Code, Refusal};

use super::error::StateError;
use super::store::StateStore;
use crate::problem::explain;

/// Runs work on the store where blocking is allowed.
pub(crate) async fn in_store<T: Send + 'static>(
    store: &StateStore,
    work: impl FnOnce(&StateStore) -> Result<T, StateError> + Send + 'static,
) -> Result<T, Refusal> {
    let store = store.clone();
    let done = tokio::task::spawn_blocking(move || work(&store))
        .await
        .map_err(|error| Refusal::new(Code::Fault, error))?;

    done.map_err(|error| Refusal::new(Code::Storage, explain(&error)))
}
