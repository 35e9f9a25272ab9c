//! Why control could not be asked, and what it refused.

use overlay_core::instant::rfc3339;
use overlay_core::message;
use overlay_proto::channel::DialError;
use overlay_proto::refusal::CODE_KEY;
use overlay_proto::tls::TlsError;
use overlay_proto::{Code, Refusal};

/// Why a call to control has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ControlError {
    /// Control refuses it, in these words.
    #[error(transparent)]
    Refused(Refusal),
    /// No attempt to connect has ended yet.
    #[error("control is not connected yet; try again")]
    NotConnected,
    /// There is no connection.
    #[error("control is away since {}: {reason}; try again when it is back", rfc3339(*.since))]
    Away {
        /// Since when, in seconds since 1970.
        since: u64,
        /// Why.
        reason: String,
    },
    /// The answer took too long.
    #[error("control did not answer within 10 seconds")]
    NoAnswer,
    /// The connection ended under the call.
    #[error("the connection to control broke: {reason}")]
    Broken {
        /// Why.
        reason: String,
    },
}

impl ControlError {
    /// Tells what control said from what became of the connection: whatever comes without a code of
    /// ours was not said by control.
    pub(crate) fn new(status: tonic::Status) -> Self {
        if status.metadata().contains_key(CODE_KEY) || status.code() == tonic::Code::Unimplemented {
            return Self::Refused(Refusal::from(status));
        }

        Self::Broken { reason: message::line(status.message()) }
    }

    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Refused(refusal) => refusal.code,
            Self::NotConnected | Self::Away { .. } | Self::NoAnswer | Self::Broken { .. } => {
                Code::ControlAway
            }
        }
    }
}

/// Why no connection to control was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The certificates at hand do not serve.
    #[error(transparent)]
    Certificates(#[from] TlsError),
    /// No address led to control.
    #[error("{}", message::line(.0))]
    Dial(DialError),
    /// The node's certificate is out of its time, which is the likeliest reason for a TLS failure,
    /// and the only one that clocks explain.
    #[error(
        "this node's certificate is valid from {} to {} and the clock says {}; \
         set the clock right, or join again with a new token ({})",
        rfc3339(*.from), rfc3339(*.until), rfc3339(*.now), message::line(.error)
    )]
    OutOfTime {
        /// When the certificate begins, in seconds since 1970.
        from: u64,
        /// When it ends.
        until: u64,
        /// What the clock says.
        now: u64,
        /// What became of the connection.
        error: DialError,
    },
}

impl ConnectError {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Certificates(_) => Code::Fault,
            Self::Dial(error) | Self::OutOfTime { error, .. } => match error {
                DialError::WrongPin { .. } => Code::WrongPin,
                DialError::Tls { .. } => Code::NotAuthenticated,
                DialError::Unreachable { .. } | DialError::NoAddress | DialError::Http { .. } => {
                    Code::ControlAway
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_control_said_itself_counts_as_its_word() {
        let said = tonic::Status::from(Refusal::new(Code::NotAllowed, "removed"));
        let judge = ControlError::new;

        assert_eq!(judge(said).code(), Code::NotAllowed);
        assert_eq!(judge(tonic::Status::unknown("transport error")).code(), Code::ControlAway);
        assert_eq!(
            judge(tonic::Status::permission_denied("by somebody in between")).code(),
            Code::ControlAway
        );
    }
}
