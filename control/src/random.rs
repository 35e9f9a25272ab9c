//! Random identities.

use overlay_proto::{Code, Refusal};

/// Returns 64 random bits.
///
/// # Errors
///
/// `fault` when the system provides none.
pub(crate) fn bits() -> Result<u64, Refusal> {
    getrandom::u64()
        .map_err(|error| Refusal::new(Code::Fault, format!("cannot get random bytes: {error}")))
}
