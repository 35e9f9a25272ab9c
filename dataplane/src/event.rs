//! Events that the agent or an operator may want to know about.

use std::collections::VecDeque;
use std::net::SocketAddr;

use overlay_core::{NetworkId, NodeId};

use crate::tables::LaneId;

/// Something changed between this lane and a lane of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A handshake was completed and the peer proved that it holds its key. Emitted only for the
    /// first session after a time without one.
    Established {
        /// The network.
        network: NetworkId,
        /// The peer.
        node: NodeId,
        /// The peer's lane.
        lane: LaneId,
        /// The underlay address at which the peer is reached.
        underlay: SocketAddr,
    },
    /// An authentic message of the peer came from another underlay address than before.
    Roamed {
        /// The network.
        network: NetworkId,
        /// The peer.
        node: NodeId,
        /// The peer's lane.
        lane: LaneId,
        /// Its underlay address before.
        from: SocketAddr,
        /// Its underlay address now.
        to: SocketAddr,
    },
    /// The largest packet that the path to the peer carries was found to have changed.
    PathMtu {
        /// The network.
        network: NetworkId,
        /// The peer.
        node: NodeId,
        /// The peer's lane.
        lane: LaneId,
        /// The largest inner packet, in bytes.
        mtu: u16,
    },
    /// The peer sent a notice that is not among those of this node.
    Notice {
        /// The network.
        network: NetworkId,
        /// The peer.
        node: NodeId,
        /// The peer's lane.
        lane: LaneId,
        /// The notice, at most [`crate::MAX_NOTICE`] bytes: whatever the peer wrote.
        message: Box<[u8]>,
    },
    /// The peer answered no handshake; it is tried again when there is something to send.
    Unreachable {
        /// The network.
        network: NetworkId,
        /// The peer.
        node: NodeId,
        /// The peer's lane.
        lane: LaneId,
    },
}

/// How many events are kept for a driver that does not take them; the oldest are discarded. About
/// 100 KiB.
const MAX_EVENTS: usize = 1024;

/// The events that were not taken yet.
#[derive(Debug, Default)]
pub(crate) struct EventQueue(VecDeque<Event>);

impl EventQueue {
    pub(crate) fn push(&mut self, event: Event) {
        if self.0.len() == MAX_EVENTS {
            self.0.pop_front();
        }
        self.0.push_back(event);
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        self.0.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_events_are_forgotten() {
        let mut events = EventQueue::default();
        let unreachable = |node| Event::Unreachable {
            network: NetworkId::FIRST,
            node: NodeId::from_random(node),
            lane: LaneId(0),
        };

        for node in 1..=u64::try_from(MAX_EVENTS).expect("small") + 1 {
            events.push(unreachable(node));
        }

        assert_eq!(events.pop(), Some(unreachable(2)));
        assert_eq!(events.0.len(), MAX_EVENTS - 1);
    }
}
