//! One lock per network.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use overlay_core::NetworkId;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// One lock per network.
#[derive(Debug, Default)]
pub(crate) struct PerNetwork(std::sync::Mutex<BTreeMap<NetworkId, Arc<Mutex<()>>>>);

impl PerNetwork {
    /// Waits for the lock of a network.
    pub(crate) async fn lock(&self, network: NetworkId) -> OwnedMutexGuard<()> {
        self.of(network).lock_owned().await
    }

    /// Takes the lock of a network, if nobody has it.
    pub(crate) fn try_lock(&self, network: NetworkId) -> Option<OwnedMutexGuard<()>> {
        self.of(network).try_lock_owned().ok()
    }

    fn of(&self, network: NetworkId) -> Arc<Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever has or wants one holds a copy.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);

        Arc::clone(locks.entry(network).or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn one_network_does_not_wait_for_another_and_no_lock_stays() {
        let (locks, far) = (PerNetwork::default(), Duration::from_millis(20));
        let first = locks.lock(NetworkId::from_random(1)).await;
        let _other = locks.lock(NetworkId::from_random(2)).await;

        assert!(timeout(far, locks.lock(NetworkId::from_random(1))).await.is_err(), "it is taken");
        drop(first);
        drop(timeout(far, locks.lock(NetworkId::from_random(1))).await.expect("it is free"));
        let _third = locks.lock(NetworkId::from_random(3)).await;
        assert_eq!(locks.0.lock().expect("no panic").len(), 2);
    }
}
