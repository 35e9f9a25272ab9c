//! What the lanes tell, and who hears of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use overlay_core::NodeId;
use overlay_dataplane::Event;
use tokio::sync::{broadcast, mpsc, watch};

use crate::path::{LaneEvent, Lanes};

/// What the lanes tell.
#[derive(Debug)]
pub(crate) struct LaneEvents {
    events: mpsc::Receiver<LaneEvent>,
    lanes: Weak<Lanes>,
    heard_at: watch::Sender<BTreeMap<NodeId, IpAddr>>,
    notices: broadcast::Sender<Arc<[u8]>>,
}

impl LaneEvents {
    /// Hears of `events`, and tells where peers were heard.
    pub(super) fn new(
        events: mpsc::Receiver<LaneEvent>,
        lanes: &Arc<Lanes>,
        heard_at: watch::Sender<BTreeMap<NodeId, IpAddr>>,
        notices: broadcast::Sender<Arc<[u8]>>,
    ) -> Self {
        Self { events, lanes: Arc::downgrade(lanes), heard_at, notices }
    }

    /// Passes on what the lanes tell, for as long as there are any.
    pub(crate) async fn tell(self) {
        let Self { mut events, lanes, heard_at, notices } = self;
        let mut silent = BTreeSet::new();
        while let Some(event) = events.recv().await {
            if let LaneEvent::Peer(
                _,
                Event::Established { node, underlay: at, .. } | Event::Roamed { node, to: at, .. },
            ) = &event
            {
                let address = at.ip().to_canonical();
                heard_at.send_if_modified(|known| known.insert(*node, address) != Some(address));
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
                        // Only a joined node listens.
                        Event::Notice { message, .. } => drop(notices.send(message.into())),
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
