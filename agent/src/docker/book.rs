//! The book: what Docker was promised, on disk first, then for everybody who watches.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use overlay_core::NetworkId;
use overlay_proto::Refusal;
use tokio::sync::{Notify, watch};

use super::engine::EngineKind;
use crate::membership::join::in_store;
use crate::state::{DockerKey, DockerLease, DockerNetwork, DockerPool, DockerRow, Store};

/// All that stands in the book.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// Networks, by Docker's id.
    pub(crate) networks: BTreeMap<String, DockerNetwork>,
    /// Pools, by name.
    pub(crate) pools: BTreeMap<String, DockerPool>,
    /// Addresses, by pool.
    pub(crate) leases: BTreeMap<(String, IpAddr), DockerLease>,
    /// Networks that a person removed with Docker and control must still be told of.
    pub(crate) removals: BTreeSet<NetworkId>,
    /// Why a network of Docker's cannot be used, by Docker's id. Not kept: found out anew each time.
    pub(crate) conflicts: BTreeMap<String, String>,
    /// What kind of engine this host has. Not kept: asked for anew each time.
    pub(crate) engine: EngineKind,
}

impl Ledger {
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

    /// Lists the containers' addresses that Docker holds of a network.
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

    /// Finds the network of Docker's that stands for an overlay network.
    pub(crate) fn standing_for(&self, network: NetworkId) -> Option<&DockerNetwork> {
        self.networks.values().find(|known| known.network == Some(network))
    }
}

/// The book of one node.
#[derive(Debug)]
pub(crate) struct Book {
    store: Store,
    ledger: watch::Sender<Arc<Ledger>>,
    /// Called when something that Docker has may belong to nobody any more.
    doubts: Notify,
    /// How often that was found out.
    examined: watch::Sender<u64>,
    /// One change after the other: what is on disk and what is shown stay the same.
    writing: tokio::sync::Mutex<()>,
}

impl Book {
    /// Takes over what was kept.
    pub(crate) fn new(store: Store, rows: Vec<DockerRow>) -> Self {
        let mut ledger = Ledger::default();
        rows.into_iter().for_each(|row| ledger.put(row));

        Self {
            store,
            ledger: watch::Sender::new(Arc::new(ledger)),
            doubts: Notify::new(),
            examined: watch::Sender::new(0),
            writing: tokio::sync::Mutex::new(()),
        }
    }

    /// Has it found out whether what Docker has still belongs to somebody.
    pub(crate) fn doubt(&self) {
        self.doubts.notify_one();
    }

    /// Counts how often it was found out.
    pub(crate) fn examined(&self) -> watch::Receiver<u64> {
        self.examined.subscribe()
    }

    /// Notes that it was found out once more.
    pub(crate) fn note_examined(&self) {
        self.examined.send_modify(|times| *times += 1);
    }

    /// Returns once somebody doubts.
    pub(crate) async fn doubted(&self) {
        self.doubts.notified().await;
    }

    /// Returns what stands in it.
    pub(crate) fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger.borrow())
    }

    /// Hears of every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Ledger>> {
        self.ledger.subscribe()
    }

    /// Writes rows and strikes others out, all or none. When this returns it is on disk.
    pub(crate) async fn write(&self, put: Vec<DockerRow>, remove: Vec<DockerKey>) -> Result<(), Refusal> {
        self.revise(|_| (put, remove)).await
    }

    /// Writes that a network of Docker's stands for an overlay network, or for none any more. One that is gone stays so; tells
    /// whether it is there.
    pub(crate) async fn bind(&self, docker: &str, network: Option<NetworkId>) -> Result<bool, Refusal> {
        let mut is_there = false;
        self.revise(|ledger| {
            let known = ledger.networks.get(docker);
            is_there = known.is_some();
            let known = known.filter(|known| known.network != network).cloned();
            (
                known.map(|known| DockerRow::Network(DockerNetwork { network, ..known })).into_iter().collect(),
                Vec::new(),
            )
        })
        .await?;

        Ok(is_there)
    }

    /// Strikes a network of Docker's out. One that stands for an overlay network was removed by a person: control is told when
    /// it can be.
    pub(crate) async fn strike_network(&self, docker: &str) -> Result<(), Refusal> {
        self.revise(|ledger| match ledger.networks.get(docker) {
            Some(known) => (
                known.network.map(DockerRow::Removal).into_iter().collect(),
                vec![DockerKey::Network(docker.to_owned())],
            ),
            None => (Vec::new(), Vec::new()),
        })
        .await
    }

    /// Writes and strikes out what `decide` makes of what stands in the book; nothing changes in between.
    async fn revise(&self, decide: impl FnOnce(&Ledger) -> (Vec<DockerRow>, Vec<DockerKey>)) -> Result<(), Refusal> {
        let _one = self.writing.lock().await;
        let (put, remove) = decide(&self.ledger());
        if put.is_empty() && remove.is_empty() {
            return Ok(());
        }
        let (rows, keys) = (put.clone(), remove.clone());
        in_store(&self.store, move |store| store.put_docker(&rows, &keys)).await?;
        self.ledger.send_modify(|ledger| {
            let ledger = Arc::make_mut(ledger);
            remove.iter().for_each(|key| ledger.remove(key));
            put.into_iter().for_each(|row| ledger.put(row));
        });

        Ok(())
    }

    /// States what kind of engine this host has.
    pub(crate) fn state_engine(&self, engine: EngineKind) {
        self.ledger.send_if_modified(|ledger| {
            let changed = ledger.engine != engine;
            if changed {
                Arc::make_mut(ledger).engine = engine;
            }
            changed
        });
    }

    /// States why networks of Docker's cannot be used.
    pub(crate) fn state_conflicts(&self, conflicts: BTreeMap<String, String>) {
        self.ledger.send_if_modified(|ledger| {
            let changed = ledger.conflicts != conflicts;
            if changed {
                Arc::make_mut(ledger).conflicts = conflicts;
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::testing;

    #[tokio::test]
    async fn a_network_that_is_removed_while_it_is_bound_is_gone_and_remembered() {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, _) = Store::open(&folder.path().join("state")).expect("a store");
        let book = Book::new(store, Vec::new());
        let id = NetworkId::from_random(7);
        for bound_first in [true, false] {
            book.write(
                vec![DockerRow::Network(testing::network("aa", "10.1.0.0/16", None))],
                vec![DockerKey::Removal(id)],
            )
            .await
            .expect("written");

            let (bound, struck) = if bound_first {
                tokio::join!(book.bind("aa", Some(id)), book.strike_network("aa"))
            } else {
                let (struck, bound) = tokio::join!(book.strike_network("aa"), book.bind("aa", Some(id)));
                (bound, struck)
            };

            struck.expect("written");
            assert_eq!(bound.expect("written"), bound_first);
            let ledger = book.ledger();
            assert_eq!(ledger.networks.len(), 0, "it does not come back");
            assert_eq!(ledger.removals.contains(&id), bound_first, "who binds it too late must see to it");
        }
    }
    #[test]
    fn an_address_given_to_a_container_uses_its_network_and_a_gateway_s_does_not() {
        let id = NetworkId::from_random(7);
        let pool = |pool: &str| DockerPool {
            id: pool.to_owned(),
            prefix: "10.1.0.0/16".parse().expect("a prefix"),
            range: None,
            network: None,
            docker_network: Some("aa".to_owned()),
            since_ms: 0,
        };
        let lease = |last: u8, is_endpoint| {
            let address = IpAddr::from([10, 1, 0, last]);
            (("p".to_owned(), address), DockerLease { pool: "p".to_owned(), address, is_endpoint, since: 0 })
        };
        let mut ledger = Ledger {
            networks: [("aa".to_owned(), testing::network("aa", "10.1.0.0/16", Some(id)))].into(),
            pools: [("p".to_owned(), pool("p"))].into(),
            leases: [lease(1, false)].into(),
            ..Ledger::default()
        };
        let using =
            |ledger: &Ledger| ledger.given().map(|(network, lease)| (network, lease.address)).collect::<Vec<_>>();

        assert_eq!(using(&ledger), []);
        ledger.leases.extend([lease(2, true)]);
        assert_eq!(using(&ledger), [(id, IpAddr::from([10, 1, 0, 2]))]);
    }
}
