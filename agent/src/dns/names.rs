//! Which names exist for whom, and what they resolve to. Pure: built from a view, queried without
//! I/O.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use overlay_core::{Endpoint, EndpointId, Network, NetworkId, View};

use super::network_names::NetworkNames;
use super::outside::{OutsideAsker, ReservedLabels, SandboxScope, outside};

/// The most addresses in one answer: what fits into one TCP answer of 64 KiB, with room to spare.
const MAX_ADDRESSES: usize = 1_000;

/// The client of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker<'a> {
    /// The client with this address.
    Address {
        /// The network whose server received the query.
        network: NetworkId,
        /// The address that the query came from.
        source: IpAddr,
    },
    /// A sandbox on these networks, inside of which the query was received.
    Sandbox(&'a SandboxScope),
}

/// The record type of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// A name for an address.
    Ptr,
    /// What belongs to a zone: its servers, its authority, its keys.
    Zone,
    /// Anything else.
    Other,
}

/// What a name resolves to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// These addresses, at least one.
    Addresses(Vec<IpAddr>),
    /// These names of an address, at least one.
    Names(Vec<String>),
    /// The name exists, but has no records of this type.
    Nothing,
    /// The name does not exist, and no other resolver can know it.
    Nowhere,
    /// As [`Meaning::Nowhere`], because of the network or host that the name ends in. With more
    /// labels at its end, as resolvers try them, it is none either.
    Elsewhere,
    /// It takes a moment until it is known whether another resolver may be asked.
    Unsettled,
    /// The name does not belong to the overlay.
    Unknown,
}

/// All names of this node's networks, and who may see which.
#[derive(Debug, Clone, Default)]
pub struct Names {
    networks: BTreeMap<NetworkId, Arc<NetworkNames>>,
    /// The networks of the sandbox behind each local address.
    scopes: Arc<Scopes>,
    /// What names end in that are the overlay's in any case.
    reserved: Arc<ReservedLabels>,
}

/// The networks of the sandbox behind each address of this node's endpoints.
pub(crate) type Scopes = BTreeMap<(NetworkId, IpAddr), BTreeSet<NetworkId>>;

impl Names {
    /// Collects the names of all endpoints in `view`. Each of `sandboxes` lists the endpoints of
    /// one sandbox on this node.
    pub fn new<S>(view: &View, sandboxes: impl IntoIterator<Item = S>) -> Self
    where
        S: IntoIterator<Item = (NetworkId, EndpointId)>,
    {
        let of = |network: &Network| {
            let endpoints = view.endpoints_of(network.id).map(Cow::Borrowed);
            Arc::new(NetworkNames::new(network, true, endpoints, &view.nodes))
        };
        let networks = view.networks.values().map(|network| (network.id, of(network))).collect();
        let of_sandbox =
            |sandbox: S| sandbox.into_iter().filter_map(|key| view.endpoints.get(&key)).collect();
        let sandboxes: Vec<Vec<&Endpoint>> = sandboxes.into_iter().map(of_sandbox).collect();
        let reserved = reserved(view, &ReservedLabels::default());

        Self::from_parts(networks, Arc::new(scopes(sandboxes)), Arc::new(reserved))
    }

    /// Combines the names of networks with who may see which; each part may be taken over from
    /// earlier names.
    pub(crate) fn from_parts(
        networks: BTreeMap<NetworkId, Arc<NetworkNames>>,
        scopes: Arc<Scopes>,
        reserved: Arc<ReservedLabels>,
    ) -> Self {
        Self { networks, scopes, reserved }
    }

    /// Resolves a name (`name`, `alias`, short id, or one of these with `.network`, or
    /// `name.host`) in all networks of this node, for the node itself.
    pub fn find(&self, name: &str) -> Vec<(NetworkId, IpAddr)> {
        let name = name.to_ascii_lowercase();
        let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
        let mut here = self.networks.values().filter(|network| network.is_here);
        let named = here.any(|network| network.is_named_by(&labels));
        let in_network = |(&id, network): (&NetworkId, &Arc<NetworkNames>)| {
            let addresses = network.addresses(&labels).unwrap_or_default();
            addresses.into_iter().map(move |address| (id, address))
        };
        let asked = self.networks.iter().filter(|(_, network)| network.is_here);
        let asked = asked.filter(|(_, network)| !named || network.is_named_by(&labels));

        asked.flat_map(in_network).collect()
    }

    /// Resolves a query for `labels`, in lower case and in order. Several addresses are rotated by
    /// `seed`.
    pub(crate) fn meaning(
        &self,
        asker: Asker<'_>,
        labels: &[&str],
        kind: RecordKind,
        seed: u64,
    ) -> Meaning {
        let scope = self.scope(asker);
        let linked = self.linked(&scope);
        if let Some(address) = arpa_address(labels) {
            let is_ours = self.networks.values().any(|network| network.contains(address));
            let reached: Vec<_> = scope.iter().copied().chain(linked).collect();
            return match reverse(&reached, address, kind) {
                Some(meaning) => meaning,
                // No other resolver is asked about addresses of the overlay.
                None if is_ours => Meaning::Nowhere,
                None => self.outside(asker, &scope, labels, kind),
            };
        }
        // Of linked networks, only what ends in their name is found.
        let linked = linked.into_iter().filter(|network| network.is_named_by(labels));
        let reached: Vec<_> = scope.iter().copied().chain(linked).collect();
        // What ends in the name of a network is that network's alone: no alias in another one
        // stands for it.
        let named = reached.iter().any(|network| network.is_named_by(labels));
        let asked = reached.iter().filter(|network| !named || network.is_named_by(labels));
        let known: Vec<Vec<IpAddr>> =
            asked.filter_map(|network| network.addresses(labels)).collect();
        if known.is_empty() {
            return self.outside(asker, &scope, labels, kind);
        }
        let wanted = |address: &IpAddr| match kind {
            RecordKind::A => address.is_ipv4(),
            RecordKind::Aaaa => address.is_ipv6(),
            RecordKind::Ptr | RecordKind::Zone | RecordKind::Other => false,
        };
        let mut addresses: Vec<IpAddr> = known.into_iter().flatten().filter(wanted).collect();
        if addresses.is_empty() {
            return Meaning::Nothing;
        }
        let turn =
            seed.checked_rem(addresses.len() as u64).and_then(|turn| usize::try_from(turn).ok());
        addresses.rotate_left(turn.unwrap_or(0));
        addresses.truncate(MAX_ADDRESSES);

        Meaning::Addresses(addresses)
    }

    /// Says what becomes of a question for a name that nobody here has.
    fn outside(
        &self,
        asker: Asker<'_>,
        scope: &[&NetworkNames],
        labels: &[&str],
        kind: RecordKind,
    ) -> Meaning {
        let (is_cut_off, engine) = match asker {
            // Who asks in a network that is not known here is on it all the same.
            Asker::Address { .. } => (true, None),
            Asker::Sandbox(sandbox) => (!scope.is_empty(), Some(&sandbox.engine)),
        };
        if matches!(asker, Asker::Sandbox(sandbox) if sandbox.networks.is_empty()) {
            // It has left the overlay: its own resolver answers as if there were no other.
            return Meaning::Unknown;
        }
        let is_internal = is_cut_off && scope.iter().all(|network| network.is_internal);
        let is_own_network = scope.iter().any(|network| network.is_named_by(labels));
        let asker = OutsideAsker { is_internal, is_own_network, engine };

        outside(asker, labels, kind, &self.reserved)
    }

    /// Tells whether a client that asks a network's server is one of this node's endpoints.
    pub(crate) fn is_local(&self, network: NetworkId, source: IpAddr) -> bool {
        self.scopes.contains_key(&(network, source))
    }

    /// Lists the networks that are linked with these, and none of them.
    fn linked(&self, scope: &[&NetworkNames]) -> Vec<&NetworkNames> {
        let links: BTreeSet<_> = scope.iter().flat_map(|network| network.links()).collect();
        let linked = links.into_iter().filter_map(|id| self.networks.get(id).map(Arc::as_ref));

        linked.filter(|other| !scope.iter().any(|network| std::ptr::eq(*network, *other))).collect()
    }

    /// Lists the networks that a client is on. An unknown client is on the network that it asks in:
    /// its packets got there.
    fn scope(&self, asker: Asker<'_>) -> Vec<&NetworkNames> {
        let here;
        let scope = match asker {
            Asker::Sandbox(sandbox) => &sandbox.networks,
            Asker::Address { network, source } => {
                here = BTreeSet::from([network]);
                self.scopes.get(&(network, source)).unwrap_or(&here)
            }
        };

        scope.iter().filter_map(|id| self.networks.get(id).map(Arc::as_ref)).collect()
    }
}

/// Collects what names end in that are the overlay's: the names of its networks, of those that they
/// are linked with, and of hosts. `before` is what it was last.
pub(crate) fn reserved(view: &View, before: &ReservedLabels) -> ReservedLabels {
    let networks = view.networks.values().flat_map(|network| {
        let links = network.settings.links.iter().map(|link| link.name.as_str());
        links.chain([network.name.as_str()])
    });
    let hosts = view.nodes.values().map(|node| node.name.as_str());

    ReservedLabels::new(networks.chain(hosts), before)
}

/// Finds out which networks the sandbox behind each address is on. Each of `sandboxes` lists the
/// endpoints of one sandbox.
pub(crate) fn scopes<'a, S>(sandboxes: impl IntoIterator<Item = S>) -> Scopes
where
    S: IntoIterator<Item = &'a Endpoint>,
{
    let mut scopes = Scopes::new();
    for sandbox in sandboxes {
        let endpoints: Vec<&Endpoint> = sandbox.into_iter().collect();
        let scope: BTreeSet<NetworkId> =
            endpoints.iter().map(|endpoint| endpoint.network).collect();
        for endpoint in endpoints {
            for &address in &endpoint.addresses {
                scopes.entry((endpoint.network, address)).or_default().extend(&scope);
            }
        }
    }

    scopes
}

/// Lists the names of an address; nothing if nobody on these networks has it.
fn reverse(scope: &[&NetworkNames], address: IpAddr, kind: RecordKind) -> Option<Meaning> {
    let names: BTreeSet<&String> =
        scope.iter().flat_map(|network| network.names_of(address)).collect();
    if names.is_empty() {
        return None;
    }

    Some(match kind {
        RecordKind::Ptr => Meaning::Names(names.into_iter().cloned().collect()),
        RecordKind::A | RecordKind::Aaaa | RecordKind::Zone | RecordKind::Other => Meaning::Nothing,
    })
}

/// Parses the address in a name below `in-addr.arpa` or `ip6.arpa`.
fn arpa_address(labels: &[&str]) -> Option<IpAddr> {
    match labels {
        [bytes @ .., "in-addr", "arpa"] => {
            let bytes: Vec<u8> =
                bytes.iter().rev().map(|label| label.parse().ok()).collect::<Option<_>>()?;
            let bytes: [u8; 4] = bytes.try_into().ok()?;

            Some(Ipv4Addr::from(bytes).into())
        }
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 => {
            let nibble =
                |label: &&str| u128::from_str_radix(label, 16).ok().filter(|_| label.len() == 1);
            let bits =
                nibbles.iter().rev().try_fold(0, |bits, label| Some(bits << 4 | nibble(label)?))?;

            Some(Ipv6Addr::from_bits(bits).into())
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
