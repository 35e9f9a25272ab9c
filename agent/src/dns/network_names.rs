//! The names of one network, kept so that a change of one endpoint costs little. Pure.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use overlay_core::{Alias, Endpoint, EndpointId, Network, NetworkId, Node, NodeId};

use super::shards::Shards;

/// The names of one network. A copy is cheap, and so is a change of one endpoint.
#[derive(Debug, Clone, Default)]
pub(crate) struct NetworkNames {
    name: String,
    /// Whether its containers have no access to anything else (`--internal`).
    pub(super) is_internal: bool,
    prefixes: Vec<IpNet>,
    /// The networks that it is linked with.
    links: Vec<NetworkId>,
    /// Whether this node is in it, and not just in one that is linked with it.
    pub(super) is_here: bool,
    endpoints: Shards<EndpointId, Option<Arc<Named>>>,
    by_name: Shards<String, Vec<IpAddr>>,
    /// The same with the name of their host at the end, also those whose names belong to others.
    by_host: Shards<String, Vec<OnHost>>,
    /// Each name appears once for each address.
    by_address: Shards<IpAddr, Vec<String>>,
}

/// An endpoint, and how it is called with the name of its host.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    endpoint: Endpoint,
    with_host: Option<String>,
}

/// An address of an endpoint on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OnHost {
    address: IpAddr,
    /// Whether the name belongs to another endpoint.
    is_taken: bool,
}

impl NetworkNames {
    /// Collects the names of a network's endpoints on these hosts. `is_here` says whether this node
    /// is in it.
    pub(crate) fn new<'a>(
        network: &Network,
        is_here: bool,
        endpoints: impl Iterator<Item = Cow<'a, Endpoint>>,
        hosts: &BTreeMap<NodeId, Node>,
    ) -> Self {
        let mut names = Self {
            name: network.name.to_string(),
            is_internal: network.settings.internal,
            prefixes: prefixes(network),
            links: links(network),
            is_here,
            ..Self::default()
        };
        for endpoint in endpoints {
            names.add(Named::new(endpoint, hosts));
        }

        names
    }

    /// Tells whether these are the names of a network as it is described now.
    pub(crate) fn is_of(&self, network: &Network, is_here: bool) -> bool {
        self.name == network.name.as_str()
            && self.is_internal == network.settings.internal
            && self.prefixes == prefixes(network)
            && self.links == links(network)
            && self.is_here == is_here
    }

    /// Lists the networks that it is linked with.
    pub(super) fn links(&self) -> &[NetworkId] {
        &self.links
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(&address))
    }

    /// Replaces the endpoint with this id; `None` removes it.
    pub(crate) fn replace(
        &mut self,
        id: EndpointId,
        endpoint: Option<Cow<'_, Endpoint>>,
        hosts: &BTreeMap<NodeId, Node>,
    ) {
        let known = self.endpoints.get(&id).cloned().flatten();
        let endpoint = endpoint.map(|endpoint| Named::new(endpoint, hosts));
        if known.as_deref() == endpoint.as_ref() {
            return;
        }
        if let Some(known) = known {
            self.remove(&known);
        }
        if let Some(endpoint) = endpoint {
            self.add(endpoint);
        }
    }

    fn add(&mut self, named: Named) {
        let endpoint = &named.endpoint;
        for name in names(endpoint) {
            self.by_name.change(name, |addresses| addresses.extend(&endpoint.addresses));
        }
        if let Some(name) = &named.with_host {
            self.by_host.change(name.clone(), |known| known.extend(named.on_host()));
        }
        let full = self.full_name(endpoint);
        for &address in &endpoint.addresses {
            self.by_address.change(address, |known| {
                if !known.contains(&full) {
                    known.push(full.clone());
                }
            });
        }
        self.endpoints.change(endpoint.id, |known| *known = Some(Arc::new(named)));
    }

    fn remove(&mut self, named: &Named) {
        let endpoint = &named.endpoint;
        for name in names(endpoint) {
            self.by_name.change(name, |addresses| {
                // Of two endpoints of one name and address, one stays.
                for address in &endpoint.addresses {
                    if let Some(at) = addresses.iter().position(|known| known == address) {
                        addresses.remove(at);
                    }
                }
            });
        }
        if let Some(name) = &named.with_host {
            self.by_host.change(name.clone(), |known| {
                for address in named.on_host() {
                    if let Some(at) = known.iter().position(|known| *known == address) {
                        known.remove(at);
                    }
                }
            });
        }
        let full = self.full_name(endpoint);
        for &address in &endpoint.addresses {
            let is_still_named = self
                .by_name
                .get(own_name(endpoint).as_str())
                .is_some_and(|all| all.contains(&address));
            if !is_still_named {
                self.by_address.change(address, |known| known.retain(|name| *name != full));
            }
        }
        self.endpoints.change(endpoint.id, |known| *known = None);
    }

    /// Lists the names of an address, of whoever has it.
    pub(super) fn names_of(&self, address: IpAddr) -> &[String] {
        self.by_address.get(&address).map_or(&[], Vec::as_slice)
    }

    fn full_name(&self, endpoint: &Endpoint) -> String {
        format!("{}.{}", own_name(endpoint), self.name)
    }

    /// Tells whether a name ends in the name of this network.
    pub(super) fn is_named_by(&self, labels: &[&str]) -> bool {
        labels.len() > 1 && labels.last() == Some(&self.name.as_str())
    }

    /// Finds a name, which may have several labels, by itself and without the network's name at its
    /// end.
    pub(super) fn addresses(&self, labels: &[&str]) -> Option<Vec<IpAddr>> {
        let within = match labels {
            [name @ .., network] if *network == self.name => Some(name),
            _ => None,
        };
        // An alias does not stand in the way of what is on a host.
        let on_host = [within.is_none().then_some(labels), within].into_iter().flatten();
        if let Some(addresses) = on_host.filter_map(|labels| self.on_host(labels)).next() {
            return Some(addresses);
        }
        // Nor of what is in the network: nobody takes a share of `db.net` by the alias `db.net`.
        let mut ways = [within, Some(labels)].into_iter().flatten();
        let known = ways.find_map(|labels| self.by_name.get(labels.join(".").as_str()))?;
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in known {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }

        Some(addresses)
    }

    /// Finds what has a name on one host: whoever the name belongs to, if that is there.
    fn on_host(&self, labels: &[&str]) -> Option<Vec<IpAddr>> {
        let known = self.by_host.get(labels.join(".").as_str())?;
        let is_held = known.iter().any(|on_host| !on_host.is_taken);
        let shown = known.iter().filter(|on_host| on_host.is_taken != is_held);

        Some(shown.map(|on_host| on_host.address).collect())
    }
}

impl Named {
    fn new(endpoint: Cow<'_, Endpoint>, hosts: &BTreeMap<NodeId, Node>) -> Self {
        let endpoint = endpoint.into_owned();
        let with_host =
            hosts.get(&endpoint.node).map(|host| format!("{}.{}", endpoint.name, host.name));

        Self { endpoint, with_host }
    }

    fn on_host(&self) -> impl Iterator<Item = OnHost> {
        let is_taken = self.endpoint.taken.contains(self.endpoint.name.as_str());

        self.endpoint.addresses.iter().map(move |&address| OnHost { address, is_taken })
    }
}

/// Lists the names that belong to an endpoint, each once: an alias may repeat the name.
fn names(endpoint: &Endpoint) -> BTreeSet<String> {
    let is_own = |name: &Alias| !endpoint.taken.contains(name);

    endpoint.claims().into_iter().filter(is_own).map(String::from).collect()
}

/// Returns the name that an endpoint is known by: its id where another one has its name.
fn own_name(endpoint: &Endpoint) -> String {
    if endpoint.taken.contains(endpoint.name.as_str()) {
        endpoint.id.to_string()
    } else {
        endpoint.name.to_string()
    }
}

fn prefixes(network: &Network) -> Vec<IpNet> {
    std::iter::once(IpNet::V4(network.prefix)).chain(network.prefix6.map(IpNet::V6)).collect()
}

fn links(network: &Network) -> Vec<NetworkId> {
    network.settings.links.iter().map(|link| link.network).collect()
}
