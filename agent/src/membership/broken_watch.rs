//! Why a node no longer hears control.

use overlay_proto::Code;
use overlay_proto::convert::ConversionError;

use super::connection_loss::ConnectionLoss;
use super::control_error::{ConnectError, ControlError};

/// Why a connection, or the stream on it, ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum BrokenWatch {
    /// There was none.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection is dead.
    #[error(transparent)]
    Loss(#[from] ConnectionLoss),
    /// Control did not answer, or refused.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// What came is no view, or no step of one.
    #[error(transparent)]
    Row(#[from] ConversionError),
    /// Control ended the stream.
    #[error("control ended the watch")]
    Ended,
    /// Nothing came any more.
    #[error("control fell silent")]
    Silent,
}

impl BrokenWatch {
    /// Returns the stable code.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Connect(error) => error.code(),
            Self::Control(error) => error.code(),
            Self::Row(error) => error.code(),
            Self::Loss(_) | Self::Ended | Self::Silent => Code::ControlAway,
        }
    }
}
