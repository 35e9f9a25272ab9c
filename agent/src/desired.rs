//! What this node's kernel and engines must contain, computed from the membership and the node's own endpoints. Pure.
//!
//! The membership says who else is there; the journal, not the membership, says which endpoints this node has (invariant 5):
//! control may not have heard of them yet. Names are built from the same merged view by [`crate::dns::Names`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use overlay_core::{Endpoint, EndpointId, Member, Network, NetworkId, NodeId, PrivateKey, RowKey, Runtime, View};
use overlay_dataplane::{NetworkTable, PeerLane, PeerTable};

use crate::kernel::{NamespaceDesired, TunDesired, VethDesired};

/// One network as this node takes part in it: everything the functions of this module start from.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    view: &'a View,
    network: &'a Network,
    own: &'a Member,
    endpoints: &'a BTreeMap<EndpointId, Endpoint>,
}

impl<'a> Part<'a> {
    /// Looks at one network; `None` unless `node` is a member. `endpoints` are those of the node, of any network.
    pub fn new(
        view: &'a View,
        node: NodeId,
        network: NetworkId,
        endpoints: &'a BTreeMap<EndpointId, Endpoint>,
    ) -> Option<Self> {
        let own = view.member(network, node)?;
        let network = view.networks.get(&network)?;

        Some(Self { view, network, own, endpoints })
    }

    /// Lists this node's endpoints on the network.
    pub fn endpoints(&self) -> impl Iterator<Item = &'a Endpoint> + use<'a> {
        let network = self.network.id;

        self.endpoints.values().filter(move |endpoint| endpoint.network == network)
    }

    /// Returns the addresses this node itself has in the network, one a family.
    pub fn node_addresses(&self) -> Vec<IpAddr> {
        self.own.node_address(self.network).map(|address| self.network.addresses(address)).unwrap_or_default()
    }

    /// Returns the gateway's addresses, one a family.
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.network.addresses(self.network.gateway())
    }

    /// Lists the addresses that the host itself has in the network, if it was attached.
    pub fn host_addresses(&self) -> BTreeSet<IpAddr> {
        let attached = self.endpoints().filter(|endpoint| endpoint.runtime == Runtime::Host);

        attached.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect()
    }

    /// Computes what the network's namespace must contain; `mtu` is that of the tunnel.
    pub fn namespace(&self, lanes: usize, mtu: u16) -> NamespaceDesired {
        let veth = |endpoint: &Endpoint| {
            (endpoint.id, VethDesired { addresses: endpoint.addresses.clone(), mtu: u32::from(mtu) })
        };

        NamespaceDesired {
            network: self.network.id,
            tun: TunDesired { mtu: u32::from(mtu), queues: lanes },
            gateways: self.gateways().into_iter().collect(),
            node: self.node_addresses().into_iter().collect(),
            endpoints: self.endpoints().map(veth).collect(),
            remote: self.others().flat_map(|member| self.prefixes_of(member)).collect(),
            unreachable: self.network.prefixes(self.network.prefix).into_iter().collect(),
        }
    }

    /// Computes what one lane's engine must know of the network; `key` is that lane's key.
    pub fn table(&self, key: PrivateKey, mtu: u16) -> NetworkTable {
        NetworkTable {
            id: self.network.id,
            private_key: key,
            peers: self.others().map(|member| self.peer(member)).collect(),
            local: self.local(),
            mtu,
        }
    }

    fn others(&self) -> impl Iterator<Item = &'a Member> + use<'a> {
        let own = self.own.node;

        self.view.members_of(self.network.id).filter(move |member| member.node != own)
    }

    fn peer(&self, member: &Member) -> PeerTable {
        let node = self.view.nodes.get(&member.node);
        let lane = |(index, &public_key): (usize, &_)| PeerLane {
            public_key,
            candidates: node.map(|node| node.underlay_addrs(index)).unwrap_or_default(),
        };

        PeerTable {
            node: member.node,
            lanes: member.lane_keys.iter().enumerate().map(lane).collect(),
            allowed_ips: self.prefixes_of(member),
        }
    }

    /// Lists what belongs to another member: its blocks, and its endpoints' addresses outside of them. The longest prefix
    /// decides, so a moved address beats the block it lies in.
    fn prefixes_of(&self, member: &Member) -> Vec<IpNet> {
        let endpoints = self.view.endpoints_of(self.network.id).filter(|endpoint| endpoint.node == member.node);

        self.blocks_and_moved(member, endpoints)
    }

    /// Lists what lives on this node.
    fn local(&self) -> Vec<IpNet> {
        self.blocks_and_moved(self.own, self.endpoints())
    }

    fn blocks_and_moved<'b>(&self, member: &Member, endpoints: impl Iterator<Item = &'b Endpoint>) -> Vec<IpNet> {
        let blocks: Vec<IpNet> = member.blocks.iter().flat_map(|block| self.network.prefixes(block.prefix)).collect();
        let moved: BTreeSet<IpNet> = endpoints
            .flat_map(|endpoint| endpoint.addresses.iter().copied())
            .filter(|address| !blocks.iter().any(|block| block.contains(address)))
            .map(IpNet::from)
            .collect();

        blocks.into_iter().chain(moved).collect()
    }
}

/// Returns the view with this node's endpoints as the journal has them: those control has not heard of are there, those it has
/// not heard are gone are not.
pub fn with_own(view: &View, node: NodeId, endpoints: &BTreeMap<EndpointId, Endpoint>) -> View {
    let mut merged = view.clone();
    merged.endpoints.retain(|_, endpoint| endpoint.node != node);
    let own = endpoints.values().map(|endpoint| ((endpoint.network, endpoint.id), endpoint.clone()));
    merged.endpoints.extend(own);

    merged
}

/// What control must still be told about this node's endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unpublished {
    /// To be put, whole.
    pub put: Vec<Endpoint>,
    /// To be removed.
    pub remove: Vec<RowKey>,
}

impl Unpublished {
    /// Compares what control last told (`view`) with what is so (`endpoints`).
    pub fn new(view: &View, node: NodeId, endpoints: &BTreeMap<EndpointId, Endpoint>) -> Self {
        let told = |endpoint: &Endpoint| view.endpoints.get(&(endpoint.network, endpoint.id)) == Some(endpoint);
        let stale = |endpoint: &&Endpoint| {
            endpoint.node == node && endpoints.get(&endpoint.id).is_none_or(|own| own.network != endpoint.network)
        };

        Self {
            put: endpoints.values().filter(|endpoint| !told(endpoint)).cloned().collect(),
            remove: view
                .endpoints
                .values()
                .filter(stale)
                .map(|endpoint| RowKey::Endpoint(endpoint.network, endpoint.id))
                .collect(),
        }
    }

    /// Counts the changes that wait.
    pub fn len(&self) -> usize {
        self.put.len() + self.remove.len()
    }

    /// Says whether control knows everything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use overlay_core::{Block, Change, NetworkMode, Node, Revision, Role};

    use super::*;

    const MTU: u16 = 1408;

    fn net() -> NetworkId {
        NetworkId::from_random(1)
    }

    fn node(n: u64) -> NodeId {
        NodeId::from_random(n)
    }

    fn prefixes(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|text| text.parse().expect("a prefix")).collect()
    }

    fn endpoint(id: u64, on: u64, address: &str) -> Endpoint {
        Endpoint {
            id: EndpointId::from_random(id),
            network: net(),
            node: node(on),
            name: format!("e{id}").parse().expect("a name"),
            aliases: BTreeSet::new(),
            addresses: vec![address.parse().expect("an address")],
            labels: BTreeMap::new(),
            runtime: Runtime::Run,
        }
    }

    fn member(n: u64, block: &str) -> Change {
        Change::Member(Member {
            network: net(),
            node: node(n),
            lane_keys: vec![[u8::try_from(n).expect("small"); 32].into(); 2],
            blocks: vec![Block { prefix: block.parse().expect("a prefix"), epoch: 1 }],
        })
    }

    fn rows() -> Vec<Change> {
        let host = |n: u64| {
            Change::Node(Node {
                id: node(n),
                name: format!("host{n}").parse().expect("a name"),
                role: Role::Node,
                labels: BTreeMap::new(),
                underlay: vec![format!("192.0.2.{n}").parse().expect("an address")],
                lane_ports: vec![51820, 51821],
            })
        };
        vec![
            Change::Network(Network {
                id: net(),
                name: "blue".parse().expect("a name"),
                prefix: "10.1.0.0/16".parse().expect("a prefix"),
                prefix6: None,
                mode: NetworkMode::L3,
                labels: BTreeMap::new(),
            }),
            host(1),
            host(2),
            host(3),
            member(1, "10.1.255.0/24"),
            member(2, "10.1.254.0/24"),
            member(3, "10.1.253.0/24"),
            Change::Endpoint(endpoint(20, 2, "10.1.254.2")),
            Change::Endpoint(endpoint(30, 3, "10.1.0.7")),
        ]
    }

    fn own() -> BTreeMap<EndpointId, Endpoint> {
        let list = [endpoint(10, 1, "10.1.255.2"), endpoint(11, 1, "10.1.0.9")];

        list.into_iter().map(|endpoint| (endpoint.id, endpoint)).collect()
    }

    fn view(rows: Vec<Change>) -> View {
        View::from_rows(Revision(1), rows)
    }

    #[test]
    fn a_network_the_node_is_not_on_has_no_part() {
        assert!(Part::new(&view(rows()), node(9), net(), &own()).is_none());
        assert!(Part::new(&view(rows()), node(1), NetworkId::from_random(9), &own()).is_none());
    }

    #[test]
    fn the_namespace_sends_blocks_and_moved_addresses_to_the_others() {
        let (view, own) = (view(rows()), own());

        let namespace = Part::new(&view, node(1), net(), &own).expect("a member").namespace(2, MTU);

        let remote: Vec<IpNet> = namespace.remote.into_iter().collect();
        assert_eq!(remote, prefixes(&["10.1.0.7/32", "10.1.253.0/24", "10.1.254.0/24"]));
        assert_eq!(namespace.unreachable.into_iter().collect::<Vec<_>>(), prefixes(&["10.1.0.0/16"]));
        assert_eq!(namespace.endpoints.len(), 2);
        assert_eq!(namespace.gateways, BTreeSet::from(["10.1.0.1".parse().expect("an address")]));
        assert_eq!(namespace.node, BTreeSet::from(["10.1.255.1".parse().expect("an address")]));
    }

    #[test]
    fn the_table_knows_the_others_and_never_this_node() {
        let (view, own) = (view(rows()), own());

        let table = Part::new(&view, node(1), net(), &own).expect("a member").table([1; 32].into(), MTU);

        assert_eq!(table.local, prefixes(&["10.1.255.0/24", "10.1.0.9/32"]));
        let nodes: Vec<_> = table.peers.iter().map(|peer| peer.node).collect();
        assert_eq!(nodes, [node(2), node(3)]);
        assert_eq!(table.peers[1].allowed_ips, prefixes(&["10.1.253.0/24", "10.1.0.7/32"]));
        assert_eq!(table.peers[0].lanes[1].candidates, ["192.0.2.2:51821".parse().expect("an address")]);
    }

    #[test]
    fn the_order_of_changes_does_not_matter() {
        let own = own();
        let reversed: Vec<_> = rows().into_iter().rev().collect();
        let (one, other) = (view(rows()), view(reversed));
        let namespace = |view| Part::new(view, node(1), net(), &own).expect("a member").namespace(2, MTU);

        assert_eq!(namespace(&one), namespace(&other));
    }

    #[test]
    fn control_is_told_what_it_does_not_know_and_nothing_else() {
        let mut rows = rows();
        rows.push(Change::Endpoint(endpoint(10, 1, "10.1.255.2")));
        rows.push(Change::Endpoint(endpoint(12, 1, "10.1.255.9")));
        let view = view(rows);

        let unpublished = Unpublished::new(&view, node(1), &own());

        assert_eq!(unpublished.put, [endpoint(11, 1, "10.1.0.9")]);
        assert_eq!(unpublished.remove, [RowKey::Endpoint(net(), EndpointId::from_random(12))]);
        let after = with_own(&view, node(1), &own());
        assert!(Unpublished::new(&after, node(1), &own()).is_empty());
    }

    #[test]
    fn own_endpoints_are_those_of_the_journal() {
        let mut rows = rows();
        rows.push(Change::Endpoint(endpoint(12, 1, "10.1.255.9")));

        let merged = with_own(&view(rows), node(1), &own());

        let mine: Vec<_> = merged.endpoints.values().filter(|e| e.node == node(1)).map(|e| e.id.as_u64()).collect();
        assert_eq!(mine, [10, 11]);
    }
}
