//! Why a message is not accepted: the field, and what is wrong with it.

use std::net::IpAddr;

use ipnet::IpNet;
use overlay_core::endpoint::MAX_GROUP;
use overlay_core::id::InvalidId;
use overlay_core::key::InvalidKey;
use overlay_core::lease::InvalidLease;
use overlay_core::lineage::InvalidStamp;
use overlay_core::message;
use overlay_core::name::{InvalidAlias, InvalidName};
use overlay_core::selector::InvalidSelector;

use crate::code::Code;

/// Why a message, or one field of it, is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConversionError {
    /// The lease of a network is too short or too long.
    #[error(transparent)]
    Lease(InvalidLease),
    /// A field is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The text of a field cannot be parsed.
    #[error("{field} {:?}: {error}", message::excerpt(text))]
    Text {
        /// The field.
        field: &'static str,
        /// Its text.
        text: String,
        /// What is wrong with it.
        error: InvalidText,
    },
    /// A list has too many entries.
    #[error("{len} {entries} are more than {max}")]
    TooMany {
        /// What the entries are.
        entries: &'static str,
        /// How many there are.
        len: usize,
        /// How many there may be.
        max: usize,
    },
    /// The key or the value of a label is too long, or contains control characters.
    #[error(
        "label {:?}: keys and values have 1 to 255 bytes and no control characters",
        message::excerpt(.0)
    )]
    Label(
        /// The key.
        String,
    ),
    /// The UDP port of a lane is none.
    #[error("lane port {0} is not 1 to 65535")]
    LanePort(u32),
    /// The public key of a lane is none.
    #[error("lane_keys: {0}")]
    LaneKey(#[from] InvalidKey),
    /// The mark of a revision has another length.
    #[error("mark: {0} bytes, not 32")]
    Mark(usize),
    /// No host can be reached at an underlay address.
    #[error("underlay address {0} is not an address of a host")]
    Underlay(IpAddr),
    /// The mode of a network is one that this version does not know.
    #[error("this version knows networks of mode l3 only")]
    Mode,
    /// The mode of a policy is one that this version does not know.
    #[error("this version knows policies that are enforced or shadowed")]
    PolicyMode,
    /// A policy document is too long.
    #[error("the policy has {len} bytes, more than {max}")]
    PolicySize {
        /// How long it is, in bytes.
        len: usize,
        /// How long it may be, in bytes.
        max: usize,
    },
    /// A network's name in a container engine is too long, or contains control characters.
    #[error("settings.title: at most 255 bytes, no control characters")]
    Title,
    /// The name of a group of replicas is too long, or contains control characters.
    #[error("endpoint.group: at most {MAX_GROUP} bytes, no control characters")]
    Group,
    /// A network cannot have a prefix.
    #[error("{}", unfit(prefix, *why))]
    Prefix {
        /// The prefix.
        prefix: IpNet,
        /// What is wrong with it.
        why: UnfitPrefix,
    },
    /// The description of what uses a prefix on a host is too long, or contains control
    /// characters.
    #[error("routes: the holder of {0} is no word")]
    PrefixHolder(IpNet),
    /// The name of a network that differs on a host, or the reason, is missing, too long, or
    /// contains control characters.
    #[error("differences: a name of at most {max_name} bytes and a reason of at most {max_reason}")]
    Difference {
        /// How long the name may be, in bytes.
        max_name: usize,
        /// How long the reason may be, in bytes.
        max_reason: usize,
    },
}

impl ConversionError {
    /// Returns the stable code that callers are told.
    pub const fn code(&self) -> Code {
        match self {
            Self::Mode | Self::PolicyMode => Code::Unsupported,
            Self::Missing(_)
            | Self::Lease(_)
            | Self::Text { .. }
            | Self::TooMany { .. }
            | Self::Label(_)
            | Self::LanePort(_)
            | Self::LaneKey(_)
            | Self::Underlay(_)
            | Self::Mark(_)
            | Self::Title
            | Self::Group
            | Self::PolicySize { .. }
            | Self::Prefix { .. }
            | Self::PrefixHolder(_)
            | Self::Difference { .. } => Code::InvalidInput,
        }
    }
}

/// What is wrong with a text that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidText {
    /// It is no id.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// It is no lineage.
    #[error(transparent)]
    Stamp(#[from] InvalidStamp),
    /// It is no name.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// It is no alias.
    #[error(transparent)]
    Alias(#[from] InvalidAlias),
    /// It is no selector.
    #[error(transparent)]
    Selector(#[from] InvalidSelector),
    /// It is no IP address.
    #[error(transparent)]
    Address(#[from] std::net::AddrParseError),
    /// It is no prefix.
    #[error(transparent)]
    Prefix(#[from] ipnet::AddrParseError),
}

/// Why no network can have a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnfitPrefix {
    /// Bits are set that address hosts.
    HostBits,
    /// It is too long or too short.
    Length,
    /// It holds addresses that hosts may not have.
    Addresses,
}

fn unfit(prefix: &IpNet, why: UnfitPrefix) -> String {
    let (field, lengths) = match prefix {
        IpNet::V4(_) => ("prefix", "/8 and /29"),
        IpNet::V6(_) => ("prefix6", "/16 and /96"),
    };

    match why {
        UnfitPrefix::HostBits => {
            format!("{field} {prefix} has host bits set; use {}", prefix.trunc())
        }
        UnfitPrefix::Length => format!("{field} {prefix} is not between {lengths}"),
        UnfitPrefix::Addresses => {
            format!("{field} {prefix} holds addresses that hosts may not have")
        }
    }
}
