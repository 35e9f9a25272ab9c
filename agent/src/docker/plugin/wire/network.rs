//! Networks: `NetworkDriver.CreateNetwork` and `DeleteNetwork`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use overlay_proto::Refusal;
use overlay_proto::convert::field;
use serde::Deserialize;
use serde_json::Value;

use super::field::{Options, address, address_of, id, option, read, refuse, words};

/// What holds the `-o` words of a network.
const GENERIC: &str = "com.docker.network.generic";
const ENABLE_IPV4: &str = "com.docker.network.enable_ipv4";
const INTERNAL: &str = "com.docker.network.internal";

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
            found
                .map(|address| (name.clone(), address))
                .map_or_else(|| refuse("AuxAddresses: no address"), Ok)
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
            return refuse(
                "an overlay-wg network has one IPv4 prefix: give --subnet once for IPv4",
            );
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
            _ => {
                return refuse(
                    "an overlay-wg network has one IPv6 prefix at most: give --subnet once for IPv6",
                );
            }
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
