//! The backend in userspace: the lanes of this process with their clock.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use overlay_core::{NetworkId, NodeId};
use overlay_dataplane::Notices;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;

pub(crate) use super::events::LaneEvents;
use super::lane_status;
use super::lane_tables::LaneTables;
use super::served_tun::{self, ServedTun};
use super::{
    Backend, BackendKind, BackendReport, DataPath, NetworkConfigs, ServeError, ServedInterface,
};
use crate::hand_over::DescriptorStore;
use crate::kernel::{InterfaceDesired, NetworkInterface, TunDesired};
use crate::path::{LaneEvent, LaneSockets, Lanes, LanesConfig, LanesError, Offload};

/// How many notices of peers wait for whoever verifies them, 128 KiB; peers send those that are
/// lost again.
const NOTICES: usize = 256;

/// The lanes as a backend. A lane that takes no commands has ended the process already, so nobody
/// hears of that here.
#[derive(Debug)]
pub(crate) struct Userspace {
    /// The lanes.
    pub(crate) lanes: Arc<Lanes>,
    started: Instant,
    unix_time: Duration,
    heard_at: watch::Receiver<BTreeMap<NodeId, IpAddr>>,
    /// What peers told, as they wrote it.
    notices: broadcast::Sender<Arc<[u8]>>,
    descriptors: DescriptorStore,
    tables: Mutex<LaneTables>,
    /// What each network's TUN takes and gives super-packets of.
    offloads: Mutex<BTreeMap<NetworkId, Offload>>,
}

impl Userspace {
    /// Starts the lanes. Handshakes begin at the present time or at `kept`, in seconds since 1970,
    /// whichever is later. TUN queues are kept in `descriptors` for the next session.
    ///
    /// # Errors
    ///
    /// When the lanes cannot start.
    pub(crate) fn start(
        ports: Vec<u16>,
        kept: u64,
        descriptors: DescriptorStore,
    ) -> Result<(Arc<Self>, LaneEvents), LanesError> {
        let unix_time = handshake_time(SystemTime::now(), kept);
        let (lanes, events) = Lanes::start(&LanesConfig { ports, unix_time })?;

        Ok(Self::of(lanes, events, unix_time, descriptors))
    }

    /// Starts lanes that wait, on the sockets of another process's. Handshakes begin at the present
    /// time, at `kept`, in seconds since 1970, or at the time of the other process, whichever is
    /// latest.
    ///
    /// # Errors
    ///
    /// When the lanes cannot start.
    pub(crate) fn take_over(
        sockets: Vec<LaneSockets>,
        kept: u64,
        other: Duration,
        descriptors: DescriptorStore,
    ) -> Result<(Arc<Self>, LaneEvents), LanesError> {
        let unix_time = handshake_time(SystemTime::now(), kept).max(other);
        let (lanes, events) = Lanes::take_over(sockets, unix_time)?;

        Ok(Self::of(lanes, events, unix_time, descriptors))
    }

    fn of(
        lanes: Lanes,
        events: mpsc::Receiver<LaneEvent>,
        unix_time: Duration,
        descriptors: DescriptorStore,
    ) -> (Arc<Self>, LaneEvents) {
        let lanes = Arc::new(lanes);
        let (heard, heard_at) = watch::channel(BTreeMap::new());
        let (notices, _) = broadcast::channel(NOTICES);
        let events = LaneEvents::new(events, &lanes, heard, notices.clone());
        let userspace = Self {
            tables: Mutex::new(LaneTables::new(lanes.count())),
            offloads: Mutex::default(),
            started: Instant::now(),
            lanes,
            unix_time,
            heard_at,
            notices,
            descriptors,
        };

        (Arc::new(userspace), events)
    }

    /// Returns it as what carries the networks of this node, each of which has a key a lane.
    pub(crate) fn data_path(self: &Arc<Self>) -> DataPath {
        DataPath { backend: Arc::<Self>::clone(self), ports: self.lanes.ports().into() }
    }

    /// Returns where what peers tell is heard.
    pub(crate) fn notices(&self) -> broadcast::Sender<Arc<[u8]>> {
        self.notices.clone()
    }

    /// Returns the latest time that handshakes may have been made at, in seconds since 1970.
    pub(crate) fn unix_time(&self) -> u64 {
        (self.unix_time + self.started.elapsed()).as_secs()
    }
}

impl Backend for Userspace {
    fn kind(&self, _: NetworkId) -> BackendKind {
        BackendKind::Userspace
    }

    fn interface(&self, _: NetworkId, mtu: u32) -> InterfaceDesired {
        InterfaceDesired::Tun(TunDesired { mtu, queues: self.lanes.count() })
    }

    fn earlier_interface(
        &self,
        network: NetworkId,
        desired: InterfaceDesired,
    ) -> Option<NetworkInterface> {
        let InterfaceDesired::Tun(tun) = desired;

        ServedTun::earlier(&self.descriptors, network, tun).map(NetworkInterface::Tun)
    }

    fn forget_earlier(&self, kept: &BTreeSet<NetworkId>) {
        let kept: BTreeSet<_> = kept.iter().map(|network| served_tun::name(*network)).collect();
        self.descriptors.forget(served_tun::KEPT, |name| kept.contains(name));
    }

    fn take_interface(
        &self,
        network: NetworkId,
        interface: NetworkInterface,
    ) -> Box<dyn ServedInterface> {
        let NetworkInterface::Tun(tun) = interface;
        let offload = tun.offload.into();
        self.offloads.lock().unwrap_or_else(PoisonError::into_inner).insert(network, offload);
        let tun = ServedTun::keep(&self.descriptors, network, tun);

        Box::new(LanesTun { network, lanes: Arc::clone(&self.lanes), tun })
    }

    fn release_interface(&self, network: NetworkId) {
        self.offloads.lock().unwrap_or_else(PoisonError::into_inner).remove(&network);
        let _ = self.lanes.remove_network(network);
    }

    fn know_notices(&self, notices: &Arc<Notices>) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.notices = Arc::clone(notices);
    }

    fn publish(&self, networks: &NetworkConfigs) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: what was computed last is what the lanes have last.
        self.lanes.publish(tables.update(networks).into_iter().map(Arc::new));
    }

    fn wake_peers(&self) {
        let _ = self.lanes.wake_peers();
    }

    fn greet(&self) {
        let _ = self.lanes.greet();
    }

    fn know_own(&self, own: &Arc<BTreeSet<IpAddr>>) {
        let _ = self.lanes.know_own(own);
    }

    fn announce(&self) {
        let _ = self.lanes.announce();
    }

    fn heard_at(&self) -> watch::Receiver<BTreeMap<NodeId, IpAddr>> {
        self.heard_at.clone()
    }

    fn report(&self) -> Pin<Box<dyn Future<Output = BackendReport> + Send + '_>> {
        Box::pin(async {
            let lanes = self.lanes.report().await;
            let offloads = self.offloads.lock().unwrap_or_else(PoisonError::into_inner);
            // All TUNs have the same kernel.
            let offload = offloads.values().next().copied().unwrap_or_default();

            lane_status::summarize(lanes, offload)
        })
    }
}

/// A network's TUN, and the lanes that read and write it.
#[derive(Debug)]
struct LanesTun {
    network: NetworkId,
    lanes: Arc<Lanes>,
    /// The lanes have copies of its queues.
    tun: ServedTun,
}

impl ServedInterface for LanesTun {
    fn serve(&self, host: &BTreeSet<IpAddr>) -> Result<(), ServeError> {
        Ok(self.lanes.add_network(self.network, self.tun.queues()?, host.clone())?)
    }
}

/// The time to begin handshakes at. It never goes back across restarts, or peers would take them
/// for replays (rule D7).
fn handshake_time(clock: SystemTime, kept: u64) -> Duration {
    clock.duration_since(UNIX_EPOCH).unwrap_or_default().max(Duration::from_secs(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_does_not_take_handshakes_along() {
        let clock = UNIX_EPOCH + Duration::from_secs(1_000);

        assert_eq!(handshake_time(clock, 500), Duration::from_secs(1_000));
        assert_eq!(handshake_time(clock, 4_600), Duration::from_secs(4_600));
    }
}
