//! Nodes, members and endpoints.

use std::collections::BTreeSet;
use std::net::IpAddr;

use overlay_core::endpoint::MAX_GROUP;
use overlay_core::{Block, Endpoint, Member, Node, Role, Runtime};

use super::error::ConversionError;
use super::field::{
    MAX_ALIASES, MAX_BLOCKS, bounded, field, fields, labels, lane_keys, lane_ports, underlay,
    wire_enum,
};
use crate::v1;

impl From<Role> for v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Admin => Self::Admin,
            Role::Node => Self::Node,
            Role::Worker => Self::Worker,
        }
    }
}

impl TryFrom<v1::Role> for Role {
    type Error = ConversionError;

    fn try_from(role: v1::Role) -> Result<Self, ConversionError> {
        match role {
            v1::Role::Admin => Ok(Self::Admin),
            v1::Role::Node => Ok(Self::Node),
            v1::Role::Worker => Ok(Self::Worker),
            v1::Role::Unspecified => Err(ConversionError::Missing("role")),
        }
    }
}

impl From<Runtime> for v1::Runtime {
    fn from(runtime: Runtime) -> Self {
        match runtime {
            Runtime::Run => Self::Run,
            Runtime::Attach => Self::Attach,
            Runtime::Host => Self::Host,
            Runtime::Docker => Self::Docker,
            Runtime::Cni => Self::Cni,
        }
    }
}

impl TryFrom<v1::Runtime> for Runtime {
    type Error = ConversionError;

    fn try_from(runtime: v1::Runtime) -> Result<Self, ConversionError> {
        match runtime {
            v1::Runtime::Run => Ok(Self::Run),
            v1::Runtime::Attach => Ok(Self::Attach),
            v1::Runtime::Host => Ok(Self::Host),
            v1::Runtime::Docker => Ok(Self::Docker),
            v1::Runtime::Cni => Ok(Self::Cni),
            v1::Runtime::Unspecified => Err(ConversionError::Missing("runtime")),
        }
    }
}

impl From<Node> for v1::Node {
    fn from(node: Node) -> Self {
        Self {
            id: node.id.to_string(),
            name: node.name.to_string(),
            role: v1::Role::from(node.role).into(),
            labels: node.labels,
            underlay: node.underlay.iter().map(IpAddr::to_string).collect(),
            lane_ports: node.lane_ports.into_iter().map(u32::from).collect(),
        }
    }
}

impl TryFrom<v1::Node> for Node {
    type Error = ConversionError;

    fn try_from(node: v1::Node) -> Result<Self, ConversionError> {
        Ok(Self {
            id: field("node.id", &node.id)?,
            name: field("node.name", &node.name)?,
            role: wire_enum::<v1::Role>(node.role).try_into()?,
            labels: labels(node.labels)?,
            underlay: underlay(&node.underlay)?,
            lane_ports: lane_ports(&node.lane_ports)?,
        })
    }
}

impl From<Member> for v1::Member {
    fn from(member: Member) -> Self {
        let block =
            |block: Block| v1::Block { prefix: block.prefix.to_string(), epoch: block.epoch };

        Self {
            network: member.network.to_string(),
            node: member.node.to_string(),
            lane_keys: member.lane_keys.iter().map(|key| key.as_bytes().to_vec()).collect(),
            blocks: member.blocks.into_iter().map(block).collect(),
        }
    }
}

impl TryFrom<v1::Member> for Member {
    type Error = ConversionError;

    fn try_from(member: v1::Member) -> Result<Self, ConversionError> {
        bounded("blocks", member.blocks.len(), MAX_BLOCKS)?;
        let block = |block: &v1::Block| {
            Ok(Block { prefix: field("member.blocks", &block.prefix)?, epoch: block.epoch })
        };

        Ok(Self {
            network: field("member.network", &member.network)?,
            node: field("member.node", &member.node)?,
            lane_keys: lane_keys(&member.lane_keys)?,
            blocks: member.blocks.iter().map(block).collect::<Result<_, ConversionError>>()?,
        })
    }
}

impl From<Endpoint> for v1::Endpoint {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            id: endpoint.id.to_string(),
            network: endpoint.network.to_string(),
            node: endpoint.node.to_string(),
            name: endpoint.name.to_string(),
            aliases: endpoint.aliases.into_iter().map(String::from).collect(),
            addresses: endpoint.addresses.iter().map(IpAddr::to_string).collect(),
            labels: endpoint.labels,
            runtime: v1::Runtime::from(endpoint.runtime).into(),
            group: endpoint.group.unwrap_or_default(),
            container: endpoint.container.map(String::from).unwrap_or_default(),
            taken: endpoint.taken.into_iter().map(String::from).collect(),
        }
    }
}

impl TryFrom<v1::Endpoint> for Endpoint {
    type Error = ConversionError;

    fn try_from(endpoint: v1::Endpoint) -> Result<Self, ConversionError> {
        let aliases: Vec<_> = fields("endpoint.aliases", &endpoint.aliases, MAX_ALIASES)?;
        // The name and the id, too.
        let taken: Vec<_> = fields("endpoint.taken", &endpoint.taken, MAX_ALIASES + 2)?;
        if endpoint.group.len() > MAX_GROUP || endpoint.group.chars().any(char::is_control) {
            return Err(ConversionError::Group);
        }
        let container = Some(&endpoint.container).filter(|id| !id.is_empty());
        let container = container.map(|id| field("endpoint.container", id));

        Ok(Self {
            id: field("endpoint.id", &endpoint.id)?,
            network: field("endpoint.network", &endpoint.network)?,
            node: field("endpoint.node", &endpoint.node)?,
            name: field("endpoint.name", &endpoint.name)?,
            aliases: BTreeSet::from_iter(aliases),
            addresses: fields("endpoint.addresses", &endpoint.addresses, 2)?,
            labels: labels(endpoint.labels)?,
            runtime: wire_enum::<v1::Runtime>(endpoint.runtime).try_into()?,
            group: Some(endpoint.group).filter(|group| !group.is_empty()),
            container: container.transpose()?,
            taken: BTreeSet::from_iter(taken),
        })
    }
}
