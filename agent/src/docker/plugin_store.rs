//! The plugin store: what Docker was promised, written to disk before it is published to
//! subscribers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use overlay_core::NetworkId;
use tokio::sync::{Notify, watch};

use super::engine::EngineKind;
use super::engine_names::ContainerNetworks;
use crate::membership::network_membership::HeldAddresses;
use crate::state::{
    DockerKey, DockerLease, DockerNetwork, DockerPool, DockerRow, StateStore, StoreFailure,
    in_store,
};

/// The contents of the plugin store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PluginState {
    /// The networks, by Docker's id.
    pub(crate) networks: BTreeMap<String, DockerNetwork>,
    /// The address pools, by name.
    pub(crate) pools: BTreeMap<String, DockerPool>,
    /// The addresses, by pool.
    pub(crate) leases: BTreeMap<(String, IpAddr), DockerLease>,
    /// Networks that were removed with Docker, of which control must still be told.
    pub(crate) removals: BTreeSet<NetworkId>,
    /// Why a network in Docker cannot be used, by Docker's id. Not stored: determined anew each
    /// time.
    pub(crate) conflicts: BTreeMap<String, String>,
    /// The kind of Docker engine on this host. Not stored: asked for anew each time.
    pub(crate) engine: EngineKind,
}

impl PluginState {
    fn put(&mut self, row: DockerRow) {
        match row {
            DockerRow::Network(row) => drop(self.networks.insert(row.id.clone(), row)),
            DockerRow::Pool(row) => drop(self.pools.insert(row.id.clone(), row)),
            DockerRow::Lease(row) => drop(self.leases.insert((row.pool.clone(), row.address), row)),
            DockerRow::Removal(network) => drop(self.removals.insert(network)),
        }
    }

    fn remove(&mut self, key: &DockerKey) {
        match key {
            DockerKey::Network(id) => drop(self.networks.remove(id)),
            DockerKey::Pool(id) => drop(self.pools.remove(id)),
            DockerKey::Lease(pool, address) => drop(self.leases.remove(&(pool.clone(), *address))),
            DockerKey::Removal(network) => drop(self.removals.remove(network)),
        }
    }

    /// Returns the overlay network that a pool is for, once known.
    pub(crate) fn network_of(&self, pool: &DockerPool) -> Option<NetworkId> {
        let stands_for = || self.networks.get(pool.docker_network.as_ref()?)?.network;

        pool.network.or_else(stands_for)
    }

    /// Lists the container addresses of a network that Docker holds.
    pub(crate) fn leased(&self, network: NetworkId) -> BTreeSet<IpAddr> {
        let pools = self.pools.values().filter(|pool| self.network_of(pool) == Some(network));
        let leases = pools.flat_map(|pool| self.leases_of(&pool.id));

        leases.map(|lease| lease.address).collect()
    }

    /// Lists the addresses that Docker holds for containers, each with its network.
    pub(crate) fn given(&self) -> impl Iterator<Item = (NetworkId, &DockerLease)> {
        let network = |lease: &DockerLease| self.network_of(self.pools.get(&lease.pool)?);
        let leases = self.leases.values().filter(|lease| lease.is_endpoint);

        leases.filter_map(move |lease| Some((network(lease)?, lease)))
    }

    /// Lists the addresses of a pool that Docker holds.
    pub(crate) fn leases_of<'a>(&'a self, pool: &'a str) -> impl Iterator<Item = &'a DockerLease> {
        self.leases.values().filter(move |lease| lease.pool == pool)
    }

    /// Finds the Docker network that is bound to an overlay network.
    pub(crate) fn bound_to(&self, network: NetworkId) -> Option<&DockerNetwork> {
        self.networks.values().find(|known| known.network == Some(network))
    }
}

/// The plugin store of one node.
#[derive(Debug)]
pub(crate) struct PluginStore {
    store: StateStore,
    plugin_state: watch::Sender<Arc<PluginState>>,
    /// Signals that something Docker has may no longer belong to anyone.
    gc_wanted: Notify,
    /// The networks of Docker alone that its containers are on, too.
    pub(super) container_networks: ContainerNetworks,
    /// Counts the passes of garbage collection.
    gc_passes: watch::Sender<u64>,
    /// Serialises changes, so that what is on disk and what is published stay the same.
    writing: tokio::sync::Mutex<()>,
}

impl PluginStore {
    /// Takes over the stored rows.
    pub(crate) fn new(store: StateStore, rows: Vec<DockerRow>) -> Self {
        let mut plugin_state = PluginState::default();
        rows.into_iter().for_each(|row| plugin_state.put(row));

        Self {
            store,
            plugin_state: watch::Sender::new(Arc::new(plugin_state)),
            gc_wanted: Notify::new(),
            container_networks: ContainerNetworks::default(),
            gc_passes: watch::Sender::new(0),
            writing: tokio::sync::Mutex::new(()),
        }
    }

    /// Requests a pass of garbage collection.
    pub(crate) fn request_gc(&self) {
        self.gc_wanted.notify_one();
    }

    /// Subscribes to the number of passes of garbage collection.
    pub(crate) fn gc_passes(&self) -> watch::Receiver<u64> {
        self.gc_passes.subscribe()
    }

    /// Counts one more pass of garbage collection.
    pub(crate) fn count_gc_pass(&self) {
        self.gc_passes.send_modify(|times| *times += 1);
    }

    /// Returns once somebody has requested garbage collection.
    pub(crate) async fn gc_requested(&self) {
        self.gc_wanted.notified().await;
    }

    /// Returns the contents.
    pub(crate) fn state(&self) -> Arc<PluginState> {
        Arc::clone(&self.plugin_state.borrow())
    }

    /// Subscribes to changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<PluginState>> {
        self.plugin_state.subscribe()
    }

    /// Writes and removes rows: all of them or none. Once this returns, they are on disk.
    pub(crate) async fn write(
        &self,
        put: Vec<DockerRow>,
        remove: Vec<DockerKey>,
    ) -> Result<(), StoreFailure> {
        self.revise(|_| (put, remove)).await
    }

    /// Removes rows that nothing stands for any more, or leaves that to the next pass: the store
    /// reports its own failure.
    pub(crate) async fn strike(&self, keys: Vec<DockerKey>) {
        if let Err(error) = self.write(Vec::new(), keys).await {
            tracing::debug!(%error, "Failed to write the docker book");
        }
    }

    /// Binds a Docker network to an overlay network, or unbinds it. A network that was removed
    /// stays so; tells whether it exists.
    pub(crate) async fn bind(
        &self,
        docker: &str,
        network: Option<NetworkId>,
    ) -> Result<bool, StoreFailure> {
        let mut is_there = false;
        self.revise(|plugin_state| {
            let known = plugin_state.networks.get(docker);
            is_there = known.is_some();
            let known = known.filter(|known| known.network != network).cloned();
            (
                known
                    .map(|known| DockerRow::Network(DockerNetwork { network, ..known }))
                    .into_iter()
                    .collect(),
                Vec::new(),
            )
        })
        .await?;

        Ok(is_there)
    }

    /// Removes a Docker network. If it was bound to an overlay network, a person removed it, and
    /// control is told as soon as possible.
    pub(crate) async fn delete_network(&self, docker: &str) -> Result<(), StoreFailure> {
        self.revise(|plugin_state| match plugin_state.networks.get(docker) {
            Some(known) => (
                known.network.map(DockerRow::Removal).into_iter().collect(),
                vec![DockerKey::Network(docker.to_owned())],
            ),
            None => (Vec::new(), Vec::new()),
        })
        .await
    }

    /// Writes and removes what `decide` chooses from the current contents; nothing changes in
    /// between.
    async fn revise(
        &self,
        decide: impl FnOnce(&PluginState) -> (Vec<DockerRow>, Vec<DockerKey>),
    ) -> Result<(), StoreFailure> {
        let _one = self.writing.lock().await;
        let (put, remove) = decide(&self.state());
        if put.is_empty() && remove.is_empty() {
            return Ok(());
        }
        let (rows, keys) = (put.clone(), remove.clone());
        in_store(&self.store, move |store| store.put_docker(&rows, &keys)).await?;
        self.plugin_state.send_modify(|plugin_state| {
            let plugin_state = Arc::make_mut(plugin_state);
            remove.iter().for_each(|key| plugin_state.remove(key));
            put.into_iter().for_each(|row| plugin_state.put(row));
        });

        Ok(())
    }

    /// Records the kind of Docker engine on this host.
    pub(crate) fn set_engine(&self, engine: EngineKind) {
        self.plugin_state.send_if_modified(|plugin_state| {
            let changed = plugin_state.engine != engine;
            if changed {
                Arc::make_mut(plugin_state).engine = engine;
            }
            changed
        });
    }

    /// Records why Docker networks cannot be used.
    pub(crate) fn set_conflicts(&self, conflicts: BTreeMap<String, String>) {
        self.plugin_state.send_if_modified(|plugin_state| {
            let changed = plugin_state.conflicts != conflicts;
            if changed {
                Arc::make_mut(plugin_state).conflicts = conflicts;
            }
            changed
        });
    }
}

impl HeldAddresses for PluginStore {
    fn networks(&self) -> BTreeSet<NetworkId> {
        self.state().given().map(|(network, _)| network).collect()
    }

    fn addresses(&self, network: NetworkId) -> BTreeSet<IpAddr> {
        self.state().leased(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::testing;

    #[tokio::test]
    async fn a_network_that_is_removed_while_it_is_bound_is_gone_and_remembered() {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, _) = StateStore::open(&folder.path().join("state")).expect("a store");
        let store = PluginStore::new(store, Vec::new());
        let id = NetworkId::from_random(7);
        for bound_first in [true, false] {
            store
                .write(
                    vec![DockerRow::Network(testing::network("aa", "10.1.0.0/16", None))],
                    vec![DockerKey::Removal(id)],
                )
                .await
                .expect("written");

            let (bound, struck) = if bound_first {
                tokio::join!(store.bind("aa", Some(id)), store.delete_network("aa"))
            } else {
                let (struck, bound) =
                    tokio::join!(store.delete_network("aa"), store.bind("aa", Some(id)));
                (bound, struck)
            };

            struck.expect("written");
            assert_eq!(bound.expect("written"), bound_first);
            let plugin_state = store.state();
            assert_eq!(plugin_state.networks.len(), 0, "it does not come back");
            assert_eq!(
                plugin_state.removals.contains(&id),
                bound_first,
                "who binds it too late must see to it"
            );
        }
    }
    #[test]
    fn an_address_given_to_a_container_uses_its_network_and_a_gateway_s_does_not() {
        let id = NetworkId::from_random(7);
        let pool = |pool: &str| DockerPool {
            docker_network: Some("aa".to_owned()),
            ..testing::pool(pool, "10.1.0.0/16")
        };
        let lease = |last: u8, is_endpoint| {
            let address = IpAddr::from([10, 1, 0, last]);
            (
                ("p".to_owned(), address),
                DockerLease { pool: "p".to_owned(), address, is_endpoint, since: 0 },
            )
        };
        let mut plugin_state = PluginState {
            networks: [("aa".to_owned(), testing::network("aa", "10.1.0.0/16", Some(id)))].into(),
            pools: [("p".to_owned(), pool("p"))].into(),
            leases: [lease(1, false)].into(),
            ..PluginState::default()
        };
        let using = |plugin_state: &PluginState| {
            plugin_state
                .given()
                .map(|(network, lease)| (network, lease.address))
                .collect::<Vec<_>>()
        };

        assert_eq!(using(&plugin_state), []);
        plugin_state.leases.extend([lease(2, true)]);
        assert_eq!(using(&plugin_state), [(id, IpAddr::from([10, 1, 0, 2]))]);
    }
}
