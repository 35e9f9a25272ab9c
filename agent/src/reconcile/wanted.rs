//! What is wanted of each network: for the kernel, for the backend, and of names. Only networks
//! that something touched are computed anew. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use overlay_core::{
    Endpoint, EndpointId, Network, NetworkId, NetworkLink, NodeId, PrivateKey, RowKey, View,
};

use crate::backend::NetworkConfigs;
use crate::desired::{
    self, ClusterFilters, EndpointRows, FilterTouch, Holdings, NetworkDesired, PeerSources,
    Underlays,
};
use crate::dns::{Names, NetworkNames, ReservedLabels, reserved, scopes};
use crate::kernel::{InterfaceDesired, Strays};
use crate::membership::Membership;
use crate::membership::changed_rows::ViewCursor;
use crate::state::SandboxRecord;
use crate::state::journal::Entries;

/// What everything is computed from.
#[derive(Clone, Copy)]
pub(crate) struct Sources<'a> {
    /// This node.
    pub(crate) node: NodeId,
    /// The membership.
    pub(crate) membership: &'a Membership,
    /// The endpoints of this node.
    pub(crate) journal: &'a Entries,
    /// Endpoints whose interfaces stay though nothing wants them.
    pub(crate) strays: &'a Strays,
    /// The addresses of this host.
    pub(crate) own: &'a Arc<BTreeSet<IpAddr>>,
    /// The largest inner packet, in bytes.
    pub(crate) mtu: u32,
    /// Says which interface a network needs, for packets of this size.
    pub(crate) interface: &'a dyn Fn(NetworkId, u32) -> InterfaceDesired,
    /// Finds this node's keys of a network.
    pub(crate) keys: &'a dyn Fn(NetworkId) -> Option<Vec<PrivateKey>>,
}

/// What was computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Computed {
    /// The networks that were looked at.
    pub(crate) networks: BTreeSet<NetworkId>,
    /// Whether a network is to be carried otherwise than before.
    pub(crate) has_new_configs: bool,
}

/// What everything was computed from last.
#[derive(Debug)]
struct Seen {
    view: ViewCursor,
    journal: Entries,
    own: Arc<BTreeSet<IpAddr>>,
    mtu: u32,
}

/// What is wanted of each network.
#[derive(Debug)]
pub(crate) struct Wanted {
    seen: Option<Seen>,
    /// Networks whose keys were not there yet.
    keyless: BTreeSet<NetworkId>,
    strays: Strays,
    networks: BTreeMap<NetworkId, Arc<NetworkDesired>>,
    configs: NetworkConfigs,
    /// Which prefixes the members of each network hold.
    holdings: BTreeMap<NetworkId, Holdings>,
    filters: ClusterFilters,
    underlays: Underlays,
    names: BTreeMap<NetworkId, Arc<NetworkNames>>,
    scopes: Arc<crate::dns::Scopes>,
    reserved: Arc<ReservedLabels>,
}

impl Wanted {
    /// Wants nothing of any network yet.
    pub(crate) fn new() -> Self {
        Self {
            seen: None,
            keyless: BTreeSet::new(),
            strays: Strays::default(),
            networks: BTreeMap::new(),
            configs: NetworkConfigs::new(),
            holdings: BTreeMap::new(),
            filters: ClusterFilters::default(),
            underlays: Underlays::default(),
            names: BTreeMap::new(),
            scopes: Arc::default(),
            reserved: Arc::default(),
        }
    }

    /// Returns what each network of this node needs in the kernel.
    pub(crate) fn networks(&self) -> &BTreeMap<NetworkId, Arc<NetworkDesired>> {
        &self.networks
    }

    /// Returns how each network is to be carried. One that is to be carried as before is the same
    /// one, so that the backend need not look at it.
    pub(crate) fn configs(&self) -> &NetworkConfigs {
        &self.configs
    }

    /// Returns the names of all networks.
    pub(crate) fn names(&self) -> Names {
        let (scopes, reserved) = (Arc::clone(&self.scopes), Arc::clone(&self.reserved));

        Names::from_parts(self.names.clone(), scopes, reserved)
    }

    /// Computes what may have changed.
    pub(crate) fn update(&mut self, sources: Sources<'_>) -> Computed {
        let Touched { networks: touched, has_new_underlays, has_new_names, has_new_policy } =
            self.touched(sources);
        let rows = EndpointRows {
            view: &sources.membership.view,
            journal: sources.journal,
            node: sources.node,
        };
        if has_new_underlays {
            self.underlays = Underlays::new(rows.view, sources.node, sources.own);
        }
        if has_new_names {
            self.reserved = Arc::new(reserved(rows.view, &self.reserved));
        }
        if has_new_policy {
            self.filters.set_policy(rows.view.policy.as_deref());
        }
        let has_new_scopes =
            self.seen.as_ref().is_none_or(|seen| !Arc::ptr_eq(&seen.journal, sources.journal));
        if has_new_scopes {
            self.scopes = Arc::new(scopes(sandboxes(sources.journal)));
        }
        if self.strays != *sources.strays {
            self.strays = sources.strays.clone();
            for desired in self.networks.values_mut() {
                Arc::make_mut(desired).namespace.strays = self.strays.clone();
            }
        }
        self.keyless.clear();
        let mut has_new_configs = false;
        for (network, touch) in &touched {
            has_new_configs |= self.compute(*network, touch, rows, sources);
        }
        self.seen = Some(Seen {
            view: sources.membership.changed.cursor(),
            journal: Arc::clone(sources.journal),
            own: Arc::clone(sources.own),
            mtu: sources.mtu,
        });

        Computed { networks: touched.into_keys().collect(), has_new_configs }
    }

    /// Names the endpoints of a network.
    fn name(&mut self, network: &Network, rows: EndpointRows<'_>, touch: &Touch) {
        let is_here = rows.view.member(network.id, rows.node).is_some();
        let known = self.names.get(&network.id).filter(|known| known.is_of(network, is_here));
        let names = match known {
            Some(known) if touch.extent < Extent::Whole => {
                if touch.endpoints.is_empty() {
                    return;
                }
                let mut names = NetworkNames::clone(known);
                for &id in &touch.endpoints {
                    let endpoint = rows.find(network.id, id).map(|found| rows.named(found));
                    names.replace(id, endpoint, &rows.view.nodes);
                }
                names
            }
            Some(_) | None => {
                let endpoints = rows.of(network.id).map(|endpoint| rows.named(endpoint));
                NetworkNames::new(network, is_here, endpoints, &rows.view.nodes)
            }
        };
        self.names.insert(network.id, Arc::new(names));
    }

    /// Computes one network; tells whether it is to be carried otherwise by that.
    fn compute(
        &mut self,
        id: NetworkId,
        touch: &Touch,
        rows: EndpointRows<'_>,
        sources: Sources<'_>,
    ) -> bool {
        let Some(network) = rows.view.networks.get(&id) else {
            self.forget(id);
            // A linked network's own row may not be seen here, but what is found there by name.
            match link_to(rows.view, id) {
                Some(link) => self.name(&link.to_network(), rows, touch),
                None => drop(self.names.remove(&id)),
            }
            return false;
        };
        self.name(network, rows, touch);
        let nodes = self.hold(network, touch, rows);
        let Some(holdings) = self.holdings.get(&id) else { return false };
        let interface = (sources.interface)(id, sources.mtu);
        let Some(mut desired) = desired::network(rows, network, holdings, interface) else {
            self.forget(id);
            return false;
        };
        desired.namespace.strays = self.strays.clone();
        let filter_touch = FilterTouch {
            is_whole: touch.extent == Extent::Whole,
            has_new_members: touch.extent >= Extent::Members,
            endpoints: &touch.endpoints,
            linked: &touch.linked,
        };
        desired.filter = self.filters.update(network, rows, filter_touch);
        if self.networks.get(&id).is_none_or(|known| **known != desired) {
            self.networks.insert(id, Arc::new(desired));
        }
        let Some(keys) = (sources.keys)(id) else {
            self.keyless.insert(id);
            self.configs.remove(&id);
            return false;
        };
        let (view, underlays, node) = (rows.view, &self.underlays, sources.node);
        let peer_sources = PeerSources { view, network, holdings, underlays, node };
        let known = self.configs.get(&id);
        let peers = match (known, &nodes) {
            (Some(known), Some(nodes)) => peer_sources.changed_peers(&known.peers, nodes),
            (Some(known), None) => peer_sources.peers(&known.peers),
            (None, _) => peer_sources.peers(&Arc::default()),
        };
        let Some(config) = peer_sources.config(keys, peers, interface.mtu()) else { return false };
        let is_new = known.is_none_or(|known| !known.is_same(&config));
        if is_new {
            self.configs.insert(id, Arc::new(config));
        }

        is_new
    }

    /// Finds out who holds which prefixes of a network. Lists the nodes that hold others than
    /// before, if nothing else of the members changed.
    fn hold(
        &mut self,
        network: &Network,
        touch: &Touch,
        rows: EndpointRows<'_>,
    ) -> Option<BTreeSet<NodeId>> {
        match self.holdings.get_mut(&network.id) {
            Some(holdings) if touch.extent == Extent::Endpoints => {
                Some(holdings.update(rows, network, &touch.endpoints))
            }
            Some(_) | None => {
                self.holdings.insert(network.id, Holdings::new(rows, network));
                None
            }
        }
    }

    fn forget(&mut self, network: NetworkId) {
        self.networks.remove(&network);
        self.configs.remove(&network);
        self.holdings.remove(&network);
        self.filters.forget(network);
    }

    /// Lists what something may have changed in.
    fn touched(&self, sources: Sources<'_>) -> Touched {
        let networks = &sources.membership.view.networks;
        let all = || {
            let all = networks.keys().chain(self.names.keys());
            let links = networks.values().flat_map(|network| &network.settings.links);
            let all = all.chain(links.map(|link| &link.network));
            let whole = Touch { extent: Extent::Whole, ..Touch::default() };
            Touched {
                networks: all.map(|id| (*id, whole.clone())).collect(),
                has_new_underlays: true,
                has_new_names: true,
                has_new_policy: true,
            }
        };
        let Some(seen) = &self.seen else { return all() };
        let Some(keys) = sources.membership.changed.since(seen.view) else { return all() };
        let (mut has_new_policy, mut has_new_names) = (false, false);
        let mut has_new_underlays = seen.own != *sources.own;
        let mut touched: BTreeMap<NetworkId, Touch> =
            self.keyless.iter().map(|id| (*id, Touch::default())).collect();
        let linking = linking(networks);
        for key in keys {
            match key {
                RowKey::Network(network) => {
                    has_new_names = true;
                    touched.entry(network).or_default().extent = Extent::Members;
                    // What it is linked with, and what it was.
                    let links = networks.get(&network).map(|row| &row.settings.links);
                    let links = links.into_iter().flatten().map(|link| link.network);
                    let hidden = self.names.keys().filter(|id| !networks.contains_key(id));
                    for other in links.chain(hidden.copied()) {
                        let touch = touched.entry(other).or_default();
                        let is_hidden = !networks.contains_key(&other);
                        let extent = if is_hidden { Extent::Whole } else { Extent::Members };
                        touch.extent = touch.extent.max(extent);
                    }
                }
                RowKey::Member(network, _) => {
                    touched.entry(network).or_default().extent = Extent::Members;
                }
                RowKey::Endpoint(network, id) => {
                    touched.entry(network).or_default().endpoints.insert(id);
                    for of in linking.get(&network).into_iter().flatten() {
                        touched.entry(*of).or_default().linked.insert((network, id));
                    }
                }
                RowKey::Node(_) => (has_new_underlays, has_new_names) = (true, true),
                RowKey::Policy => has_new_policy = true,
                RowKey::HostReport(_) => {}
            }
        }
        // These concern every network, but no name.
        if seen.mtu != sources.mtu || has_new_underlays {
            for network in networks.keys() {
                touched.entry(*network).or_default().extent = Extent::Members;
            }
        }
        if has_new_policy {
            for network in networks.keys() {
                touched.entry(*network).or_default();
            }
        }
        if !Arc::ptr_eq(&seen.journal, sources.journal) {
            for (network, id) in differing(&seen.journal, sources.journal) {
                touched.entry(network).or_default().endpoints.insert(id);
                for of in linking.get(&network).into_iter().flatten() {
                    touched.entry(*of).or_default().linked.insert((network, id));
                }
            }
        }

        Touched { networks: touched, has_new_underlays, has_new_names, has_new_policy }
    }
}

/// What something may have changed in.
#[derive(Debug)]
struct Touched {
    networks: BTreeMap<NetworkId, Touch>,
    /// Whether nodes may be reached elsewhere than before.
    has_new_underlays: bool,
    /// Whether hosts or networks may be named otherwise.
    has_new_names: bool,
    /// Whether the cluster's policy may be another.
    has_new_policy: bool,
}

/// What was touched of a network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Touch {
    extent: Extent,
    /// The endpoints that were touched, unless all were.
    endpoints: BTreeSet<EndpointId>,
    /// The endpoints of linked networks that were.
    linked: BTreeSet<(NetworkId, EndpointId)>,
}

/// How much of a network was touched; each includes those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Extent {
    /// Some endpoints.
    #[default]
    Endpoints,
    /// Its own row, its members, and where they are reached.
    Members,
    /// Anything.
    Whole,
}

/// Lists the networks that are linked with each.
fn linking(networks: &BTreeMap<NetworkId, Network>) -> BTreeMap<NetworkId, Vec<NetworkId>> {
    let mut linking: BTreeMap<NetworkId, Vec<NetworkId>> = BTreeMap::new();
    for network in networks.values() {
        for link in &network.settings.links {
            linking.entry(link.network).or_default().push(network.id);
        }
    }

    linking
}

/// Finds what a network that this node sees says of a linked one.
fn link_to(view: &View, id: NetworkId) -> Option<&NetworkLink> {
    view.networks.values().find_map(|network| network.link_with(id))
}

/// Lists the endpoints in which two journals differ.
fn differing(before: &Entries, after: &Entries) -> BTreeSet<(NetworkId, EndpointId)> {
    let changed = after.iter().filter(|(id, record)| before.get(id) != Some(record));
    let gone = before.iter().filter(|(id, record)| {
        after.get(id).is_none_or(|there| there.endpoint.network != record.endpoint.network)
    });

    changed.chain(gone).map(|(id, record)| (record.endpoint.network, *id)).collect()
}

/// Lists the endpoints of each sandbox.
fn sandboxes(journal: &Entries) -> Vec<Vec<&Endpoint>> {
    let mut sandboxes: Vec<(&SandboxRecord, Vec<&Endpoint>)> = Vec::new();
    for record in journal.values() {
        match sandboxes.iter_mut().find(|(sandbox, _)| sandbox.is_same_place(&record.sandbox)) {
            Some((_, endpoints)) => endpoints.push(&record.endpoint),
            None => sandboxes.push((&record.sandbox, vec![&record.endpoint])),
        }
    }

    sandboxes.into_iter().map(|(_, endpoints)| endpoints).collect()
}

#[cfg(test)]
#[path = "wanted_tests.rs"]
mod tests;
