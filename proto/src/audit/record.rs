//! One record, and what people look for in it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use overlay_core::instant::rfc3339;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::chain::{Head, RecordHash};

/// What was changed at once, by whom and from where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Its number; they count from 1, without gaps.
    pub number: u64,
    /// When it was written, in seconds since 1970, by control's clock.
    pub at: u64,
    /// The revision of the membership that it led to; of what changes none, the one that was there.
    pub revision: u64,
    /// Who did it.
    pub who: Who,
    /// Where the connection came from; missing for what was done on control's own host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
    /// The command, in one word.
    pub what: String,
    /// The rows that changed, as many as there is room for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<AuditRow>,
    /// The rows that changed besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted: Option<Omitted>,
    /// What else is to be said: the counts of a sum, the reason of a refusal.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, Value>,
    /// The hash of the record before.
    pub previous: RecordHash,
}

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Who {
    /// A node, by its certificate.
    Node {
        /// Its id.
        id: String,
        /// The name that it had; empty when it is not known.
        name: String,
        /// The role that it had.
        role: String,
        /// The SHA-256 of its certificate, in hexadecimal; empty when there was none.
        certificate: String,
    },
    /// A host that joined, by its token.
    Token {
        /// The token's id, which is no secret.
        id: String,
    },
    /// Somebody on control's host, with access to its state directory.
    Operator,
    /// Control itself.
    Control,
    /// Hosts without a certificate.
    Stranger,
}

/// A row that was made, changed or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    /// What it is: `network`, `node`, `endpoint`.
    pub row: String,
    /// Its id.
    pub id: String,
    /// Its name, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The name of the network that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The name of the node that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What is different in it and was there before; nothing of a row that was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What is different in it and is there now; nothing of a row that was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// Rows for which a record had no room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Omitted {
    /// How many they are.
    pub rows: u64,
    /// The SHA-256 of their contents before and after.
    pub sha256: RecordHash,
}

/// What a record is about, by how much it says: the first that a record has is its subject.
const SUBJECTS: [&str; 8] = [
    "applied-policy",
    "network",
    "node",
    "endpoint",
    "member",
    "token",
    "enrollment",
    "host-report",
];

impl AuditRecord {
    /// Puts a record behind another one; returns its bytes and the new head.
    ///
    /// # Errors
    ///
    /// None that a record can bring about; what JSON might refuse is passed on.
    pub fn seal(mut self, head: &Head) -> Result<(Vec<u8>, Head), serde_json::Error> {
        self.number = head.number + 1;
        self.previous = head.hash;
        let bytes = serde_json::to_vec(&self)?;
        let head = Head { number: self.number, hash: RecordHash::of(&bytes) };

        Ok((bytes, head))
    }

    /// Returns whether a node did it, or one of its rows changed; by name or id.
    pub fn concerns_node(&self, node: &str) -> bool {
        let by = matches!(&self.who, Who::Node { id, name, .. } if id == node || name == node);
        let is_it = |row: &AuditRow| row.node.as_deref() == Some(node) || row.is("node", node);

        by || self.rows.iter().any(is_it)
    }

    /// Returns whether a network or something on it changed; by name or id.
    pub fn concerns_network(&self, network: &str) -> bool {
        let is_it = |row: &AuditRow| {
            row.network.as_deref() == Some(network)
                || row.is("network", network)
                // The ids of what is on a network begin with its id.
                || row.id.strip_prefix(network).is_some_and(|rest| rest.starts_with('/'))
        };

        self.rows.iter().any(is_it)
    }

    /// Returns when it was written, as RFC 3339 in UTC.
    pub fn time(&self) -> String {
        rfc3339(self.at)
    }

    /// Says what was changed, in a few words: `endpoint web on shop`, and how many rows more.
    pub fn subject(&self) -> String {
        let of = |kind: &str| self.rows.iter().filter(|row| row.row == kind).collect::<Vec<_>>();
        let found = SUBJECTS.iter().map(|kind| of(kind)).find(|rows| !rows.is_empty());
        let Some(rows) = found else { return self.told() };
        let omitted = self.omitted.as_ref().map_or(0, |omitted| omitted.rows);
        let more = rows.len() as u64 - 1 + omitted;
        let first = rows[0].subject();

        if more == 0 { first } else { format!("{first}, and {more} more") }
    }

    /// Says in a few words what is not about rows.
    fn told(&self) -> String {
        let word = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Object(counts) => {
                let count = |(what, count): (&String, &Value)| format!("{what} {count}");
                counts.iter().map(count).collect::<Vec<_>>().join(", ")
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => value.to_string(),
        };
        let words = ["why", "changes", "refused"].iter().filter_map(|key| self.details.get(*key));

        words.map(word).collect::<Vec<_>>().join("; ")
    }
}

impl AuditRow {
    /// Returns whether it is that of a thing of a kind; by name or id.
    fn is(&self, kind: &str, which: &str) -> bool {
        self.row == kind && (self.id == which || self.name.as_deref() == Some(which))
    }

    fn subject(&self) -> String {
        let name = self.name.as_deref().unwrap_or(&self.id);
        let mut text = match self.row.as_str() {
            "member" | "host-report" | "enrollment" => {
                format!("node {}", self.node.as_deref().unwrap_or(&self.id))
            }
            "applied-policy" => format!("policy {}", self.id),
            row => format!("{row} {name}"),
        };
        if let Some(network) = &self.network {
            text.push_str(&format!(" on {network}"));
        }

        text
    }
}

impl Who {
    /// Says who it is in one word.
    pub fn word(&self) -> String {
        match self {
            Self::Node { id, name, .. } if name.is_empty() => id.clone(),
            Self::Node { name, .. } => name.clone(),
            Self::Token { .. } => "token".to_owned(),
            Self::Operator => "operator".to_owned(),
            Self::Control => "control".to_owned(),
            Self::Stranger => "strangers".to_owned(),
        }
    }
}
