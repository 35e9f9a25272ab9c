//! Computes the desired state from the membership and the journal: namespaces, sandboxes and how
//! networks are carried. Pure.
//!
//! The longest prefix wins everywhere: an endpoint outside its node's blocks is reached by its own
//! /32, which takes precedence over the block that contains it.

mod filters;
mod holdings;
mod links;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use overlay_core::{
    Candidate, CandidateKind, Endpoint, EndpointId, Member, Network, Node, NodeId, PrivateKey, View,
};
use overlay_dataplane::{PeerLane, PeerTable};

pub(crate) use filters::{ClusterFilters, FilterTouch};
pub(crate) use holdings::{EndpointRows, Holdings};

use crate::backend::NetworkConfig;
use crate::docker::options;
use crate::endpoint::routes;
use crate::kernel::netns::NetnsId;
use crate::kernel::nft::FilterDesired;
use crate::kernel::{
    ContainerInterface, InterfaceDesired, InterfaceOwner, NamespaceDesired, SandboxDesired, Strays,
    VethDesired,
};
use crate::state::{EndpointRecord, ManagedSandbox, SandboxRecord};

/// The path of the host's own network namespace.
const HOST_NETNS: &str = "/proc/self/ns/net";

/// What one network needs on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetworkDesired {
    /// The network's namespace.
    pub(crate) namespace: NamespaceDesired,
    /// The container side of the endpoints on this node.
    pub(crate) sandboxes: BTreeMap<EndpointId, SandboxDesired>,
    /// The addresses of the host itself, if it is attached.
    pub(crate) host: BTreeSet<IpAddr>,
    /// The policy that its packets are kept to.
    pub(crate) filter: FilterDesired,
}

/// Replaces what control knows about this node's endpoints by the journal, which is authoritative
/// for them.
///
/// Where control knows them all, which is nearly always, the result is the view itself: a copy of a
/// large one would be most of what an agent takes for a moment.
pub(crate) fn local_view(
    view: &Arc<View>,
    journal: &BTreeMap<EndpointId, EndpointRecord>,
    node: NodeId,
) -> Arc<View> {
    let known = view.endpoints.values().filter(|endpoint| endpoint.node == node).count();
    let is_known = |own: &Endpoint| {
        view.endpoints.get(&(own.network, own.id)).is_some_and(|known| known.is_same(own))
    };
    if known == journal.len() && journal.values().all(|record| is_known(&record.endpoint)) {
        return Arc::clone(view);
    }
    let mut local = View::clone(view);
    local.endpoints.retain(|_, endpoint| endpoint.node != node);
    let rows = EndpointRows { view, journal, node };
    let ours = journal.values().map(|record| rows.named(&record.endpoint).into_owned());
    local.endpoints.extend(ours.map(|endpoint| ((endpoint.network, endpoint.id), endpoint)));

    Arc::new(local)
}

/// Computes what a network of this node needs here; nothing where this node is no member.
pub(crate) fn network(
    rows: EndpointRows<'_>,
    network: &Network,
    holdings: &Holdings,
    interface: InterfaceDesired,
) -> Option<NetworkDesired> {
    let member = rows.view.member(network.id, rows.node)?;
    let records = || rows.journal.values().filter(|record| record.endpoint.network == network.id);
    let veth = |record: &EndpointRecord| VethDesired {
        addresses: record.endpoint.addresses.clone(),
        mtu: options::mtu(&network.settings.options, interface.mtu()),
        gateway6: record.sandbox.is_managed().then(|| network.gateway6()).flatten(),
    };
    let (joins, remote) = (links::joins(rows, network), links::remote(rows, network));
    let joined = joins.values().flat_map(|join| &join.prefixes);
    let namespace = NamespaceDesired {
        network: network.id,
        interface,
        gateways: network.gateways().into_iter().collect(),
        node: member
            .node_address(network)
            .map(|address| network.addresses(address))
            .into_iter()
            .flatten()
            .collect(),
        endpoints: records().map(|record| (record.endpoint.id, veth(record))).collect(),
        linked: joined.chain(&remote).copied().collect(),
        strays: Strays::default(),
        forwards: true,
        joins,
        remote: holdings.remote().into_iter().chain(remote).collect(),
        unreachable: whole_prefixes(network),
    };
    let sandboxes = records().map(|record| {
        let linked = links::reached(rows, network, record);
        (record.endpoint.id, sandbox(record, network, linked, interface.mtu()))
    });
    let host = records().filter(|record| record.sandbox == SandboxRecord::Host);

    Some(NetworkDesired {
        namespace,
        sandboxes: sandboxes.collect(),
        host: host.flat_map(|record| record.endpoint.addresses.clone()).collect(),
        filter: FilterDesired::Open,
    })
}

/// Lists the network's prefixes. An engine that assigns addresses itself takes them from all of the
/// IPv6 prefix, not from the part alone that IPv4 addresses are mapped to.
fn whole_prefixes(network: &Network) -> BTreeSet<IpNet> {
    let v6 = network.prefix6.map(|prefix| IpNet::V6(prefix.trunc()));

    network.prefixes(network.prefix).into_iter().chain(v6).collect()
}

fn sandbox(
    record: &EndpointRecord,
    network: &Network,
    linked: Vec<IpNet>,
    mtu: u32,
) -> SandboxDesired {
    let (netns, identity) = match &record.sandbox {
        SandboxRecord::Host => (PathBuf::from(HOST_NETNS), None),
        SandboxRecord::Netns { path, device, inode, boot: _ } => {
            (path.clone(), Some(NetnsId { dev: *device, ino: *inode }))
        }
        SandboxRecord::Managed(_) => (PathBuf::from(HOST_NETNS), None),
    };
    let (owner, mac) = match &record.sandbox {
        SandboxRecord::Host | SandboxRecord::Netns { .. } => (InterfaceOwner::Agent, None),
        SandboxRecord::Managed(managed) => {
            let inside = inside(managed, &record.endpoint.addresses, network);
            (InterfaceOwner::Engine { joined: managed.joined, inside }, managed.mac)
        }
    };

    SandboxDesired {
        netns,
        identity,
        ifname: record.ifname.clone(),
        addresses: record.endpoint.addresses.clone(),
        gateway: Some(network.gateway()),
        prefixes: network.prefixes(network.prefix),
        linked,
        mtu: options::mtu(&network.settings.options, mtu),
        owner,
        mac,
    }
}

/// What is known about underlay addresses, besides who published them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Underlays {
    /// Addresses of this node itself: never a peer's, whatever it claims.
    own: BTreeSet<SocketAddr>,
    /// Addresses that several nodes claim, such as that of the first card of every virtual machine
    /// on one host.
    shared: BTreeSet<IpAddr>,
}

impl Underlays {
    /// Collects the claims of all nodes; `own` are the current addresses of this host.
    pub(crate) fn new(view: &View, node: NodeId, own: &BTreeSet<IpAddr>) -> Self {
        let (mut claimed, mut shared) = (BTreeSet::new(), BTreeSet::new());
        for ip in view
            .nodes
            .values()
            .flat_map(|node| node.underlay.iter().copied().collect::<BTreeSet<_>>())
        {
            if !claimed.insert(ip) {
                shared.insert(ip);
            }
        }
        let row = view.nodes.get(&node);
        let ports = row.map(|row| row.lane_ports.as_slice()).unwrap_or_default();
        let ips = own.iter().chain(row.into_iter().flat_map(|row| &row.underlay));

        Self {
            own: ips.flat_map(|ip| ports.iter().map(|port| SocketAddr::new(*ip, *port))).collect(),
            shared,
        }
    }

    /// Lists the addresses at which a lane of a peer may be reached, the likeliest first.
    fn candidates(&self, peer: &Node, lane: usize) -> Vec<Candidate> {
        let mut candidates = peer.candidates(lane);
        candidates.retain(|candidate| !self.own.contains(&candidate.address));
        for candidate in &mut candidates {
            if self.shared.contains(&candidate.address.ip()) {
                candidate.kind = CandidateKind::Shared;
            }
        }
        // The sort is stable.
        candidates.sort_by_key(|candidate| candidate.kind);

        candidates
    }
}

/// Returns how its engine set up an interface, once it was seen in its container.
fn inside(
    managed: &ManagedSandbox,
    addresses: &[IpAddr],
    network: &Network,
) -> Option<ContainerInterface> {
    Some(ContainerInterface {
        netns: managed.netns.clone()?,
        ifname: managed.inside.clone()?,
        addresses: routes::interface(network, addresses, managed.on_link),
        routes: routes::routes(network, addresses, managed.on_link),
    })
}

/// What a network's peers are computed from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerSources<'a> {
    /// The membership.
    pub(crate) view: &'a View,
    /// The network.
    pub(crate) network: &'a Network,
    /// Which prefixes its members hold.
    pub(crate) holdings: &'a Holdings,
    /// Where nodes are reached.
    pub(crate) underlays: &'a Underlays,
    /// This node.
    pub(crate) node: NodeId,
}

impl PeerSources<'_> {
    /// Computes how the network is carried with these keys and peers. None when this node is no
    /// member.
    pub(crate) fn config(
        self,
        keys: Vec<PrivateKey>,
        peers: Arc<Vec<Arc<PeerTable>>>,
        mtu: u32,
    ) -> Option<NetworkConfig> {
        let member = self.view.member(self.network.id, self.node)?;
        let own = member
            .node_address(self.network)
            .into_iter()
            .flat_map(|address| self.network.addresses(address))
            .map(IpNet::from);
        let held = self.holdings.of(self.network, member);
        let joined = links::joined(self.view, self.network, self.node);
        let joined = joined.flat_map(|(link, _)| link.prefixes());
        let local: BTreeSet<IpNet> = held.into_iter().chain(own).chain(joined).collect();

        Some(NetworkConfig {
            id: self.network.id,
            keys,
            peers,
            local: local.into_iter().collect(),
            links: Arc::new(links::tables(self.network, self.node)),
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
        })
    }

    /// Computes all peers. One that is the same as the one that is `known` is that one.
    pub(crate) fn peers(self, known: &Arc<Vec<Arc<PeerTable>>>) -> Arc<Vec<Arc<PeerTable>>> {
        let others = self.view.members_of(self.network.id).filter(|peer| peer.node != self.node);
        let peer = |peer: &Member| {
            let table = self.peer(peer);
            let known = find(known, peer.node).and_then(|at| known.get(at));
            known.filter(|known| ***known == table).map_or_else(|| Arc::new(table), Arc::clone)
        };
        let peers: Vec<_> = others.map(peer).collect();
        let is_known = known.len() == peers.len()
            && known.iter().zip(&peers).all(|(known, peer)| Arc::ptr_eq(known, peer));

        if is_known { Arc::clone(known) } else { Arc::new(peers) }
    }

    /// Computes the peers that are `known` with the prefixes that these nodes hold now. The network
    /// and its members must be what they were.
    pub(crate) fn changed_peers(
        self,
        known: &Arc<Vec<Arc<PeerTable>>>,
        nodes: &BTreeSet<NodeId>,
    ) -> Arc<Vec<Arc<PeerTable>>> {
        let mut peers = Arc::clone(known);
        for &node in nodes.iter().filter(|node| **node != self.node) {
            let (Some(at), Some(member)) =
                (find(known, node), self.view.member(self.network.id, node))
            else {
                continue;
            };
            let Some(peer) = Arc::make_mut(&mut peers).get_mut(at) else { continue };
            Arc::make_mut(peer).allowed_ips = self.allowed_ips(member);
        }

        peers
    }

    fn peer(self, peer: &Member) -> PeerTable {
        let node = self.view.nodes.get(&peer.node);
        let candidates =
            |lane| node.map(|node| self.underlays.candidates(node, lane)).unwrap_or_default();
        let lane = |(lane, &public_key)| PeerLane { public_key, candidates: candidates(lane) };

        PeerTable {
            node: peer.node,
            lanes: peer.lane_keys.iter().enumerate().map(lane).collect(),
            allowed_ips: self.allowed_ips(peer),
        }
    }

    fn allowed_ips(self, peer: &Member) -> Vec<IpNet> {
        self.holdings.of(self.network, peer).into_iter().collect()
    }
}

/// Finds a peer in a list, which is in the order of the nodes.
fn find(peers: &[Arc<PeerTable>], node: NodeId) -> Option<usize> {
    peers.binary_search_by_key(&node, |peer| peer.node).ok()
}

#[cfg(test)]
#[path = "desired_tests.rs"]
mod tests;
