//! What callers are told when something is refused: the errors of control's parts as refusals.

use overlay_proto::{Code, Refusal};

use crate::pki::InvalidRequest;
use crate::random::RandomError;
use crate::registry::RegistryError;
use crate::watch::end::{DuplicateIdentity, WatchEnd};
use crate::write_error::WriteError;

impl From<RegistryError> for Refusal {
    fn from(error: RegistryError) -> Self {
        Self::new(error.code(), error)
    }
}

impl From<WriteError> for Refusal {
    fn from(error: WriteError) -> Self {
        Self::new(error.code(), error)
    }
}

impl From<WatchEnd> for Refusal {
    fn from(end: WatchEnd) -> Self {
        Self::new(end.code(), end)
    }
}

impl From<DuplicateIdentity> for Refusal {
    fn from(duplicate: DuplicateIdentity) -> Self {
        Self::new(Code::IdentityClash, duplicate)
    }
}

impl From<InvalidRequest> for Refusal {
    fn from(invalid: InvalidRequest) -> Self {
        Self::new(Code::InvalidInput, invalid)
    }
}

impl From<RandomError> for Refusal {
    fn from(error: RandomError) -> Self {
        Self::new(Code::Fault, error)
    }
}
