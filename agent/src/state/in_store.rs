//! Work on the store, done where blocking is allowed.

use super::error::{StateError, StoreFailure};
use super::store::StateStore;

/// Runs work on the store where blocking is allowed.
pub(crate) async fn in_store<T: Send + 'static>(
    store: &StateStore,
    work: impl FnOnce(&StateStore) -> Result<T, StateError> + Send + 'static,
) -> Result<T, StoreFailure> {
    let store = store.clone();
    let done = tokio::task::spawn_blocking(move || work(&store)).await?;

    done.map_err(StoreFailure::State)
}
