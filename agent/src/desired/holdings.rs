//! Which prefixes each node of a network holds: an index by node, shared by the kernel's part and
//! all lanes, and kept: a changed endpoint costs its own entry. Pure.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use overlay_core::{Alias, Endpoint, EndpointId, Member, Network, NetworkId, NodeId, View, claims};

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

    /// Returns an endpoint of these with the names that belong to others: of its own, this node
    /// hears from control which they are. Until then it counts as the last to claim a name.
    pub(crate) fn named(self, endpoint: &'a Endpoint) -> Cow<'a, Endpoint> {
        if endpoint.node != self.node {
            return Cow::Borrowed(endpoint);
        }
        let published = self.view.endpoints.get(&(endpoint.network, endpoint.id));
        let decided = |name: &Alias| published.filter(|known| known.claims_name(name.as_str()));
        let is_taken = |name: &Alias| match decided(name) {
            Some(known) => known.taken.contains(name),
            None => self.is_held(endpoint, name),
        };
        let taken: BTreeSet<_> = endpoint.claims().into_iter().filter(is_taken).collect();
        if taken == endpoint.taken {
            return Cow::Borrowed(endpoint);
        }

        Cow::Owned(Endpoint { taken, ..endpoint.clone() })
    }

    /// Whether others have a name so that this endpoint cannot share it.
    fn is_held(self, endpoint: &Endpoint, name: &Alias) -> bool {
        let has = |other: &&Endpoint| {
            other.id != endpoint.id
                && !other.taken.contains(name)
                && other.claims_name(name.as_str())
        };
        let others = self.view.endpoints_of(endpoint.network).filter(has);
        let claimants: Vec<_> = others.chain([endpoint]).collect();

        !claims::holders(name, claimants).contains(&endpoint.id)
    }

    /// Lists the endpoints of a network.
    pub(crate) fn of(self, network: NetworkId) -> impl Iterator<Item = &'a Endpoint> {
        let others =
            self.view.endpoints_of(network).filter(move |endpoint| endpoint.node != self.node);
        let own = self.journal.values().map(|record| &record.endpoint);

        others.chain(own.filter(move |endpoint| endpoint.network == network))
    }
}

/// Which prefixes each member of a network holds: its blocks, and the addresses of its endpoints
/// outside of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Holdings {
    /// The endpoints with addresses outside of their nodes' blocks.
    moved: BTreeMap<EndpointId, Moved>,
    /// The same by node.
    by_node: BTreeMap<NodeId, BTreeSet<EndpointId>>,
    /// How often each prefix of another node is held.
    remote: BTreeMap<IpNet, usize>,
}

/// An endpoint with addresses outside of its node's blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Moved {
    node: NodeId,
    prefixes: Vec<IpNet>,
}

impl Holdings {
    /// Goes over the members and endpoints of a network.
    pub(crate) fn new(rows: EndpointRows<'_>, network: &Network) -> Self {
        let members = rows.view.members_of(network.id);
        let blocks: BTreeMap<_, _> =
            members.map(|member| (member.node, blocks(network, member))).collect();
        let mut holdings = Self::default();
        for prefix in blocks.iter().filter(|(node, _)| **node != rows.node).flat_map(|(_, b)| b) {
            holdings.count(*prefix);
        }
        for endpoint in rows.of(network.id) {
            let of_node = blocks.get(&endpoint.node);
            let moved = of_node.and_then(|blocks| Moved::new(network, endpoint, blocks));
            holdings.replace(endpoint.id, moved, rows.node);
        }

        holdings
    }

    /// Takes over the present rows of endpoints. The network and its members must be what they
    /// were. Lists the nodes that hold other prefixes now.
    pub(crate) fn update<'i>(
        &mut self,
        rows: EndpointRows<'_>,
        network: &Network,
        ids: impl IntoIterator<Item = &'i EndpointId>,
    ) -> BTreeSet<NodeId> {
        let mut nodes = BTreeSet::new();
        for &id in ids {
            let moved = rows.find(network.id, id).and_then(|endpoint| {
                let member = rows.view.member(network.id, endpoint.node)?;
                Moved::new(network, endpoint, &blocks(network, member))
            });
            let known = self.moved.get(&id);
            if known != moved.as_ref() {
                nodes.extend(known.into_iter().chain(&moved).map(|moved| moved.node));
                self.replace(id, moved, rows.node);
            }
        }

        nodes
    }

    /// Lists the prefixes that a member holds.
    pub(crate) fn of(&self, network: &Network, member: &Member) -> BTreeSet<IpNet> {
        let ids = self.by_node.get(&member.node).into_iter().flatten();
        let moved = ids.filter_map(|id| self.moved.get(id)).flat_map(|moved| &moved.prefixes);

        blocks(network, member).into_iter().chain(moved.copied()).collect()
    }

    /// Lists the prefixes that other nodes hold.
    pub(crate) fn remote(&self) -> BTreeSet<IpNet> {
        self.remote.keys().copied().collect()
    }

    fn replace(&mut self, id: EndpointId, moved: Option<Moved>, own: NodeId) {
        if let Some(known) = self.moved.remove(&id) {
            if let Some(ids) = self.by_node.get_mut(&known.node) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.by_node.remove(&known.node);
                }
            }
            if known.node != own {
                known.prefixes.iter().for_each(|prefix| self.uncount(prefix));
            }
        }
        if let Some(moved) = moved {
            self.by_node.entry(moved.node).or_default().insert(id);
            if moved.node != own {
                moved.prefixes.iter().for_each(|prefix| self.count(*prefix));
            }
            self.moved.insert(id, moved);
        }
    }

    fn count(&mut self, prefix: IpNet) {
        *self.remote.entry(prefix).or_default() += 1;
    }

    fn uncount(&mut self, prefix: &IpNet) {
        if let Some(count) = self.remote.get_mut(prefix) {
            *count -= 1;
            if *count == 0 {
                self.remote.remove(prefix);
            }
        }
    }
}

impl Moved {
    /// Looks for addresses of the network outside of these blocks.
    fn new(network: &Network, endpoint: &Endpoint, blocks: &BTreeSet<IpNet>) -> Option<Self> {
        let whole = [Some(IpNet::V4(network.prefix)), network.prefix6.map(IpNet::V6)];
        let is_in = |address: &IpAddr| whole.iter().flatten().any(|all| all.contains(address));
        let is_moved = |address: &&IpAddr| {
            is_in(address) && !blocks.iter().any(|block| block.contains(*address))
        };
        let prefixes: Vec<IpNet> =
            endpoint.addresses.iter().filter(is_moved).map(|ip| IpNet::from(*ip)).collect();

        (!prefixes.is_empty()).then_some(Self { node: endpoint.node, prefixes })
    }
}

fn blocks(network: &Network, member: &Member) -> BTreeSet<IpNet> {
    member.blocks.iter().flat_map(|block| network.prefixes(block.prefix)).collect()
}
