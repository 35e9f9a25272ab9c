//! Why the node does not do what the local API asks of it.

use overlay_core::{ClusterId, Name};
use overlay_proto::Code;

use crate::hand_over::NoSuccessor;
use crate::membership::control_error::ControlError;
use crate::membership::join::JoiningError;
use crate::path::LanesError;
use crate::problem::explain;
use crate::state::StoreFailure;

/// The process ends and takes no requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent is stopping")]
pub(crate) struct Stopping;

/// Why this host is not joined.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeJoinError {
    /// It has joined another cluster.
    #[error("this host is already node {name} of cluster {cluster}; use `overlayctl leave` first")]
    Elsewhere {
        /// What it is called there.
        name: Name,
        /// The other cluster.
        cluster: ClusterId,
    },
    /// It was expelled, and cannot forget that.
    #[error(transparent)]
    Leave(#[from] NodeLeaveError),
    /// There would be no lanes.
    #[error(transparent)]
    Lanes(#[from] LanesError),
    /// Control does not take it in.
    #[error(transparent)]
    Joining(#[from] JoiningError),
    /// The process ends.
    #[error(transparent)]
    Stopping(#[from] Stopping),
}

impl NodeJoinError {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Elsewhere { .. } | Self::Lanes(_) | Self::Stopping(_) => Code::WrongState,
            Self::Leave(error) => error.code(),
            Self::Joining(error) => error.code(),
        }
    }
}

/// Why this host has not left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeLeaveError {
    /// It is in no cluster.
    #[error("this host has joined nothing")]
    NotJoined,
    /// Control does not know that it leaves.
    #[error("{0}; or use --force, and remove the node at control later")]
    NotTold(ControlError),
    /// What it was cannot be forgotten.
    #[error(transparent)]
    Store(#[from] StoreFailure),
    /// The process ends.
    #[error(transparent)]
    Stopping(#[from] Stopping),
}

impl NodeLeaveError {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::NotJoined | Self::Stopping(_) => Code::WrongState,
            Self::NotTold(error) => error.code(),
            Self::Store(failure) => failure.code(),
        }
    }
}

/// Why no other program has taken this one's place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeError {
    /// Calls went on for too long.
    #[error("calls to the agent did not end within {seconds} s, so nothing was handed over")]
    Calls {
        /// How long they were waited for.
        seconds: u64,
    },
    /// The other program does not take over.
    #[error("{}; this agent goes on", explain(.0))]
    Successor(NoSuccessor),
    /// The process ends.
    #[error(transparent)]
    Stopping(#[from] Stopping),
}

impl UpgradeError {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Calls { .. } | Self::Successor(_) | Self::Stopping(_) => Code::WrongState,
        }
    }
}
