//! Why an endpoint is not published or withdrawn.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;
use overlay_core::claims::UnfitClaim;
use overlay_core::{EndpointId, Name};
use overlay_proto::Code;

use super::super::limits;

/// What is wrong with an endpoint, its addresses, or a call that lists several.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndpointError {
    /// One call lists too many.
    #[error(
        "{0} endpoints in one call are more than {most}",
        most = limits::MAX_CALL_ENDPOINTS
    )]
    TooManyInCall(usize),
    /// One call lists it twice.
    #[error("endpoint {0} is listed twice")]
    ListedTwice(EndpointId),
    /// One call gives an address to two endpoints.
    #[error("{0} is requested twice")]
    AddressTwice(IpAddr),
    /// It says that it is on another node than the one that publishes it.
    #[error("endpoint {0} names a node other than the caller")]
    NamesAnotherNode(Name),
    /// It would be found by a name that means something else.
    #[error(transparent)]
    Name(#[from] UnfitClaim),
    /// Another node has published it.
    #[error("endpoint {0} belongs to another node")]
    OfAnotherNode(EndpointId),
    /// Its node is not a member of its network.
    #[error("this node is not a member of network {0}")]
    NotAMember(Name),
    /// It has other addresses than one IPv4 address and perhaps one IPv6 address.
    #[error("endpoint {0} must have one IPv4 address, then at most one IPv6 address")]
    AddressCount(Name),
    /// Its IPv4 address is outside the network.
    #[error("{address} is not in {prefix}, the prefix of network {network}")]
    OutsidePrefix {
        /// The address.
        address: Ipv4Addr,
        /// The prefix of the network.
        prefix: Ipv4Net,
        /// The name of the network.
        network: Name,
    },
    /// Its IPv6 address is outside the network.
    #[error("{address} is not in the IPv6 prefix of network {network}")]
    OutsidePrefix6 {
        /// The address.
        address: Ipv6Addr,
        /// The name of the network.
        network: Name,
    },
    /// The network itself needs the address.
    #[error("{address} is kept for network {network} itself")]
    Kept {
        /// The address.
        address: IpAddr,
        /// The name of the network.
        network: Name,
    },
    /// The network itself, or this node in it, needs the address.
    #[error("{address} is kept for network {network} or this node itself")]
    KeptForNode {
        /// The address.
        address: Ipv4Addr,
        /// The name of the network.
        network: Name,
    },
    /// The address is in a block of another node.
    #[error(
        "{address} is in a block of addresses that {} assigns; choose a lower one in {prefix}",
        holder.as_ref().map_or("another node", Name::as_str)
    )]
    InForeignBlock {
        /// The address.
        address: IpAddr,
        /// The name of the node that holds the block.
        holder: Option<Name>,
        /// The prefix of the network.
        prefix: Ipv4Net,
    },
    /// The container engine of another node may assign the address at any time.
    #[error(
        "{address} is one that the container engine of {} may assign; take one of this node's own \
         blocks",
        origin.as_ref().map_or("another node", Name::as_str)
    )]
    NumberedByAnother {
        /// The address.
        address: IpAddr,
        /// The name of that node.
        origin: Option<Name>,
    },
    /// Another endpoint has the address.
    #[error("{address} is taken by {holder} on {}", node.as_ref().map_or("a node", Name::as_str))]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// The name, or else the id, of the endpoint that has it.
        holder: String,
        /// The name of the node that it is on.
        node: Option<Name>,
    },
    /// Control was restored, and another node has told that it uses the address.
    #[error("{0} is in use on another node since before control was restored; choose another")]
    KeptForAnother(IpAddr),
    /// Control was restored, and not every node has told what it holds.
    #[error(
        "{address}: control was restored, and no address outside this host's blocks is given \
         before every node has told which it has; it waits for {waiting}; start that host, or \
         remove it: overlayctl node rm NAME"
    )]
    Fenced {
        /// The address.
        address: IpAddr,
        /// For whom, and until when.
        waiting: String,
    },
    /// The node would have more endpoints than a node may have.
    #[error(
        "this node has {own} endpoints; {new} more would exceed the limit of {most}",
        most = limits::MAX_NODE_ENDPOINTS
    )]
    NodeFull {
        /// How many it has.
        own: usize,
        /// How many the call adds.
        new: usize,
    },
    /// The cluster would have more endpoints than it may have.
    #[error("the cluster is limited to {most} endpoints", most = limits::MAX_ENDPOINTS)]
    ClusterFull,
}

impl EndpointError {
    /// Returns the stable code that callers are told.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::TooManyInCall(_)
            | Self::ListedTwice(_)
            | Self::Name(_)
            | Self::AddressCount(_)
            | Self::OutsidePrefix { .. }
            | Self::OutsidePrefix6 { .. } => Code::InvalidInput,
            Self::AddressTwice(_)
            | Self::Kept { .. }
            | Self::KeptForNode { .. }
            | Self::InForeignBlock { .. }
            | Self::NumberedByAnother { .. }
            | Self::KeptForAnother(_)
            | Self::AddressTaken { .. } => Code::AddressTaken,
            Self::NamesAnotherNode(_) | Self::OfAnotherNode(_) => Code::NotAllowed,
            Self::NotAMember(_) | Self::Fenced { .. } => Code::WrongState,
            Self::NodeFull { .. } | Self::ClusterFull => Code::Exhausted,
        }
    }
}
