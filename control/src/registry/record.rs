//! What control stores besides the membership, and the records that a commit consists of.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use ipnet::Ipv4Net;
use overlay_core::policy::FilterMode;
use overlay_core::{
    Change, ClusterId, Creator, Name, NetworkId, NodeId, Revocation, Role, RowKey, Selector,
};
use serde::{Deserialize, Serialize};

use super::history::HistoryKey;
use super::state::{Fence, Held};

/// The settings that `init` chose; they never change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// The cluster.
    pub(crate) cluster: ClusterId,
    /// Where the prefixes of networks come from.
    pub(crate) pool: Ipv4Net,
    /// Where control listens unless `serve` says otherwise.
    pub(crate) listen: SocketAddr,
    /// The addresses that join lines carry; the host's own addresses when empty.
    pub(crate) advertise: Vec<String>,
}

/// A join token; only the digest of its secret is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    /// The public id, as the join line carries it.
    pub(crate) id: String,
    /// The digest of the secret.
    pub(crate) digest: Digest,
    /// When it expires, in seconds since 1970.
    pub(crate) expires: u64,
    /// How many nodes it admits.
    pub(crate) uses: u32,
    /// How many it has admitted.
    pub(crate) used: u32,
    /// The role of the nodes it admits.
    pub(crate) role: Role,
    /// The labels of the nodes it admits.
    pub(crate) labels: BTreeMap<String, String>,
    /// Whether it admits nobody, because control was restored after it was made: it may have been
    /// used or revoked in what was lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) fenced: bool,
}

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Digest(pub(crate) [u8; 32]);

impl Digest {
    /// Hashes bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut digest = [0; 32];
        digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());

        Self(digest)
    }

    /// Compares two digests in constant time.
    pub(crate) fn matches(&self, other: &Self) -> bool {
        let difference =
            self.0.iter().zip(other.0).fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));

        difference == 0
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(hidden)")
    }
}

/// How a node was enrolled: what only control needs to know about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Enrollment {
    /// The node.
    pub(crate) node: NodeId,
    /// The digest of the public key it joined with; whoever joins with the same key gets the same
    /// identity.
    pub(crate) key: Digest,
    /// The token it joined with.
    pub(crate) token: String,
    /// The version of its agent.
    pub(crate) version: String,
}

/// A node that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revoked {
    /// The node.
    pub(crate) node: NodeId,
    /// The name it had.
    pub(crate) name: Name,
    /// When it was removed, in seconds since 1970.
    pub(crate) at: u64,
    /// Whether somebody else removed it: all nodes are told so, by a signed revocation. Otherwise
    /// it left.
    #[serde(default)]
    pub(crate) evicted: bool,
    /// The node that removed it; an operator of control when missing.
    #[serde(default)]
    pub(crate) by: Option<Creator>,
    /// The digest of the public key it joined with, if it is known; nobody joins with that again.
    #[serde(default)]
    pub(crate) key: Option<Digest>,
}

impl Revoked {
    /// Returns what all nodes are told of it.
    pub(crate) fn revocation(&self) -> Option<Revocation> {
        self.evicted.then(|| Revocation {
            node: self.node,
            name: self.name.clone(),
            at: self.at,
            by: self.by.clone(),
        })
    }
}

/// A policy that is or was live, or that from then on there was none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AppliedPolicy {
    /// Its revision; they count from 1, without gaps.
    pub(crate) revision: u64,
    /// When it was applied, in seconds since 1970.
    pub(crate) at: u64,
    /// Who applied it; an operator of control when missing.
    pub(crate) by: Option<Creator>,
    /// Whether it was kept to, or only counted; without one, there was no policy from then on.
    pub(crate) mode: Option<FilterMode>,
    /// Of a rollback, the revision that was asked for.
    pub(crate) rolled_back_to: Option<u64>,
    /// The document as it was given, with its tests.
    pub(crate) document: String,
}

/// One row of the store, replaced or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Record {
    /// A row of the membership.
    Row(Change),
    /// A token was created or used.
    Token(Token),
    /// A token is gone.
    RemoveToken(String),
    /// A node was enrolled, or its agent's version changed.
    #[serde(rename = "host")]
    Enrollment(Enrollment),
    /// An enrolment is gone.
    RemoveEnrollment(NodeId),
    /// A node was removed.
    Revoked(Revoked),
    /// A removed node is forgotten.
    RemoveRevoked(NodeId),
    /// A policy was applied, rolled back or taken away.
    AppliedPolicy(AppliedPolicy),
    /// An earlier policy is forgotten.
    RemoveAppliedPolicy(u64),
    /// The history began.
    History(HistoryKey),
    /// The history began anew.
    Fence(Fence),
    /// Every node has reported.
    RemoveFence,
    /// A node has still to report.
    Awaited(NodeId),
    /// A node has reported.
    RemoveAwaited(NodeId),
    /// Addresses are held for a node.
    Held(Held),
    /// Addresses are not held any more.
    Release(Held),
}

impl Record {
    /// Returns whether it says that somebody removed a node.
    pub(crate) fn is_eviction(&self) -> bool {
        matches!(self, Self::Revoked(revoked) if revoked.evicted)
    }

    /// Returns whether it changes what is fenced, or who has still to report.
    pub(crate) fn is_of_fence(&self) -> bool {
        matches!(
            self,
            Self::Fence(_) | Self::RemoveFence | Self::Awaited(_) | Self::RemoveAwaited(_)
        )
    }

    /// Returns the row's key in the store, and whether the row exists afterwards.
    pub(crate) fn key(&self) -> (String, bool) {
        match self {
            Self::Row(change) => (row_key(change.key()), !matches!(change, Change::Removed(_))),
            Self::Token(token) => (format!("token/{}", token.id), true),
            Self::RemoveToken(id) => (format!("token/{id}"), false),
            Self::Enrollment(enrolled) => (format!("host/{}", enrolled.node), true),
            Self::RemoveEnrollment(node) => (format!("host/{node}"), false),
            Self::Revoked(revoked) => (format!("revoked/{}", revoked.node), true),
            Self::RemoveRevoked(node) => (format!("revoked/{node}"), false),
            Self::AppliedPolicy(applied) => (format!("policy/{}", applied.revision), true),
            Self::RemoveAppliedPolicy(revision) => (format!("policy/{revision}"), false),
            Self::History(_) => ("lineage".to_owned(), true),
            Self::Fence(_) => ("fence".to_owned(), true),
            Self::RemoveFence => ("fence".to_owned(), false),
            Self::Awaited(node) => (format!("awaited/{node}"), true),
            Self::RemoveAwaited(node) => (format!("awaited/{node}"), false),
            Self::Held(held) => (held_key(held), true),
            Self::Release(held) => (held_key(held), false),
        }
    }
}

fn held_key(held: &Held) -> String {
    format!("held/{}/{}/{}", held.network, held.node, held.prefix)
}

fn row_key(key: RowKey) -> String {
    match key {
        RowKey::Network(network) => format!("network/{network}"),
        RowKey::Node(node) => format!("node/{node}"),
        RowKey::Member(network, node) => format!("member/{network}/{node}"),
        RowKey::Endpoint(network, endpoint) => format!("endpoint/{network}/{endpoint}"),
        RowKey::HostReport(node) => format!("host-prefixes/{node}"),
        RowKey::Policy => "policy".to_owned(),
    }
}

/// The key of a membership row that a commit changed, and what is to be known of the row before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChangedKey {
    /// The row's key.
    pub(crate) key: RowKey,
    /// Whether the row existed before the commit.
    pub(crate) before: bool,
    /// Of a network that not all nodes could see before the commit: which ones could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nodes: Option<Box<Selector>>,
    /// Of a network that was linked before the commit: with which ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) links: Vec<NetworkId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was stored before networks had selectors and creators.
    #[test]
    fn rows_of_earlier_versions_are_read() {
        let network = r#"{"row": {"network": {"id": "00000000000a", "name": "blue",
            "prefix": "10.1.0.0/16", "prefix6": null, "mode": "l3", "labels": {},
            "settings": {"gateway": null, "internal": true}}}}"#;
        let changed = r#"{"key": {"network": "00000000000a"}, "before": true}"#;

        let record: Record = serde_json::from_str(network).expect("it is read");
        let changed: ChangedKey = serde_json::from_str(changed).expect("it is read");

        let Record::Row(Change::Network(row)) = record else { panic!("{record:?}") };
        assert!(row.creator.is_none() && row.settings.nodes.is_everything());
        assert!(row.settings.internal);
        assert_eq!((changed.before, changed.nodes.is_none()), (true, true));
        let written = serde_json::to_string(&changed).expect("JSON");
        assert!(!written.contains("nodes"), "what an earlier version wrote: {written}");
    }

    /// What was stored before names belonged to somebody.
    #[test]
    fn endpoints_of_earlier_versions_are_read() {
        let endpoint = r#"{"row":{"endpoint":{"id":"000000000001","network":"00000000000a",
            "node":"00000000000b","name":"web","aliases":["www"],"addresses":["10.9.0.2"],
            "labels":{},"runtime":"docker"}}}"#;

        let record: Record = serde_json::from_str(endpoint).expect("it is read");

        let Record::Row(Change::Endpoint(row)) = record else { panic!("{record:?}") };
        assert!(row.group.is_none() && row.container.is_none() && row.taken.is_empty());
    }

    /// What a version writes, the next ones must read.
    #[test]
    fn policies_are_stored_as_they_are_read() {
        let stored = r##"{"applied_policy":{"revision":3,"at":1800000000,"by":{"node":
            "00000000000a","name":"host1"},"mode":"shadow","rolled_back_to":1,
            "document":"# mine\n"}}"##;
        let removed = r#"{"applied_policy":{"revision":4,"at":1800000001,"by":null,"mode":null,
            "rolled_back_to":0,"document":""}}"#;
        let row = r#"{"row":{"policy":{"revision":3,"mode":"enforced","text":""}}}"#;
        let gone = r#"{"row":{"removed":"policy"}}"#;

        let keys = [stored, removed, row, gone].map(|text| {
            let record: Record = serde_json::from_str(text).expect("it is read");
            let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
            assert_eq!(serde_json::to_value(&record).expect("JSON"), value);
            record.key()
        });

        let expected =
            [("policy/3", true), ("policy/4", true), ("policy", true), ("policy", false)];
        assert_eq!(keys, expected.map(|(key, is_there)| (key.to_owned(), is_there)));
    }

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
