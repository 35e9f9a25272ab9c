//! The packet engine of this process with its clock, and what it tells.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use overlay_core::NodeId;
use overlay_dataplane::Event;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::path::{LaneEvent, LaneSockets, Lanes, LanesConfig, LanesError};

/// The packet engine with its clock.
#[derive(Debug, Clone)]
pub(crate) struct DataPath {
    /// The lanes.
    pub(crate) lanes: Arc<Lanes>,
    started: Instant,
    unix_time: Duration,
    /// Where each peer was heard last, with proof.
    pub(crate) tunnels: watch::Receiver<BTreeMap<NodeId, IpAddr>>,
}

impl DataPath {
    /// Starts the lanes. Handshakes begin at the present time or at `kept`, in seconds since 1970,
    /// whichever is later.
    ///
    /// # Errors
    ///
    /// When the lanes cannot start.
    pub(crate) fn start(ports: Vec<u16>, kept: u64) -> Result<(Self, LaneEvents), LanesError> {
        let unix_time = handshake_time(SystemTime::now(), kept);
        let (lanes, events) = Lanes::start(&LanesConfig { ports, unix_time })?;

        Ok(Self::of(lanes, events, unix_time))
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
    ) -> Result<(Self, LaneEvents), LanesError> {
        let unix_time = handshake_time(SystemTime::now(), kept).max(other);
        let (lanes, events) = Lanes::take_over(sockets, unix_time)?;

        Ok(Self::of(lanes, events, unix_time))
    }

    fn of(
        lanes: Lanes,
        events: mpsc::Receiver<LaneEvent>,
        unix_time: Duration,
    ) -> (Self, LaneEvents) {
        let lanes = Arc::new(lanes);
        let (known, tunnels) = watch::channel(BTreeMap::new());
        let events = LaneEvents { events, lanes: Arc::downgrade(&lanes), tunnels: known };

        (Self { lanes, started: Instant::now(), unix_time, tunnels }, events)
    }

    /// Returns the latest time that handshakes may have been made at, in seconds since 1970.
    pub(crate) fn unix_time(&self) -> u64 {
        (self.unix_time + self.started.elapsed()).as_secs()
    }
}

/// The time to begin handshakes at. It never goes back across restarts, or peers would take them
/// for replays (rule D7).
fn handshake_time(clock: SystemTime, kept: u64) -> Duration {
    clock.duration_since(UNIX_EPOCH).unwrap_or_default().max(Duration::from_secs(kept))
}

/// What the lanes tell, and who hears of it.
#[derive(Debug)]
pub(crate) struct LaneEvents {
    events: mpsc::Receiver<LaneEvent>,
    lanes: Weak<Lanes>,
    tunnels: watch::Sender<BTreeMap<NodeId, IpAddr>>,
}

impl LaneEvents {
    /// Passes on what the lanes tell, for as long as there are any.
    pub(crate) async fn tell(self) {
        let Self { mut events, lanes, tunnels } = self;
        let mut silent = BTreeSet::new();
        while let Some(event) = events.recv().await {
            if let LaneEvent::Peer(
                _,
                Event::Established { node, underlay: at, .. } | Event::Roamed { node, to: at, .. },
            ) = &event
            {
                let address = at.ip().to_canonical();
                tunnels.send_if_modified(|known| known.insert(*node, address) != Some(address));
            }
            match event {
                LaneEvent::Peer(lane, event) => {
                    tracing::debug!(%lane, ?event, "Peer");
                    match event {
                        Event::Unreachable { node, .. } => drop(silent.insert(node)),
                        // Its other lanes and networks need not wait until it is their turn to be
                        // tried.
                        Event::Established { node, .. } if silent.remove(&node) => {
                            let _ = lanes.upgrade().map(|lanes| lanes.hurry(node));
                        }
                        Event::Established { .. }
                        | Event::Roamed { .. }
                        | Event::PathMtu { .. } => {}
                    }
                }
                LaneEvent::TunLost { lane, network, error } => {
                    tracing::info!(%lane, %network, %error, "Lost the TUN")
                }
            }
        }
    }
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
