//! Random identities.

use crate::registry::{Digest, HistoryKey};

/// The system provides no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("cannot get random bytes: {0}")]
pub(crate) struct RandomError(#[from] getrandom::Error);

/// Returns random bytes.
///
/// # Errors
///
/// [`RandomError`].
pub(crate) fn bytes<const LEN: usize>() -> Result<[u8; LEN], RandomError> {
    let mut bytes = [0; LEN];
    getrandom::fill(&mut bytes)?;

    Ok(bytes)
}

/// Draws a history.
///
/// # Errors
///
/// [`RandomError`].
pub(crate) fn history() -> Result<HistoryKey, RandomError> {
    Ok(HistoryKey { lineage: bytes()?.into(), secret: Digest(bytes()?) })
}

/// Returns 64 random bits.
///
/// # Errors
///
/// [`RandomError`].
pub(crate) fn bits() -> Result<u64, RandomError> {
    Ok(getrandom::u64()?)
}
