//! Which peers carry packets to linked networks, and back from them.
//!
//! The same table says where a packet goes and whose an inner source is, as for peers: prefixes of
//! a linked network belong to its gateways together. One of them is used, until it is lost; answers
//! may come by any of them.

use overlay_core::NodeId;

use crate::index::PeerIndex;
use crate::routes::PrefixTable;
use crate::tables::{LinkTable, PeerTable};

/// The gateways of each linked network.
#[derive(Debug, Default)]
pub(super) struct Gateways {
    table: PrefixTable<usize>,
    /// Of each link the peers, the preferred one first.
    links: Vec<Vec<PeerIndex>>,
}

impl Gateways {
    /// Makes the table of these links; `peers` are those of the network, in their order.
    pub(super) fn new<'p>(
        links: &[LinkTable],
        peers: impl Iterator<Item = &'p PeerTable> + Clone,
    ) -> Self {
        let mut gateways = Self::default();
        let index = |node: &NodeId| peers.clone().position(|peer| peer.node == *node);
        for (at, link) in links.iter().enumerate() {
            for prefix in &link.prefixes {
                gateways.table.insert(*prefix, at);
            }
            gateways.links.push(link.gateways.iter().filter_map(index).map(PeerIndex).collect());
        }

        gateways
    }

    /// Lists the peers that carry packets to and from an address, the preferred one first.
    pub(super) fn of(&self, address: std::net::IpAddr) -> &[PeerIndex] {
        let link = self.table.lookup(address).and_then(|at| self.links.get(at));

        link.map_or(&[], Vec::as_slice)
    }

    /// Returns whether a peer is a gateway.
    pub(super) fn contains(&self, peer: PeerIndex) -> bool {
        self.links.iter().any(|peers| peers.contains(&peer))
    }
}
