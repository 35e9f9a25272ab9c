//! Converts messages to commands, with the checks that core types do not make by themselves.

use overlay_core::{LinkAccess, Member, NetworkId, NodeId, Revision, Role};
use overlay_proto::convert::{self, ConversionError, field, wire_enum};
use overlay_proto::{Code, Refusal, v1};

use crate::registry::{
    Announce, ApplyPolicy, CreateNetwork, CreateToken, ExaminedPolicy, NodeReport, Operation,
    check_count, limits,
};
use crate::token::FreshToken;

/// The longest instance id of an agent's process, in bytes.
const MAX_INSTANCE: usize = 64;

pub(crate) fn announce(request: v1::AnnounceRequest) -> Result<Operation, Refusal> {
    Ok(Operation::Announce(Announce {
        underlay: convert::underlay(&request.underlay)?,
        lane_ports: convert::lane_ports(&request.lane_ports)?,
        prefixes: convert::host_prefixes(&request.routes)?,
        differences: convert::differences(request.differences)?,
        version: request.version,
    }))
}

/// Checks the instance id of an agent's process; older agents send none.
pub(crate) fn instance(text: String) -> Result<String, Refusal> {
    if text.len() <= MAX_INSTANCE && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        Ok(text)
    } else {
        Err(Refusal::new(
            Code::InvalidInput,
            format!("instance: use at most {MAX_INSTANCE} letters and digits"),
        ))
    }
}

pub(crate) fn create_network(request: v1::CreateNetworkRequest) -> Result<Operation, Refusal> {
    let prefix = if request.prefix.is_empty() {
        None
    } else {
        Some(convert::network_prefix(&request.prefix)?)
    };

    Ok(Operation::CreateNetwork(CreateNetwork {
        name: field("name", &request.name)?,
        prefix,
        prefix6: convert::network_prefix6(&request.prefix6)?,
        mode: convert::network_mode(request.mode)?,
        labels: convert::labels(request.labels)?,
        settings: request.settings.unwrap_or_default().try_into()?,
        candidate: match convert::optional("id", &request.id)? {
            Some(wanted) => wanted,
            None => NetworkId::from_random(crate::random::bits()?),
        },
    }))
}

pub(crate) fn set_network(request: v1::SetNetworkRequest) -> Result<Operation, Refusal> {
    let nodes = request.nodes.map(|nodes| field("nodes", &nodes)).transpose()?;
    let lease = request.lease_seconds.map(convert::lease).transpose()?;

    Ok(Operation::SetNetwork { network: request.network, nodes, lease })
}

pub(crate) fn link_networks(request: v1::LinkNetworksRequest) -> Result<Operation, Refusal> {
    let access = match wire_enum::<v1::LinkAccess>(request.access) {
        v1::LinkAccess::Unspecified => LinkAccess::Defaults,
        v1::LinkAccess::Defaults | v1::LinkAccess::PolicyOnly => {
            convert::link_access(request.access)?
        }
    };

    Ok(Operation::LinkNetworks { one: request.one, other: request.other, access })
}

pub(crate) fn enter_network(request: &v1::EnterNetworkRequest) -> Result<Operation, Refusal> {
    Ok(Operation::EnterNetwork {
        network: field("network", &request.network)?,
        lane_keys: convert::lane_keys(&request.lane_keys)?,
        blocks: usize::try_from(request.blocks).unwrap_or(usize::MAX),
    })
}

pub(crate) fn put_endpoints(request: v1::PutEndpointsRequest) -> Result<Operation, Refusal> {
    check_count(request.endpoints.len())?;
    let rows = request.endpoints.into_iter().map(TryInto::try_into);

    Ok(Operation::PutEndpoints(rows.collect::<Result<_, ConversionError>>()?))
}

pub(crate) fn remove_endpoints(request: &v1::RemoveEndpointsRequest) -> Result<Operation, Refusal> {
    check_count(request.endpoints.len())?;
    let key = |key: &v1::EndpointKey| {
        Ok((field("network", &key.network)?, field("endpoint", &key.endpoint)?))
    };

    Ok(Operation::RemoveEndpoints(
        request.endpoints.iter().map(key).collect::<Result<_, ConversionError>>()?,
    ))
}

/// Reads what a node reports of itself after control's history began anew.
pub(crate) fn report(node: NodeId, request: &v1::ReportRequest) -> Result<NodeReport, Refusal> {
    let members = request.members.iter().cloned();
    let own = |row: v1::Member| Member::try_from(v1::Member { node: node.to_string(), ..row });
    let endpoint = |row: &v1::ReportedEndpoint| {
        let key = (field("network", &row.network)?, field("endpoint", &row.endpoint)?);
        let addresses = row.addresses.iter().take(2).map(|address| field("addresses", address));
        Ok((key, addresses.collect::<Result<_, ConversionError>>()?))
    };
    if request.endpoints.len() > limits::MAX_NODE_ENDPOINTS {
        return Err(Refusal::new(
            Code::InvalidInput,
            format!("a node has at most {} endpoints", limits::MAX_NODE_ENDPOINTS),
        ));
    }
    let stamp = convert::stamp(&request.lineage, &[])?;

    Ok(NodeReport {
        lineage: stamp.map(|stamp| stamp.lineage),
        revision: Revision(request.revision),
        members: members.map(own).collect::<Result<_, ConversionError>>()?,
        endpoints: request
            .endpoints
            .iter()
            .map(endpoint)
            .collect::<Result<_, ConversionError>>()?,
    })
}

pub(crate) fn apply_policy(
    request: &v1::ApplyPolicyRequest,
    policy: ExaminedPolicy,
) -> Result<Operation, Refusal> {
    let mode = convert::policy_mode(request.mode)?;

    let v1::ApplyPolicyRequest { expected, strict, .. } = *request;

    Ok(Operation::ApplyPolicy(ApplyPolicy { policy, mode, expected, is_strict: strict }))
}

pub(crate) fn create_token(
    request: v1::CreateTokenRequest,
    token: &FreshToken,
) -> Result<Operation, Refusal> {
    let role = match wire_enum::<v1::Role>(request.role) {
        v1::Role::Unspecified => Role::Node,
        role @ (v1::Role::Admin | v1::Role::Node | v1::Role::Worker) => role.try_into()?,
    };
    let labels = convert::labels(request.labels)?;

    Ok(Operation::CreateToken(CreateToken {
        labels,
        ..token.command(request.ttl_seconds, request.uses, role)
    }))
}
