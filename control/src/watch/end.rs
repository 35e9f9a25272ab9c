//! Why a watch ends, or is not opened.

use std::net::IpAddr;

use overlay_core::instant::rfc3339;
use overlay_proto::Code;

use crate::registry::RegistryError;

/// Why a watch ends; its watcher is told so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WatchEnd {
    /// Its node does not belong to the cluster any more.
    #[error(transparent)]
    Removed(RegistryError),
    /// The node opened another one.
    #[error(
        "another watch with this node's identity began; if this repeats, two hosts share one state \
         directory"
    )]
    Replaced,
    /// Control's history began anew.
    #[error("control's history begins anew; watch again, and report what this node holds")]
    Anew,
    /// Control stops.
    #[error("control is shutting down")]
    Shutdown,
    /// The certificate that it was opened with has expired.
    #[error(
        "the certificate of this watch ended at {}, control's clock says {}; watch again with the \
         new one",
        rfc3339(*expired),
        rfc3339(*now)
    )]
    CertificateExpired {
        /// When it expired, in seconds since 1970.
        expired: u64,
        /// The time of control's clock, in seconds since 1970.
        now: u64,
    },
    /// The watcher left a message unread for too long.
    #[error("the watcher reads too slowly; watch again")]
    TooSlow,
    /// The watcher closed the stream.
    #[error("the watcher went away")]
    Gone,
}

impl WatchEnd {
    /// Returns the stable code that the watcher is told.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Removed(error) => error.code(),
            Self::Replaced | Self::TooSlow | Self::Anew => Code::WrongState,
            Self::Shutdown | Self::Gone => Code::ControlAway,
            Self::CertificateExpired { .. } => Code::NotAuthenticated,
        }
    }
}

/// A process presents the certificate of a node whose agent runs on another host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "another host ({first}) uses this node's identity and was there first; if this host is the \
     copy, run `overlayctl leave` here and join with a new token"
)]
pub(crate) struct DuplicateIdentity {
    /// The address of the process that was there first.
    pub(super) first: IpAddr,
}
