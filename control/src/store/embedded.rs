//! The embedded store: one redb file, fsynced at every commit.
//!
//! redb verifies the checksum of every page when it opens a file, and may panic on one that was
//! tampered with. No such panic leaves this module.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;

use overlay_core::Revision;
use overlay_daemon::disk;
use redb::{Builder, Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::{ChangeLogEntry, Commit, HISTORY, Loaded, Store, StoreError};
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
        directory.join(FILE).exists()
    }

    /// Creates the file of a new cluster with its first commit, readable by its owner only. It is
    /// created atomically.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exists`] when there is one, [`StoreError::Io`] when it cannot be written.
    pub(crate) fn create(directory: &Path, settings: &Settings, first: &Commit) -> Result<(), StoreError> {
        let path = directory.join(FILE);
        if path.exists() {
            return Err(StoreError::Exists { path });
        }
        let io = |error: std::io::Error| refuse(&path, redb::Error::Io(error));
        let draft = directory.join("control.redb.new");
        let _ = std::fs::remove_file(&draft);
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(io)?;
        let database = contain(&path, || builder().create(&draft))?.map_err(|error| refuse(&path, error.into()))?;
        let store = Self { path: path.clone(), database: Some(database) };
        contain(&path, || store.write_first(settings))??;
        contain(&path, || store.write(Revision::default(), std::slice::from_ref(first)))??;
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
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(StoreError::Missing { path }),
            Err(error) => return Err(StoreError::Io { path, what: error.to_string() }),
        };
        // redb takes an empty file for a new store.
        if length == 0 {
            return Err(StoreError::Damaged { path, what: "it is empty".to_owned() });
        }
        let database = Self::open_file(&path)?;

        Ok(Self { path, database })
    }

    fn open_file(path: &Path) -> Result<Option<Database>, StoreError> {
        contain(path, || builder().open(path))?.map(Some).map_err(|error| refuse(path, error.into()))
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

    fn fail(&self, error: redb::Error) -> StoreError {
        refuse(&self.path, error)
    }

    /// Makes the error for contents that are not right.
    pub(crate) fn damaged(&self, what: impl Into<String>) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), what: what.into() }
    }

    fn database(&self) -> Result<&Database, StoreError> {
        self.database.as_ref().ok_or_else(|| self.damaged("it is closed"))
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

    fn json(&self, value: &impl serde::Serialize) -> Result<Vec<u8>, StoreError> {
        serde_json::to_vec(value).map_err(|error| self.damaged(error.to_string()))
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, what: &str, bytes: &[u8]) -> Result<T, StoreError> {
        serde_json::from_slice(bytes).map_err(|error| self.damaged(format!("{what}: {error}")))
    }

    fn read(&self) -> Result<Loaded, StoreError> {
        let fail = |error: redb::Error| self.fail(error);
        let transaction = self.database()?.begin_read().map_err(|e| fail(e.into()))?;
        let meta = transaction.open_table(META).map_err(|e| fail(e.into()))?;
        let entry = |key: &str| {
            let value = meta.get(key).map_err(|e| fail(e.into()))?;
            value.map(|value| value.value().to_vec()).ok_or_else(|| self.damaged(format!("no {key}")))
        };
        let found: u64 = self.parse(META_FORMAT, &entry(META_FORMAT)?)?;
        if found != FORMAT {
            return Err(StoreError::Version { path: self.path.clone(), found, known: FORMAT });
        }
        let mut records = Vec::new();
        for row in transaction.open_table(ROWS).map_err(|e| fail(e.into()))?.iter().map_err(|e| fail(e.into()))? {
            let (key, value) = row.map_err(|e| fail(e.into()))?;
            let record: Record = self.parse(key.value(), value.value())?;
            if record.key() != (key.value().to_owned(), true) {
                return Err(self.damaged(format!("{} holds another row", key.value())));
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

    fn write(&self, expected: Revision, commits: &[Commit]) -> Result<(), StoreError> {
        let fail = |error: redb::Error| self.fail(error);
        let transaction = self.database()?.begin_write().map_err(|e| fail(e.into()))?;
        {
            let mut meta = transaction.open_table(META).map_err(|e| fail(e.into()))?;
            let mut rows = transaction.open_table(ROWS).map_err(|e| fail(e.into()))?;
            let mut history = transaction.open_table(HISTORY_TABLE).map_err(|e| fail(e.into()))?;
            let stored = meta.get(META_REVISION).map_err(|e| fail(e.into()))?.map(|value| value.value().to_vec());
            let found: Revision = self.parse(META_REVISION, &stored.unwrap_or_default())?;
            if found != expected {
                return Err(StoreError::Moved { path: self.path.clone(), found, expected });
            }
            for record in commits.iter().flat_map(|commit| &commit.records) {
                match record.key() {
                    (key, true) => drop(rows.insert(&*key, &*self.json(record)?).map_err(|e| fail(e.into()))?),
                    (key, false) => drop(rows.remove(&*key).map_err(|e| fail(e.into()))?),
                }
            }
            for commit in commits {
                let entry = ChangeLogEntry { to: commit.to, changed: commit.changed.clone() };
                history.insert(commit.to.0, &*self.json(&entry)?).map_err(|e| fail(e.into()))?;
            }
            let to = commits.last().map_or(expected, |commit| commit.to);
            let forgotten = ..=to.0.saturating_sub(HISTORY);
            history.retain_in(forgotten, |_, _| false).map_err(|e| fail(e.into()))?;
            meta.insert(META_REVISION, &*self.json(&to)?).map_err(|e| fail(e.into()))?;
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

    fn commit(&mut self, expected: Revision, commits: &[Commit]) -> Result<(), StoreError> {
        self.reopen()?;
        let written = contain(&self.path, || self.write(expected, commits)).flatten();
        if written.is_err() {
            self.close();
        }

        written
    }

    fn history(&self, since: Revision) -> Result<Option<Vec<ChangeLogEntry>>, StoreError> {
        let commits = contain(&self.path, || self.commits(since))??;
        let reaches = commits.first().is_none_or(|first| first.to == since.next());

        Ok(reaches.then_some(commits))
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

fn refuse(path: &Path, error: redb::Error) -> StoreError {
    let path = path.to_owned();
    // Files that are too short or hold garbage end up here.
    let nonsense = |kind| matches!(kind, std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof);
    if let redb::Error::Io(error) = &error {
        if disk::is_full(error) {
            return StoreError::Full { disk: disk::mount_point(&path), path };
        }
        if !nonsense(error.kind()) {
            return StoreError::Io { path, what: error.to_string() };
        }
    }
    if matches!(error, redb::Error::PreviousIo) {
        return StoreError::Io { path, what: "an earlier write failed".to_owned() };
    }
    if matches!(error, redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch) {
        return StoreError::Busy { path };
    }

    StoreError::Damaged { path, what: error.to_string() }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);

    builder
}

/// Turns a panic of redb over a file's contents into an error, and keeps its message off standard
/// error.
fn contain<T>(path: &Path, work: impl FnOnce() -> T) -> Result<T, StoreError> {
    let _quiet = Quiet::begin();

    catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| StoreError::Damaged { path: path.to_owned(), what: "its pages contradict each other".to_owned() })
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Suppresses the messages of this thread's panics while it exists, since they are reported as
/// errors.
struct Quiet;

impl Quiet {
    fn begin() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let print = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if !QUIET.get() {
                    print(info);
                }
            }));
        });
        QUIET.set(true);

        Self
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        QUIET.set(false);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rand::{RngExt as _, SeedableRng as _};

    use super::*;
    use crate::registry::ClusterState;
    use crate::registry::testing::{NOW, settings, with_tokens};
    use crate::registry::{Actor, CreateNetwork, Operation, apply};

    fn commit_of(state: &mut ClusterState, command: Operation) -> Commit {
        let (_, records) = apply(state, Actor::Operator, command, NOW).expect("it is right");
        let changed = state.commit(records.clone());

        Commit { to: state.view().revision, records, changed }
    }

    fn network(n: usize) -> Operation {
        Operation::CreateNetwork(CreateNetwork {
            name: format!("n{n}").parse().expect("a name"),
            prefix: None,
            prefix6: None,
            mode: overlay_core::NetworkMode::L3,
            labels: std::collections::BTreeMap::new(),
            settings: overlay_core::NetworkSettings::default(),
            candidate: overlay_core::NetworkId::from_random(n as u64 + 1),
        })
    }

    /// Makes a store with some rows, and returns the state it holds.
    fn filled(directory: &Path) -> ClusterState {
        let mut state = ClusterState::new(settings());
        let first: Vec<_> = with_tokens().records().collect();
        let first = Commit { to: Revision(1), changed: state.commit(first.clone()), records: first };
        Embedded::create(directory, &settings(), &first).expect("a store");
        let mut store = Embedded::open(directory).expect("a store");
        let commits: Vec<_> = (0..20).map(|n| commit_of(&mut state, network(n))).collect();
        store.commit(Revision(1), &commits).expect("stored");

        state
    }

    fn state_of(store: &mut Embedded) -> Result<ClusterState, StoreError> {
        let loaded = store.load()?;

        Ok(ClusterState::from_records(loaded.settings, loaded.revision, loaded.records))
    }

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("a directory")
    }

    #[test]
    fn what_was_committed_is_there_after_opening_again() {
        let directory = directory();
        let state = filled(directory.path());

        let mut store = Embedded::open(directory.path()).expect("a store");

        assert_eq!(state_of(&mut store).expect("loaded"), state);
        let past = store.history(Revision(5)).expect("read").expect("it reaches back");
        assert_eq!(past.iter().map(|commit| commit.to.0).collect::<Vec<_>>(), (6..=21).collect::<Vec<_>>());
        let mode = std::fs::metadata(directory.path().join(FILE)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_commit_from_elsewhere_is_refused_and_changes_nothing() {
        let directory = directory();
        let mut state = filled(directory.path());
        let before = state.clone();
        let mut store = Embedded::open(directory.path()).expect("a store");
        let commit = commit_of(&mut state, network(99));

        let refused = store.commit(Revision(20), &[commit]);

        assert!(matches!(refused, Err(StoreError::Moved { found: Revision(21), .. })), "{refused:?}");
        assert_eq!(
            state_of(&mut Embedded { path: store.path.clone(), database: reopen(&mut store) }).expect("loaded"),
            before
        );
    }

    fn reopen(store: &mut Embedded) -> Option<Database> {
        store.close();
        Embedded::open_file(&store.path).expect("it opens")
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    fn a_full_disk_is_named_and_takes_commits_again_when_there_is_room() {
        let Some(small) = disk::testing::SmallDisk::mount(8 << 20) else {
            return eprintln!("SKIPPED: a small disk needs root");
        };
        let mut state = filled(small.path());
        let mut store = Embedded::open(small.path()).expect("a store");
        small.fill().expect("filled");

        let refused = (100..10_000).find_map(|n| {
            let (before, kept) = (state.view().revision, state.clone());
            let commit = commit_of(&mut state, network(n));
            let error = store.commit(before, &[commit]).err()?;
            state = kept;
            Some(error)
        });

        let error = refused.expect("there is no room");
        assert!(matches!(&error, StoreError::Full { disk, .. } if disk == small.path()), "{error:?}");
        assert!(
            matches!(store.commit(state.view().revision, &[]), Err(StoreError::Full { .. })),
            "there still is none"
        );
        small.make_room().expect("room");
        let before = state.view().revision;
        let commit = commit_of(&mut state, network(20_000));
        store.commit(before, &[commit]).expect("there is room");
        drop(store);
        let mut store = Embedded::open(small.path()).expect("a store");
        assert_eq!(state_of(&mut store).expect("loaded"), state);
    }

    #[test]
    fn history_is_forgotten_in_time() {
        let directory = directory();
        let mut state = filled(directory.path());
        let mut store = Embedded::open(directory.path()).expect("a store");
        let begin = state.view().revision;
        let commits: Vec<_> = (0..HISTORY)
            .map(|_| Commit {
                to: {
                    state.commit([]);
                    state.view().revision
                },
                records: Vec::new(),
                changed: Vec::new(),
            })
            .collect();

        store.commit(begin, &commits).expect("stored");

        assert!(store.history(begin).expect("read").is_some());
        assert!(store.history(Revision(begin.0 - 1)).expect("read").is_none());
    }

    #[test]
    fn a_store_in_use_a_missing_an_empty_and_a_foreign_file_are_told_apart() {
        let directory = directory();
        let path = directory.path().join(FILE);
        assert!(matches!(Embedded::open(directory.path()), Err(StoreError::Missing { .. })));
        filled(directory.path());
        let held = Embedded::open(directory.path()).expect("a store");
        assert!(matches!(Embedded::open(directory.path()), Err(StoreError::Busy { .. })));
        drop(held);
        let refused = Embedded::create(
            directory.path(),
            &settings(),
            &Commit { to: Revision(1), records: Vec::new(), changed: Vec::new() },
        );
        assert!(matches!(refused, Err(StoreError::Exists { .. })));

        for content in [&b""[..], b"junk", &[0; 8_192], &[0xFF; 100_000]] {
            std::fs::write(&path, content).expect("written");
            let error = Embedded::open(directory.path()).err().expect("it is no store");
            assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("control.redb") && !error.to_string().contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_newer_format_is_refused_with_both_numbers() {
        let directory = directory();
        filled(directory.path());
        let store = Embedded::open(directory.path()).expect("a store");
        let transaction = store.database().expect("open").begin_write().expect("a transaction");
        transaction.open_table(META).expect("a table").insert(META_FORMAT, &b"2"[..]).expect("written");
        transaction.commit().expect("committed");
        drop(store);

        let refused = Embedded::open(directory.path()).expect("it opens").load();

        assert!(matches!(refused, Err(StoreError::Version { found: 2, known: 1, .. })), "{refused:?}");
    }

    /// Opens a copy of the file after `damage`; what is read must be right or refused.
    fn check_damage(whole: &[u8], state: &ClusterState, damage: impl FnOnce(&mut Vec<u8>), what: &str) -> bool {
        let directory = directory();
        let mut bytes = whole.to_vec();
        damage(&mut bytes);
        std::fs::write(directory.path().join(FILE), bytes).expect("written");
        let read = Embedded::open(directory.path()).and_then(|mut store| state_of(&mut store));
        match read {
            Ok(read) => {
                assert_eq!(&read, state, "{what} was read as something else");
                true
            }
            Err(error) => {
                assert!(!error.to_string().contains('\n') && error.to_string().contains(FILE), "{error}");
                false
            }
        }
    }

    #[test]
    fn a_truncated_or_flipped_file_reads_as_it_was_or_is_refused() {
        let source = directory();
        let state = filled(source.path());
        let whole = std::fs::read(source.path().join(FILE)).expect("a file");
        let mut random = rand::rngs::StdRng::seed_from_u64(1);

        // OVERLAY_SWEEP asks for more: 10,000 takes some minutes.
        let rounds: usize = std::env::var("OVERLAY_SWEEP").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
        let cut = (0..rounds)
            .filter(|i| check_damage(&whole, &state, |b| b.truncate(i * whole.len() / rounds), "a cut"))
            .count();
        let flipped = (0..rounds)
            .filter(|_| {
                let (at, bit) = (random.random_range(0..whole.len()), random.random_range(0..8u8));
                check_damage(&whole, &state, |b| b[at] ^= 1 << bit, &format!("bit {bit} of byte {at}"))
            })
            .count();

        assert_eq!(cut, 0, "a truncated file was taken for whole");
        assert!(flipped < rounds, "no flip was ever noticed");
    }
}
