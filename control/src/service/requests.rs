//! Messages to commands: the checks that core types do not make by themselves.

use overlay_core::{NetworkId, Role};
use overlay_proto::convert::{self, field, wire_enum};
use overlay_proto::{Code, Refusal, v1};

use crate::registry::limits::{MAX_CALL_ENDPOINTS, MAX_ROUTES};
use crate::registry::{Announce, Command, CreateNetwork, CreateToken, Route};
use crate::token::FreshToken;

/// Bytes of what holds a route, for messages.
const MAX_HOLDER: usize = 64;

pub(super) fn announce(request: v1::AnnounceRequest) -> Result<Command, Refusal> {
    if request.routes.len() > MAX_ROUTES {
        let routes = request.routes.len();
        return Err(Refusal::new(Code::InvalidInput, format!("{routes} routes are more than {MAX_ROUTES}")));
    }

    Ok(Command::Announce(Announce {
        underlay: convert::underlay(&request.underlay)?,
        lane_ports: convert::lane_ports(&request.lane_ports)?,
        routes: request.routes.iter().map(|text| route(text)).collect::<Result<_, _>>()?,
        version: request.version,
    }))
}

/// Reads `CIDR`, or `CIDR HOLDER` when the agent knows what holds the prefix.
fn route(text: &str) -> Result<Route, Refusal> {
    let (prefix, holder) = text.split_once(' ').unwrap_or((text, ""));
    let prefix: ipnet::IpNet = field("routes", prefix)?;
    if holder.len() > MAX_HOLDER || holder.chars().any(char::is_control) {
        return Err(Refusal::new(Code::InvalidInput, format!("routes: the holder of {prefix} is no word")));
    }

    Ok(Route { prefix: prefix.trunc(), holder: holder.to_owned() })
}

pub(super) fn create_network(request: v1::CreateNetworkRequest) -> Result<Command, Refusal> {
    let prefix = if request.prefix.is_empty() { None } else { Some(convert::network_prefix(&request.prefix)?) };

    Ok(Command::CreateNetwork(CreateNetwork {
        name: field("name", &request.name)?,
        prefix,
        prefix6: convert::network_prefix6(&request.prefix6)?,
        mode: convert::network_mode(request.mode)?,
        labels: convert::labels(request.labels)?,
        candidate: NetworkId::from_random(crate::random::bits()?),
    }))
}

pub(super) fn enter_network(request: &v1::EnterNetworkRequest) -> Result<Command, Refusal> {
    Ok(Command::EnterNetwork {
        network: field("network", &request.network)?,
        lane_keys: convert::lane_keys(&request.lane_keys)?,
        blocks: usize::try_from(request.blocks).unwrap_or(usize::MAX),
    })
}

pub(super) fn put_endpoints(request: v1::PutEndpointsRequest) -> Result<Command, Refusal> {
    check_count(request.endpoints.len())?;
    let rows = request.endpoints.into_iter().map(TryInto::try_into);

    Ok(Command::PutEndpoints(rows.collect::<Result<_, Refusal>>()?))
}

pub(super) fn remove_endpoints(request: &v1::RemoveEndpointsRequest) -> Result<Command, Refusal> {
    check_count(request.endpoints.len())?;
    let key = |key: &v1::EndpointKey| Ok((field("network", &key.network)?, field("endpoint", &key.endpoint)?));

    Ok(Command::RemoveEndpoints(request.endpoints.iter().map(key).collect::<Result<_, Refusal>>()?))
}

fn check_count(count: usize) -> Result<(), Refusal> {
    if count <= MAX_CALL_ENDPOINTS {
        Ok(())
    } else {
        Err(Refusal::new(
            Code::InvalidInput,
            format!("{count} endpoints in one call are more than {MAX_CALL_ENDPOINTS}"),
        ))
    }
}

pub(super) fn create_token(request: v1::CreateTokenRequest, token: &FreshToken) -> Result<Command, Refusal> {
    let role = match wire_enum::<v1::Role>(request.role) {
        v1::Role::Unspecified => Role::Node,
        role @ (v1::Role::Admin | v1::Role::Node) => role.try_into()?,
    };
    let labels = convert::labels(request.labels)?;

    Ok(Command::CreateToken(CreateToken { labels, ..token.command(request.ttl_seconds, request.uses, role) }))
}
