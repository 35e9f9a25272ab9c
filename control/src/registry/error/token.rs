//! Why a join token does not admit, or cannot be made or revoked.

use overlay_core::message;
use overlay_proto::Code;

use super::super::limits;

/// What is wrong with a join token, or with the request for one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// It does not admit a host; the caller is not told which of these it is.
    #[error(
        "the join token is not valid: unknown, expired, used up or revoked; get a new one: \
         overlayctl token create"
    )]
    Refused,
    /// It would be valid for too long, in seconds.
    #[error("a ttl of {0} s is more than {most} s (366 days)", most = limits::MAX_TOKEN_TTL)]
    TtlTooLong(u64),
    /// It would admit more nodes than there may be.
    #[error("{0} uses are more than the {most} nodes a cluster may have", most = limits::MAX_NODES)]
    TooManyUses(u32),
    /// There are as many tokens as there may be.
    #[error(
        "there are {most} tokens already; remove some: overlayctl token rm ID",
        most = limits::MAX_TOKENS
    )]
    TooMany,
    /// The random id is taken.
    #[error("a token of this id is there already; try again")]
    IdTaken,
    /// There is no token with this id.
    #[error("there is no token {:?}", message::excerpt(.0))]
    NotFound(String),
}

impl TokenError {
    /// Returns the stable code that callers are told.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Refused => Code::TokenRefused,
            Self::TtlTooLong(_) | Self::TooManyUses(_) => Code::InvalidInput,
            Self::TooMany => Code::Exhausted,
            Self::IdTaken => Code::NameTaken,
            Self::NotFound(_) => Code::NotFound,
        }
    }
}
