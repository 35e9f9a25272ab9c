//! What is kept of Docker: its networks of ours, the pools it asked for, and the addresses it
//! holds. Docker never repeats what it said, so all of it must survive this process.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use overlay_core::NetworkId;
use serde::{Deserialize, Serialize};

/// Who numbers the containers of a Docker network on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpamMode {
    /// We do, out of these pools: `--ipam-driver overlay-wg`, and every replica.
    Ours {
        /// The IPv4 pool.
        pool: String,
        /// The IPv6 pool.
        pool6: Option<String>,
    },
    /// The engine's own address management: the plain `docker network create -d overlay-wg`.
    Engine,
}

/// A Docker network of ours on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerNetwork {
    /// Docker's id of it.
    pub id: String,
    /// The overlay network that it stands for, once known.
    pub network: Option<NetworkId>,
    /// Its IPv4 prefix.
    pub prefix: Ipv4Net,
    /// Its IPv4 gateway.
    pub gateway: Ipv4Addr,
    /// Its IPv6 prefix.
    pub prefix6: Option<Ipv6Net>,
    /// Its IPv6 gateway, where Docker named one.
    pub gateway6: Option<Ipv6Addr>,
    /// Addresses that are never given out.
    pub reserved: BTreeMap<String, IpAddr>,
    /// Whether it has no way out.
    pub internal: bool,
    /// What was given with `-o`.
    pub options: BTreeMap<String, String>,
    /// Who numbers its containers.
    #[serde(rename = "numbering")]
    pub ipam_mode: IpamMode,
}

/// A pool that Docker asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerPool {
    /// How Docker calls it.
    pub id: String,
    /// Its addresses.
    pub prefix: IpNet,
    /// The part that is given out.
    pub range: Option<IpNet>,
    /// The overlay network that it is for, where that was said: a replica's.
    pub network: Option<NetworkId>,
    /// Docker's id of the network that it was asked for, once there is one.
    pub docker_network: Option<String>,
    /// When it was asked for, in milliseconds since 1970: tells which of several is the latest.
    pub since_ms: u64,
}

/// An address that Docker holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerLease {
    /// The pool it is out of.
    pub pool: String,
    /// The address.
    pub address: IpAddr,
    /// Whether it is a container's; a gateway's or reserved one otherwise.
    pub is_endpoint: bool,
    /// When it was given, in seconds since 1970.
    pub since: u64,
}

/// One row of what is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DockerRow {
    /// A network.
    Network(DockerNetwork),
    /// A pool.
    Pool(DockerPool),
    /// An address.
    Lease(DockerLease),
    /// A network that a person removed with Docker, and that control must still be told of.
    Removal(NetworkId),
}

/// Names one row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DockerKey {
    /// By Docker's id.
    Network(String),
    /// By Docker's name for it.
    Pool(String),
    /// By pool and address.
    Lease(String, IpAddr),
    /// By network.
    Removal(NetworkId),
}

impl DockerRow {
    /// Returns which row this is.
    pub fn key(&self) -> DockerKey {
        match self {
            Self::Network(row) => DockerKey::Network(row.id.clone()),
            Self::Pool(row) => DockerKey::Pool(row.id.clone()),
            Self::Lease(row) => DockerKey::Lease(row.pool.clone(), row.address),
            Self::Removal(network) => DockerKey::Removal(*network),
        }
    }
}
