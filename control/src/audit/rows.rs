//! The rows that a command changed, as a record tells of them: never a secret, nor its digest.

use std::collections::BTreeMap;

use overlay_core::{Change, NetworkId, NodeId, RowKey};
use overlay_proto::audit::{AuditRow, Omitted, RecordHash};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::bounded::bounded;
use crate::registry::{ClusterState, Record};

/// Bytes of contents, before and after, that one record repeats; further rows are only named.
const MAX_CONTENTS: usize = 32 << 10;
/// Rows that one record names: those of the largest call.
const MAX_ROWS: usize = 1_024;
/// Stands for contents for which there was no room.
const CUT: &str = "…";

/// Describes the rows that `records` change, by the state before.
pub(super) fn rows(before: &ClusterState, records: &[Record]) -> (Vec<AuditRow>, Option<Omitted>) {
    let names = Names::new(before, records);
    let (mut rows, mut room) = (Vec::new(), MAX_CONTENTS);
    let mut omitted = Vec::new();
    for record in last_of_each(records) {
        if rows.len() < MAX_ROWS {
            rows.push(row(before, &names, record, &mut room));
        } else {
            omitted.push(record.key().0);
        }
    }
    let omitted = (!omitted.is_empty()).then(|| Omitted {
        rows: omitted.len() as u64,
        sha256: RecordHash::of(omitted.join("\n").as_bytes()),
    });

    (rows, omitted)
}

/// Returns for each row the record that remains, in the order in which rows were first changed.
fn last_of_each(records: &[Record]) -> Vec<&Record> {
    let mut places = BTreeMap::new();
    let mut last = Vec::new();
    for record in records {
        let place = *places.entry(record.key().0).or_insert(last.len());
        if place == last.len() {
            last.push(record);
        } else {
            last[place] = record;
        }
    }

    last
}

fn row(before: &ClusterState, names: &Names<'_>, record: &Record, room: &mut usize) -> AuditRow {
    let mut row = names.row(record);
    let (was, is) = (former(before, record).map(|it| contents(&it)), present(record));
    let (was, is) = differences(was, is);
    let size = |value: &Option<Value>| value.as_ref().map_or(0, |value| value.to_string().len());
    let size = size(&was) + size(&is);
    let fits = size <= *room;
    if fits {
        *room -= size;
    }
    let keep = |value: Value| if fits { value } else { CUT.into() };
    (row.before, row.after) = (was.map(keep), is.map(keep));

    row
}

/// Returns the row that a record replaces or removes.
fn former(state: &ClusterState, record: &Record) -> Option<Record> {
    let enrolled = |node: &NodeId| state.enrollments().get(node).cloned().map(Record::Enrollment);
    let token = |id: &str| state.tokens().get(id).cloned().map(Record::Token);
    let revoked = |node: &NodeId| state.revoked().get(node).cloned().map(Record::Revoked);
    let policy = |of: &u64| state.policies().get(of).cloned().map(Record::AppliedPolicy);

    match record {
        Record::Row(change) => state.view().row(change.key()).map(Record::Row),
        Record::Token(row) => token(&row.id),
        Record::RemoveToken(id) => token(id),
        Record::Enrollment(row) => enrolled(&row.node),
        Record::RemoveEnrollment(node) => enrolled(node),
        Record::Revoked(row) => revoked(&row.node),
        Record::RemoveRevoked(node) => revoked(node),
        Record::AppliedPolicy(row) => policy(&row.revision),
        Record::RemoveAppliedPolicy(revision) => policy(revision),
        Record::History(_) => state.history().copied().map(Record::History),
        Record::Fence(_) | Record::RemoveFence => state.kept_fence().cloned().map(Record::Fence),
        Record::Awaited(node) | Record::RemoveAwaited(node) => {
            state.awaited().contains(node).then_some(Record::Awaited(*node))
        }
        Record::Held(row) | Record::Release(row) => {
            state.held_by(row.node).any(|held| held == *row).then_some(Record::Held(*row))
        }
    }
}

/// Returns the contents of a row that is there afterwards.
fn present(record: &Record) -> Option<Value> {
    record.key().1.then(|| contents(record))
}

/// Returns what a record may tell of a row. What is a secret, or was made of one, is left out.
fn contents(record: &Record) -> Value {
    match record {
        Record::Row(change) => match change {
            Change::Network(row) => of(row),
            Change::Node(row) => of(row),
            Change::Member(row) => of(row),
            Change::Endpoint(row) => of(row),
            Change::HostReport(row) => of(row),
            Change::Policy(row) => of(row),
            Change::Removed(_) => Value::Null,
        },
        Record::Token(row) => json!({
            "expires": row.expires,
            "uses": row.uses,
            "used": row.used,
            "role": row.role,
            "labels": row.labels,
            "fenced": row.fenced,
        }),
        Record::Enrollment(row) => json!({ "token": row.token, "version": row.version }),
        Record::Revoked(row) => json!({ "name": row.name, "at": row.at, "evicted": row.evicted }),
        Record::AppliedPolicy(row) => of(row),
        Record::History(key) => json!({ "lineage": key.lineage.to_string() }),
        Record::Fence(row) => of(row),
        Record::Awaited(_) => json!({}),
        Record::Held(row) => of(row),
        Record::RemoveFence
        | Record::RemoveAwaited(_)
        | Record::Release(_)
        | Record::RemoveToken(_)
        | Record::RemoveEnrollment(_)
        | Record::RemoveRevoked(_)
        | Record::RemoveAppliedPolicy(_) => Value::Null,
    }
}

fn of(row: &impl Serialize) -> Value {
    serde_json::to_value(row).unwrap_or_default()
}

/// Leaves of two tables what differs; of a row that was made or removed, all of it.
fn differences(was: Option<Value>, is: Option<Value>) -> (Option<Value>, Option<Value>) {
    let (was, is) = match (was, is) {
        (Some(Value::Object(was)), Some(Value::Object(is))) => {
            let (only_was, only_is) = (without(&was, &is), without(&is, &was));
            (Some(only_was), Some(only_is))
        }
        other => other,
    };

    (was.map(bounded), is.map(bounded))
}

fn without(fields: &Map<String, Value>, others: &Map<String, Value>) -> Value {
    let differs = |(key, value): &(&String, &Value)| others.get(*key) != Some(value);

    fields.iter().filter(differs).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Finds the names of what rows belong to, before a change or made by it.
struct Names<'a> {
    before: &'a ClusterState,
    networks: BTreeMap<NetworkId, String>,
    nodes: BTreeMap<NodeId, String>,
}

impl<'a> Names<'a> {
    fn new(before: &'a ClusterState, records: &[Record]) -> Self {
        let (mut networks, mut nodes) = (BTreeMap::new(), BTreeMap::new());
        for record in records {
            if let Record::Row(Change::Network(row)) = record {
                networks.insert(row.id, row.name.to_string());
            }
            if let Record::Row(Change::Node(row)) = record {
                nodes.insert(row.id, row.name.to_string());
            }
        }

        Self { before, networks, nodes }
    }

    fn network(&self, id: NetworkId) -> Option<String> {
        let known = self.before.view().networks.get(&id).map(|row| row.name.to_string());

        known.or_else(|| self.networks.get(&id).cloned())
    }

    fn node(&self, id: NodeId) -> Option<String> {
        let known = self.before.view().nodes.get(&id).map(|row| row.name.to_string());
        let gone = || self.before.revoked().get(&id).map(|row| row.name.to_string());

        known.or_else(|| self.nodes.get(&id).cloned()).or_else(gone)
    }

    /// Returns a row that says what it is about, without contents.
    fn row(&self, record: &Record) -> AuditRow {
        let named = |row: &str, id: String, name| AuditRow {
            row: row.to_owned(),
            id,
            name,
            network: None,
            node: None,
            before: None,
            after: None,
        };
        let of_node = |row: &str, id: NodeId| AuditRow {
            node: self.node(id),
            ..named(row, id.to_string(), None)
        };

        match record {
            Record::Row(change) => self.membership_row(change.key(), change, &named),
            Record::Token(row) => named("token", row.id.clone(), None),
            Record::RemoveToken(id) => named("token", id.clone(), None),
            Record::Enrollment(row) => of_node("enrollment", row.node),
            Record::RemoveEnrollment(node) => of_node("enrollment", *node),
            Record::Revoked(row) => of_node("removed-node", row.node),
            Record::RemoveRevoked(node) => of_node("removed-node", *node),
            Record::AppliedPolicy(row) => named("applied-policy", row.revision.to_string(), None),
            Record::RemoveAppliedPolicy(revision) => {
                named("forgotten-policy", revision.to_string(), None)
            }
            Record::History(_) => named("history", String::new(), None),
            Record::Fence(_) | Record::RemoveFence => named("fence", String::new(), None),
            Record::Awaited(node) | Record::RemoveAwaited(node) => of_node("awaited-node", *node),
            Record::Held(row) | Record::Release(row) => AuditRow {
                network: self.network(row.network),
                ..of_node("held-addresses", row.node)
            },
        }
    }

    fn membership_row(
        &self,
        key: RowKey,
        change: &Change,
        named: &impl Fn(&str, String, Option<String>) -> AuditRow,
    ) -> AuditRow {
        match key {
            RowKey::Network(id) => named("network", id.to_string(), self.network(id)),
            RowKey::Node(id) => named("node", id.to_string(), self.node(id)),
            RowKey::Member(network, node) => AuditRow {
                network: self.network(network),
                node: self.node(node),
                ..named("member", format!("{network}/{node}"), None)
            },
            RowKey::Endpoint(network, id) => {
                let former = || self.before.view().endpoints.get(&(network, id));
                let row = if let Change::Endpoint(row) = change { Some(row) } else { former() };
                AuditRow {
                    network: self.network(network),
                    node: row.and_then(|row| self.node(row.node)),
                    ..named(
                        "endpoint",
                        format!("{network}/{id}"),
                        row.map(|row| row.name.to_string()),
                    )
                }
            }
            RowKey::HostReport(node) => {
                AuditRow { node: self.node(node), ..named("host-report", node.to_string(), None) }
            }
            RowKey::Policy => named("policy", String::new(), None),
        }
    }
}
