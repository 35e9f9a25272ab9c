//! What the networks of a lane share: the receiver indices, the deadlines, and what is to be sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use overlay_core::NetworkId;

use crate::drop::Counters;
use crate::event::EventQueue;
use crate::index::LinkHandle;
use crate::noise::TunnelId;
use crate::notice::Notices;
use crate::rx_buffer::RxBuffer;
use crate::transmit_queue::TransmitQueue;

/// The parts of a lane that its networks share.
#[derive(Debug, Default)]
pub(crate) struct LaneContext {
    pub(crate) transmit_queue: TransmitQueue,
    pub(crate) rx_buffer: RxBuffer,
    pub(crate) events: EventQueue,
    pub(crate) counters: Counters,
    pub(crate) demux: Demux,
    pub(crate) deadlines: Deadlines,
    /// The links whose tunnels were used in this batch. Their events and deadlines are checked
    /// once, after the batch.
    pub(crate) dirty: Vec<LinkHandle>,
    /// The host's own addresses; empty if they are not known.
    pub(crate) own: Arc<BTreeSet<IpAddr>>,
    /// Where a peer sees this lane, if that is not an address of the host.
    pub(crate) translated: Option<SocketAddr>,
    /// Whether `translated` was set during this batch.
    pub(crate) is_news: bool,
    /// What this node tells its peers.
    pub(crate) notices: Arc<Notices>,
    /// A buffer for packets that are changed before they are sealed, as long as the largest of
    /// them.
    pub(crate) scratch: Vec<u8>,
}

impl LaneContext {
    /// Sends a message that carries no inner packet.
    pub(crate) fn send_control(&mut self, to: SocketAddr, datagram: &[u8]) {
        // The protocol repeats what gets lost, so a full queue is no worse than a lossy network.
        if self.transmit_queue.push(to, datagram) {
            self.counters.control_sent += 1;
        }
    }
}

/// Maps receiver indices to links. Each interface draws its indices independently, so a new one may
/// already be taken.
#[derive(Debug, Default)]
pub(crate) struct Demux {
    handles: BTreeMap<TunnelId, LinkHandle>,
    last: Option<(TunnelId, LinkHandle)>,
}

impl Demux {
    /// Returns whether an index is in use.
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

    /// Returns the link that an index belongs to. Consecutive datagrams often have the same sender,
    /// so the last answer is cached.
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

/// When each link must be checked next.
#[derive(Debug, Default)]
pub(crate) struct Deadlines(BTreeSet<(Instant, LinkHandle)>);

impl Deadlines {
    /// Returns the earliest deadline.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Removes and returns the first link that is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<LinkHandle> {
        self.0.first().filter(|(at, _)| *at <= now)?;

        self.0.pop_first().map(|(_, handle)| handle)
    }

    /// Changes the deadline of a link.
    pub(crate) fn replace(
        &mut self,
        handle: LinkHandle,
        old: Option<Instant>,
        new: Option<Instant>,
    ) {
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
    use crate::index::LinkIndex;
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
