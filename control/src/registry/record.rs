//! What control remembers beside the membership, and the records that a commit is made of.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use ipnet::Ipv4Net;
use overlay_core::{Change, ClusterId, Name, NodeId, Role, RowKey};
use serde::{Deserialize, Serialize};

/// What `init` decided, for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// The cluster.
    pub(crate) cluster: ClusterId,
    /// Where the prefixes of networks come from.
    pub(crate) pool: Ipv4Net,
    /// Where control listens unless `serve` says otherwise.
    pub(crate) listen: SocketAddr,
    /// What join lines carry; empty: the host's addresses.
    pub(crate) advertise: Vec<String>,
}

/// A join token; its secret is known by its digest only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    /// Public, as the join line carries it.
    pub(crate) id: String,
    /// Of the secret.
    pub(crate) digest: Digest,
    /// When it stops to admit, in seconds since 1970.
    pub(crate) expires: u64,
    /// How many nodes it admits.
    pub(crate) uses: u32,
    /// How many it has admitted.
    pub(crate) used: u32,
    /// What the nodes it admits may ask.
    pub(crate) role: Role,
    /// What the nodes it admits are labelled with.
    pub(crate) labels: BTreeMap<String, String>,
}

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Digest(pub(crate) [u8; 32]);

impl Digest {
    /// Hashes a text.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut digest = [0; 32];
        digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());

        Self(digest)
    }

    /// Compares in a time that does not depend on where the two differ.
    pub(crate) fn matches(&self, other: &Self) -> bool {
        let difference = self.0.iter().zip(other.0).fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));

        difference == 0
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(hidden)")
    }
}

/// What only control knows about a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Host {
    /// The node.
    pub(crate) node: NodeId,
    /// Of the public key it joined with; who joins again with it gets the same identity.
    pub(crate) key: Digest,
    /// The token it joined with.
    pub(crate) token: String,
    /// Of its agent.
    pub(crate) version: String,
}

/// A node that was taken out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revoked {
    /// The node.
    pub(crate) node: NodeId,
    /// What it was called.
    pub(crate) name: Name,
    /// When, in seconds since 1970.
    pub(crate) at: u64,
}

/// One row of control's memory, replaced or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Record {
    /// A row of the membership.
    Row(Change),
    /// A token was made or used.
    Token(Token),
    /// A token is gone.
    NoToken(String),
    /// What only control knows about a node.
    Host(Host),
    /// That is forgotten.
    NoHost(NodeId),
    /// A node was taken out.
    Revoked(Revoked),
    /// That is forgotten.
    NoRevoked(NodeId),
}

impl Record {
    /// Returns the key of the row in a store, and whether the row is there afterwards.
    pub(crate) fn key(&self) -> (String, bool) {
        match self {
            Self::Row(change) => (row_key(change.key()), !matches!(change, Change::Removed(_))),
            Self::Token(token) => (format!("token/{}", token.id), true),
            Self::NoToken(id) => (format!("token/{id}"), false),
            Self::Host(host) => (format!("host/{}", host.node), true),
            Self::NoHost(node) => (format!("host/{node}"), false),
            Self::Revoked(revoked) => (format!("revoked/{}", revoked.node), true),
            Self::NoRevoked(node) => (format!("revoked/{node}"), false),
        }
    }
}

fn row_key(key: RowKey) -> String {
    match key {
        RowKey::Network(network) => format!("network/{network}"),
        RowKey::Node(node) => format!("node/{node}"),
        RowKey::Member(network, node) => format!("member/{network}/{node}"),
        RowKey::Endpoint(network, endpoint) => format!("endpoint/{network}/{endpoint}"),
        RowKey::HostReport(node) => format!("host-prefixes/{node}"),
    }
}

/// A row of the membership that a commit changed, and whether it was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Touched {
    /// Which row.
    pub(crate) key: RowKey,
    /// Whether it was there before the commit.
    pub(crate) before: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_match_only_themselves() {
        let digest = Digest::of(b"secret");
        let mut other = digest;
        other.0[31] ^= 1;

        assert!(digest.matches(&Digest::of(b"secret")));
        assert!(!digest.matches(&other));
        assert_eq!(format!("{digest:?}"), "Digest(hidden)");
    }
}
