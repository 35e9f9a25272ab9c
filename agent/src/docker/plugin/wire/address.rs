//! Pools and addresses: the calls of `IpamDriver`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use overlay_proto::Refusal;
use overlay_proto::convert::MAX_LABELS;
use serde::Deserialize;
use serde_json::{Value, json};

use super::field::{Options, address, option, optional, pool, read, refuse};
use crate::docker::options;

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
    pub(in crate::docker::plugin) fn write(&self) -> Value {
        json!({ "PoolID": self.id, "Pool": self.prefix.to_string(), "Data": {} })
    }
}

/// What an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressUse {
    /// The network's gateway.
    Gateway,
    /// A container, or something that shall have it for ever: before the network is there, the
    /// latter.
    Other,
}

/// `IpamDriver.RequestAddress`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressRequest {
    /// The pool.
    pub pool: String,
    /// The one that is wanted; none: any.
    pub address: Option<IpAddr>,
    /// What it is for.
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

pub(in crate::docker::plugin) fn read_release_address(
    body: &[u8],
) -> Result<(String, IpAddr), Refusal> {
    let wire: AddressWire = read(body)?;
    let Some(address) = address("Address", &wire.address)? else {
        return refuse("Address is missing");
    };

    Ok((pool(wire.pool_id)?, address))
}

pub(in crate::docker::plugin) fn read_release_pool(body: &[u8]) -> Result<String, Refusal> {
    pool(read::<AddressWire>(body)?.pool_id)
}
