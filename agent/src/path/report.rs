//! What a lane tells about itself.

use std::time::Duration;

use overlay_core::NetworkId;
use overlay_dataplane::{Event, LaneId, PeerStatus};

use super::counters::LaneCounters;

/// How one lane is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneReport {
    /// The lane.
    pub lane: LaneId,
    /// Its UDP port.
    pub port: u16,
    /// What became of the packets in the engine.
    pub engine: overlay_dataplane::Counters,
    /// What was counted between the engine and the kernel.
    pub io: LaneCounters,
    /// Whether its sockets take batches.
    pub segments: bool,
    /// How long ago the host's firewall last refused what it sent.
    pub refused: Option<Duration>,
    /// How each peer lane it talks to is doing.
    pub peers: Vec<PeerStatus>,
}

/// Something happened in a lane that the agent should know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneEvent {
    /// Between the lane and a peer.
    Peer(LaneId, Event),
    /// A network's TUN device is gone or broken: a reconcile of its namespace makes new queues, and
    /// the lane serves the network again when it is added with them.
    TunLost {
        /// The lane.
        lane: LaneId,
        /// The network.
        network: NetworkId,
        /// What the kernel said.
        error: String,
    },
}
