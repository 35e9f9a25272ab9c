//! Why a network is not found, created or removed.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use overlay_core::network::MAX_LINKS;
use overlay_core::{Name, NetworkId, Selector, message};
use overlay_proto::Code;

use super::super::limits;

/// What is wrong with a network, or with the request for one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NetworkError {
    /// There is no network with this id.
    #[error("there is no network {0}")]
    Unknown(NetworkId),
    /// There is no network with this name or id.
    #[error("there is no network {:?}", message::excerpt(.0))]
    NotFound(String),
    /// Another network has this name.
    #[error("network {name} is there already, with prefix {prefix}")]
    NameTaken {
        /// The name.
        name: Name,
        /// The prefix of the network that has it.
        prefix: Ipv4Net,
    },
    /// A network that the caller may not know of has this name.
    #[error(
        "the name {0} is taken by a network that is not for this node; choose another name, or ask \
         an admin to let this node in"
    )]
    NameHidden(Name),
    /// The node has made as many networks as it may.
    #[error(
        "node {0} has made {most} networks, which is as many as one node may; remove some, or make \
         it on an admin node",
        most = limits::MAX_NODE_NETWORKS
    )]
    TooManyOfNode(Name),
    /// Container engines know another network by this name.
    #[error("container engines know network {name} as {title:?} already; choose another name")]
    TitleTaken {
        /// The name for container engines.
        title: String,
        /// The name of the network that has it.
        name: Name,
    },
    /// The caller did not create it.
    #[error(
        "network {network} was made {}; say there, or on an admin node, who may enter it",
        creator.as_ref().map_or("by an admin".to_owned(), |name| format!("on node {name}"))
    )]
    OfAnother {
        /// The name of the network.
        network: Name,
        /// The name of the node that created it.
        creator: Option<Name>,
    },
    /// The caller would not see the network that it makes or changes.
    #[error(
        "nodes={nodes}: node {node} does not match it, and would not see the network any more; \
         choose labels of this node, or do it on an admin node"
    )]
    ShutsCallerOut {
        /// The nodes that may enter.
        nodes: Selector,
        /// The name of the caller.
        node: Name,
    },
    /// The node whose container engine assigns addresses would not be in the network.
    #[error(
        "nodes={nodes}: node {node} does not match it, and its container engine gives out \
         addresses of network {network}; let it in, or make the network anew with --ipam-driver \
         overlay-wg"
    )]
    ShutsOriginOut {
        /// The nodes that may enter.
        nodes: Selector,
        /// The name of the network.
        network: Name,
        /// The name of the node whose engine assigns addresses.
        node: Name,
    },
    /// The caller is no admin, and did not make both of the networks that it links or unlinks.
    #[error(
        "network {network} was made {}; an admin node links it, or the node that made both",
        creator.as_ref().map_or("by an admin".to_owned(), |name| format!("on node {name}"))
    )]
    LinkOfAnother {
        /// The name of the network.
        network: Name,
        /// The name of the node that created it.
        creator: Option<Name>,
    },
    /// A network reaches itself.
    #[error("network {0} cannot be linked with itself; name two networks")]
    LinkWithItself(Name),
    /// Addresses would mean several endpoints.
    #[error(
        "network {one} ({prefix}) and network {other} ({with}) overlap, and would be reached from \
         one network; make one of them anew with another prefix: --subnet CIDR, or none to have \
         one chosen"
    )]
    LinkOverlap {
        /// The name of one.
        one: Name,
        /// Its prefix.
        prefix: IpNet,
        /// The name of the other one.
        other: Name,
        /// Its prefix.
        with: IpNet,
    },
    /// A network is linked with as many as it may be.
    #[error(
        "network {0} is linked with {most} networks, which is as many as one may be; unlink it \
         from some",
        most = MAX_LINKS
    )]
    TooManyLinksOf(Name),
    /// There are as many links as there may be.
    #[error(
        "there are {most} links between networks already; unlink some",
        most = limits::MAX_LINKED_PAIRS
    )]
    TooManyLinks,
    /// There are as many networks as there may be.
    #[error("there are {most} networks already", most = limits::MAX_NETWORKS)]
    TooMany,
    /// No prefix is left in the pool that prefixes are chosen from.
    #[error(
        "no prefix is left in the pool {0}: networks or routes of nodes use all of it; name \
         one: --subnet CIDR"
    )]
    PoolExhausted(Ipv4Net),
    /// Something uses the prefix.
    #[error(
        "{prefix} overlaps {holder}; choose another prefix: --subnet CIDR, or none to have \
         one chosen"
    )]
    PrefixTaken {
        /// The prefix that was asked for.
        prefix: IpNet,
        /// What uses it, where and with which prefix.
        holder: String,
    },
    /// The gateway is outside the network.
    #[error("gateway {gateway} is not in the prefix of network {network}")]
    GatewayOutside {
        /// The gateway.
        gateway: IpAddr,
        /// The name of the network.
        network: Name,
    },
    /// The gateway is an address that no host can have.
    #[error("gateway {gateway} is the first or last address of {prefix}")]
    GatewayAtEdge {
        /// The gateway.
        gateway: Ipv4Addr,
        /// The prefix of the network.
        prefix: Ipv4Net,
    },
    /// A reserved address is outside the network.
    #[error("reserved address {name}={address} is not in the prefix of network {network}")]
    ReservedOutside {
        /// What the address is reserved for.
        name: String,
        /// The address.
        address: IpAddr,
        /// The name of the network.
        network: Name,
    },
    /// No blocks can be cut out of the range.
    #[error("range {range} is not a part of {prefix} with at least 4 addresses")]
    InvalidRange {
        /// The range.
        range: Ipv4Net,
        /// The prefix of the network.
        prefix: Ipv4Net,
    },
    /// A node speaks for the container engine of another one.
    #[error("numbered_by names a node other than the caller")]
    NumberedByAnother,
    /// It has endpoints.
    #[error(
        "network {network} has {endpoints} endpoint{}, {first} on {} for one; stop them first",
        if *endpoints == 1 { "" } else { "s" },
        node.as_ref().map_or("a node", Name::as_str)
    )]
    InUse {
        /// Its name.
        network: Name,
        /// How many endpoints it has.
        endpoints: usize,
        /// The name of one of them.
        first: Name,
        /// The name of that one's node.
        node: Option<Name>,
    },
}

impl NetworkError {
    /// Returns the stable code that callers are told.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Unknown(_) | Self::NotFound(_) => Code::NotFound,
            Self::NameTaken { .. } | Self::TitleTaken { .. } => Code::NameTaken,
            Self::TooMany
            | Self::TooManyOfNode(_)
            | Self::TooManyLinksOf(_)
            | Self::TooManyLinks
            | Self::PoolExhausted(_) => Code::Exhausted,
            Self::PrefixTaken { .. } | Self::LinkOverlap { .. } => Code::AddressTaken,
            Self::GatewayOutside { .. }
            | Self::GatewayAtEdge { .. }
            | Self::ReservedOutside { .. }
            | Self::LinkWithItself(_)
            | Self::InvalidRange { .. } => Code::InvalidInput,
            Self::NumberedByAnother
            | Self::NameHidden(_)
            | Self::OfAnother { .. }
            | Self::LinkOfAnother { .. }
            | Self::ShutsCallerOut { .. } => Code::NotAllowed,
            Self::ShutsOriginOut { .. } => Code::WrongState,
            Self::InUse { .. } => Code::InUse,
        }
    }
}
