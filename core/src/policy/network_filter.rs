//! A filter that follows the endpoints of its network: each costs its own addresses, and not those
//! of all others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Policy;
use super::decide::PolicyEndpoint;
use super::filter::{Filter, FilterLinks, FilterMode, rules};
use super::selector::RuleSide;
use crate::id::{EndpointId, NetworkId};
use crate::name::Name;
use crate::network::LinkAccess;

/// The filter of one network, and what it is made from.
#[derive(Debug, Clone)]
pub struct NetworkFilter {
    /// What each set of the filter has to have.
    sides: Vec<RuleSide>,
    endpoints: BTreeMap<EndpointKey, Placed>,
    /// Who has an address; while an endpoint moves, two have the same.
    by_address: BTreeMap<IpAddr, BTreeSet<EndpointKey>>,
    filter: Arc<Filter>,
}

/// An endpoint of this network or a linked one.
type EndpointKey = (NetworkId, EndpointId);

/// Where the addresses of an endpoint belong.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Placed {
    addresses: BTreeSet<IpAddr>,
    /// The link that it is reached by; none where it is of this network.
    link: Option<LinkAccess>,
    /// The places of the sets that have them.
    sets: BTreeSet<usize>,
}

impl NetworkFilter {
    /// Makes a policy ready for a network that has no endpoints and no nodes yet.
    pub fn new(policy: &Policy, network: &Name, mode: FilterMode) -> Self {
        let (_, distinct) = rules(policy, network);
        let sides = distinct.into_iter().cloned().collect();
        let nobody = std::iter::empty::<&PolicyEndpoint>();
        let filter = Filter::compile(policy, network, nobody, BTreeSet::new(), mode);

        Self {
            sides,
            endpoints: BTreeMap::new(),
            by_address: BTreeMap::new(),
            filter: Arc::new(filter),
        }
    }

    /// Returns the filter as it is now. It is the same one as before where nothing changed.
    pub fn filter(&self) -> &Arc<Filter> {
        &self.filter
    }

    /// Takes note of the nodes' own addresses.
    pub fn set_nodes(&mut self, nodes: BTreeSet<IpAddr>) {
        if self.filter.nodes != nodes {
            Arc::make_mut(&mut self.filter).nodes = nodes;
        }
    }

    /// Takes note of how the network is linked.
    pub fn set_links(&mut self, links: FilterLinks) {
        if self.filter.links != links {
            Arc::make_mut(&mut self.filter).links = links;
        }
    }

    /// Takes note of what an endpoint is now; nothing where it is gone. `link` says by which link
    /// it is reached, if it is not of this network.
    pub fn replace(
        &mut self,
        id: EndpointKey,
        link: Option<LinkAccess>,
        endpoint: Option<&PolicyEndpoint>,
    ) {
        let placed = endpoint.map(|endpoint| self.place(link, endpoint));
        if self.endpoints.get(&id) == placed.as_ref() {
            return;
        }
        let before = self.endpoints.remove(&id);
        let mut touched = BTreeSet::new();
        for address in before.iter().flat_map(|placed| &placed.addresses) {
            touched.insert(*address);
            if let Some(holders) = self.by_address.get_mut(address) {
                holders.remove(&id);
                if holders.is_empty() {
                    self.by_address.remove(address);
                }
            }
        }
        for address in placed.iter().flat_map(|placed| &placed.addresses) {
            touched.insert(*address);
            self.by_address.entry(*address).or_default().insert(id);
        }
        self.endpoints.extend(placed.map(|placed| (id, placed)));
        for address in touched {
            self.file(address);
        }
    }

    /// Finds out which sets an endpoint belongs to.
    fn place(&self, link: Option<LinkAccess>, endpoint: &PolicyEndpoint) -> Placed {
        let sides = self.sides.iter().enumerate();
        let sets = sides.filter(|(_, side)| side.contains(endpoint)).map(|(place, _)| place);

        Placed {
            addresses: endpoint.addresses.iter().copied().collect(),
            link,
            sets: sets.collect(),
        }
    }

    /// Puts an address into the sets of all who have it, and takes it from the others.
    fn file(&mut self, address: IpAddr) {
        let holders = self.by_address.get(&address).into_iter().flatten();
        let placed: Vec<_> = holders.filter_map(|id| self.endpoints.get(id)).collect();
        let filter = Arc::make_mut(&mut self.filter);
        // An address of this network's is never another one's: prefixes of linked ones differ.
        let has_link =
            |of: &dyn Fn(LinkAccess) -> bool| placed.iter().any(|one| one.link.is_some_and(of));
        hold(&mut filter.known, address, !placed.is_empty());
        hold(&mut filter.linked, address, has_link(&|_| true));
        hold(&mut filter.closed, address, has_link(&|link| link == LinkAccess::PolicyOnly));
        for (place, set) in filter.sets.iter_mut().enumerate() {
            hold(set, address, placed.iter().any(|one| one.sets.contains(&place)));
        }
    }
}

/// Lets a set have an address, or not.
fn hold(set: &mut BTreeSet<IpAddr>, address: IpAddr, has: bool) {
    if has {
        set.insert(address);
    } else {
        set.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::testing::{EXAMPLE, endpoint, labelled, name, policy};
    use crate::policy::{PolicyAction, Traffic};

    /// Gives an endpoint of a network an address that another one may have as well.
    fn at(n: u8, endpoint: PolicyEndpoint) -> PolicyEndpoint {
        PolicyEndpoint {
            network: Some(name("shop")),
            addresses: vec![IpAddr::from([10, 0, 0, n])],
            ..endpoint
        }
    }

    #[test]
    fn what_changes_nothing_leaves_the_filter_that_it_is() {
        let policy = Policy::parse(EXAMPLE).expect("the example");
        let mut network = NetworkFilter::new(&policy, &name("shop"), FilterMode::Enforced);
        let (id, web) = (EndpointId::from_random(1), at(1, labelled("shop", "role", "web")));
        let id = (NetworkId::FIRST, id);
        network.replace(id, None, Some(&web));
        network.set_nodes([IpAddr::from([10, 0, 0, 9])].into());
        let before = Arc::clone(network.filter());

        let renamed = PolicyEndpoint { name: Some(name("other")), ..web.clone() };
        network.replace(id, None, Some(&renamed));
        network.replace((NetworkId::FIRST, EndpointId::from_random(2)), None, None);
        network.set_nodes([IpAddr::from([10, 0, 0, 9])].into());
        assert!(Arc::ptr_eq(network.filter(), &before));

        network.replace(id, None, Some(&at(1, labelled("shop", "role", "db"))));
        assert!(network.filter().has_rules_of(&before) && *network.filter() != before);
    }

    #[test]
    fn endpoints_of_linked_networks_are_known_and_closed_where_only_rules_are_for_them() {
        let text = "[[rule]]\nname = \"a\"\nfrom = { network = \"ops\" }\nto = \"any\"\n\
                    allow = [\"tcp/22\"]\n";
        let policy = Policy::parse(text).expect("a policy");
        let mut network = NetworkFilter::new(&policy, &name("shop"), FilterMode::Enforced);
        let [ops, lab] = [2, 3].map(NetworkId::from_random);
        // The same id, by chance or on purpose, is no other's.
        let id = EndpointId::from_random(1);
        let far = |n: u8, of: &str| PolicyEndpoint {
            network: Some(name(of)),
            ..at(n, labelled(of, "a", "b"))
        };
        network.replace((NetworkId::FIRST, id), None, Some(&at(1, labelled("shop", "a", "b"))));
        assert!(network.filter().is_open());
        network.set_links(FilterLinks::Closed);
        let only = Some(LinkAccess::PolicyOnly);
        network.replace((ops, id), only, Some(&far(2, "ops")));
        network.replace((lab, id), Some(LinkAccess::Defaults), Some(&far(3, "lab")));

        let decide = |filter: &Filter, from: u8, to: u8, port| {
            let [from, to] = [from, to].map(|n| IpAddr::from([10, 0, 0, n]));
            filter.decide(from, to, Traffic::Tcp(port)).0 == PolicyAction::Allow
        };
        let filter = Arc::clone(network.filter());
        assert!(!filter.is_open());
        let allowed = [(2, 1, 22), (1, 3, 80), (3, 1, 80)];
        let refused = [(2, 1, 80), (1, 2, 22), (2, 3, 22), (3, 2, 80)];
        assert!(allowed.iter().all(|&(from, to, port)| decide(&filter, from, to, port)));
        assert!(refused.iter().all(|&(from, to, port)| !decide(&filter, from, to, port)));

        network.replace((ops, id), only, None);
        assert!(network.filter().unsettles(&filter));
        assert!(!decide(network.filter(), 2, 1, 22) && decide(network.filter(), 3, 1, 80));
    }

    proptest! {
        #[test]
        fn one_endpoint_after_the_other_is_as_all_at_once(
            policy in policy(),
            changes in prop::collection::vec((0..4u64, 0..3u8, prop::option::of(endpoint())), 0..12),
        ) {
            let (shop, mode) = (name("shop"), FilterMode::Enforced);
            let nodes = BTreeSet::from([IpAddr::from([10, 0, 0, 99])]);
            let mut network = NetworkFilter::new(&policy, &shop, mode);
            network.set_nodes(nodes.clone());
            let mut all = BTreeMap::new();
            for (id, address, endpoint) in changes {
                let id = EndpointId::from_random(id);
                let endpoint = endpoint.map(|endpoint| at(address, endpoint));
                network.replace((NetworkId::FIRST, id), None, endpoint.as_ref());
                all.remove(&id);
                all.extend(endpoint.map(|endpoint| (id, endpoint)));

                let wanted = Filter::compile(&policy, &shop, all.values(), nodes.clone(), mode);
                prop_assert_eq!(&**network.filter(), &wanted);
            }
        }
    }
}
