//! Changes of the membership: one row, a delta of them, and a whole snapshot.

use overlay_core::{Change, Delta, Mark, Revision, RowKey, Stamp, View};
use prost::Message as _;

use super::error::ConversionError;
use super::field::{field, optional};
use crate::v1;

impl From<RowKey> for v1::RowKey {
    fn from(key: RowKey) -> Self {
        use v1::row_key::Key;
        let key = match key {
            RowKey::Network(id) => Key::Network(id.to_string()),
            RowKey::Node(id) => Key::Node(id.to_string()),
            RowKey::Member(network, node) => {
                Key::Member(v1::MemberKey { network: network.to_string(), node: node.to_string() })
            }
            RowKey::Endpoint(network, endpoint) => Key::Endpoint(v1::EndpointKey {
                network: network.to_string(),
                endpoint: endpoint.to_string(),
            }),
            RowKey::HostReport(node) => Key::HostReport(node.to_string()),
            RowKey::Policy => Key::Policy(v1::PolicyKey {}),
        };

        Self { key: Some(key) }
    }
}

impl TryFrom<v1::RowKey> for RowKey {
    type Error = ConversionError;

    fn try_from(key: v1::RowKey) -> Result<Self, ConversionError> {
        use v1::row_key::Key;
        Ok(match key.key.ok_or(ConversionError::Missing("row key"))? {
            Key::Network(id) => Self::Network(field("network", &id)?),
            Key::Node(id) => Self::Node(field("node", &id)?),
            Key::Member(key) => {
                Self::Member(field("network", &key.network)?, field("node", &key.node)?)
            }
            Key::Endpoint(key) => {
                Self::Endpoint(field("network", &key.network)?, field("endpoint", &key.endpoint)?)
            }
            Key::HostReport(node) => Self::HostReport(field("node", &node)?),
            Key::Policy(v1::PolicyKey {}) => Self::Policy,
        })
    }
}

/// Returns the length of a row as a message, in bytes.
pub fn encoded_len(change: &Change) -> usize {
    v1::Change::from(change.clone()).encoded_len()
}

/// Returns the length of a view as one message, in bytes.
pub fn view_len(view: &View) -> usize {
    v1::Snapshot::from(view).encoded_len()
}

impl From<Change> for v1::Change {
    fn from(change: Change) -> Self {
        use v1::change::Change as Wire;
        let change = match change {
            Change::Network(row) => Wire::Network(row.into()),
            Change::Node(row) => Wire::Node(row.into()),
            Change::Member(row) => Wire::Member(row.into()),
            Change::Endpoint(row) => Wire::Endpoint(row.into()),
            Change::HostReport(row) => Wire::HostReport(row.into()),
            Change::Policy(row) => Wire::Policy(row.into()),
            Change::Removed(key) => Wire::Removed(key.into()),
        };

        Self { change: Some(change) }
    }
}

impl TryFrom<v1::Change> for Change {
    type Error = ConversionError;

    fn try_from(change: v1::Change) -> Result<Self, ConversionError> {
        use v1::change::Change as Wire;
        Ok(match change.change.ok_or(ConversionError::Missing("change"))? {
            Wire::Network(row) => Self::Network(row.try_into()?),
            Wire::Node(row) => Self::Node(row.try_into()?),
            Wire::Member(row) => Self::Member(row.try_into()?),
            Wire::Endpoint(row) => Self::Endpoint(row.try_into()?),
            Wire::HostReport(row) => Self::HostReport(row.try_into()?),
            Wire::Policy(row) => Self::Policy(row.try_into()?),
            Wire::Removed(key) => Self::Removed(key.try_into()?),
        })
    }
}

/// Writes a stamp as messages have it: the lineage and the mark, empty where there is none.
pub fn stamp_fields(stamp: Option<Stamp>) -> (String, Vec<u8>) {
    let lineage = stamp.map(|stamp| stamp.lineage.to_string()).unwrap_or_default();
    let mark = stamp.and_then(|stamp| stamp.mark).map(|mark| mark.as_bytes().to_vec());

    (lineage, mark.unwrap_or_default())
}

/// Reads a stamp; without a lineage there is none.
///
/// # Errors
///
/// [`ConversionError`] for a lineage that is none, or a mark that has not 32 bytes.
pub fn stamp(lineage: &str, mark: &[u8]) -> Result<Option<Stamp>, ConversionError> {
    let Some(lineage) = optional("lineage", lineage)? else { return Ok(None) };
    let bytes = <[u8; 32]>::try_from(mark).map(Mark::from).ok();
    if bytes.is_none() && !mark.is_empty() {
        return Err(ConversionError::Mark(mark.len()));
    }

    Ok(Some(Stamp { lineage, mark: bytes }))
}

impl From<&View> for v1::Snapshot {
    fn from(view: &View) -> Self {
        let (lineage, mark) = stamp_fields(view.stamp);
        let rows = view.rows().map(Into::into).collect();

        Self { revision: view.revision.0, rows, lineage, mark }
    }
}

impl TryFrom<v1::Snapshot> for View {
    type Error = ConversionError;

    fn try_from(snapshot: v1::Snapshot) -> Result<Self, ConversionError> {
        let rows: Vec<Change> =
            snapshot.rows.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;

        let stamp = stamp(&snapshot.lineage, &snapshot.mark)?;

        Ok(Self { stamp, ..Self::from_rows(Revision(snapshot.revision), rows) })
    }
}

impl From<Delta> for v1::Delta {
    fn from(delta: Delta) -> Self {
        let (lineage, mark) = stamp_fields(delta.stamp);

        Self {
            lineage,
            mark,
            from: delta.from.0,
            to: delta.to.0,
            changes: delta.changes.into_iter().map(Into::into).collect(),
            put_out: delta.put_out.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<v1::Delta> for Delta {
    type Error = ConversionError;

    fn try_from(delta: v1::Delta) -> Result<Self, ConversionError> {
        Ok(Self {
            from: Revision(delta.from),
            to: Revision(delta.to),
            changes: delta.changes.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            stamp: stamp(&delta.lineage, &delta.mark)?,
            put_out: delta
                .put_out
                .iter()
                .map(|network| field("put_out", network))
                .collect::<Result<_, _>>()?,
        })
    }
}
