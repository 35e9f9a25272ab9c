//! The tables of the state file, and how their rows are written.

use overlay_core::{Change, Revision, Stamp};
use redb::{TableDefinition, WriteTransaction};
use serde::Serialize;

/// The layout of the tables below; another one is refused.
pub(super) const SCHEMA: u64 = 1;
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const KEYS: TableDefinition<'_, (u64, u16), &[u8]> = TableDefinition::new("keys");
pub(super) const VIEW: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("view");
pub(super) const ENDPOINTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("endpoints");
pub(super) const CURSORS: TableDefinition<'_, u64, u32> = TableDefinition::new("cursors");
pub(super) const REVOCATIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("revocations");
pub(super) const DOCKER: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("docker");

/// Writes an entry of the first table.
pub(super) fn put_meta(
    write: &WriteTransaction,
    key: &str,
    value: &[u8],
) -> Result<(), redb::Error> {
    write.open_table(META)?.insert(key, value)?;

    Ok(())
}

/// Writes an entry of the first table, as JSON.
pub(super) fn put_json(
    write: &WriteTransaction,
    key: &str,
    value: &impl Serialize,
) -> Result<(), redb::Error> {
    put_meta(write, key, &json(value)?)
}

/// Writes a value as JSON.
pub(super) fn json(value: &impl Serialize) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(value).map_err(|error| redb::Error::Io(error.into()))
}

/// Writes the rows of a view, and which revision of which history they are of.
pub(super) fn put_rows(
    write: &WriteTransaction,
    changes: impl Iterator<Item = Change>,
    revision: Revision,
    stamp: Option<Stamp>,
) -> Result<(), redb::Error> {
    let mut table = write.open_table(VIEW)?;
    for change in changes {
        let key = json(&change.key())?;
        match change {
            Change::Removed(_) => drop(table.remove(key.as_slice())?),
            row @ (Change::Network(_)
            | Change::Node(_)
            | Change::Member(_)
            | Change::Endpoint(_)
            | Change::HostReport(_)
            | Change::Policy(_)) => {
                table.insert(key.as_slice(), json(&row)?.as_slice())?;
            }
        }
    }

    put_json(write, "stamp", &stamp)?;

    put_meta(write, "revision", &revision.0.to_le_bytes())
}
