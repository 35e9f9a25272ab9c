//! The journal: this node's endpoints, written to disk before they are published to subscribers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use overlay_core::{EndpointId, NetworkId};
use overlay_proto::Refusal;
use tokio::sync::watch;

use super::in_store::in_store;
use super::record::EndpointRecord;
use super::store::StateStore;

/// The entries, by endpoint.
pub(crate) type Entries = Arc<BTreeMap<EndpointId, EndpointRecord>>;

/// The endpoints of this node.
#[derive(Debug)]
pub(crate) struct Journal {
    store: StateStore,
    entries: watch::Sender<Entries>,
    cursors: Mutex<BTreeMap<NetworkId, Ipv4Addr>>,
    /// Serialises changes of entries.
    updating: tokio::sync::Mutex<()>,
}

impl Journal {
    /// Takes over the stored entries.
    pub(crate) fn new(
        store: StateStore,
        entries: BTreeMap<EndpointId, EndpointRecord>,
        cursors: BTreeMap<NetworkId, Ipv4Addr>,
    ) -> Self {
        Self {
            store,
            entries: watch::Sender::new(Arc::new(entries)),
            cursors: Mutex::new(cursors),
            updating: tokio::sync::Mutex::new(()),
        }
    }

    /// Returns the current entries.
    pub(crate) fn entries(&self) -> Entries {
        Arc::clone(&self.entries.borrow())
    }

    /// Subscribes to changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Entries> {
        self.entries.subscribe()
    }

    /// Lists the networks that have an endpoint.
    pub(crate) fn networks(&self) -> BTreeSet<NetworkId> {
        self.entries().values().map(|record| record.endpoint.network).collect()
    }

    /// Returns the address that was given out last on a network: the next one is looked for after it, so that an address
    /// given back rests as long as possible.
    pub(crate) fn last_address(&self, network: NetworkId) -> Option<Ipv4Addr> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner).get(&network).copied()
    }

    /// Adds an endpoint in the place of others. When this returns it is on disk; nobody sees
    /// the new one beside the old ones.
    pub(crate) async fn replace(&self, replaced: Vec<EndpointId>, record: EndpointRecord) -> Result<(), Refusal> {
        let kept = record.clone();
        let address = record.endpoint.addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        let gone = replaced.clone();
        in_store(&self.store, move |store| store.replace_endpoints(&gone, &kept, address)).await?;
        if let Some(address) = address {
            let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
            cursors.insert(record.endpoint.network, address);
        }
        self.entries.send_modify(|entries| {
            let entries = Arc::make_mut(entries);
            entries.retain(|id, _| !replaced.contains(id));
            entries.insert(record.endpoint.id, record);
        });

        Ok(())
    }

    /// Changes an endpoint that is in it. When this returns it is on disk. One that is gone stays gone.
    pub(crate) async fn update(&self, id: EndpointId, change: impl FnOnce(&mut EndpointRecord)) -> Result<(), Refusal> {
        let _one = self.updating.lock().await;
        let Some(known) = self.entries().get(&id).cloned() else { return Ok(()) };
        let mut record = known.clone();
        change(&mut record);
        if record == known {
            return Ok(());
        }
        let kept = record.clone();
        in_store(&self.store, move |store| store.put_endpoint(&kept, None)).await?;
        let mut is_gone = false;
        self.entries.send_modify(|entries| match Arc::make_mut(entries).get_mut(&id) {
            Some(known) => *known = record,
            None => is_gone = true,
        });
        if is_gone {
            // It was taken out meanwhile, and must not come back with the next start.
            in_store(&self.store, move |store| store.remove_endpoints(&[id])).await?;
        }

        Ok(())
    }

    /// Removes endpoints; returns those that existed.
    pub(crate) async fn remove(&self, ids: Vec<EndpointId>) -> Result<Vec<EndpointRecord>, Refusal> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let gone = ids.clone();
        in_store(&self.store, move |store| store.remove_endpoints(&gone)).await?;
        let mut removed = Vec::new();
        self.entries.send_modify(|entries| {
            let entries = Arc::make_mut(entries);
            removed.extend(ids.iter().filter_map(|id| entries.remove(id)));
        });

        Ok(removed)
    }
}
