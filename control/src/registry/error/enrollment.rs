//! Why a host does not become a node, or is none (any more).

use std::net::IpAddr;

use overlay_core::{Name, NodeId, Revocation, message};
use overlay_proto::Code;

use super::super::limits;
use super::super::record::Revoked;

/// What is wrong with the enrolment of a node, or the request for one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnrollmentError {
    /// Somebody removed it.
    #[error("{0}")]
    Evicted(Box<Revocation>),
    /// The key is that of a node that was removed.
    #[error(
        "{0}, and its key is refused with it; run `overlayctl leave` on that host, which forgets \
         the key, and join with a new token"
    )]
    EvictedKey(Box<Revocation>),
    /// It left.
    #[error("node {name} ({id}) was removed from this cluster")]
    Removed {
        /// Its name.
        name: Name,
        /// Its id.
        id: NodeId,
    },
    /// There never was a node with this id, or it was forgotten.
    #[error(
        "node {0} does not belong to this cluster: it was removed long ago, or control was \
         restored from a backup made before it joined; join again (overlayctl leave --force, then \
         join with a new token)"
    )]
    Unknown(NodeId),
    /// No node has this name or id.
    #[error("there is no node {:?}", message::excerpt(.0))]
    NotFound(String),
    /// Another node has this name.
    #[error(
        "another node is called {0}; join with another --name, or remove that node: \
         overlayctl node rm {0}"
    )]
    NameTaken(Name),
    /// There are as many nodes as there may be.
    #[error("the cluster has {most} nodes already", most = limits::MAX_NODES)]
    TooMany,
    /// The host is a node already, by another name.
    #[error(
        "this host joined as {name} already; leave first (overlayctl leave) to join as {asked}"
    )]
    JoinedAs {
        /// Its name.
        name: Name,
        /// The name that it asks for.
        asked: Name,
    },
    /// The version of its agent is no version.
    #[error("version: at most 64 bytes and no control characters")]
    InvalidVersion,
    /// No other host can reach a node there.
    #[error(
        "underlay address {address} is {kind}: no other host reaches this one there; announce \
         another (overlayctl join --advertise)"
    )]
    UnreachableUnderlay {
        /// The address.
        address: IpAddr,
        /// What kind of address it is, with its article.
        kind: &'static str,
    },
    /// It has no key, which an inconsistent store alone can bring about.
    #[error("node {0} has no key on record")]
    NoKey(NodeId),
}

impl EnrollmentError {
    /// Says that a node is none any more.
    pub(crate) fn of(gone: &Revoked) -> Self {
        match gone.revocation() {
            Some(revocation) => Self::Evicted(Box::new(revocation)),
            None => Self::Removed { name: gone.name.clone(), id: gone.node },
        }
    }

    /// Returns the stable code that callers are told.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Removed { .. } | Self::Evicted(_) | Self::EvictedKey(_) => Code::NotAllowed,
            Self::Unknown(_) => Code::NotAuthenticated,
            Self::NotFound(_) => Code::NotFound,
            Self::NameTaken(_) => Code::NameTaken,
            Self::TooMany => Code::Exhausted,
            Self::JoinedAs { .. } => Code::WrongState,
            Self::InvalidVersion | Self::UnreachableUnderlay { .. } => Code::InvalidInput,
            Self::NoKey(_) => Code::Fault,
        }
    }
}
