//! Why a node does not enter or leave a network.

use ipnet::Ipv4Net;
use overlay_core::{Name, NetworkId};
use overlay_proto::Code;

use super::super::limits;

/// What is wrong with a membership, or with the request for one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MemberError {
    /// It needs more blocks than one node may hold.
    #[error(
        "{0} blocks are more than the {most} that one node may hold",
        most = limits::MAX_NODE_BLOCKS
    )]
    TooManyBlocks(usize),
    /// The blocks that it holds are not used yet.
    #[error(
        "this node holds {held} blocks of network {network}, and {used} of their {addresses} \
         addresses are in use; it gets one block more when half of them are"
    )]
    UnusedBlocks {
        /// The name of the network.
        network: Name,
        /// How many blocks it holds.
        held: usize,
        /// How many addresses they have.
        addresses: usize,
        /// How many of those its endpoints have.
        used: usize,
    },
    /// A key has two holders, or one node uses it on two lanes.
    #[error("lane_keys: a key is used twice; every node makes its own, one per lane")]
    KeyUsedTwice,
    /// All blocks of the network are held.
    #[error(
        "network {network} ({range}) has no free block of addresses left for this node: it has \
         {blocks} of /{block_len}, and each host takes one; make a larger network (a /24 has 16 \
         blocks, a /16 has 256)"
    )]
    NoBlockLeft {
        /// The name of the network.
        network: Name,
        /// What its blocks are cut out of.
        range: Ipv4Net,
        /// How many blocks it has.
        blocks: u32,
        /// The length of their prefixes.
        block_len: u8,
    },
    /// Control was restored, and not every node has told what it holds.
    #[error(
        "control was restored: no block of addresses is given before every node has told which it \
         has; it waits for {0}; start that host, or remove it: overlayctl node rm NAME"
    )]
    Fenced(String),
    /// The node has endpoints on the network that it leaves.
    #[error("this node has {endpoints} endpoints on network {network}; remove them first")]
    InUse {
        /// How many it has.
        endpoints: usize,
        /// The network.
        network: NetworkId,
    },
}

impl MemberError {
    /// Returns the stable code that callers are told.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::TooManyBlocks(_) | Self::KeyUsedTwice => Code::InvalidInput,
            Self::NoBlockLeft { .. } | Self::UnusedBlocks { .. } => Code::Exhausted,
            Self::InUse { .. } => Code::InUse,
            Self::Fenced(_) => Code::WrongState,
        }
    }
}
