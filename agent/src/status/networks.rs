//! How this node's networks and endpoints are doing.

use std::net::Ipv4Addr;

use ipnet::{Ipv4Net, Ipv6Net};
use overlay_core::ipam::Pool;
use overlay_core::{EndpointId, Member, Name, Network, NetworkId, View};

use crate::endpoint::lifecycle::Endpoints;
use crate::joined_node::JoinedNode;
use crate::problem_key::ProblemKey;
use crate::reconcile::EndpointState;

/// How this node's part of a network is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetworkStatus {
    /// The network's name.
    pub(crate) name: Name,
    /// Its id.
    pub(crate) id: NetworkId,
    /// Its IPv4 prefix.
    pub(crate) prefix: Ipv4Net,
    /// Its IPv6 prefix, if it has one.
    pub(crate) prefix6: Option<Ipv6Net>,
    /// The node's own address in it, if it has a block.
    pub(crate) node_address: Option<Ipv4Addr>,
    /// The blocks that the node assigns addresses from.
    pub(crate) blocks: Vec<Ipv4Net>,
    /// How many endpoints the node has in it.
    pub(crate) endpoints: usize,
    /// How many addresses of the blocks are free.
    pub(crate) addresses_free: usize,
    /// The largest inner packet, in bytes.
    pub(crate) mtu: u32,
    /// How many differences in the kernel were put right since the start.
    pub(crate) drift_healed: u32,
}

/// Returns how the networks are doing that this node is a member of.
pub(super) fn networks(joined: &JoinedNode) -> Vec<NetworkStatus> {
    let view = joined.endpoints.memberships.local_view();
    let of =
        |member: &Member| Some(network(joined, &view, member, view.networks.get(&member.network)?));

    view.memberships_of(joined.node).filter_map(of).collect()
}

fn network(joined: &JoinedNode, view: &View, member: &Member, network: &Network) -> NetworkStatus {
    let endpoints = &joined.endpoints;
    let pool = Pool::new(network, member);
    let in_use = endpoints.memberships.in_use(network, view);
    let used = in_use.into_iter().filter(|address| pool.contains(*address)).count();
    let entries = endpoints.journal.entries();
    let reports = endpoints.reports.borrow();

    NetworkStatus {
        name: network.name.clone(),
        id: network.id,
        prefix: network.prefix,
        prefix6: network.prefix6,
        node_address: member.node_address(network),
        blocks: member.blocks.iter().map(|block| block.prefix).collect(),
        endpoints: entries.values().filter(|entry| entry.endpoint.network == network.id).count(),
        addresses_free: pool.capacity().saturating_sub(used),
        mtu: joined.host.mtu(),
        drift_healed: reports.get(&network.id).map_or(0, |report| report.drift_healed),
    }
}

/// Returns why an endpoint of this node does not work; nothing while it does.
pub(crate) fn endpoint_problem(
    endpoints: &Endpoints,
    network: NetworkId,
    endpoint: EndpointId,
) -> Option<String> {
    // What a person can do about a container's is said there.
    let remedied = endpoints.problems.text(&ProblemKey::Interface(endpoint));
    let reports = endpoints.reports.borrow();
    let state = || match reports.get(&network)?.endpoints.get(&endpoint)? {
        // What holds it up is its network's problem.
        EndpointState::Ready | EndpointState::HeldUp => None,
        EndpointState::Failed(why) | EndpointState::Gone(why) => Some(why.clone()),
    };

    remedied.or_else(state)
}
