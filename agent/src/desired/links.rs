//! How linked networks are reached from this node: where it is a gateway, by a veth pair between
//! two namespaces; elsewhere through the gateways among its peers. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use overlay_core::{Network, NetworkId, NetworkLink, NodeId, View};
use overlay_dataplane::LinkTable;

use super::EndpointRows;
use crate::kernel::JoinDesired;
use crate::state::EndpointRecord;

/// Lists the links for which this node is a gateway, with the other network's row.
pub(super) fn joined<'a>(
    view: &'a View,
    network: &'a Network,
    node: NodeId,
) -> impl Iterator<Item = (&'a NetworkLink, &'a Network)> {
    let links = network.settings.links.iter();

    links.filter_map(move |link| Some((link, beyond(view, link, node)?)))
}

/// Returns the row of a linked network, if this node is a gateway to it.
fn beyond<'a>(view: &'a View, link: &NetworkLink, node: NodeId) -> Option<&'a Network> {
    let is_gateway = link.has_gateway(node) && view.member(link.network, node).is_some();

    view.networks.get(&link.network).filter(|_| is_gateway)
}

/// Lists what the namespace of a network is joined with.
pub(super) fn joins(rows: EndpointRows<'_>, network: &Network) -> BTreeMap<NetworkId, JoinDesired> {
    let joined = joined(rows.view, network, rows.node);
    let join = |(link, other): (&NetworkLink, &Network)| {
        let join = JoinDesired { prefixes: link.prefixes().collect(), gateway: other.gateway() };
        (link.network, join)
    };

    joined.map(join).collect()
}

/// Lists the prefixes that are reached through peers.
pub(super) fn remote(rows: EndpointRows<'_>, network: &Network) -> Vec<IpNet> {
    let is_remote = |link: &&NetworkLink| {
        !link.gateways.is_empty() && beyond(rows.view, link, rows.node).is_none()
    };

    network.settings.links.iter().filter(is_remote).flat_map(NetworkLink::prefixes).collect()
}

/// Lists the prefixes of linked networks that an endpoint reaches by this network: not those of
/// networks that its sandbox is on itself.
pub(super) fn reached(
    rows: EndpointRows<'_>,
    network: &Network,
    record: &EndpointRecord,
) -> Vec<IpNet> {
    if network.settings.links.is_empty() {
        return Vec::new();
    }
    let here = rows.journal.values().filter(|other| other.sandbox.is_same_place(&record.sandbox));
    let here: BTreeSet<NetworkId> = here.map(|other| other.endpoint.network).collect();
    // Of two networks of a sandbox that lead to the same third one, one does.
    let is_led = |link: &NetworkLink| {
        let mut earlier = here.range(..network.id).filter_map(|id| rows.view.networks.get(id));
        earlier.any(|other| other.link_with(link.network).is_some())
    };
    let links = network.settings.links.iter();
    let links = links.filter(|link| !here.contains(&link.network) && !is_led(link));

    links.flat_map(NetworkLink::prefixes).collect()
}

/// Lists through which peers each linked network is reached.
pub(super) fn tables(network: &Network, node: NodeId) -> Vec<LinkTable> {
    let table = |link: &NetworkLink| {
        let mut gateways = link.gateways.clone();
        gateways.sort_by_key(|gateway| distance(node, *gateway));
        LinkTable { prefixes: link.prefixes().collect(), gateways }
    };

    network.settings.links.iter().map(table).collect()
}

/// Orders the gateways for a node, for each node otherwise, so that all of them are used.
fn distance(node: NodeId, gateway: NodeId) -> u64 {
    // The constants of splitmix64.
    let mixed =
        (node.as_u64().rotate_left(24) ^ gateway.as_u64()).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb);

    mixed ^ (mixed >> 29)
}
