//! Which prefixes each node of a network holds: an index by node, made once for each network and
//! shared by the kernel's part and all lanes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use overlay_core::{Endpoint, EndpointId, Member, Network, NetworkId, NodeId, View};

use crate::state::EndpointRecord;

/// The endpoints as this node has them: control's rows of the others, and the journal's of its own,
/// which is authoritative for them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EndpointRows<'a> {
    /// The membership.
    pub(crate) view: &'a View,
    /// The endpoints of this node.
    pub(crate) journal: &'a BTreeMap<EndpointId, EndpointRecord>,
    /// This node.
    pub(crate) node: NodeId,
}

impl<'a> EndpointRows<'a> {
    /// Finds an endpoint.
    pub(crate) fn find(self, network: NetworkId, id: EndpointId) -> Option<&'a Endpoint> {
        let own = self
            .journal
            .get(&id)
            .map(|record| &record.endpoint)
            .filter(|own| own.network == network);
        let others = || {
            self.view.endpoints.get(&(network, id)).filter(|endpoint| endpoint.node != self.node)
        };

        own.or_else(others)
    }

    /// Lists the endpoints of a network.
    pub(crate) fn of(self, network: NetworkId) -> impl Iterator<Item = &'a Endpoint> {
        let others =
            self.view.endpoints_of(network).filter(move |endpoint| endpoint.node != self.node);
        let own = self.journal.values().map(|record| &record.endpoint);

        others.chain(own.filter(move |endpoint| endpoint.network == network))
    }
}

/// Which prefixes each node of a network holds.
#[derive(Debug)]
pub(crate) struct Holdings<'a> {
    network: &'a Network,
    /// The addresses of each node's endpoints.
    addresses: BTreeMap<NodeId, Vec<IpAddr>>,
}

impl<'a> Holdings<'a> {
    /// Goes over the endpoints of a network once.
    pub(crate) fn new(rows: EndpointRows<'_>, network: &'a Network) -> Self {
        let whole = [Some(IpNet::V4(network.prefix)), network.prefix6.map(IpNet::V6)];
        let of_network =
            |address: &&IpAddr| whole.iter().flatten().any(|prefix| prefix.contains(*address));
        let mut addresses: BTreeMap<NodeId, Vec<IpAddr>> = BTreeMap::new();
        for endpoint in rows.of(network.id) {
            let own = endpoint.addresses.iter().filter(of_network).copied();
            addresses.entry(endpoint.node).or_default().extend(own);
        }

        Self { network, addresses }
    }

    /// Returns the network.
    pub(crate) fn network(&self) -> &'a Network {
        self.network
    }

    /// Lists the prefixes on a member's node: its blocks, and the addresses of its endpoints
    /// outside of them.
    pub(crate) fn of(&self, member: &Member) -> BTreeSet<IpNet> {
        let blocks = member.blocks.iter().flat_map(|block| self.network.prefixes(block.prefix));
        let blocks: BTreeSet<IpNet> = blocks.collect();
        let addresses = self.addresses.get(&member.node).into_iter().flatten();
        let moved =
            addresses.filter(|address| !blocks.iter().any(|block| block.contains(*address)));
        let moved: Vec<IpNet> = moved.map(|address| IpNet::from(*address)).collect();

        blocks.into_iter().chain(moved).collect()
    }
}
