//! A backend in memory, for tests: it remembers what it was told to carry, and carries nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, ready};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use overlay_core::{NetworkId, NodeId};
use overlay_dataplane::Notices;
use tokio::sync::watch;

use super::{
    Backend, BackendKind, BackendReport, DataPath, NetworkConfigs, ServeError, ServedInterface,
};
use crate::kernel::{InterfaceDesired, NetworkInterface, TunDesired};

/// The backend.
#[derive(Debug, Default)]
pub(crate) struct FakeBackend {
    told: Mutex<Told>,
    heard_at: watch::Sender<BTreeMap<NodeId, IpAddr>>,
}

/// What it was told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// What it is to carry.
    pub(crate) networks: NetworkConfigs,
    /// How often it was to find out how peers see this node.
    pub(crate) greetings: usize,
    /// What peers are to be told.
    pub(crate) notices: Arc<Notices>,
}

impl FakeBackend {
    /// Returns it as what carries the packets of a node that has `keys` keys a network.
    pub(crate) fn data_path(self: &Arc<Self>, keys: u16) -> DataPath {
        DataPath {
            backend: Arc::<Self>::clone(self),
            ports: (0..keys).map(|key| 51820 + key).collect(),
        }
    }

    /// Returns what it was told so far.
    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for FakeBackend {
    fn kind(&self, _: NetworkId) -> BackendKind {
        BackendKind::Userspace
    }

    fn interface(&self, _: NetworkId, mtu: u32) -> InterfaceDesired {
        InterfaceDesired::Tun(TunDesired { mtu, queues: 1 })
    }

    fn earlier_interface(&self, _: NetworkId, _: InterfaceDesired) -> Option<NetworkInterface> {
        None
    }

    fn forget_earlier(&self, _: &BTreeSet<NetworkId>) {}

    fn take_interface(&self, _: NetworkId, _: NetworkInterface) -> Box<dyn ServedInterface> {
        Box::new(Served)
    }

    fn release_interface(&self, _: NetworkId) {}

    fn know_notices(&self, notices: &Arc<Notices>) {
        self.told().notices = Arc::clone(notices);
    }

    fn publish(&self, networks: &NetworkConfigs) {
        self.told().networks = networks.clone();
    }

    fn wake_peers(&self) {}

    fn greet(&self) {
        self.told().greetings += 1;
    }

    fn know_own(&self, _: &Arc<BTreeSet<IpAddr>>) {}

    fn announce(&self) {}

    fn heard_at(&self) -> watch::Receiver<BTreeMap<NodeId, IpAddr>> {
        self.heard_at.subscribe()
    }

    fn report(&self) -> Pin<Box<dyn Future<Output = BackendReport> + Send + '_>> {
        Box::pin(ready(BackendReport::default()))
    }
}

#[derive(Debug)]
struct Served;

impl ServedInterface for Served {
    fn serve(&self, _: &BTreeSet<IpAddr>) -> Result<(), ServeError> {
        Ok(())
    }
}
