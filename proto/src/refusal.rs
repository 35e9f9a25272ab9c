//! Refusals on the wire: one line of text and a stable code, with conversions from and to gRPC
//! statuses.

use std::fmt;

use overlay_core::message;

use crate::code::Code;
use crate::convert::ConversionError;

/// The metadata key that carries a refusal's code.
pub const CODE_KEY: &str = "overlay-code";

/// One line that says what was wrong, where, and what to do, with a stable code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The stable code.
    pub code: Code,
    /// The text for people: lower case, no full stop, no secret.
    pub message: String,
}

impl Refusal {
    /// Creates a refusal; its message becomes one plain line.
    pub fn new(code: Code, message: impl fmt::Display) -> Self {
        Self { code, message: message::line(message) }
    }
}

impl From<ConversionError> for Refusal {
    fn from(error: ConversionError) -> Self {
        Self::new(error.code(), error)
    }
}

impl From<ConversionError> for tonic::Status {
    fn from(error: ConversionError) -> Self {
        Refusal::from(error).into()
    }
}

impl From<Refusal> for tonic::Status {
    fn from(refusal: Refusal) -> Self {
        let mut status = Self::new(refusal.code.grpc(), refusal.message);
        status
            .metadata_mut()
            .insert(CODE_KEY, tonic::metadata::MetadataValue::from_static(refusal.code.as_str()));

        status
    }
}

impl From<tonic::Status> for Refusal {
    fn from(status: tonic::Status) -> Self {
        let named =
            status.metadata().get(CODE_KEY).and_then(|v| v.to_str().ok()).and_then(Code::from_word);
        let code = named.unwrap_or_else(|| guess(status.code()));

        Self::new(code, status.message())
    }
}

/// Picks a code for a status that was not made from a [`Refusal`].
fn guess(code: tonic::Code) -> Code {
    match code {
        tonic::Code::InvalidArgument | tonic::Code::OutOfRange => Code::InvalidInput,
        tonic::Code::NotFound => Code::NotFound,
        tonic::Code::AlreadyExists => Code::NameTaken,
        tonic::Code::PermissionDenied => Code::NotAllowed,
        tonic::Code::Unauthenticated => Code::NotAuthenticated,
        tonic::Code::ResourceExhausted => Code::Exhausted,
        tonic::Code::FailedPrecondition | tonic::Code::Aborted => Code::WrongState,
        tonic::Code::Unimplemented => Code::Unsupported,
        tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => {
            Code::ControlAway
        }
        tonic::Code::Ok | tonic::Code::Unknown | tonic::Code::Internal | tonic::Code::DataLoss => {
            Code::Fault
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_in_words() {
        let denied = std::io::Error::from_raw_os_error(13);

        assert_eq!(
            Refusal::new(Code::Storage, format!("/x:\n{denied}")).message,
            "/x: Permission denied"
        );
    }

    #[test]
    fn a_refusal_survives_the_wire() {
        let refusal = Refusal::new(Code::AddressTaken, "10.0.0.1 is taken by web");

        let back = Refusal::from(tonic::Status::from(refusal.clone()));

        assert_eq!(back, refusal);
    }

    #[test]
    fn a_refusal_is_one_line() {
        assert_eq!(Refusal::new(Code::Fault, "a\nb").message, "a b");
    }
}
