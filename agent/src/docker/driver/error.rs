//! Why Docker's calls about networks and endpoints are refused.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use overlay_core::{Name, Selector};
use overlay_proto::Code;

use crate::docker::interceptor_reserves::NotKeptBack;
use crate::docker::ipam_error::PoolError;
use crate::docker::options::OptionError;
use crate::docker::ready::NotReady;
use crate::endpoint::reservation::ReservationError;
use crate::endpoint::start_wait::StartFailure;
use crate::membership::network_membership::MembershipError;
use crate::state::StoreFailure;

/// Why a network was not taken note of.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateNetworkError {
    /// One of its prefixes is not to be had.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// No pool was asked for a prefix of it.
    #[error("nobody asked for {prefix}; create the network again")]
    UnknownPool {
        /// The prefix.
        prefix: IpNet,
    },
    /// One of its options is not honoured.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// This node makes no networks.
    #[error(
        "this node has the role worker, which makes no networks; make it on another host, and it \
         appears here"
    )]
    Worker,
    /// This node could not use it.
    #[error(
        "nodes={nodes} does not match the labels of this node, {node}, which could not use the \
         network; make it on a host that it is for, or with `overlayctl network create` on an \
         admin node"
    )]
    NotForThisNode {
        /// The nodes that may enter it.
        nodes: Selector,
        /// This node.
        node: Name,
    },
    /// It cannot be written down.
    #[error(transparent)]
    Store(#[from] StoreFailure),
}

impl CreateNetworkError {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Pool(error) => error.code(),
            Self::UnknownPool { .. } => Code::NotFound,
            Self::Option(error) => error.code(),
            Self::Worker | Self::NotForThisNode { .. } => Code::NotAllowed,
            Self::Store(failure) => failure.code(),
        }
    }
}

/// Why an endpoint was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateEndpointError {
    /// One of its options is not honoured.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The network cannot take containers.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// This node is not in the network.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// It has no address.
    #[error("Interface.Address is missing")]
    AddressMissing,
    /// An address is not one that Docker was given.
    #[error("{address} was not given out for network {network}")]
    NotGiven {
        /// The address.
        address: IpAddr,
        /// The network.
        network: Name,
    },
    /// An address is another node's to give.
    #[error(
        "{address} is in a block of addresses that another node of {network} gives out; \
         choose a lower one"
    )]
    OfOtherNode {
        /// The address.
        address: IpAddr,
        /// The network.
        network: Name,
    },
    /// Something that is none of Docker's has an address.
    #[error("{address} is {holder}'s in {network}, on this node; use another --ip")]
    Taken {
        /// The address.
        address: IpAddr,
        /// What has it.
        holder: Name,
        /// The network.
        network: Name,
    },
    /// It is not to be had.
    #[error(transparent)]
    Reservation(#[from] ReservationError),
}

impl CreateEndpointError {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Option(error) => error.code(),
            Self::NotReady(error) => error.code(),
            Self::Membership(error) => error.code(),
            Self::AddressMissing => Code::InvalidInput,
            Self::NotGiven { .. } | Self::OfOtherNode { .. } | Self::Taken { .. } => {
                Code::AddressTaken
            }
            Self::Reservation(error) => error.code(),
        }
    }
}

/// Why a container did not get its interface.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandOutError {
    /// There is no such endpoint.
    #[error("there is no such endpoint; start the container again")]
    UnknownEndpoint,
    /// The network cannot take containers.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// It did not come up.
    #[error(transparent)]
    Start(#[from] StartFailure),
    /// The container is on what overlaps the network.
    #[error(
        "this container is on {held} by {interface}, which overlaps {prefix} of network {title}: \
         no container can be on both; \
         take it off the other network, or make one of them with another --subnet"
    )]
    Overlap {
        /// The prefix of the container's other interface.
        held: IpNet,
        /// That interface.
        interface: String,
        /// The network's prefix.
        prefix: Ipv4Net,
        /// What people call the network.
        title: String,
    },
    /// It would know no names.
    #[error(transparent)]
    NotKeptBack(#[from] NotKeptBack),
    /// It cannot be written down.
    #[error(transparent)]
    Store(#[from] StoreFailure),
}

impl HandOutError {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::UnknownEndpoint => Code::NotFound,
            Self::NotReady(error) => error.code(),
            Self::Start(failure) => failure.code(),
            Self::Overlap { .. } => Code::AddressTaken,
            Self::NotKeptBack(error) => error.code(),
            Self::Store(failure) => failure.code(),
        }
    }
}
