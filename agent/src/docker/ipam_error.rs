//! Why Docker is given no pool, or no address.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, PrefixLenError};
use overlay_core::{Name, NetworkId};
use overlay_proto::Code;
use overlay_proto::convert::ConversionError;

use super::ready::NotReady;
use crate::endpoint::reservation::{AddressError, NoFreeAddress};
use crate::membership::network_membership::MembershipError;
use crate::state::StoreFailure;

/// Pools that Docker may hold at once; a network has two at the most.
pub(super) const MAX_POOLS: usize = 8_192;

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PoolError {
    /// Docker has too many.
    #[error("Docker holds {MAX_POOLS} pools, which is the limit")]
    TooMany,
    /// An option or a prefix is malformed or out of range.
    #[error(transparent)]
    Field(#[from] ConversionError),
    /// Ranges are not honoured for IPv6.
    #[error(
        "--ip-range is for IPv4 only: IPv6 addresses follow this node's IPv4 blocks; leave it away"
    )]
    RangeOfV6,
    /// The network that it is to stand for is not known.
    #[error("there is no network {id}")]
    UnknownNetwork {
        /// The network.
        id: NetworkId,
    },
    /// The network that it is to stand for has IPv4 only.
    #[error("network {network} has no IPv6")]
    NoV6 {
        /// The network.
        network: Name,
    },
    /// Something else has the prefix, or a part of it.
    #[error("{prefix} overlaps {holder}; {}", advice(.free.as_ref()))]
    Taken {
        /// The prefix.
        prefix: IpNet,
        /// What has it.
        holder: String,
        /// One to take instead, where one is known.
        free: Option<IpNet>,
    },
    /// Everything is in use.
    #[error("no prefix is left in the pool {pool}; name one: --subnet CIDR")]
    Exhausted {
        /// Where prefixes are chosen.
        pool: Ipv4Net,
    },
    /// A prefix that was chosen is none.
    #[error(transparent)]
    Prefix(#[from] PrefixLenError),
    /// It cannot be written down.
    #[error(transparent)]
    Store(#[from] StoreFailure),
}

impl PoolError {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::TooMany | Self::Exhausted { .. } => Code::Exhausted,
            Self::Field(error) => error.code(),
            Self::RangeOfV6 => Code::Unsupported,
            Self::UnknownNetwork { .. } => Code::NotFound,
            Self::NoV6 { .. } => Code::InvalidInput,
            Self::Taken { .. } => Code::AddressTaken,
            Self::Prefix(_) => Code::Fault,
            Self::Store(failure) => failure.code(),
        }
    }
}

fn advice(free: Option<&IpNet>) -> String {
    free.map_or_else(
        || "choose another --subnet".to_owned(),
        |free| format!("use: docker network create -d overlay-wg --subnet {free} NAME"),
    )
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaseError {
    /// The pool is not known.
    #[error(
        "this host does not know the network's addresses; remove the network and create it again"
    )]
    UnknownPool,
    /// It is not one of the pool.
    #[error("{address} is not in {prefix}")]
    Outside {
        /// The address.
        address: IpAddr,
        /// The pool's prefix.
        prefix: IpNet,
    },
    /// None is asked for, and none can be chosen.
    #[error("an address without a network must be named")]
    Unnamed,
    /// An IPv4 address out of an IPv6 pool, or the other way round.
    #[error("the address is of another family than its pool")]
    OtherFamily,
    /// Another host's engine may give it out.
    #[error(
        "{wanted} is one that Docker on {host} may give out, which numbers {title}: \
         on this host choose an --ip of {}; \
         a network made with `docker network create -d overlay-wg --ipam-driver overlay-wg \
         --subnet {prefix} NAME` takes any free address on any host",
        listed(.blocks)
    )]
    NumberedElsewhere {
        /// The address.
        wanted: IpAddr,
        /// The host.
        host: String,
        /// What people call the network.
        title: String,
        /// What this node may give out.
        blocks: Vec<IpNet>,
        /// The network's prefix.
        prefix: Ipv4Net,
    },
    /// Somebody has it.
    #[error("address {address} is taken in {network}; choose another --ip6")]
    Taken6 {
        /// The address.
        address: Ipv6Addr,
        /// The network.
        network: Name,
    },
    /// The network has IPv4 only.
    #[error("{network} has no IPv6")]
    NoV6 {
        /// The network.
        network: Name,
    },
    /// The network cannot take containers.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// This node is not in the network.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// An IPv4 address is not to be had.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// None is free.
    #[error(transparent)]
    NoneFree(#[from] NoFreeAddress),
    /// A prefix with it is none.
    #[error(transparent)]
    Prefix(#[from] PrefixLenError),
    /// It cannot be written down.
    #[error(transparent)]
    Store(#[from] StoreFailure),
}

impl LeaseError {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::UnknownPool => Code::NotFound,
            Self::Outside { .. } | Self::Unnamed | Self::OtherFamily | Self::NoV6 { .. } => {
                Code::InvalidInput
            }
            Self::NumberedElsewhere { .. } | Self::Taken6 { .. } => Code::AddressTaken,
            Self::NotReady(error) => error.code(),
            Self::Membership(error) => error.code(),
            Self::Address(error) => error.code(),
            Self::NoneFree(error) => error.code(),
            Self::Prefix(_) => Code::Fault,
            Self::Store(failure) => failure.code(),
        }
    }
}

fn listed(blocks: &[IpNet]) -> String {
    blocks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
