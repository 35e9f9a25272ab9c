//! Why a command changes nothing.

use std::sync::Arc;

use overlay_proto::Code;

use crate::registry::RegistryError;
use crate::store::StoreError;

/// Why a command changes nothing; the message says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The registry refuses it.
    #[error(transparent)]
    Refused(#[from] RegistryError),
    /// It cannot be stored, nor can those that came with it.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// Deciding it panicked.
    #[error("control failed internally on this request; see its log")]
    Panicked,
    /// The writer has ended.
    #[error("control has stopped writing; see its log and restart it")]
    Stopped,
}

impl WriteError {
    /// Returns the stable code that callers are told.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Refused(error) => error.code(),
            Self::Store(_) | Self::Stopped => Code::Storage,
            Self::Panicked => Code::Fault,
        }
    }
}
