//! The journal: this node's endpoints, written to disk before they are published to subscribers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use overlay_core::{EndpointId, NetworkId, NodeId, Runtime, View};
use tokio::sync::watch;

use super::error::StoreFailure;
use super::in_store::in_store;
use super::record::EndpointRecord;
use super::store::StateStore;
use crate::kernel::Strays;

/// The entries, by endpoint.
pub(crate) type Entries = Arc<BTreeMap<EndpointId, EndpointRecord>>;

/// The endpoints of this node.
#[derive(Debug)]
pub(crate) struct Journal {
    store: StateStore,
    entries: watch::Sender<Entries>,
    cursors: Mutex<BTreeMap<NetworkId, Ipv4Addr>>,
    /// Whether it lacks no endpoint that a container has.
    whole: watch::Sender<bool>,
    /// What was removed since this process started, until it is whole.
    removed: Mutex<BTreeSet<EndpointId>>,
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
            whole: watch::Sender::new(false),
            removed: Mutex::default(),
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

    /// Returns the address that was given out last on a network: the next one is looked for after
    /// it, so that an address given back rests as long as possible.
    pub(crate) fn last_address(&self, network: NetworkId) -> Option<Ipv4Addr> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner).get(&network).copied()
    }

    /// Hears when it lacks no endpoint that a container has. Before that it may be an older copy,
    /// and nothing may be taken away from endpoints only because it does not have them.
    pub(crate) fn wholeness(&self) -> watch::Receiver<bool> {
        self.whole.subscribe()
    }

    /// Takes note that it lacks nothing.
    pub(crate) fn set_whole(&self) {
        self.whole.send_if_modified(|is_whole| !std::mem::replace(is_whole, true));
        self.removed().clear();
    }

    /// Returns whose interfaces stay though it does not have them: all that were not removed by
    /// this process.
    pub(crate) fn strays(&self) -> Strays {
        if *self.whole.borrow() {
            Strays::default()
        } else {
            Strays::AllBut(self.removed().clone())
        }
    }

    /// Lists the endpoints of containers that control knows of `node` and that may be missing here.
    pub(crate) fn lost(&self, view: &View, node: NodeId) -> BTreeSet<EndpointId> {
        if *self.whole.borrow() {
            return BTreeSet::new();
        }
        let (entries, removed) = (self.entries(), self.removed());
        let of_containers = view
            .endpoints
            .values()
            .filter(|row| row.node == node && row.runtime == Runtime::Docker);

        of_containers
            .map(|row| row.id)
            .filter(|id| !entries.contains_key(id) && !removed.contains(id))
            .collect()
    }

    fn removed(&self) -> MutexGuard<'_, BTreeSet<EndpointId>> {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_removed(&self, ids: &[EndpointId]) {
        if !*self.whole.borrow() {
            self.removed().extend(ids);
        }
    }

    /// Adds an endpoint in the place of others. When this returns it is on disk; nobody sees
    /// the new one beside the old ones.
    pub(crate) async fn replace(
        &self,
        replaced: Vec<EndpointId>,
        record: EndpointRecord,
    ) -> Result<(), StoreFailure> {
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
        self.note_removed(&replaced);
        self.entries.send_modify(|entries| {
            let entries = Arc::make_mut(entries);
            entries.retain(|id, _| !replaced.contains(id));
            entries.insert(record.endpoint.id, record);
        });

        Ok(())
    }

    /// Changes an endpoint that is in it. When this returns it is on disk. One that is gone stays
    /// gone.
    pub(crate) async fn update(
        &self,
        id: EndpointId,
        change: impl FnOnce(&mut EndpointRecord),
    ) -> Result<(), StoreFailure> {
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
    pub(crate) async fn remove(
        &self,
        ids: Vec<EndpointId>,
    ) -> Result<Vec<EndpointRecord>, StoreFailure> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let gone = ids.clone();
        in_store(&self.store, move |store| store.remove_endpoints(&gone)).await?;
        self.note_removed(&ids);
        let mut removed = Vec::new();
        self.entries.send_modify(|entries| {
            let entries = Arc::make_mut(entries);
            removed.extend(ids.iter().filter_map(|id| entries.remove(id)));
        });

        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use overlay_core::{Change, Endpoint, Revision};

    use super::*;
    use crate::state::SandboxRecord;

    const ME: NodeId = NodeId::FIRST;

    fn row(n: u64, node: NodeId, runtime: Runtime) -> Endpoint {
        Endpoint {
            id: EndpointId::from_random(n),
            network: NetworkId::FIRST,
            node,
            name: format!("e{n}").parse().expect("a name"),
            aliases: BTreeSet::new(),
            addresses: Vec::new(),
            labels: BTreeMap::new(),
            runtime,
            group: None,
            container: None,
            taken: BTreeSet::new(),
        }
    }

    #[tokio::test]
    async fn what_containers_may_have_stays_until_it_is_whole_but_for_what_was_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, _) = StateStore::open(&folder.path().join("state")).expect("a store");
        let rows = [
            row(1, ME, Runtime::Docker),
            row(2, ME, Runtime::Docker),
            row(3, ME, Runtime::Docker),
            row(4, ME, Runtime::Run),
            row(5, NodeId::LAST, Runtime::Docker),
        ];
        let view = View::from_rows(Revision(1), rows.iter().cloned().map(Change::Endpoint));
        let record = |row: &Endpoint| EndpointRecord {
            endpoint: row.clone(),
            sandbox: SandboxRecord::Host,
            ifname: "ovh0".into(),
            owner: None,
        };
        let entries = [&rows[1], &rows[2]].map(|row| (row.id, record(row)));
        let journal = Journal::new(store, entries.into(), BTreeMap::new());
        let stay = |journal: &Journal| {
            rows.iter().map(|row| journal.strays().contains(row.id)).collect::<Vec<_>>()
        };

        journal.remove(vec![rows[2].id]).await.expect("written");

        assert_eq!(journal.lost(&view, ME), [rows[0].id].into());
        assert_eq!(stay(&journal), [true, true, false, true, true]);
        journal.set_whole();
        assert_eq!(journal.lost(&view, ME), [].into());
        assert_eq!(stay(&journal), [false; 5]);
    }
}
