//! The embedded store: one redb file, fsynced at every commit.
//!
//! redb verifies the checksum of every page when it opens a file, and may panic on one that was
//! tampered with. No such panic leaves this module.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use overlay_core::Revision;
use redb::{Builder, Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::contain::{contain, refuse};
use super::error::Damage;
use super::{
    AuditExtent, AuditPage, AuditQuery, AuditWrites, ChangeLogEntry, Commit, HISTORY, Loaded,
    Store, StoreError,
};
use crate::audit::Sum;
use crate::registry::{Record, Settings};

/// The name of the file in the state directory.
const FILE: &str = "control.redb";
/// The format of the tables' contents.
const FORMAT: u64 = 1;
/// The page cache: only the writer reads, and the state is in memory anyway.
const CACHE: usize = 16 << 20;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const ROWS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("rows");
const HISTORY_TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("history");

const META_FORMAT: &str = "format";
const META_SETTINGS: &str = "settings";
const META_REVISION: &str = "revision";

/// A store in a local file.
pub(crate) struct Embedded {
    path: PathBuf,
    database: Option<Database>,
}

impl Embedded {
    /// Tells whether a state directory holds a cluster.
    pub(crate) fn is_there(directory: &Path) -> bool {
        Self::path_in(directory).exists()
    }

    /// Returns the file in a state directory.
    pub(crate) fn path_in(directory: &Path) -> PathBuf {
        directory.join(FILE)
    }

    /// Creates the file of a new cluster with its first commit and what that leaves in the audit
    /// log, readable by its owner only. It is created atomically.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exists`] when there is one, [`StoreError::Io`] when it cannot be written.
    pub(crate) fn create(
        directory: &Path,
        settings: &Settings,
        first: &Commit,
        audit: &AuditWrites,
    ) -> Result<(), StoreError> {
        let path = Self::path_in(directory);
        if path.exists() {
            return Err(StoreError::Exists { path });
        }
        let io = |error: std::io::Error| refuse(&path, redb::Error::Io(error));
        let draft = directory.join("control.redb.new");
        let _ = std::fs::remove_file(&draft);
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(io)?;
        let database = contain(&path, || builder().create(&draft))?
            .map_err(|error| refuse(&path, error.into()))?;
        let store = Self { path: path.clone(), database: Some(database) };
        contain(&path, || store.write_first(settings))??;
        contain(&path, || store.write(Revision::default(), std::slice::from_ref(first), audit))??;
        drop(store);
        std::fs::rename(&draft, &path).map_err(io)?;

        File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)
    }

    /// Opens the file of a cluster and checks every page of it.
    ///
    /// # Errors
    ///
    /// [`StoreError`], with the file and what to do.
    pub(crate) fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        let length = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(StoreError::Missing { path });
            }
            Err(source) => return Err(StoreError::Io { path, source }),
        };
        // redb takes an empty file for a new store.
        if length == 0 {
            return Err(StoreError::Damaged { path, damage: Damage::Empty });
        }
        let database = Self::open_file(&path)?;

        Ok(Self { path, database })
    }

    fn open_file(path: &Path) -> Result<Option<Database>, StoreError> {
        contain(path, || builder().open(path))?
            .map(Some)
            .map_err(|error| refuse(path, error.into()))
    }

    /// Opens the file again after a failed write: redb refuses to work on it any further, though
    /// the file itself is intact at its last commit.
    fn reopen(&mut self) -> Result<(), StoreError> {
        if self.database.is_none() {
            self.database = Self::open_file(&self.path)?;
        }

        Ok(())
    }

    fn close(&mut self) {
        let database = self.database.take();
        // Closing writes, too, but nothing that the last commit depends on.
        let _ = contain(&self.path, || drop(database));
    }

    pub(super) fn fail(&self, error: redb::Error) -> StoreError {
        refuse(&self.path, error)
    }

    /// Makes the error for contents that are not right.
    pub(crate) fn damaged(&self, damage: Damage) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), damage }
    }

    pub(super) fn database(&self) -> Result<&Database, StoreError> {
        self.database.as_ref().ok_or_else(|| self.damaged(Damage::Closed))
    }

    fn write_first(&self, settings: &Settings) -> Result<(), StoreError> {
        let fail = |error: redb::Error| self.fail(error);
        let transaction = self.database()?.begin_write().map_err(|e| fail(e.into()))?;
        {
            let mut meta = transaction.open_table(META).map_err(|e| fail(e.into()))?;
            let rows = [
                (META_FORMAT, self.json(&FORMAT)?),
                (META_SETTINGS, self.json(settings)?),
                (META_REVISION, self.json(&Revision::default())?),
            ];
            for (key, value) in rows {
                meta.insert(key, value.as_slice()).map_err(|e| fail(e.into()))?;
            }
            transaction.open_table(ROWS).map_err(|e| fail(e.into()))?;
            transaction.open_table(HISTORY_TABLE).map_err(|e| fail(e.into()))?;
        }

        transaction.commit().map_err(|e| fail(e.into()))
    }

    pub(super) fn json(&self, value: &impl serde::Serialize) -> Result<Vec<u8>, StoreError> {
        serde_json::to_vec(value).map_err(|error| self.unwritable(error))
    }

    pub(super) fn unwritable(&self, error: serde_json::Error) -> StoreError {
        self.damaged(Damage::Unwritable(error))
    }

    pub(super) fn parse<T: serde::de::DeserializeOwned>(
        &self,
        what: &str,
        bytes: &[u8],
    ) -> Result<T, StoreError> {
        serde_json::from_slice(bytes)
            .map_err(|source| self.damaged(Damage::Entry { entry: what.to_owned(), source }))
    }

    fn read(&self) -> Result<Loaded, StoreError> {
        let fail = |error: redb::Error| self.fail(error);
        let transaction = self.database()?.begin_read().map_err(|e| fail(e.into()))?;
        let meta = transaction.open_table(META).map_err(|e| fail(e.into()))?;
        let entry = |key: &'static str| {
            let value = meta.get(key).map_err(|e| fail(e.into()))?;
            value
                .map(|value| value.value().to_vec())
                .ok_or_else(|| self.damaged(Damage::MissingEntry(key)))
        };
        let found: u64 = self.parse(META_FORMAT, &entry(META_FORMAT)?)?;
        if found != FORMAT {
            return Err(StoreError::Version { path: self.path.clone(), found, known: FORMAT });
        }
        let mut records = Vec::new();
        for row in transaction
            .open_table(ROWS)
            .map_err(|e| fail(e.into()))?
            .iter()
            .map_err(|e| fail(e.into()))?
        {
            let (key, value) = row.map_err(|e| fail(e.into()))?;
            let record: Record = self.parse(key.value(), value.value())?;
            if record.key() != (key.value().to_owned(), true) {
                return Err(self.damaged(Damage::OtherRow(key.value().to_owned())));
            }
            records.push(record);
        }

        Ok(Loaded {
            settings: self.parse(META_SETTINGS, &entry(META_SETTINGS)?)?,
            revision: self.parse(META_REVISION, &entry(META_REVISION)?)?,
            records,
        })
    }

    fn commits(&self, since: Revision) -> Result<Vec<ChangeLogEntry>, StoreError> {
        let fail = |error: redb::Error| self.fail(error);
        let transaction = self.database()?.begin_read().map_err(|e| fail(e.into()))?;
        let table = transaction.open_table(HISTORY_TABLE).map_err(|e| fail(e.into()))?;
        let mut commits = Vec::new();
        for row in table.range(since.0 + 1..).map_err(|e| fail(e.into()))? {
            let (_, value) = row.map_err(|e| fail(e.into()))?;
            commits.push(self.parse("history", value.value())?);
        }

        Ok(commits)
    }

    fn write(
        &self,
        expected: Revision,
        commits: &[Commit],
        audit: &AuditWrites,
    ) -> Result<(), StoreError> {
        let fail = |error: redb::Error| self.fail(error);
        let transaction = self.database()?.begin_write().map_err(|e| fail(e.into()))?;
        {
            let mut meta = transaction.open_table(META).map_err(|e| fail(e.into()))?;
            let mut rows = transaction.open_table(ROWS).map_err(|e| fail(e.into()))?;
            let mut history = transaction.open_table(HISTORY_TABLE).map_err(|e| fail(e.into()))?;
            let stored = meta
                .get(META_REVISION)
                .map_err(|e| fail(e.into()))?
                .map(|value| value.value().to_vec());
            let found: Revision = self.parse(META_REVISION, &stored.unwrap_or_default())?;
            if found != expected {
                return Err(StoreError::Moved { path: self.path.clone(), found, expected });
            }
            for record in commits.iter().flat_map(|commit| &commit.records) {
                match record.key() {
                    (key, true) => {
                        drop(rows.insert(&*key, &*self.json(record)?).map_err(|e| fail(e.into()))?)
                    }
                    (key, false) => drop(rows.remove(&*key).map_err(|e| fail(e.into()))?),
                }
            }
            for commit in commits {
                let entry = ChangeLogEntry {
                    to: commit.to,
                    changed: commit.changed.clone(),
                    nonce: commit.nonce,
                };
                history.insert(commit.to.0, &*self.json(&entry)?).map_err(|e| fail(e.into()))?;
            }
            let to = commits.last().map_or(expected, |commit| commit.to);
            let forgotten = ..=to.0.saturating_sub(HISTORY);
            history.retain_in(forgotten, |_, _| false).map_err(|e| fail(e.into()))?;
            meta.insert(META_REVISION, &*self.json(&to)?).map_err(|e| fail(e.into()))?;
            if !audit.is_empty() {
                self.append(&transaction, audit, to)?;
            }
        }

        transaction.commit().map_err(|e| fail(e.into()))
    }
}

impl Store for Embedded {
    fn path(&self) -> &Path {
        &self.path
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.reopen()?;
        contain(&self.path, || self.read())?
    }

    fn commit_audited(
        &mut self,
        expected: Revision,
        commits: &[Commit],
        audit: &AuditWrites,
    ) -> Result<(), StoreError> {
        self.reopen()?;
        let written = contain(&self.path, || self.write(expected, commits, audit)).flatten();
        if written.is_err() {
            self.close();
        }

        written
    }

    fn recent(&self) -> Result<Vec<ChangeLogEntry>, StoreError> {
        contain(&self.path, || self.commits(Revision::default()))?
    }

    fn history(&self, since: Revision) -> Result<Option<Vec<ChangeLogEntry>>, StoreError> {
        let commits = contain(&self.path, || self.commits(since))??;
        let reaches = commits.first().is_none_or(|first| first.to == since.next());

        Ok(reaches.then_some(commits))
    }

    fn audit_extent(&self) -> Result<Option<AuditExtent>, StoreError> {
        contain(&self.path, || Self::audit_extent(self))?
    }

    fn audit_sums(&self) -> Result<BTreeMap<String, Sum>, StoreError> {
        contain(&self.path, || self.open_sums())?
    }

    fn audit(&self, query: AuditQuery) -> Result<AuditPage, StoreError> {
        contain(&self.path, || self.audit_page(query))?
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);

    builder
}

#[cfg(test)]
#[path = "embedded_tests.rs"]
mod tests;
