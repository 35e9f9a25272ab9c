//! Applies a new table: links whose key stays with its node go on, all others end at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use overlay_core::{PrivateKey, PublicKey};

use crate::context::LaneContext;
use crate::drop::DropReason;
use crate::index::{LinkHandle, LinkIndex, PeerIndex};
use crate::link::Link;
use crate::noise::public_key;
use crate::routes;
use crate::routes::PrefixTable;
use crate::tables::{LaneId, NetworkTable, PeerTable};

use super::{LaneNetwork, Peer};

/// Identifies a lane among those of this node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneIndex {
    pub(crate) lane: LaneId,
    /// How many lanes this node has, at least 1.
    pub(crate) lanes: u16,
}

impl LaneNetwork {
    /// Returns whether this very table is the one in use.
    pub(crate) fn has(&self, table: &Arc<NetworkTable>) -> bool {
        Arc::ptr_eq(&self.table, table)
    }

    /// Returns whether the network's interface has this key.
    pub(crate) fn is_keyed(&self, key: &PrivateKey) -> bool {
        self.interface.public_key() == public_key(key)
    }

    /// Returns the public key of this network's interface.
    pub(crate) fn public_key(&self) -> PublicKey {
        self.interface.public_key()
    }

    /// Applies a table with the same key.
    pub(crate) fn publish(
        &mut self,
        table: &Arc<NetworkTable>,
        lane_index: LaneIndex,
        cx: &mut LaneContext,
        now: Instant,
    ) {
        let mut old: BTreeMap<PublicKey, Box<Link>> = std::mem::take(&mut self.links)
            .into_iter()
            .map(|link| (link.public_key, link))
            .collect();
        self.table = Arc::clone(table);
        self.routes = PrefixTable::default();
        self.local = routes::set(&table.local);
        self.peers.clear();
        self.keys.clear();

        let mut moved = Vec::new();
        for peer in table.peers.iter() {
            self.add_peer(peer, lane_index, &mut old, &mut moved, now);
        }
        for link in old.values_mut() {
            forget(link, cx);
        }
        self.index(cx);
        self.limit_mtu(cx, now);
        for index in moved {
            self.restart_handshake(index, cx, now);
        }
    }

    /// Ends all links.
    pub(crate) fn remove(mut self, cx: &mut LaneContext) {
        cx.demux.remove_network(self.table.id);
        cx.deadlines.remove_network(self.table.id);
        for link in &mut self.links {
            forget(link, cx);
        }
    }

    fn add_peer(
        &mut self,
        table: &PeerTable,
        lane_index: LaneIndex,
        old: &mut BTreeMap<PublicKey, Box<Link>>,
        moved: &mut Vec<LinkIndex>,
        now: Instant,
    ) {
        let peer = PeerIndex(self.peers.len());
        let ours = self.interface.public_key();
        let mut links = Vec::with_capacity(table.lanes.len());
        for (lane, row) in (0_u16..).zip(&table.lanes) {
            // A key belongs to one lane of one node; the first that is listed with it keeps it.
            if row.public_key == ours || self.keys.contains_key(&row.public_key) {
                continue;
            }
            let index = LinkIndex(self.links.len());
            let kept = old.remove(&row.public_key);
            let mut link = match kept.filter(|link| link.node == table.node) {
                Some(link) => link,
                None => Box::new(Link::new(table.node, row.public_key, self.table.mtu, now)),
            };
            (link.lane, link.peer) = (LaneId(lane), peer);
            link.is_used = is_used(lane_index, lane, table.lanes.len());
            if link.path.publish(row.candidates.iter().map(|candidate| candidate.address)) {
                moved.push(index);
            }
            self.keys.insert(row.public_key, index);
            self.links.push(link);
            links.push(index);
        }
        for prefix in &table.allowed_ips {
            self.routes.insert(*prefix, peer);
        }
        let send_to = usize::from(lane_index.lane.0)
            .checked_rem(links.len())
            .and_then(|lane| links.get(lane).copied());
        self.peers.push(Peer { send_to });
    }

    /// Updates the receiver indices and the deadlines, because links may have moved.
    fn index(&mut self, cx: &mut LaneContext) {
        let network = self.table.id;
        cx.demux.remove_network(network);
        cx.deadlines.remove_network(network);
        for (index, link) in self.links.iter_mut().enumerate() {
            let handle = LinkHandle { network, link: LinkIndex(index) };
            link.batch = None;
            cx.deadlines.replace(handle, None, link.deadline);
            if let Some(tunnel) = &link.tunnel {
                cx.demux.insert(tunnel.id(), handle);
            }
        }
    }
}

/// Returns whether our lane sends to the peer's, or the peer's to ours.
fn is_used(lane_index: LaneIndex, lane: u16, lanes: usize) -> bool {
    let we_send = usize::from(lane_index.lane.0).checked_rem(lanes) == Some(usize::from(lane));
    let they_send = lane.checked_rem(lane_index.lanes) == Some(lane_index.lane.0);

    we_send || they_send
}

fn forget(link: &mut Link, cx: &mut LaneContext) {
    let forgotten = link.forget_waiting();
    cx.counters.waiting -= forgotten;
    cx.counters.drop_many(DropReason::PeerRemoved, forgotten);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_that_sends_somewhere_is_used_there() {
        let lane_index = |lane, lanes| LaneIndex { lane: LaneId(lane), lanes };

        // Ours: 2 lanes, theirs: 1. Their only lane sends to our lane 0, both of ours send to it.
        assert!(is_used(lane_index(0, 2), 0, 1));
        assert!(is_used(lane_index(1, 2), 0, 1));
        // Ours: 1 lane, theirs: 3. Ours sends to their lane 0, all of theirs send to ours.
        assert!((0..3).all(|lane| is_used(lane_index(0, 1), lane, 3)));
        // Equal counts: each lane is paired with the lane of the same number.
        assert!(is_used(lane_index(1, 2), 1, 2));
        assert!(!is_used(lane_index(1, 2), 0, 2));
    }
}
