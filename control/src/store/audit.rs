//! The audit log in the embedded store: records by number, their head, and the checkpoint before
//! the oldest.
//!
//! Records are appended in the transaction of the change that they are about, and the oldest are
//! dropped there when there are too many. The hash of the last one that was dropped stays, so that
//! those that are left can still be verified.

use std::collections::BTreeMap;

use overlay_core::Revision;
use overlay_proto::audit::{AuditRecord, Head};
use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::embedded::Embedded;
use crate::audit::Sum;

/// Records that are kept.
const MAX_RECORDS: u64 = 262_144;
/// Bytes of all records that are kept.
const MAX_BYTES: u64 = 128 << 20;
/// Bytes of the records of one page: what the writer reads in a millisecond.
const MAX_PAGE: usize = 256 << 10;
/// Records of one page.
const PAGE: usize = 512;

pub(super) const AUDIT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");
pub(super) const AUDIT_META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("audit_meta");
const META_EXTENT: &str = "extent";
/// What the keys of sums that are not closed begin with.
const META_SUM: &str = "sum/";

/// What is to be written into the audit log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AuditWrites {
    /// The records, in order; they get their numbers when they are stored.
    pub(crate) records: Vec<AuditRecord>,
    /// Sums that changed, by their keys; those that were closed have none.
    pub(crate) sums: Vec<(String, Option<Sum>)>,
}

impl AuditWrites {
    /// Returns whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.sums.is_empty()
    }
}

impl From<Vec<AuditRecord>> for AuditWrites {
    fn from(records: Vec<AuditRecord>) -> Self {
        Self { records, sums: Vec::new() }
    }
}

/// From where to where the audit log reaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AuditExtent {
    /// The last record.
    pub(crate) head: Head,
    /// The last record that is not kept any more.
    pub(crate) checkpoint: Head,
    /// Bytes of the records that are kept.
    bytes: u64,
    /// The revision of the store when a record was last written.
    pub(crate) revision: Revision,
}

/// Which records to read; at most [`PAGE`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AuditQuery {
    /// Those with higher numbers, the oldest first.
    After(u64),
    /// Those with lower numbers, the latest first.
    Before(u64),
    /// The one with this number.
    Only(u64),
}

/// Some records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuditPage {
    /// From where to where the log reaches.
    pub(crate) extent: AuditExtent,
    /// The records as they are stored, by their numbers.
    pub(crate) records: Vec<(u64, Vec<u8>)>,
}

/// The most that is kept.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    records: u64,
    bytes: u64,
}

impl Embedded {
    /// Appends records to the log, and drops the oldest ones that are too many.
    pub(super) fn append(
        &self,
        transaction: &WriteTransaction,
        writes: &AuditWrites,
        revision: Revision,
    ) -> Result<(), StoreError> {
        self.append_within(
            transaction,
            writes,
            revision,
            Bounds { records: MAX_RECORDS, bytes: MAX_BYTES },
        )
    }

    fn append_within(
        &self,
        transaction: &WriteTransaction,
        writes: &AuditWrites,
        revision: Revision,
        bounds: Bounds,
    ) -> Result<(), StoreError> {
        let fail = |error: redb::Error| self.fail(error);
        let mut table = transaction.open_table(AUDIT).map_err(|e| fail(e.into()))?;
        let mut meta = transaction.open_table(AUDIT_META).map_err(|e| fail(e.into()))?;
        let stored = meta.get(META_EXTENT).map_err(|e| fail(e.into()))?;
        let stored = stored.map(|value| value.value().to_vec());
        let mut extent: AuditExtent = match stored {
            Some(bytes) => self.parse(META_EXTENT, &bytes)?,
            None => AuditExtent::default(),
        };
        for record in &writes.records {
            let (bytes, head) =
                record.clone().seal(&extent.head).map_err(|e| self.unwritable(e))?;
            table.insert(head.number, &*bytes).map_err(|e| fail(e.into()))?;
            extent.head = head;
            extent.bytes += bytes.len() as u64;
        }
        while extent.head.number - extent.checkpoint.number > bounds.records
            || extent.bytes > bounds.bytes
        {
            let Some((number, bytes)) = table
                .pop_first()
                .map_err(|e| fail(e.into()))?
                .map(|(number, bytes)| (number.value(), bytes.value().to_vec()))
            else {
                break;
            };
            let hash = overlay_proto::audit::RecordHash::of(&bytes);
            extent.checkpoint = Head { number, hash };
            extent.bytes = extent.bytes.saturating_sub(bytes.len() as u64);
        }
        extent.revision = revision;
        meta.insert(META_EXTENT, &*self.json(&extent)?).map_err(|e| fail(e.into()))?;
        for (key, sum) in &writes.sums {
            let key = format!("{META_SUM}{key}");
            match sum {
                Some(sum) => {
                    drop(meta.insert(&*key, &*self.json(sum)?).map_err(|e| fail(e.into()))?);
                }
                None => drop(meta.remove(&*key).map_err(|e| fail(e.into()))?),
            }
        }

        Ok(())
    }

    /// Reads from where to where the log reaches; nothing if there is none.
    pub(super) fn audit_extent(&self) -> Result<Option<AuditExtent>, StoreError> {
        let fail = |error: redb::Error| self.fail(error);
        let transaction = self.database()?.begin_read().map_err(|e| fail(e.into()))?;
        let meta = match transaction.open_table(AUDIT_META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(fail(error.into())),
        };
        let stored = meta.get(META_EXTENT).map_err(|e| fail(e.into()))?;

        stored.map(|value| self.parse(META_EXTENT, value.value())).transpose()
    }

    /// Reads the sums that are not closed.
    pub(super) fn open_sums(&self) -> Result<BTreeMap<String, Sum>, StoreError> {
        let fail = |error: redb::Error| self.fail(error);
        let transaction = self.database()?.begin_read().map_err(|e| fail(e.into()))?;
        let meta = match transaction.open_table(AUDIT_META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
            Err(error) => return Err(fail(error.into())),
        };
        let mut sums = BTreeMap::new();
        for row in meta.range(META_SUM..).map_err(|e| fail(e.into()))? {
            let (key, value) = row.map_err(|e| fail(e.into()))?;
            let Some(payer) = key.value().strip_prefix(META_SUM) else { break };
            sums.insert(payer.to_owned(), self.parse(key.value(), value.value())?);
        }

        Ok(sums)
    }

    /// Reads some records.
    pub(super) fn audit_page(&self, query: AuditQuery) -> Result<AuditPage, StoreError> {
        let fail = |error: redb::Error| self.fail(error);
        let Some(extent) = self.audit_extent()? else {
            return Ok(AuditPage { extent: AuditExtent::default(), records: Vec::new() });
        };
        let transaction = self.database()?.begin_read().map_err(|e| fail(e.into()))?;
        let table = transaction.open_table(AUDIT).map_err(|e| fail(e.into()))?;
        let range = match query {
            AuditQuery::After(number) => table.range(number.saturating_add(1)..),
            AuditQuery::Before(number) => table.range(..number),
            AuditQuery::Only(number) => table.range(number..=number),
        };
        let mut range = range.map_err(|e| fail(e.into()))?;
        let (mut records, mut bytes) = (Vec::new(), 0);
        while records.len() < PAGE && bytes < MAX_PAGE {
            let next = match query {
                AuditQuery::After(_) | AuditQuery::Only(_) => range.next(),
                AuditQuery::Before(_) => range.next_back(),
            };
            let Some(row) = next else { break };
            let (number, value) = row.map_err(|e| fail(e.into()))?;
            bytes += value.value().len();
            records.push((number.value(), value.value().to_vec()));
        }

        Ok(AuditPage { extent, records })
    }
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
