//! The store: opened and read once, then only written.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use overlay_core::{Delta, EndpointId, NetworkId, NodeId, PrivateKey, View};
use overlay_daemon::{Condition, disk};
use redb::{Database, WriteTransaction};
use tokio::sync::Notify;

use super::docker::{DockerKey, DockerRow};
use super::error::{StateError, failed, io_error};
use super::file::{contained, create, open_checked};
use super::load::{StoredState, load};
use super::record::{EndpointRecord, Identity, Joining, KeptContact, KnownControl};
use super::tables::{
    CURSORS, DOCKER, ENDPOINTS, KEYS, META, REVOCATIONS, SCHEMA, VIEW, json, put_json, put_meta,
    put_rows,
};
use crate::problem::{explain, unix_now};

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
    /// Whether another process may have the file.
    is_closed: bool,
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
        let slot = Slot { database: Some(database), condition: None, is_closed: false };
        let store = Self {
            path: path.to_owned(),
            slot: Arc::new(Mutex::new(slot)),
            failing: Arc::default(),
        };

        Ok((store, loaded))
    }

    /// Keeps a join that begins.
    ///
    /// # Errors
    ///
    /// [`StateError::Full`] and [`StateError::Io`]; nothing is kept then, and the next call tries
    /// anew. The same holds for all methods below.
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
            put_rows(write, view.rows(), view.revision, view.stamp)
        })
    }

    /// Keeps what changed since the view kept last.
    pub fn put_delta(&self, delta: &Delta) -> Result<(), StateError> {
        self.write(|write| put_rows(write, delta.changes.iter().cloned(), delta.to, delta.stamp))
    }

    /// Keeps which networks of this node control lost, with what people call them.
    pub fn put_lost_networks(&self, lost: &BTreeMap<NetworkId, String>) -> Result<(), StateError> {
        self.write(|write| put_json(write, "lost-networks", &lost.iter().collect::<Vec<_>>()))
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
        self.write(|write| {
            Ok(write.open_table(KEYS)?.retain_in((id, 0)..=(id, u16::MAX), |_, _| false)?)
        })
    }

    /// Journals an endpoint, and which address was given out last.
    pub fn put_endpoint(
        &self,
        record: &EndpointRecord,
        cursor: Option<Ipv4Addr>,
    ) -> Result<(), StateError> {
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
                write
                    .open_table(CURSORS)?
                    .insert(record.endpoint.network.as_u64(), address.to_bits())?;
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

    /// Keeps which nodes were removed, in place of those kept before.
    pub fn put_revocations(&self, signed: &BTreeMap<NodeId, Arc<[u8]>>) -> Result<(), StateError> {
        self.write(|write| {
            write.delete_table(REVOCATIONS)?;
            let mut table = write.open_table(REVOCATIONS)?;
            for (node, bytes) in signed {
                table.insert(node.as_u64(), &bytes[..])?;
            }

            Ok(())
        })
    }

    /// Keeps the latest time that handshakes may have been made at, and when control was last
    /// heard.
    pub fn put_clocks(
        &self,
        seconds: u64,
        contact: Option<&KeptContact>,
    ) -> Result<(), StateError> {
        self.write(|write| {
            if let Some(contact) = contact {
                put_json(write, "contact", contact)?;
            }

            put_meta(write, "unix-time", &seconds.to_le_bytes())
        })
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

    /// Lets go of the file, for another process to have it. Nothing is kept until it is opened
    /// again.
    pub fn close(&self) {
        let mut slot = self.slot();
        slot.is_closed = true;
        slot.database = None;
    }

    /// Opens the file again after [`StateStore::close`], and reads all of it: another process may
    /// have changed it.
    ///
    /// # Errors
    ///
    /// As [`StateStore::open`]; the store then stays closed.
    pub fn reopen(&self) -> Result<StoredState, StateError> {
        let mut slot = self.slot();
        let database = contained(&self.path, || open_checked(&self.path))?;
        let loaded = contained(&self.path, || load(&self.path, &database))?;
        (slot.database, slot.is_closed) = (Some(database), false);

        Ok(loaded)
    }

    fn write(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StateError> {
        let mut slot = self.slot();
        if slot.is_closed {
            return Err(StateError::Closed { path: self.path.clone() });
        }
        // Out of the slot while it is worked on: after a failure the file must be opened again
        // before it takes a write.
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

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
