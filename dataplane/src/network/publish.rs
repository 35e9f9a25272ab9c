//! Applies a new table: links whose key stays with its node go on, all others end at once. Where
//! all keys stay where they are, only peers that changed are looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use overlay_core::{PrivateKey, PublicKey};

use crate::context::LaneContext;
use crate::drop::DropReason;
use crate::index::{LinkHandle, LinkIndex, PeerIndex};
use crate::link::Link;
use crate::routes::{self, PeerRoutes};
use crate::tables::{LaneId, NetworkTable, PeerLane, PeerTable};

use super::gateways::Gateways;
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
        self.table.private_key.expose() == key.expose()
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
        if has_same_links(&self.table, table) {
            self.publish_changed(table, cx, now);
        } else {
            self.publish_all(table, lane_index, cx, now);
        }
    }

    /// Applies a table that has the links of the one in use.
    fn publish_changed(&mut self, table: &Arc<NetworkTable>, cx: &mut LaneContext, now: Instant) {
        let before = std::mem::replace(&mut self.table, Arc::clone(table));
        if before.local != table.local {
            self.local = routes::set(&table.local);
        }
        let mut moved = Vec::new();
        let peers = before.peers.iter().zip(table.peers.iter()).enumerate();
        for (index, (before, peer)) in
            peers.filter(|(_, (before, peer))| !Arc::ptr_eq(before, peer))
        {
            self.update_peer(PeerIndex(index), before, peer, &mut moved);
        }
        if before.links != table.links {
            self.publish_links();
        }
        for index in moved {
            self.restart_handshake(index, cx, now);
        }
    }

    /// Makes the table of gateways anew, and has those that are some watched closely.
    fn publish_links(&mut self) {
        let peers = self.table.peers.iter().map(Arc::as_ref);
        self.gateways = Gateways::new(&self.table.links, peers);
        for link in &mut self.links {
            link.set_gateway(self.gateways.contains(link.peer));
        }
    }

    /// Applies any table.
    fn publish_all(
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
        self.routes = PeerRoutes::default();
        self.local = routes::set(&table.local);
        self.peers.clear();
        self.keys.clear();

        let mut moved = Vec::new();
        for peer in table.peers.iter() {
            self.add_peer(peer, lane_index, &mut old, &mut moved, now);
        }
        self.publish_links();
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
            if publish_candidates(&mut link, row) {
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

    /// Applies the new table of a peer that has the keys of the one before.
    fn update_peer(
        &mut self,
        index: PeerIndex,
        before: &PeerTable,
        peer: &PeerTable,
        moved: &mut Vec<LinkIndex>,
    ) {
        let (held, holds) = (prefixes(before), prefixes(peer));
        for prefix in held.difference(&holds) {
            self.routes.remove(*prefix, index);
        }
        for prefix in holds.difference(&held) {
            self.routes.insert(*prefix, index);
        }
        for (lane, row) in (0_u16..).zip(&peer.lanes) {
            let Some(&link_index) = self.keys.get(&row.public_key) else { continue };
            let link = &mut self.links[link_index.0];
            // A key that is listed twice is the first one's.
            let is_its = (link.peer, link.lane) == (index, LaneId(lane));
            if is_its && publish_candidates(link, row) {
                moved.push(link_index);
            }
        }
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

/// Returns whether two tables result in the same links, in the same order.
fn has_same_links(before: &NetworkTable, table: &NetworkTable) -> bool {
    let mut peers = before.peers.iter().zip(table.peers.iter());

    before.mtu == table.mtu
        && before.peers.len() == table.peers.len()
        && peers.all(|(before, peer)| Arc::ptr_eq(before, peer) || has_same_keys(before, peer))
}

fn has_same_keys(before: &PeerTable, peer: &PeerTable) -> bool {
    let key = |lane: &PeerLane| lane.public_key;

    before.node == peer.node && before.lanes.iter().map(key).eq(peer.lanes.iter().map(key))
}

fn prefixes(table: &PeerTable) -> BTreeSet<IpNet> {
    table.allowed_ips.iter().map(IpNet::trunc).collect()
}

/// Replaces the addresses of a link; returns whether it must be reached at another one.
fn publish_candidates(link: &mut Link, row: &PeerLane) -> bool {
    link.path.publish(row.candidates.iter().map(|candidate| candidate.address))
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
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use ipnet::Ipv4Net;
    use overlay_core::Candidate;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;
    use crate::sim::{MTU, first_peer, key, network, node, start, table};

    const LANE_INDEX: LaneIndex = LaneIndex { lane: LaneId(1), lanes: 2 };

    /// Tables of few nodes, keys, addresses and prefixes, so that they get in each other's way.
    fn tables() -> impl Strategy<Value = NetworkTable> {
        let lane = (0..12_u8, 1..3_u16).prop_map(|(key, port)| PeerLane {
            public_key: [key; 32].into(),
            candidates: vec![Candidate::host(([192, 0, 2, 1], port).into(), 0)],
        });
        let prefixes = || {
            let prefix = (0..8_u8, 29..=32_u8).prop_map(|(last, len)| {
                IpNet::V4(Ipv4Net::new([10, 0, 0, last].into(), len).expect("a prefix"))
            });
            vec(prefix, 0..4)
        };
        let peer = (0..4_usize, vec(lane, 0..3), prefixes());
        let peer = peer.prop_map(|(host, lanes, allowed_ips)| {
            Arc::new(PeerTable { node: node(host), lanes, allowed_ips })
        });
        let mtu = prop_oneof![4 => Just(MTU), 1 => Just(MTU - 16)];

        (vec(peer, 0..4), prefixes(), mtu).prop_map(|(peers, local, mtu)| NetworkTable {
            id: network(1),
            private_key: key(1, 0),
            peers: Arc::new(peers),
            local,
            links: Arc::default(),
            mtu,
        })
    }

    /// A table, and later ones in which every peer may have other prefixes and addresses.
    fn histories() -> impl Strategy<Value = Vec<NetworkTable>> {
        let edits = vec((0..4_usize, tables()), 0..6);

        vec((tables(), edits), 1..3).prop_map(|parts| {
            let mut history = Vec::new();
            for (table, edits) in parts {
                history.push(table);
                for (at, other) in edits {
                    history.push(edited(history.last().expect("the one before"), at, &other));
                }
            }
            history
        })
    }

    /// Takes over what another table says about prefixes and addresses of one peer, whose keys
    /// stay.
    fn edited(table: &NetworkTable, at: usize, other: &NetworkTable) -> NetworkTable {
        let mut table = table.clone();
        if let Some(peer) = Arc::make_mut(&mut table.peers).get_mut(at)
            && let Some(other) = other.peers.first()
        {
            let peer = Arc::make_mut(peer);
            peer.allowed_ips.clone_from(&other.allowed_ips);
            for (lane, other) in peer.lanes.iter_mut().zip(&other.lanes) {
                lane.candidates.clone_from(&other.candidates);
            }
        }
        if at == 0 {
            table.local.clone_from(&other.local);
        }
        table
    }

    fn unpublished() -> LaneNetwork {
        let table = NetworkTable {
            id: network(1),
            private_key: key(1, 0),
            peers: Arc::default(),
            local: Vec::new(),
            links: Arc::default(),
            mtu: MTU,
        };

        LaneNetwork::new(&table, Zeroizing::new([1; 32]), start(), Duration::ZERO)
    }

    /// Everything that a table decides.
    fn decided(network: &LaneNetwork) -> String {
        let addresses = (0..16).map(|last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last)));
        let owners: Vec<_> = addresses
            .map(|address| (network.routes.lookup(address), network.local.lookup(address)))
            .collect();
        let links: Vec<_> = network
            .links
            .iter()
            .map(|l| (l.node, l.lane, l.public_key, l.peer, l.is_used, &l.path, l.mtu.mtu()))
            .collect();

        format!("{owners:?} {links:?} {:?} {:?}", network.peers, network.keys)
    }

    proptest! {
        /// Invariant 4.
        #[test]
        fn tables_one_after_the_other_decide_what_the_last_one_decides(history in histories()) {
            let (mut cx, mut network) = (LaneContext::default(), unpublished());
            for table in history {
                let table = Arc::new(table);
                network.publish(&table, LANE_INDEX, &mut cx, start());
                let (mut cx, mut anew) = (LaneContext::default(), unpublished());
                anew.publish(&table, LANE_INDEX, &mut cx, start());

                prop_assert_eq!(decided(&network), decided(&anew));
            }
        }
    }

    #[test]
    fn a_peer_s_prefix_costs_no_other_peer() {
        let (mut cx, mut network) = (LaneContext::default(), unpublished());
        let table = Arc::new(table(1, 0, &[0, 1, 2]));
        network.publish(&table, LANE_INDEX, &mut cx, start());

        let mut moved = NetworkTable::clone(&table);
        first_peer(&mut moved).allowed_ips.push("10.42.9.9/32".parse().expect("a prefix"));
        assert!(has_same_links(&table, &moved), "no link is made or moved");
        network.publish(&Arc::new(moved), LANE_INDEX, &mut cx, start());

        assert_eq!(network.routes.lookup([10, 42, 9, 9].into()), Some(PeerIndex(0)));
    }

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
