//! What is kept: plain values, written as JSON, with the secrets in entries of their own.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use overlay_core::{ClusterId, Endpoint, Name, NodeId, Role, pool};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Who this node is.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster it joined.
    pub cluster: ClusterId,
    /// Its id there.
    pub node: NodeId,
    /// Its name there.
    pub name: Name,
    /// What it may ask of control.
    pub role: Role,
    /// Where control listens: `host:port`, tried in order.
    pub control: Vec<String>,
    /// Underlay addresses to announce instead of the host's own.
    pub advertise: Vec<IpAddr>,
    /// Where the prefixes of networks come from.
    #[serde(default = "default_pool")]
    pub pool: Ipv4Net,
    /// Its certificate, DER.
    #[serde(skip)]
    pub certificate: Vec<u8>,
    /// The authority's certificate, DER.
    #[serde(skip)]
    pub ca: Vec<u8>,
    /// The certificate's private key, PKCS #8 DER.
    #[serde(skip)]
    pub key: Zeroizing<Vec<u8>>,
}

fn default_pool() -> Ipv4Net {
    pool::DEFAULT_POOL
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("cluster", &self.cluster)
            .field("node", &self.node)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Where control was heard to be, beside the join line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KnownControl {
    /// What control said itself: `host:port`, the likeliest first.
    pub announced: Vec<String>,
    /// The nodes on control's own host.
    pub nodes: Vec<NodeId>,
    /// What a person said: `host:port`.
    pub set: Vec<String>,
    /// Where it answered last.
    pub last: Option<String>,
}

/// A join that was begun: repeated with the same token, it must show the same key.
#[derive(Clone, Serialize, Deserialize)]
pub struct Joining {
    /// The token's id; not secret.
    pub token_id: String,
    /// The certificate's private key, PKCS #8 DER.
    #[serde(skip)]
    pub key: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Joining {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Joining").field("token_id", &self.token_id).finish_non_exhaustive()
    }
}

/// Where an endpoint lives: which network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxRecord {
    /// The host's own.
    Host,
    /// The one at a path, told from a later one at the same path by its file's numbers.
    Netns {
        /// Where it is found.
        path: PathBuf,
        /// The device number of the namespace's file.
        device: u64,
        /// The inode number of the namespace's file.
        inode: u64,
        /// Which run of the kernel the numbers are of; a later one gives them again.
        boot: String,
    },
    /// A container whose engine looks after its interface.
    #[serde(rename = "docker")]
    Managed(ManagedSandbox),
}

/// Where an endpoint of a container lives whose engine moves the interface there, names and
/// addresses it: the managed attachment of Docker, and of other engines alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedSandbox {
    /// The engine's id of the network.
    pub network: String,
    /// The engine's id of the endpoint.
    pub endpoint: String,
    /// The container's id, once the engine told it.
    pub container: Option<String>,
    /// Where the container's network namespace is found, once the engine told it.
    pub netns: Option<PathBuf>,
    /// Whether the engine was told to take the interface.
    pub joined: bool,
    /// The hardware address that the engine asked for.
    pub mac: Option<[u8; 6]>,
    /// Which run of the kernel it was made in; empty in what older agents wrote.
    #[serde(default)]
    pub boot: String,
    /// How the container shall call its interface, where somebody asked for a name.
    #[serde(default)]
    pub container_ifname: Option<String>,
    /// Whether its interface has the network's whole prefix on the link: the engine numbers.
    #[serde(default)]
    pub on_link: bool,
    /// How its interface is called in the container, once it was seen there.
    #[serde(default)]
    pub inside: Option<String>,
}

impl ManagedSandbox {
    /// Returns the short form of the container's id, once the engine told it: its host name.
    pub(crate) fn short_id(&self) -> Option<Name> {
        self.container.as_deref().and_then(short_id)
    }
}

/// Returns the short form of a container's id, which is also its host name: the first 12
/// hexadecimal digits.
pub(crate) fn short_id(container: &str) -> Option<Name> {
    container.get(..12)?.parse().ok()
}

impl SandboxRecord {
    /// Returns what an engine manages, if one does.
    pub fn managed(&self) -> Option<&ManagedSandbox> {
        match self {
            Self::Managed(managed) => Some(managed),
            Self::Host | Self::Netns { .. } => None,
        }
    }

    /// Tells whether an engine looks after the sandbox's interface.
    pub fn is_managed(&self) -> bool {
        self.managed().is_some()
    }

    /// Tells whether two endpoints live in one sandbox.
    pub fn is_same_place(&self, other: &Self) -> bool {
        match (self.managed(), other.managed()) {
            (Some(one), Some(two)) => one.container.is_some() && one.container == two.container,
            (None, None) => self == other,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

/// The process an endpoint goes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its id.
    pub pid: u32,
    /// When it started, in clock ticks since boot: tells it from a later process of the same id.
    pub started: u64,
}

/// One endpoint of this node, as the journal holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// What everybody else is told.
    pub endpoint: Endpoint,
    /// Where it lives.
    pub sandbox: SandboxRecord,
    /// Its interface's name there.
    pub ifname: String,
    /// The process it goes with, if it goes with one.
    pub owner: Option<Owner>,
}

/// When control was last heard. After another boot it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptContact {
    /// Which run of the kernel it was.
    pub boot: String,
    /// Milliseconds since that boot.
    pub at_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was written before names belonged to somebody.
    #[test]
    fn an_endpoint_of_what_older_agents_wrote_is_read() {
        let kept = r#"{"endpoint":{"id":"000000000001","network":"00000000000a",
            "node":"00000000000b","name":"web","aliases":["5df66f04e09f","www"],
            "addresses":["10.9.0.2"],"labels":{},"runtime":"docker"},
            "sandbox":"host","ifname":"ovh0","owner":null}"#;

        let read: EndpointRecord = serde_json::from_str(kept).expect("as it was written");

        assert_eq!(read.endpoint.name.as_str(), "web");
        assert!(read.endpoint.group.is_none() && read.endpoint.container.is_none());
        assert!(read.endpoint.taken.is_empty());
    }

    #[test]
    fn a_container_of_what_older_agents_wrote_is_read() {
        let kept = r#"{"docker":{"network":"aa","endpoint":"bb","container":"cc","netns":null,"joined":true,"mac":null}}"#;

        let read: SandboxRecord = serde_json::from_str(kept).expect("as it was written");

        assert_eq!(
            read.managed().map(|managed| (managed.network.as_str(), managed.joined)),
            Some(("aa", true))
        );
        assert!(
            serde_json::to_string(&read)
                .expect("written")
                .starts_with(r#"{"docker":{"network":"aa""#)
        );
    }
}
