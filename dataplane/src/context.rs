//! What all networks of a lane share: the socket's demultiplexing, the deadlines, and what goes out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use overlay_core::NetworkId;

use crate::drop::Counters;
use crate::event::EventQueue;
use crate::link::LinkIndex;
use crate::noise::TunnelId;
use crate::rx_buffer::RxBuffer;
use crate::transmit_queue::TransmitQueue;

/// Finds a link on its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkHandle {
    pub(crate) network: NetworkId,
    pub(crate) link: LinkIndex,
}

/// The shared parts of a lane.
#[derive(Debug, Default)]
pub(crate) struct LaneContext {
    pub(crate) transmit_queue: TransmitQueue,
    pub(crate) rx_buffer: RxBuffer,
    pub(crate) events: EventQueue,
    pub(crate) counters: Counters,
    pub(crate) demux: Demux,
    pub(crate) deadlines: Deadlines,
    /// The links whose tunnels were used in this batch; their events and deadlines are looked at once, after it.
    pub(crate) dirty: Vec<LinkHandle>,
    /// The host's own addresses; none where they are not known.
    pub(crate) own: Arc<BTreeSet<IpAddr>>,
    /// Where a peer sees this lane, if that is no address of the host.
    pub(crate) translated: Option<SocketAddr>,
    /// Whether that was not known before the batch.
    pub(crate) is_news: bool,
    /// Where packets are changed before they are sealed; the size of the largest.
    pub(crate) scratch: Vec<u8>,
}

impl LaneContext {
    /// Sends a message that carries no inner packet.
    pub(crate) fn send_control(&mut self, to: SocketAddr, datagram: &[u8]) {
        // The protocol repeats what got lost, so a full outbox is no more than a lossy network.
        if self.transmit_queue.push(to, datagram) {
            self.counters.control_sent += 1;
        }
    }
}

/// Which link a receiver index belongs to. Every interface draws its indices alone, so a new one may be taken already.
#[derive(Debug, Default)]
pub(crate) struct Demux {
    handles: BTreeMap<TunnelId, LinkHandle>,
    last: Option<(TunnelId, LinkHandle)>,
}

impl Demux {
    /// Returns whether an index is taken.
    pub(crate) fn contains(&self, id: TunnelId) -> bool {
        self.handles.contains_key(&id)
    }

    pub(crate) fn insert(&mut self, id: TunnelId, handle: LinkHandle) {
        self.last = None;
        self.handles.insert(id, handle);
    }

    pub(crate) fn remove(&mut self, id: TunnelId) {
        self.last = None;
        self.handles.remove(&id);
    }

    pub(crate) fn remove_network(&mut self, network: NetworkId) {
        self.last = None;
        self.handles.retain(|_, handle| handle.network != network);
    }

    /// Returns the link of an index. Datagrams of one sender come in rows, so the last answer is kept.
    pub(crate) fn find(&mut self, id: TunnelId) -> Option<LinkHandle> {
        if let Some((last, handle)) = self.last
            && last == id
        {
            return Some(handle);
        }
        let handle = *self.handles.get(&id)?;
        self.last = Some((id, handle));

        Some(handle)
    }
}

/// When each link must be looked at.
#[derive(Debug, Default)]
pub(crate) struct Deadlines(BTreeSet<(Instant, LinkHandle)>);

impl Deadlines {
    /// Returns the first deadline.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes the first link that is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<LinkHandle> {
        self.0.first().filter(|(at, _)| *at <= now)?;

        self.0.pop_first().map(|(_, handle)| handle)
    }

    /// Changes the deadline of a link.
    pub(crate) fn replace(&mut self, handle: LinkHandle, old: Option<Instant>, new: Option<Instant>) {
        if let Some(old) = old {
            self.0.remove(&(old, handle));
        }
        if let Some(new) = new {
            self.0.insert((new, handle));
        }
    }

    pub(crate) fn remove_network(&mut self, network: NetworkId) {
        self.0.retain(|(_, handle)| handle.network != network);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sim::start;

    fn handle(network: u64, link: usize) -> LinkHandle {
        LinkHandle { network: NetworkId::from_random(network), link: LinkIndex(link) }
    }

    #[test]
    fn deadlines_come_in_order_and_only_when_due() {
        let mut deadlines = Deadlines::default();
        let at = |secs| start() + Duration::from_secs(secs);
        deadlines.replace(handle(1, 0), None, Some(at(5)));
        deadlines.replace(handle(1, 1), None, Some(at(2)));
        deadlines.replace(handle(1, 0), Some(at(5)), Some(at(1)));
        deadlines.replace(handle(2, 0), None, Some(at(1)));
        deadlines.remove_network(NetworkId::from_random(2));

        assert_eq!(deadlines.first(), Some(at(1)));
        assert_eq!(deadlines.pop_due(at(0)), None);
        assert_eq!(deadlines.pop_due(at(2)), Some(handle(1, 0)));
        assert_eq!(deadlines.pop_due(at(2)), Some(handle(1, 1)));
        assert_eq!(deadlines.pop_due(at(9)), None);
    }
}
