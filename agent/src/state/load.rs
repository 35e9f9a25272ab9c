//! Reads all that was kept, once, when the agent starts.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use overlay_core::{Change, EndpointId, NetworkId, PrivateKey, Revision, Stamp, View};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableError};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::docker::DockerRow;
use super::error::{StateError, damaged};
use super::record::{EndpointRecord, Identity, Joining, KeptContact, KnownControl};
use super::tables::{CURSORS, DOCKER, ENDPOINTS, KEYS, META, REVOCATIONS, SCHEMA, VIEW};

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
    /// The networks of this node that control lost, with what people call them.
    pub lost_networks: BTreeMap<NetworkId, String>,
    /// The endpoints of this node.
    pub endpoints: BTreeMap<EndpointId, EndpointRecord>,
    /// The address given out last, by network.
    pub cursors: BTreeMap<NetworkId, Ipv4Addr>,
    /// What Docker was promised.
    pub docker: Vec<DockerRow>,
    /// When control was last heard.
    pub contact: Option<KeptContact>,
    /// The removed nodes, as signed revocations.
    pub revocations: Vec<Vec<u8>>,
    /// The latest time that handshakes were made at, in seconds since 1970.
    pub unix_time: u64,
}

/// Reads the whole file.
pub(super) fn load(path: &Path, database: &Database) -> Result<StoredState, StateError> {
    let meta = read_meta(database).map_err(|error| damaged(path, error))?;
    let number = |key: &str| -> Result<Option<u64>, StateError> {
        let bytes = meta.get(key).map(|bytes| <[u8; 8]>::try_from(bytes.as_slice()));
        bytes
            .transpose()
            .map(|n| n.map(u64::from_le_bytes))
            .map_err(|_| damaged(path, format!("entry {key}")))
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
        contact: parse_entry(path, "contact", meta.get("contact"))?,
        joining,
        unix_time: number("unix-time")?.unwrap_or_default(),
        ..StoredState::default()
    };
    let revision = Revision(number("revision")?.unwrap_or_default());
    load_tables(path, database, revision, &mut loaded)?;
    // A file from before lineages has none.
    let stamp: Option<Option<Stamp>> = parse_entry(path, "stamp", meta.get("stamp"))?;
    loaded.view.stamp = stamp.flatten();
    let lost: Option<Vec<_>> = parse_entry(path, "lost-networks", meta.get("lost-networks"))?;
    loaded.lost_networks = lost.unwrap_or_default().into_iter().collect();

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

fn load_tables(
    path: &Path,
    database: &Database,
    revision: Revision,
    into: &mut StoredState,
) -> Result<(), StateError> {
    let bad = |error: redb::Error| damaged(path, error);
    let read = database.begin_read().map_err(|error| bad(error.into()))?;
    let mut rows = Vec::new();
    for entry in
        read.open_table(VIEW).map_err(|e| bad(e.into()))?.iter().map_err(|e| bad(e.into()))?
    {
        let (_, value) = entry.map_err(|e| bad(e.into()))?;
        rows.push(parse::<Change>(path, "view", value.value())?);
    }
    into.view = View::from_rows(revision, rows);
    for entry in
        read.open_table(ENDPOINTS).map_err(|e| bad(e.into()))?.iter().map_err(|e| bad(e.into()))?
    {
        let (_, value) = entry.map_err(|e| bad(e.into()))?;
        let record: EndpointRecord = parse(path, "endpoint", value.value())?;
        into.endpoints.insert(record.endpoint.id, record);
    }
    for entry in
        read.open_table(KEYS).map_err(|e| bad(e.into()))?.iter().map_err(|e| bad(e.into()))?
    {
        let (key, value) = entry.map_err(|e| bad(e.into()))?;
        let (network, lane) = key.value();
        let network = NetworkId::try_from(network).map_err(|error| damaged(path, error))?;
        let key = <[u8; 32]>::try_from(value.value())
            .map_err(|_| damaged(path, "a key of the wrong length"))?;
        into.keys.entry(network).or_default().insert(lane, PrivateKey::from(key));
    }
    for entry in
        read.open_table(CURSORS).map_err(|e| bad(e.into()))?.iter().map_err(|e| bad(e.into()))?
    {
        let (network, address) = entry.map_err(|e| bad(e.into()))?;
        let network = NetworkId::try_from(network.value()).map_err(|error| damaged(path, error))?;
        into.cursors.insert(network, Ipv4Addr::from_bits(address.value()));
    }
    match read.open_table(REVOCATIONS) {
        Ok(table) => {
            for entry in table.iter().map_err(|e| bad(e.into()))? {
                let (_, value) = entry.map_err(|e| bad(e.into()))?;
                into.revocations.push(value.value().to_vec());
            }
        }
        // A file from before nodes told each other of removed ones.
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(bad(error.into())),
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
