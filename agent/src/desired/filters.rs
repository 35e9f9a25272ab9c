//! The filter of each network of this node: kept as policy, endpoints and nodes change, so that an
//! endpoint costs its own addresses and a network that the policy leaves open costs nothing. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use overlay_core::message;
use overlay_core::policy::{
    ClusterPolicy, FilterLinks, FilterMode, NetworkFilter, Policy, PolicyEndpoint,
};
use overlay_core::{EndpointId, LinkAccess, Name, Network, NetworkId, NetworkLink, NodeId};

use super::EndpointRows;
use crate::kernel::nft::FilterDesired;

/// The filters of all networks of this node.
#[derive(Debug, Default)]
pub(crate) struct ClusterFilters {
    source: Source,
    networks: BTreeMap<NetworkId, Followed>,
}

/// The policy that they are made from.
#[derive(Debug, Default)]
enum Source {
    /// There is none.
    #[default]
    Nothing,
    Policy {
        policy: Policy,
        mode: FilterMode,
    },
    /// It is not understood, with the reason.
    Unreadable(Arc<str>),
}

/// What may have changed of a network since its filter was asked for last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FilterTouch<'a> {
    /// Anything.
    pub(crate) is_whole: bool,
    /// Its own row, its members and their nodes.
    pub(crate) has_new_members: bool,
    /// Some endpoints.
    pub(crate) endpoints: &'a BTreeSet<EndpointId>,
    /// Some endpoints of linked networks.
    pub(crate) linked: &'a BTreeSet<(NetworkId, EndpointId)>,
}

/// One network.
#[derive(Debug)]
struct Followed {
    name: Name,
    filter: NetworkFilter,
    links: Vec<FollowedLink>,
    /// The labels of the nodes that have endpoints there; none are kept where the filter is open.
    labels: BTreeMap<NodeId, BTreeMap<String, String>>,
}

/// A network that one is linked with. Its own row may not be seen here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FollowedLink {
    network: NetworkId,
    name: Name,
    access: LinkAccess,
}

impl ClusterFilters {
    /// Takes a new policy over, or that there is none. Every filter must be asked for then.
    pub(crate) fn set_policy(&mut self, policy: Option<&ClusterPolicy>) {
        self.networks.clear();
        self.source = match policy.map(|row| (Policy::parse(&row.text), row.mode)) {
            None => Source::Nothing,
            Some((Ok(policy), mode)) => Source::Policy { policy, mode },
            Some((Err(error), _)) => Source::Unreadable(message::line(error).into()),
        };
    }

    /// Returns what a network is to be kept to.
    pub(crate) fn update(
        &mut self,
        network: &Network,
        rows: EndpointRows<'_>,
        touch: FilterTouch<'_>,
    ) -> FilterDesired {
        let links = links(network);
        // A link for which only rules are is closed without any, too.
        let none = Policy::default();
        let (policy, mode) = match &self.source {
            Source::Nothing if kind(&links) == FilterLinks::Closed => (&none, FilterMode::Enforced),
            Source::Nothing => return FilterDesired::Open,
            Source::Unreadable(why) => return FilterDesired::Unreadable(Arc::clone(why)),
            Source::Policy { policy, mode } => (policy, *mode),
        };
        let is_same = |known: &&mut Followed| known.name == network.name && known.links == links;
        let known = self.networks.get_mut(&network.id).filter(is_same);
        let followed = match known.filter(|_| !touch.is_whole) {
            Some(known) => {
                known.update(network, rows, touch);
                known
            }
            None => {
                let new = Followed::new(policy, mode, network, rows);
                self.networks.insert(network.id, new);
                let Some(new) = self.networks.get(&network.id) else { return FilterDesired::Open };
                new
            }
        };

        followed.desired()
    }

    /// Takes note that this node is not in a network any more.
    pub(crate) fn forget(&mut self, network: NetworkId) {
        self.networks.remove(&network);
    }
}

impl Followed {
    fn new(policy: &Policy, mode: FilterMode, network: &Network, rows: EndpointRows<'_>) -> Self {
        let mut filter = NetworkFilter::new(policy, &network.name, mode);
        let links = links(network);
        filter.set_links(kind(&links));
        let name = network.name.clone();
        let mut new = Self { name, filter, links, labels: BTreeMap::new() };
        if !new.is_open() {
            new.labels = labels(network, rows);
            new.filter.set_nodes(nodes(network, rows));
            for endpoint in rows.of(network.id) {
                new.replace(endpoint.id, network, rows);
            }
            new.replace_linked(rows);
        }

        new
    }

    fn update(&mut self, network: &Network, rows: EndpointRows<'_>, touch: FilterTouch<'_>) {
        if self.is_open() {
            return;
        }
        if touch.has_new_members {
            self.filter.set_nodes(nodes(network, rows));
            let labels = labels(network, rows);
            let before = std::mem::replace(&mut self.labels, labels);
            let is_relabelled = |node| self.labels.get(node) != before.get(node);
            let of_them = rows.of(network.id).filter(|endpoint| is_relabelled(&endpoint.node));
            let ids: Vec<_> = of_them.map(|endpoint| endpoint.id).collect();
            for id in ids {
                self.replace(id, network, rows);
            }
            self.replace_linked(rows);
        }
        for &id in touch.endpoints {
            self.replace(id, network, rows);
        }
        for &(of, id) in touch.linked {
            if let Some(link) = self.links.iter().find(|link| link.network == of) {
                link.replace(&mut self.filter, id, rows);
            }
        }
    }

    /// Takes all endpoints of linked networks over.
    fn replace_linked(&mut self, rows: EndpointRows<'_>) {
        for link in &self.links {
            for endpoint in rows.of(link.network) {
                link.replace(&mut self.filter, endpoint.id, rows);
            }
        }
    }

    fn replace(&mut self, id: EndpointId, network: &Network, rows: EndpointRows<'_>) {
        let endpoint = rows.find(network.id, id);
        if let Some(node) = endpoint.and_then(|endpoint| rows.view.nodes.get(&endpoint.node)) {
            self.labels.entry(node.id).or_insert_with(|| node.labels.clone());
        }
        let endpoint = endpoint.map(|endpoint| PolicyEndpoint::of(endpoint, rows.view));
        self.filter.replace((network.id, id), None, endpoint.as_ref());
    }

    fn is_open(&self) -> bool {
        self.filter.filter().is_open()
    }

    fn desired(&self) -> FilterDesired {
        if self.is_open() {
            FilterDesired::Open
        } else {
            FilterDesired::Filter(Arc::clone(self.filter.filter()))
        }
    }
}

impl FollowedLink {
    /// Takes an endpoint there over into the filter of this side.
    fn replace(&self, filter: &mut NetworkFilter, id: EndpointId, rows: EndpointRows<'_>) {
        let endpoint = rows.find(self.network, id).map(|endpoint| PolicyEndpoint {
            network: Some(self.name.clone()),
            ..PolicyEndpoint::of(endpoint, rows.view)
        });
        filter.replace((self.network, id), Some(self.access), endpoint.as_ref());
    }
}

/// Lists the networks that a network is linked with.
fn links(network: &Network) -> Vec<FollowedLink> {
    let followed = |link: &NetworkLink| {
        let (network, name, access) = (link.network, link.name.clone(), link.access);
        FollowedLink { network, name, access }
    };

    network.settings.links.iter().map(followed).collect()
}

fn kind(links: &[FollowedLink]) -> FilterLinks {
    let one = |link: &FollowedLink| match link.access {
        LinkAccess::Defaults => FilterLinks::Open,
        LinkAccess::PolicyOnly => FilterLinks::Closed,
    };

    links.iter().map(one).max().unwrap_or_default()
}

/// Lists the labels of the nodes that have endpoints in a network.
fn labels(network: &Network, rows: EndpointRows<'_>) -> BTreeMap<NodeId, BTreeMap<String, String>> {
    let nodes: BTreeSet<_> = rows.of(network.id).map(|endpoint| endpoint.node).collect();
    let nodes = nodes.iter().filter_map(|node| rows.view.nodes.get(node));

    nodes.map(|node| (node.id, node.labels.clone())).collect()
}

/// Lists the members' own addresses.
fn nodes(network: &Network, rows: EndpointRows<'_>) -> BTreeSet<IpAddr> {
    let members = rows.view.members_of(network.id);
    let addresses = members.filter_map(|member| member.node_address(network));

    addresses.flat_map(|address| network.addresses(address)).collect()
}
