//! Random identities.

/// The system provides no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("cannot get random bytes: {0}")]
pub(crate) struct RandomError(#[from] getrandom::Error);

/// Returns 64 random bits.
///
/// # Errors
///
/// [`RandomError`].
pub(crate) fn bits() -> Result<u64, RandomError> {
    Ok(getrandom::u64()?)
}
