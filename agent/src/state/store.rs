//! The file: opened and checked whole, read once, then only written.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{OpenOptions, Permissions};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use overlay_core::{Change, Delta, EndpointId, NetworkId, PrivateKey, Revision, View};
use overlay_daemon::{Condition, disk};
use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageError, TableDefinition, TableError,
    WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use zeroize::Zeroizing;

use super::docker::{DockerKey, DockerRow};
use super::record::{EndpointRecord, Identity, Joining, KnownControl};
use crate::problem::{explain, unix_now};

/// The layout of the tables below; another one is refused.
const SCHEMA: u64 = 1;
/// Bytes of the file kept in memory. Everything is read once, so a small cache serves.
const CACHE: usize = 1 << 20;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const KEYS: TableDefinition<'_, (u64, u16), &[u8]> = TableDefinition::new("keys");
const VIEW: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("view");
const ENDPOINTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("endpoints");
const CURSORS: TableDefinition<'_, u64, u32> = TableDefinition::new("cursors");
const DOCKER: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("docker");

/// The state file does not serve.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It is not what was written.
    #[error(
        "{} is damaged ({why}); put a copy of it back, or move it away and join again: this node's endpoints are then lost",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It comes from another version.
    #[error("{} has layout {found}, this version reads layout {SCHEMA}; start the version that wrote it", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: u64,
    },
    /// The disk has no room for it.
    #[error(
        "{} cannot be {action}: the disk mounted on {} is full; make room there, then it goes on by itself",
        path.display(), disk.display()
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// What was tried, as a participle.
        action: &'static str,
        /// Where the disk is mounted.
        disk: PathBuf,
    },
    /// It cannot be read or written.
    #[error("{} cannot be {action}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried, as a participle.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// All that was kept.
#[derive(Debug, Default)]
pub struct StoredState {
    /// Who we are, once joined.
    pub identity: Option<Identity>,
    /// Why control has thrown us out, if it has.
    pub expelled: Option<String>,
    /// A join begun and not known to be finished.
    pub joining: Option<Joining>,
    /// Where control was heard to be.
    pub control: KnownControl,
    /// Our private key of each network and lane.
    pub keys: BTreeMap<NetworkId, BTreeMap<u16, PrivateKey>>,
    /// The last view.
    pub view: View,
    /// The endpoints of this node.
    pub endpoints: BTreeMap<EndpointId, EndpointRecord>,
    /// The address given out last, by network.
    pub cursors: BTreeMap<NetworkId, Ipv4Addr>,
    /// What Docker was promised.
    pub docker: Vec<DockerRow>,
    /// The latest time that handshakes were made at, in seconds since 1970.
    pub unix_time: u64,
}

/// The open file. Clones share it. Calls block until the disk has what they wrote.
#[derive(Debug, Clone)]
pub struct StateStore {
    path: PathBuf,
    slot: Arc<Mutex<Slot>>,
    /// Told when a write fails that comes after one that did not.
    failing: Arc<Notify>,
}

#[derive(Debug)]
struct Slot {
    /// The file; nothing after a failure, until it is opened again.
    database: Option<Database>,
    /// That the last write failed, and since when they do.
    condition: Option<Condition>,
}

impl StateStore {
    /// Opens the file, or makes it if there is none, and reads all of it.
    ///
    /// # Errors
    ///
    /// [`StateError`] names the file and what to do. Nothing is changed then.
    pub fn open(path: &Path) -> Result<(Self, StoredState), StateError> {
        let database = if path.try_exists().map_err(|source| failed(path, "read", source))? {
            contained(path, || open_checked(path))?
        } else {
            create(path)?
        };
        let loaded = contained(path, || load(path, &database))?;
        let slot = Slot { database: Some(database), condition: None };
        let store = Self { path: path.to_owned(), slot: Arc::new(Mutex::new(slot)), failing: Arc::default() };

        Ok((store, loaded))
    }

    /// Keeps a join that begins.
    ///
    /// # Errors
    ///
    /// [`StateError::Full`] and [`StateError::Io`]; nothing is kept then, and the next call tries anew. The same holds for
    /// all methods below.
    pub fn put_joining(&self, joining: &Joining) -> Result<(), StateError> {
        self.write(|write| {
            put_json(write, "joining", joining)?;
            put_meta(write, "joining-key", &joining.key)
        })
    }

    /// Keeps who we are; a join is finished by it.
    pub fn put_identity(&self, identity: &Identity) -> Result<(), StateError> {
        self.write(|write| {
            put_json(write, "identity", identity)?;
            put_meta(write, "certificate", &identity.certificate)?;
            put_meta(write, "ca", &identity.ca)?;
            put_meta(write, "key", &identity.key)?;
            let mut meta = write.open_table(META)?;
            for key in ["joining", "joining-key", "expelled"] {
                meta.remove(key)?;
            }

            Ok(())
        })
    }

    /// Keeps where control was heard to be.
    pub fn put_control(&self, control: &KnownControl) -> Result<(), StateError> {
        self.write(|write| put_json(write, "control", control))
    }

    /// Keeps that control has thrown us out, and why.
    pub fn put_expelled(&self, reason: &str) -> Result<(), StateError> {
        self.write(|write| put_meta(write, "expelled", reason.as_bytes()))
    }

    /// Keeps a whole view in place of the one before.
    pub fn put_view(&self, view: &View) -> Result<(), StateError> {
        self.write(|write| {
            write.delete_table(VIEW)?;
            put_rows(write, view.rows(), view.revision)
        })
    }

    /// Keeps what changed since the view kept last.
    pub fn put_delta(&self, delta: &Delta) -> Result<(), StateError> {
        self.write(|write| put_rows(write, delta.changes.iter().cloned(), delta.to))
    }

    /// Keeps our private keys of a network.
    pub fn put_keys(&self, network: NetworkId, keys: &[PrivateKey]) -> Result<(), StateError> {
        self.write(|write| {
            let mut table = write.open_table(KEYS)?;
            for (lane, key) in (0u16..).zip(keys) {
                table.insert((network.as_u64(), lane), key.expose().as_slice())?;
            }

            Ok(())
        })
    }

    /// Forgets our private keys of a network.
    pub fn remove_keys(&self, network: NetworkId) -> Result<(), StateError> {
        let id = network.as_u64();
        self.write(|write| Ok(write.open_table(KEYS)?.retain_in((id, 0)..=(id, u16::MAX), |_, _| false)?))
    }

    /// Journals an endpoint, and which address was given out last.
    pub fn put_endpoint(&self, record: &EndpointRecord, cursor: Option<Ipv4Addr>) -> Result<(), StateError> {
        self.replace_endpoints(&[], record, cursor)
    }

    /// Journals an endpoint in the place of others, all or none.
    pub fn replace_endpoints(
        &self,
        replaced: &[EndpointId],
        record: &EndpointRecord,
        cursor: Option<Ipv4Addr>,
    ) -> Result<(), StateError> {
        self.write(|write| {
            let bytes = json(record)?;
            let mut table = write.open_table(ENDPOINTS)?;
            for id in replaced {
                table.remove(id.as_u64())?;
            }
            table.insert(record.endpoint.id.as_u64(), bytes.as_slice())?;
            if let Some(address) = cursor {
                write.open_table(CURSORS)?.insert(record.endpoint.network.as_u64(), address.to_bits())?;
            }

            Ok(())
        })
    }

    /// Keeps rows of Docker's and forgets others, all or none.
    pub fn put_docker(&self, put: &[DockerRow], remove: &[DockerKey]) -> Result<(), StateError> {
        self.write(|write| {
            let mut table = write.open_table(DOCKER)?;
            for key in remove {
                table.remove(json(key)?.as_slice())?;
            }
            for row in put {
                table.insert(json(&row.key())?.as_slice(), json(row)?.as_slice())?;
            }

            Ok(())
        })
    }

    /// Takes endpoints out of the journal.
    pub fn remove_endpoints(&self, ids: &[EndpointId]) -> Result<(), StateError> {
        self.write(|write| {
            let mut table = write.open_table(ENDPOINTS)?;
            for id in ids {
                table.remove(id.as_u64())?;
            }

            Ok(())
        })
    }

    /// Keeps the latest time that handshakes may have been made at.
    pub fn put_unix_time(&self, seconds: u64) -> Result<(), StateError> {
        self.write(|write| put_meta(write, "unix-time", &seconds.to_le_bytes()))
    }

    /// Writes what is there once more: whether anything can be kept.
    pub fn probe(&self) -> Result<(), StateError> {
        self.write(|write| put_meta(write, "schema", &SCHEMA.to_le_bytes()))
    }

    /// Says that nothing can be kept, if the last attempt failed.
    pub fn condition(&self) -> Option<Condition> {
        self.slot().condition.clone()
    }

    /// Waits until a write fails.
    pub async fn fails(&self) {
        self.failing.notified().await;
    }

    /// Forgets everything: the file is made anew, so that no secret stays in it.
    pub fn wipe(&self) -> Result<(), StateError> {
        let mut slot = self.slot();
        slot.database = None;
        std::fs::remove_file(&self.path).map_err(|source| failed(&self.path, "removed", source))?;
        slot.database = Some(create(&self.path)?);

        Ok(())
    }

    fn write(&self, change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>) -> Result<(), StateError> {
        let mut slot = self.slot();
        // Out of the slot while it is worked on: after a failure the file must be opened again before it takes a write.
        let database = slot.database.take();
        let written = contained(&self.path, || {
            let database = database.map_or_else(|| open_checked(&self.path), Ok)?;
            let transact = || -> Result<(), redb::Error> {
                let write = database.begin_write()?;
                change(&write)?;

                Ok(write.commit()?)
            };
            transact().map_err(|error| failed(&self.path, "written", io_error(error)))?;

            Ok(database)
        });
        let outcome = written.map(|database| slot.database = Some(database));
        if slot.note(&outcome, &self.path) {
            self.failing.notify_one();
        }

        outcome
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Notes how a write went; tells whether it is the first of some that fail.
    fn note(&mut self, outcome: &Result<(), StateError>, path: &Path) -> bool {
        match (outcome, &mut self.condition) {
            (Ok(()), None) => {}
            // What is small may find a place while larger things do not.
            (Ok(()), condition) => {
                if disk::has_room(path) {
                    *condition = None;
                    tracing::info!("The state is kept again");
                }
            }
            (Err(error), Some(condition)) => condition.text = explain(error),
            (Err(error), condition) => {
                let text = explain(error);
                tracing::warn!(error = %text, "Nothing can be kept");
                *condition = Some(Condition { text, since: unix_now() });
                return true;
            }
        }

        false
    }
}

fn io_error(error: redb::Error) -> io::Error {
    if let redb::Error::Io(error) = error { error } else { io::Error::other(error) }
}

fn failed(path: &Path, action: &'static str, source: io::Error) -> StateError {
    if disk::is_full(&source) {
        return StateError::Full { path: path.to_owned(), action, disk: disk::mount_point(path) };
    }

    StateError::Io { path: path.to_owned(), action, source }
}

fn damaged(path: &Path, why: impl std::fmt::Display) -> StateError {
    StateError::Damaged { path: path.to_owned(), why: why.to_string() }
}

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Says whether a panic on this thread is expected and will be reported as damage; a panic hook need not tell of it.
pub fn panic_is_contained() -> bool {
    CONTAINED.get()
}

/// Runs what may panic on a damaged file.
fn contained<T>(path: &Path, work: impl FnOnce() -> Result<T, StateError>) -> Result<T, StateError> {
    CONTAINED.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(false);

    outcome.unwrap_or_else(|_| Err(damaged(path, "its structure makes no sense")))
}

fn open_checked(path: &Path) -> Result<Database, StateError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(|source| failed(path, "opened", source))?;
    let metadata = file.metadata().map_err(|source| failed(path, "read", source))?;
    if metadata.len() == 0 {
        return Err(damaged(path, "it is empty"));
    }
    file.set_permissions(Permissions::from_mode(0o600)).map_err(|source| failed(path, "protected", source))?;
    let backend = FileBackend::new(file).map_err(|error| damaged(path, error))?;
    let opened =
        Database::builder().set_cache_size(CACHE).set_check_integrity_on_open(true).create_with_backend(backend);

    opened.map_err(|error| {
        if let DatabaseError::Storage(StorageError::Io(error)) = error {
            return if disk::is_full(&error) { failed(path, "opened", error) } else { damaged(path, error) };
        }

        damaged(path, error)
    })
}

/// Makes the file under another name first, so that a crash in between leaves none rather than half of one.
fn create(path: &Path) -> Result<Database, StateError> {
    let draft = path.with_extension("redb.new");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .map_err(|source| failed(&draft, "made", source))?;
    let make = || -> Result<Database, redb::Error> {
        let backend = FileBackend::new(file)?;
        let database = Database::builder().set_cache_size(CACHE).create_with_backend(backend)?;
        let write = database.begin_write()?;
        put_meta(&write, "schema", &SCHEMA.to_le_bytes())?;
        for open in [write.open_table(KEYS).map(drop), write.open_table(VIEW).map(drop)] {
            open?;
        }
        write.open_table(ENDPOINTS)?;
        write.open_table(CURSORS)?;
        write.open_table(DOCKER)?;
        write.commit()?;

        Ok(database)
    };
    let database = make().map_err(|error| failed(&draft, "written", io_error(error)))?;
    std::fs::rename(&draft, path).map_err(|source| failed(path, "made", source))?;
    if let Some(directory) = path.parent() {
        let synced = std::fs::File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|source| failed(directory, "synced", source))?;
    }

    Ok(database)
}

fn put_meta(write: &WriteTransaction, key: &str, value: &[u8]) -> Result<(), redb::Error> {
    write.open_table(META)?.insert(key, value)?;

    Ok(())
}

fn put_json(write: &WriteTransaction, key: &str, value: &impl Serialize) -> Result<(), redb::Error> {
    put_meta(write, key, &json(value)?)
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(value).map_err(|error| redb::Error::Io(error.into()))
}

fn put_rows(
    write: &WriteTransaction,
    changes: impl Iterator<Item = Change>,
    revision: Revision,
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
            | Change::HostReport(_)) => {
                table.insert(key.as_slice(), json(&row)?.as_slice())?;
            }
        }
    }

    put_meta(write, "revision", &revision.0.to_le_bytes())
}

fn load(path: &Path, database: &Database) -> Result<StoredState, StateError> {
    let meta = read_meta(database).map_err(|error| damaged(path, error))?;
    let number = |key: &str| -> Result<Option<u64>, StateError> {
        let bytes = meta.get(key).map(|bytes| <[u8; 8]>::try_from(bytes.as_slice()));
        bytes.transpose().map(|n| n.map(u64::from_le_bytes)).map_err(|_| damaged(path, format!("entry {key}")))
    };
    match number("schema")? {
        Some(SCHEMA) => {}
        Some(found) => return Err(StateError::Foreign { path: path.to_owned(), found }),
        None => return Err(damaged(path, "it holds no state of an agent")),
    }
    let secret = |key: &str| meta.get(key).cloned().unwrap_or_default();
    let text = |key: &str| meta.get(key).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let mut identity: Option<Identity> = parse_entry(path, "identity", meta.get("identity"))?;
    if let Some(identity) = &mut identity {
        identity.certificate = secret("certificate").to_vec();
        identity.ca = secret("ca").to_vec();
        identity.key = secret("key");
    }
    let mut joining: Option<Joining> = parse_entry(path, "joining", meta.get("joining"))?;
    if let Some(joining) = &mut joining {
        joining.key = secret("joining-key");
    }
    let mut loaded = StoredState {
        identity,
        control: parse_entry(path, "control", meta.get("control"))?.unwrap_or_default(),
        expelled: text("expelled"),
        joining,
        unix_time: number("unix-time")?.unwrap_or_default(),
        ..StoredState::default()
    };
    let revision = Revision(number("revision")?.unwrap_or_default());
    load_tables(path, database, revision, &mut loaded)?;

    Ok(loaded)
}

fn read_meta(database: &Database) -> Result<BTreeMap<String, Zeroizing<Vec<u8>>>, redb::Error> {
    let read = database.begin_read()?;
    let table = read.open_table(META)?;

    table
        .iter()?
        .map(|entry| {
            let (key, value) = entry?;
            Ok((key.value().to_owned(), Zeroizing::new(value.value().to_vec())))
        })
        .collect()
}

fn parse_entry<T: DeserializeOwned>(
    path: &Path,
    what: &str,
    bytes: Option<&Zeroizing<Vec<u8>>>,
) -> Result<Option<T>, StateError> {
    bytes.map(|bytes| parse(path, what, bytes)).transpose()
}

fn parse<T: DeserializeOwned>(path: &Path, what: &str, bytes: &[u8]) -> Result<T, StateError> {
    serde_json::from_slice(bytes).map_err(|error| damaged(path, format!("{what}: {error}")))
}

fn load_tables(path: &Path, database: &Database, revision: Revision, into: &mut StoredState) -> Result<(), StateError> {
    let bad = |error: redb::Error| damaged(path, error);
    let read = database.begin_read().map_err(|error| bad(error.into()))?;
    let mut rows = Vec::new();
    for entry in read.open_table(VIEW).map_err(|e| bad(e.into()))?.iter().map_err(|e| bad(e.into()))? {
        let (_, value) = entry.map_err(|e| bad(e.into()))?;
        rows.push(parse::<Change>(path, "view", value.value())?);
    }
    into.view = View::from_rows(revision, rows);
    for entry in read.open_table(ENDPOINTS).map_err(|e| bad(e.into()))?.iter().map_err(|e| bad(e.into()))? {
        let (_, value) = entry.map_err(|e| bad(e.into()))?;
        let record: EndpointRecord = parse(path, "endpoint", value.value())?;
        into.endpoints.insert(record.endpoint.id, record);
    }
    for entry in read.open_table(KEYS).map_err(|e| bad(e.into()))?.iter().map_err(|e| bad(e.into()))? {
        let (key, value) = entry.map_err(|e| bad(e.into()))?;
        let (network, lane) = key.value();
        let network = NetworkId::try_from(network).map_err(|error| damaged(path, error))?;
        let key = <[u8; 32]>::try_from(value.value()).map_err(|_| damaged(path, "a key of the wrong length"))?;
        into.keys.entry(network).or_default().insert(lane, PrivateKey::from(key));
    }
    for entry in read.open_table(CURSORS).map_err(|e| bad(e.into()))?.iter().map_err(|e| bad(e.into()))? {
        let (network, address) = entry.map_err(|e| bad(e.into()))?;
        let network = NetworkId::try_from(network.value()).map_err(|error| damaged(path, error))?;
        into.cursors.insert(network, Ipv4Addr::from_bits(address.value()));
    }
    let docker = match read.open_table(DOCKER) {
        Ok(table) => table,
        // A file from before Docker's table.
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        Err(error) => return Err(bad(error.into())),
    };
    for entry in docker.iter().map_err(|e| bad(e.into()))? {
        let (_, value) = entry.map_err(|e| bad(e.into()))?;
        into.docker.push(parse(path, "docker", value.value())?);
    }

    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use overlay_core::{ClusterId, Endpoint, Node, NodeId, Role, RowKey, Runtime};

    use super::super::record::SandboxRecord;
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster: ClusterId::from_random(1),
            node: NodeId::from_random(2),
            name: "host1".parse().expect("a name"),
            role: Role::Node,
            control: vec!["192.0.2.1:7443".into()],
            advertise: Vec::new(),
            pool: overlay_core::pool::DEFAULT_POOL,
            certificate: vec![1; 300],
            ca: vec![2; 300],
            key: Zeroizing::new(vec![3; 120]),
        }
    }

    fn node(n: u64) -> Change {
        Change::Node(Node {
            id: NodeId::from_random(n),
            name: format!("node{n}").parse().expect("a name"),
            role: Role::Node,
            labels: BTreeMap::new(),
            underlay: vec!["192.0.2.7".parse().expect("an address")],
            lane_ports: vec![51820],
        })
    }

    fn record() -> EndpointRecord {
        EndpointRecord {
            endpoint: Endpoint {
                id: EndpointId::from_random(5),
                network: NetworkId::from_random(6),
                node: NodeId::from_random(2),
                name: "web".parse().expect("a name"),
                aliases: BTreeSet::new(),
                addresses: vec!["10.0.0.9".parse().expect("an address")],
                labels: BTreeMap::new(),
                runtime: Runtime::Attach,
            },
            sandbox: SandboxRecord::Netns {
                path: "/run/netns/x".into(),
                device: 4,
                inode: 4_026_532_000,
                boot: "b".into(),
            },
            ifname: "eth0".into(),
            owner: None,
        }
    }

    fn filled(path: &Path) {
        let (store, _) = StateStore::open(path).expect("a new file");
        store.put_identity(&identity()).expect("kept");
        store.put_view(&View::from_rows(Revision(3), (1..40).map(node))).expect("kept");
        store.put_endpoint(&record(), Some(Ipv4Addr::new(10, 0, 0, 9))).expect("kept");
        store.put_keys(record().endpoint.network, &[[7; 32].into(), [8; 32].into()]).expect("kept");
        store.put_unix_time(1_800_000_000).expect("kept");
    }

    #[test]
    fn what_was_kept_is_found_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.redb");
        filled(&path);

        let (_, loaded) = StateStore::open(&path).expect("the same file");

        let found = loaded.identity.expect("an identity");
        assert_eq!((found.node, found.certificate, found.key), {
            let kept = identity();
            (kept.node, kept.certificate, kept.key)
        });
        assert_eq!(loaded.view, View::from_rows(Revision(3), (1..40).map(node)));
        assert_eq!(loaded.endpoints.into_values().collect::<Vec<_>>(), [record()]);
        assert_eq!(loaded.keys[&record().endpoint.network][&1].expose(), &[8; 32]);
        assert_eq!(loaded.cursors[&record().endpoint.network], Ipv4Addr::new(10, 0, 0, 9));
        assert_eq!(loaded.unix_time, 1_800_000_000);
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_delta_moves_the_kept_view() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.redb");
        let (store, _) = StateStore::open(&path).expect("a new file");
        store.put_view(&View::from_rows(Revision(3), [node(1), node(2)])).expect("kept");

        let changes = vec![Change::Removed(RowKey::Node(NodeId::from_random(1))), node(3)];
        store.put_delta(&Delta { from: Revision(3), to: Revision(5), changes }).expect("kept");

        drop(store);
        let (_, loaded) = StateStore::open(&path).expect("the same file");
        assert_eq!(loaded.view, View::from_rows(Revision(5), [node(2), node(3)]));
    }

    #[test]
    fn a_wiped_file_holds_no_secret() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.redb");
        let (store, _) = StateStore::open(&path).expect("a new file");
        store.put_keys(NetworkId::from_random(1), &[[0xA7; 32].into()]).expect("kept");

        store.wipe().expect("wiped");

        let bytes = std::fs::read(&path).expect("there");
        assert!(!bytes.windows(32).any(|window| window == [0xA7; 32]));
        store.put_unix_time(1).expect("still usable");
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    fn a_full_disk_is_named_nothing_is_lost_and_it_goes_on_when_there_is_room() {
        let Some(small) = disk::testing::SmallDisk::mount(4 << 20) else {
            return eprintln!("SKIPPED: a small disk needs root");
        };
        let path = small.path().join("agent.redb");
        filled(&path);
        let (store, _) = StateStore::open(&path).expect("the same file");
        small.fill().expect("filled");

        let mut kept = 3;
        let refused = (kept + 1..).find_map(|seconds| match store.put_view(&many_nodes(seconds)) {
            Ok(()) => {
                kept = seconds;
                None
            }
            Err(error) => Some(error),
        });

        let text = refused.expect("there is no room").to_string();
        let expected =
            format!("{} cannot be written: the disk mounted on {} is full", path.display(), small.path().display());
        assert!(text.starts_with(&expected), "{text}");
        assert!(store.condition().is_some_and(|condition| condition.text == text));
        assert!(store.put_view(&many_nodes(0)).is_err(), "there still is none");
        small.make_room().expect("room");
        store.put_unix_time(7).expect("there is room");
        assert_eq!(store.condition(), None);
        drop(store);
        let (_, loaded) = StateStore::open(&path).expect("the same file");
        assert_eq!((loaded.unix_time, loaded.view.revision), (7, Revision(kept)));
        assert_eq!(loaded.endpoints.into_values().collect::<Vec<_>>(), [record()]);
    }

    /// A view of some hundred KiB.
    fn many_nodes(revision: u64) -> View {
        View::from_rows(Revision(revision), (1..2_000).map(node))
    }

    #[test]
    fn a_truncated_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.redb");
        filled(&path);
        let whole = std::fs::read(&path).expect("there");

        for len in [0, 1, 64, 320, 4096, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..len]).expect("written");

            let error = StateStore::open(&path).expect_err("damaged").to_string();

            assert!(error.contains("agent.redb is damaged"), "{len}: {error}");
        }
    }

    #[test]
    fn a_flipped_bit_is_refused_or_harmless() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.redb");
        filled(&path);
        let whole = std::fs::read(&path).expect("there");
        let mut refused = 0;

        for at in (0..whole.len()).step_by(whole.len() / 150) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).expect("written");

            match StateStore::open(&path) {
                Ok((_, loaded)) => {
                    assert!(loaded.identity.is_some(), "{at}");
                    assert_eq!(loaded.endpoints.len(), 1, "{at}");
                    assert_eq!(loaded.view, View::from_rows(Revision(3), (1..40).map(node)), "{at}");
                }
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains("agent.redb"), "{at}: {error}");
                }
            }
        }

        assert!(refused > 0);
    }
}
