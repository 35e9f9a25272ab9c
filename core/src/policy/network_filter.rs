//! A filter that follows the endpoints of its network: each costs its own addresses, and not those
//! of all others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Policy;
use super::decide::PolicyEndpoint;
use super::filter::{Filter, FilterMode, rules};
use super::selector::RuleSide;
use crate::id::EndpointId;
use crate::name::Name;

/// The filter of one network, and what it is made from.
#[derive(Debug, Clone)]
pub struct NetworkFilter {
    /// What each set of the filter has to have.
    sides: Vec<RuleSide>,
    endpoints: BTreeMap<EndpointId, Placed>,
    /// Who has an address; while an endpoint moves, two have the same.
    by_address: BTreeMap<IpAddr, BTreeSet<EndpointId>>,
    filter: Arc<Filter>,
}

/// Where the addresses of an endpoint belong.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Placed {
    addresses: BTreeSet<IpAddr>,
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

    /// Takes note of what an endpoint is now; nothing where it is gone.
    pub fn replace(&mut self, id: EndpointId, endpoint: Option<&PolicyEndpoint>) {
        let placed = endpoint.map(|endpoint| self.place(endpoint));
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
    fn place(&self, endpoint: &PolicyEndpoint) -> Placed {
        let sides = self.sides.iter().enumerate();
        let sets = sides.filter(|(_, side)| side.contains(endpoint)).map(|(place, _)| place);

        Placed { addresses: endpoint.addresses.iter().copied().collect(), sets: sets.collect() }
    }

    /// Puts an address into the sets of all who have it, and takes it from the others.
    fn file(&mut self, address: IpAddr) {
        let holders = self.by_address.get(&address).into_iter().flatten();
        let placed: Vec<_> = holders.filter_map(|id| self.endpoints.get(id)).collect();
        let filter = Arc::make_mut(&mut self.filter);
        hold(&mut filter.known, address, !placed.is_empty());
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
        network.replace(id, Some(&web));
        network.set_nodes([IpAddr::from([10, 0, 0, 9])].into());
        let before = Arc::clone(network.filter());

        network.replace(id, Some(&PolicyEndpoint { name: Some(name("other")), ..web.clone() }));
        network.replace(EndpointId::from_random(2), None);
        network.set_nodes([IpAddr::from([10, 0, 0, 9])].into());
        assert!(Arc::ptr_eq(network.filter(), &before));

        network.replace(id, Some(&at(1, labelled("shop", "role", "db"))));
        assert!(network.filter().has_rules_of(&before) && *network.filter() != before);
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
                network.replace(id, endpoint.as_ref());
                all.remove(&id);
                all.extend(endpoint.map(|endpoint| (id, endpoint)));

                let wanted = Filter::compile(&policy, &shop, all.values(), nodes.clone(), mode);
                prop_assert_eq!(&**network.filter(), &wanted);
            }
        }
    }
}
