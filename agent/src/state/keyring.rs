//! This node's private keys: one a network and lane, made here, never given away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use overlay_core::{NetworkId, PrivateKey, PublicKey, View};
use overlay_proto::Code;

use super::error::StoreFailure;
use super::in_store::in_store;
use super::store::StateStore;

/// Why the keys of a network are not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyringError {
    /// The kernel gives no random bytes.
    #[error("{0}")]
    Random(getrandom::Error),
    /// They cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreFailure),
}

impl KeyringError {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Random(_) => Code::Fault,
            Self::Store(failure) => failure.code(),
        }
    }
}

/// All keys of this node.
#[derive(Debug)]
pub(crate) struct Keyring {
    lanes: u16,
    keys: Mutex<BTreeMap<NetworkId, BTreeMap<u16, PrivateKey>>>,
}

impl Keyring {
    /// Takes over the keys that were kept.
    pub(crate) fn new(lanes: u16, keys: BTreeMap<NetworkId, BTreeMap<u16, PrivateKey>>) -> Self {
        Self { lanes, keys: Mutex::new(keys) }
    }

    /// Returns the keys of a network, one a lane, if all of them are there.
    pub(crate) fn find(&self, network: NetworkId) -> Option<Vec<PrivateKey>> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = keys.get(&network)?;

        (0..self.lanes).map(|lane| keys.get(&lane).cloned()).collect()
    }

    /// Lists the networks that there are keys of and that are no more. One that this node is not
    /// a member of at present keeps its keys.
    pub(crate) fn orphaned(&self, view: &View) -> BTreeSet<NetworkId> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);

        keys.keys().filter(|network| !view.networks.contains_key(network)).copied().collect()
    }

    /// Returns the keys of a network; those that are missing are made, and kept before anybody
    /// hears of them.
    pub(crate) async fn obtain(
        &self,
        network: NetworkId,
        store: &StateStore,
    ) -> Result<Vec<PrivateKey>, KeyringError> {
        if let Some(keys) = self.find(network) {
            return Ok(keys);
        }
        let mut keys = self.some(network);
        for lane in 0..self.lanes {
            if let std::collections::btree_map::Entry::Vacant(entry) = keys.entry(lane) {
                entry.insert(generate()?);
            }
        }
        let all: Vec<PrivateKey> = keys.values().cloned().collect();
        let kept = all.clone();
        in_store(store, move |store| store.put_keys(network, &kept)).await?;
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(network, keys);

        Ok(all.into_iter().take(self.lanes.into()).collect())
    }

    /// Forgets the keys of a network that is no more.
    pub(crate) async fn forget(
        &self,
        network: NetworkId,
        store: &StateStore,
    ) -> Result<(), StoreFailure> {
        let known =
            self.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&network).is_some();
        if known {
            in_store(store, move |store| store.remove_keys(network)).await?;
        }

        Ok(())
    }

    fn some(&self, network: NetworkId) -> BTreeMap<u16, PrivateKey> {
        self.keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&network)
            .cloned()
            .unwrap_or_default()
    }
}

/// Lists the public halves.
pub(crate) fn public_keys(keys: &[PrivateKey]) -> Vec<PublicKey> {
    keys.iter().map(overlay_dataplane::public_key).collect()
}

fn generate() -> Result<PrivateKey, KeyringError> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut_slice()).map_err(KeyringError::Random)?;

    Ok(PrivateKey::from(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, StateStore) {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, _) = StateStore::open(&dir.path().join("agent.redb")).expect("a new file");

        (dir, store)
    }

    fn secrets(keys: &[PrivateKey]) -> Vec<[u8; 32]> {
        keys.iter().map(|key| *key.expose()).collect()
    }

    #[tokio::test]
    async fn keys_stay_over_restarts_and_more_lanes_get_more() {
        let (dir, store) = store();
        let network = NetworkId::FIRST;
        let first = Keyring::new(2, BTreeMap::new()).obtain(network, &store).await.expect("made");
        drop(store);

        let (store, loaded) =
            StateStore::open(&dir.path().join("agent.redb")).expect("the same file");
        let ring = Keyring::new(3, loaded.keys);
        assert!(ring.find(network).is_none(), "one lane has no key yet");
        let later = ring.obtain(network, &store).await.expect("made");

        assert_eq!(secrets(&later)[..2], secrets(&first));
        assert_eq!(later.len(), 3);
    }

    #[tokio::test]
    async fn keys_outlive_a_membership_and_end_with_the_network() {
        let (_dir, store) = store();
        let ring = Keyring::new(1, BTreeMap::new());
        for network in [NetworkId::FIRST, NetworkId::LAST] {
            ring.obtain(network, &store).await.expect("made");
        }
        let network = overlay_core::Network {
            id: NetworkId::FIRST,
            name: "left".parse().expect("a name"),
            prefix: "10.0.0.0/16".parse().expect("a prefix"),
            prefix6: None,
            mode: overlay_core::NetworkMode::L3,
            labels: BTreeMap::new(),
            settings: overlay_core::NetworkSettings::default(),
            creator: None,
        };
        // Nobody is a member of it.
        let view =
            View::from_rows(overlay_core::Revision(1), [overlay_core::Change::Network(network)]);

        assert_eq!(ring.orphaned(&view), [NetworkId::LAST].into());
    }

    #[tokio::test]
    async fn a_forgotten_network_gets_other_keys() {
        let (_dir, store) = store();
        let ring = Keyring::new(1, BTreeMap::new());
        let first = ring.obtain(NetworkId::FIRST, &store).await.expect("made");

        ring.forget(NetworkId::FIRST, &store).await.expect("forgotten");

        let second = ring.obtain(NetworkId::FIRST, &store).await.expect("made");
        assert_ne!(secrets(&first), secrets(&second));
    }
}
