//! Endpoints: the calls of `NetworkDriver` about a container's interface.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use overlay_core::EndpointId;
use overlay_proto::Refusal;
use serde::Deserialize;
use serde_json::{Value, json};

use super::field::{Options, address_of, id, option, read, refuse};
use crate::docker::container_ifname::ContainerIfname;
use crate::docker::options;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EndpointWire {
    #[serde(rename = "NetworkID")]
    network_id: String,
    #[serde(default, rename = "EndpointID")]
    endpoint_id: String,
    #[serde(default)]
    interface: Option<InterfaceWire>,
    #[serde(default)]
    sandbox_key: String,
    #[serde(default)]
    options: Options,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct InterfaceWire {
    #[serde(default)]
    address: String,
    #[serde(default, rename = "AddressIPv6")]
    address6: String,
    #[serde(default)]
    mac_address: String,
}

/// What Docker says of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerInterface {
    /// Its IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// Its hardware address.
    pub mac: Option<[u8; 6]>,
}

/// `NetworkDriver.CreateEndpoint`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointRequest {
    /// Docker's id of the network.
    pub network: String,
    /// Docker's id of the endpoint.
    pub endpoint: String,
    /// Its interface.
    pub interface: DockerInterface,
    /// How the container shall call the interface.
    pub ifname: Option<String>,
}

impl EndpointRequest {
    pub(in crate::docker) fn read(body: &[u8]) -> Result<Self, Refusal> {
        let wire: EndpointWire = read(body)?;
        options::check_endpoint(wire.options.iter().flatten().map(|(key, _)| key))?;
        let ifname = option(&wire.options, options::IFNAME).and_then(Value::as_str);
        let ifname = ifname.filter(|name| !name.is_empty()).map(str::to_owned);
        let interface = wire.interface.unwrap_or_default();

        Ok(Self {
            network: id("NetworkID", wire.network_id)?,
            endpoint: id("EndpointID", wire.endpoint_id)?,
            interface: DockerInterface {
                v4: address_of("Interface.Address", &interface.address)?,
                v6: address_of("Interface.AddressIPv6", &interface.address6)?,
                mac: mac(&interface.mac_address)?,
            },
            ifname,
        })
    }
}

/// Reads the hardware address of one interface.
pub(super) fn mac(text: &str) -> Result<Option<[u8; 6]>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2))
        .collect();
    match bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok()) {
        Some(mac) if mac[0] & 1 == 0 => Ok(Some(mac)),
        Some(_) | None => refuse("Interface.MacAddress is no hardware address of one interface"),
    }
}

/// What a driver says of an interface that Docker has not: a field that Docker filled must not come
/// back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewInterface {
    /// Its hardware address.
    pub mac: Option<[u8; 6]>,
}

impl NewInterface {
    pub(in crate::docker::plugin) fn write(&self) -> Value {
        match self.mac {
            None => json!({ "Interface": {} }),
            Some(mac) => {
                let text = mac.map(|byte| format!("{byte:02x}")).join(":");
                json!({ "Interface": { "MacAddress": text } })
            }
        }
    }
}

pub(in crate::docker::plugin) fn read_network(body: &[u8]) -> Result<String, Refusal> {
    id("NetworkID", read::<EndpointWire>(body)?.network_id)
}

pub(in crate::docker::plugin) fn read_endpoint(body: &[u8]) -> Result<String, Refusal> {
    let wire: EndpointWire = read(body)?;
    id("NetworkID", wire.network_id)?;

    id("EndpointID", wire.endpoint_id)
}

/// `NetworkDriver.Join`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    /// Docker's id of the network.
    pub network: String,
    /// Docker's id of the endpoint.
    pub endpoint: String,
    /// Where the container's network namespace will be found, or is already.
    pub netns: Option<PathBuf>,
}

impl JoinRequest {
    pub(in crate::docker) fn read(body: &[u8]) -> Result<Self, Refusal> {
        let wire: EndpointWire = read(body)?;
        let netns = PathBuf::from(wire.sandbox_key);

        Ok(Self {
            network: id("NetworkID", wire.network_id)?,
            endpoint: id("EndpointID", wire.endpoint_id)?,
            netns: Some(netns).filter(|path| path.is_absolute()),
        })
    }
}

/// A route that a container gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The destination.
    pub destination: IpNet,
    /// The next hop; none: the destination is on the link.
    pub via: Option<IpAddr>,
}

/// What a container gets with an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The interface, in the host's namespace.
    pub ifname: String,
    /// How the container shall call it.
    pub container_ifname: ContainerIfname,
    /// Routes through it. No gateway: the way out is the engine's.
    pub routes: Vec<Route>,
}

impl Joined {
    pub(in crate::docker::plugin) fn write(&self) -> Value {
        let route = |route: &Route| match route.via {
            Some(via) => json!({
                "Destination": route.destination.to_string(), "RouteType": 0, "NextHop": via.to_string(),
            }),
            None => {
                json!({ "Destination": route.destination.to_string(), "RouteType": 1, "NextHop": "" })
            }
        };

        let mut names =
            json!({ "SrcName": self.ifname, "DstPrefix": self.container_ifname.prefix });
        if let Some(whole) = &self.container_ifname.whole {
            names["DstName"] = json!(whole);
        }

        json!({
            "InterfaceName": names,
            "StaticRoutes": self.routes.iter().map(route).collect::<Vec<_>>(),
        })
    }
}

/// Returns our id of one of Docker's endpoints: made from the first digits of Docker's, so it is
/// always the same.
pub(crate) fn endpoint_id(endpoint: &str) -> EndpointId {
    let digits = endpoint.get(..12).unwrap_or(endpoint);

    EndpointId::from_random(u64::from_str_radix(digits, 16).unwrap_or_default())
}
