//! What the engine says, checked, and what it is answered. Measured on engines 20.10, 26.1 and 28.5.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use overlay_core::EndpointId;
use overlay_proto::convert::{MAX_LABELS, field};
use overlay_proto::{Code, Refusal};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::docker::options;

/// Hexadecimal digits of Docker's ids at the most.
const MAX_ID: usize = 64;
/// Options that are looked at at the most; far fewer are known.
const MAX_OPTIONS: usize = MAX_LABELS;
/// Bytes of a pool's name at the most; ours are far shorter.
const MAX_POOL: usize = 128;
/// What holds the `-o` words of a network.
const GENERIC: &str = "com.docker.network.generic";
const ENABLE_IPV4: &str = "com.docker.network.enable_ipv4";
const INTERNAL: &str = "com.docker.network.internal";

fn refuse<T>(text: impl std::fmt::Display) -> Result<T, Refusal> {
    Err(Refusal::new(Code::InvalidInput, text))
}

fn id(what: &str, text: String) -> Result<String, Refusal> {
    let sound = (1..=MAX_ID).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));

    if sound { Ok(text) } else { refuse(format!("{what} is no id of Docker's: 1 to 64 hexadecimal digits")) }
}

fn pool(text: String) -> Result<String, Refusal> {
    let sound = (1..=MAX_POOL).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());

    if sound { Ok(text) } else { refuse("PoolID is none of ours") }
}

fn optional<T>(what: &str, text: &str) -> Result<Option<T>, Refusal>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    overlay_proto::convert::optional(what, text)
}

/// The engine writes addresses with or without a prefix length.
fn address(what: &str, text: &str) -> Result<Option<IpAddr>, Refusal> {
    optional(what, text.split('/').next().unwrap_or_default())
}

fn words(options: Option<&Value>) -> BTreeMap<String, String> {
    let Some(Value::Object(options)) = options else { return BTreeMap::new() };
    let text = |value: &Value| value.as_str().map(str::to_owned);

    options.iter().filter_map(|(key, value)| Some((key.clone(), text(value)?))).take(MAX_OPTIONS).collect()
}

/// `null`, a missing field and `{}` are the same.
type Options = Option<BTreeMap<String, Value>>;

fn option<'a>(options: &'a Options, key: &str) -> Option<&'a Value> {
    options.as_ref()?.get(key)
}

/// `IpamDriver.RequestPool`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRequest {
    /// `--subnet`; none: to be chosen.
    pub prefix: Option<IpNet>,
    /// `--ip-range`.
    pub range: Option<IpNet>,
    /// `--ipam-opt`.
    pub options: BTreeMap<String, String>,
    /// Whether an IPv6 pool is asked for.
    pub v6: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PoolWire {
    #[serde(default)]
    pool: String,
    #[serde(default)]
    sub_pool: String,
    #[serde(default)]
    options: Options,
    #[serde(default, rename = "V6")]
    v6: bool,
}

impl PoolRequest {
    pub(in crate::docker) fn read(body: &[u8]) -> Result<Self, Refusal> {
        let wire: PoolWire = read(body)?;
        options::check_ipam(wire.options.iter().flatten().map(|(key, _)| key))?;
        let prefix: Option<IpNet> = optional("Pool", &wire.pool)?;
        let range: Option<IpNet> = optional("SubPool", &wire.sub_pool)?;
        let fits = |net: &IpNet| matches!(net, IpNet::V6(_)) == wire.v6;
        if prefix.iter().chain(&range).any(|net| !fits(net)) {
            return refuse("Pool and SubPool are of another family than V6 says");
        }
        if let (Some(prefix), Some(range)) = (prefix, range)
            && !prefix.contains(&range)
        {
            return refuse(format!("--ip-range {range} is not in --subnet {prefix}"));
        }
        let options = wire.options.unwrap_or_default().into_iter();
        let text = |(key, value): (String, Value)| Some((key, value.as_str()?.to_owned()));

        Ok(Self {
            prefix: prefix.map(|net| net.trunc()),
            range: range.map(|net| net.trunc()),
            options: options.filter_map(text).take(MAX_LABELS).collect(),
            v6: wire.v6,
        })
    }
}

/// A pool that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolGranted {
    /// Its name from now on.
    pub id: String,
    /// Its addresses.
    pub prefix: IpNet,
}

impl PoolGranted {
    pub(super) fn write(&self) -> Value {
        json!({ "PoolID": self.id, "Pool": self.prefix.to_string(), "Data": {} })
    }
}

/// What an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressUse {
    /// The network's gateway.
    Gateway,
    /// A container, or something that shall have it for ever: before the network is there, the latter.
    Other,
}

/// `IpamDriver.RequestAddress`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressRequest {
    /// The pool.
    pub pool: String,
    /// The one that is wanted; none: any.
    pub address: Option<IpAddr>,
    /// What for.
    pub purpose: AddressUse,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AddressWire {
    #[serde(rename = "PoolID")]
    pool_id: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    options: Options,
}

impl AddressRequest {
    pub(in crate::docker) fn read(body: &[u8]) -> Result<Self, Refusal> {
        let wire: AddressWire = read(body)?;
        let gateway = option(&wire.options, "RequestAddressType").and_then(Value::as_str);
        let is_gateway = gateway == Some("com.docker.network.gateway");

        Ok(Self {
            pool: pool(wire.pool_id)?,
            address: address("Address", &wire.address)?,
            purpose: if is_gateway { AddressUse::Gateway } else { AddressUse::Other },
        })
    }
}

pub(super) fn read_release_address(body: &[u8]) -> Result<(String, IpAddr), Refusal> {
    let wire: AddressWire = read(body)?;
    let Some(address) = address("Address", &wire.address)? else { return refuse("Address is missing") };

    Ok((pool(wire.pool_id)?, address))
}

pub(super) fn read_release_pool(body: &[u8]) -> Result<String, Refusal> {
    pool(read::<AddressWire>(body)?.pool_id)
}

/// An IPv4 prefix of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool4 {
    /// The address space it is out of: ours, or the engine's own.
    pub space: String,
    /// The addresses.
    pub prefix: Ipv4Net,
    /// The gateway.
    pub gateway: Option<Ipv4Addr>,
}

/// An IPv6 prefix of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool6 {
    /// The address space it is out of.
    pub space: String,
    /// The addresses.
    pub prefix: Ipv6Net,
    /// The gateway.
    pub gateway: Option<Ipv6Addr>,
}

/// `NetworkDriver.CreateNetwork`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRequest {
    /// Docker's id of the network.
    pub id: String,
    /// Its IPv4 prefix.
    pub v4: Pool4,
    /// Its IPv6 prefix.
    pub v6: Option<Pool6>,
    /// Addresses that are never given out.
    pub reserved: BTreeMap<String, IpAddr>,
    /// `--internal`.
    pub internal: bool,
    /// `-o`.
    pub options: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkWire {
    #[serde(rename = "NetworkID")]
    network_id: String,
    #[serde(default, rename = "IPv4Data")]
    v4: Option<Vec<IpamData>>,
    #[serde(default, rename = "IPv6Data")]
    v6: Option<Vec<IpamData>>,
    #[serde(default)]
    options: Options,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct IpamData {
    #[serde(default)]
    address_space: String,
    #[serde(default)]
    pool: String,
    #[serde(default)]
    gateway: String,
    #[serde(default)]
    aux_addresses: Option<BTreeMap<String, Value>>,
}

impl IpamData {
    fn reserved(&self) -> Result<BTreeMap<String, IpAddr>, Refusal> {
        let all = self.aux_addresses.iter().flatten();
        let one = |(name, value): (&String, &Value)| {
            let text = value.as_str().unwrap_or_default();
            let found = address("AuxAddresses", text)?;
            found.map(|address| (name.clone(), address)).map_or_else(|| refuse("AuxAddresses: no address"), Ok)
        };

        all.map(one).collect()
    }
}

impl NetworkRequest {
    pub(in crate::docker) fn read(body: &[u8]) -> Result<Self, Refusal> {
        let wire: NetworkWire = read(body)?;
        let (v4, v6) = (wire.v4.unwrap_or_default(), wire.v6.unwrap_or_default());
        if option(&wire.options, ENABLE_IPV4).and_then(Value::as_bool) == Some(false) {
            return refuse("a network without IPv4 is not supported; leave --ipv4=false away");
        }
        let [first] = v4.as_slice() else {
            return refuse("an overlay-wg network has one IPv4 prefix: give --subnet once for IPv4");
        };
        let mut reserved = first.reserved()?;
        let second = match v6.as_slice() {
            [] => None,
            [one] => {
                reserved.extend(one.reserved()?);
                Some(Pool6 {
                    space: one.address_space.clone(),
                    prefix: field("IPv6Data.Pool", &one.pool)?,
                    gateway: address_of("IPv6Data.Gateway", &one.gateway)?,
                })
            }
            _ => return refuse("an overlay-wg network has one IPv6 prefix at most: give --subnet once for IPv6"),
        };

        Ok(Self {
            id: id("NetworkID", wire.network_id)?,
            v4: Pool4 {
                space: first.address_space.clone(),
                prefix: field("IPv4Data.Pool", &first.pool)?,
                gateway: address_of("IPv4Data.Gateway", &first.gateway)?,
            },
            v6: second,
            reserved,
            internal: option(&wire.options, INTERNAL).and_then(Value::as_bool).unwrap_or(false),
            options: words(option(&wire.options, GENERIC)),
        })
    }
}

fn address_of<T>(what: &str, text: &str) -> Result<Option<T>, Refusal>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    optional(what, text.split('/').next().unwrap_or_default())
}

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

fn mac(text: &str) -> Result<Option<[u8; 6]>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2)).collect();
    match bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok()) {
        Some(mac) if mac[0] & 1 == 0 => Ok(Some(mac)),
        Some(_) | None => refuse("Interface.MacAddress is no hardware address of one interface"),
    }
}

/// What a driver says of an interface that Docker has not: a field that Docker filled must not come back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewInterface {
    /// Its hardware address.
    pub mac: Option<[u8; 6]>,
}

impl NewInterface {
    pub(super) fn write(&self) -> Value {
        match self.mac {
            None => json!({ "Interface": {} }),
            Some(mac) => {
                let text = mac.map(|byte| format!("{byte:02x}")).join(":");
                json!({ "Interface": { "MacAddress": text } })
            }
        }
    }
}

pub(super) fn read_network(body: &[u8]) -> Result<String, Refusal> {
    id("NetworkID", read::<EndpointWire>(body)?.network_id)
}

pub(super) fn read_endpoint(body: &[u8]) -> Result<String, Refusal> {
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
    /// Where to.
    pub destination: IpNet,
    /// Through whom; none: it is on the link.
    pub via: Option<IpAddr>,
}

/// How an engine shall call an interface that it moves into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerIfname {
    /// The beginning, after which the engine puts the lowest number that is free.
    pub prefix: String,
    /// The whole name: engines since 29 heed it.
    pub whole: Option<String>,
}

/// What a container gets with an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The interface, in the host's namespace.
    pub ifname: String,
    /// How the container shall call it.
    pub container_ifname: ContainerIfname,
    /// Routes by it. No gateway: the way out is the engine's.
    pub routes: Vec<Route>,
}

impl Joined {
    pub(super) fn write(&self) -> Value {
        let route = |route: &Route| match route.via {
            Some(via) => json!({
                "Destination": route.destination.to_string(), "RouteType": 0, "NextHop": via.to_string(),
            }),
            None => json!({ "Destination": route.destination.to_string(), "RouteType": 1, "NextHop": "" }),
        };

        let mut names = json!({ "SrcName": self.ifname, "DstPrefix": self.container_ifname.prefix });
        if let Some(whole) = &self.container_ifname.whole {
            names["DstName"] = json!(whole);
        }

        json!({
            "InterfaceName": names,
            "StaticRoutes": self.routes.iter().map(route).collect::<Vec<_>>(),
        })
    }
}

/// The same id that an endpoint of Docker's has with us, whoever asks and however often: made from its first digits.
pub(crate) fn endpoint_id(endpoint: &str) -> EndpointId {
    let digits = endpoint.get(..12).unwrap_or(endpoint);

    EndpointId::from_random(u64::from_str_radix(digits, 16).unwrap_or_default())
}

/// A request that was sent again over a new connection comes without a body; it must not pass for one that says nothing.
fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    if body.is_empty() {
        return refuse("the request has no body");
    }
    // An array's values would be taken for fields in their order.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return refuse("the request is no JSON object");
    }

    serde_json::from_slice(body).or_else(|error| refuse(format!("the request cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_an_object_is_a_request() {
        for body in ["[]", "null", "17", "\"x\"", "[\"10.9.0.0/16\"]", " \n"] {
            assert!(PoolRequest::read(body.as_bytes()).is_err(), "{body}");
        }
        assert!(PoolRequest::read(b" \n{}").is_ok());
    }

    #[test]
    fn null_missing_and_empty_options_are_the_same() {
        for options in ["", r#", "Options": null"#, r#", "Options": {}"#] {
            let body = format!(r#"{{"PoolID": "p", "Address": ""{options}}}"#);
            let request = AddressRequest::read(body.as_bytes()).expect("sound");

            assert_eq!(request, AddressRequest { pool: "p".into(), address: None, purpose: AddressUse::Other });
        }
    }

    #[test]
    fn ids_that_are_none_never_get_through() {
        for bad in ["", "../../x", "ABCDEF", "g0", &"a".repeat(65), "a b"] {
            let body = json!({ "NetworkID": bad, "EndpointID": "ab" }).to_string();

            assert!(read_endpoint(body.as_bytes()).is_err(), "{bad}");
            assert!(read_network(body.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_empty_body_is_no_empty_request() {
        assert!(PoolRequest::read(b"").is_err());
        assert!(NetworkRequest::read(b"").is_err());
        assert!(JoinRequest::read(b"").is_err());
    }

    #[test]
    fn a_network_is_read_as_the_engine_writes_it() {
        let body = json!({
            "NetworkID": "0a1b", "Options": {
                "com.docker.network.enable_ipv6": true, "com.docker.network.internal": true,
                "com.docker.network.generic": { "a": "b" } },
            "IPv4Data": [{ "AddressSpace": "overlay-wg", "Pool": "10.5.0.0/16", "Gateway": "10.5.0.1/16",
                "AuxAddresses": { "router": "10.5.0.9/16" } }],
            "IPv6Data": [{ "AddressSpace": "overlay-wg", "Pool": "fd05::/64", "Gateway": "fd05::1/64" }],
        });

        let network = NetworkRequest::read(body.to_string().as_bytes()).expect("sound");

        assert_eq!(network.v4.gateway, Some([10, 5, 0, 1].into()));
        assert_eq!(network.v6.as_ref().and_then(|v6| v6.gateway), "fd05::1".parse().ok());
        assert_eq!(network.reserved, BTreeMap::from([("router".into(), "10.5.0.9".parse().expect("an address"))]));
        assert!(network.internal);
        assert_eq!(network.options, BTreeMap::from([("a".into(), "b".into())]));
    }

    #[test]
    fn an_endpoint_s_interface_is_called_as_docker_was_asked() {
        let body = json!({
            "NetworkID": "0a1b", "EndpointID": "0c", "Interface": { "Address": "10.5.0.2/16" },
            "Options": {
                "com.docker.network.endpoint.exposedports": [{ "Proto": 6, "Port": 80 }],
                "com.docker.network.portmap": null,
                "com.docker.network.endpoint.ifname": "web0",
            },
        });

        let request = EndpointRequest::read(body.to_string().as_bytes()).expect("sound");
        let container_ifname = ContainerIfname::exactly(request.ifname.as_deref().unwrap_or_default());
        let joined = Joined { ifname: "ovc1".into(), container_ifname, routes: Vec::new() }.write();

        assert_eq!(joined["InterfaceName"], json!({ "SrcName": "ovc1", "DstPrefix": "web", "DstName": "web0" }));
        let unknown = body.to_string().replace("com.docker.network.portmap", "parent");
        assert!(EndpointRequest::read(unknown.as_bytes()).unwrap_err().message.contains("parent"));
    }

    #[test]
    fn hardware_addresses_are_read_and_groups_refused() {
        assert_eq!(mac("02:42:0a:05:00:02"), Ok(Some([2, 0x42, 10, 5, 0, 2])));
        for bad in ["01:00:00:00:00:00", "02:42", "02:42:0a:05:00:2", "02-42-0a-05-00-02"] {
            assert!(mac(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = PoolRequest::read(&body).is_ok() | AddressRequest::read(&body).is_ok();
            let _ = NetworkRequest::read(&body).is_ok() | EndpointRequest::read(&body).is_ok();
            let _ = JoinRequest::read(&body).is_ok() | read_release_address(&body).is_ok();
        }
    }
}
