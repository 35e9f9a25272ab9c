//! Which names exist for whom, and what they resolve to. Pure: built from a view, queried without I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use overlay_core::{Endpoint, EndpointId, Network, NetworkId, View};

use super::shards::Shards;

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
    Sandbox(&'a BTreeSet<NetworkId>),
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
    /// The name does not belong to the overlay.
    Unknown,
}

/// All names of this node's networks, and who may see which.
#[derive(Debug, Clone, Default)]
pub struct Names {
    networks: BTreeMap<NetworkId, Arc<NetworkNames>>,
    /// The networks of the sandbox behind each local address.
    scopes: Arc<Scopes>,
}

/// The networks of the sandbox behind each address of this node's endpoints.
pub(crate) type Scopes = BTreeMap<(NetworkId, IpAddr), BTreeSet<NetworkId>>;

/// The names of one network. A copy is cheap, and so is a change of one endpoint.
#[derive(Debug, Clone, Default)]
pub(crate) struct NetworkNames {
    name: String,
    prefixes: Vec<IpNet>,
    endpoints: Shards<EndpointId, Option<Arc<Endpoint>>>,
    by_name: Shards<String, Vec<IpAddr>>,
    /// Each name once an address.
    by_address: Shards<IpAddr, Vec<String>>,
}

impl Names {
    /// Collects the names of all endpoints in `view`. Each of `sandboxes` lists the endpoints of one sandbox on this node.
    pub fn new<S>(view: &View, sandboxes: impl IntoIterator<Item = S>) -> Self
    where
        S: IntoIterator<Item = (NetworkId, EndpointId)>,
    {
        let of = |network: &Network| Arc::new(NetworkNames::new(network, view.endpoints_of(network.id)));
        let networks = view.networks.values().map(|network| (network.id, of(network))).collect();
        let of_sandbox = |sandbox: S| sandbox.into_iter().filter_map(|key| view.endpoints.get(&key)).collect();
        let sandboxes: Vec<Vec<&Endpoint>> = sandboxes.into_iter().map(of_sandbox).collect();

        Self::from_parts(networks, Arc::new(scopes(sandboxes)))
    }

    /// Puts together the names of networks and who may see which; each part may be that of earlier names.
    pub(crate) fn from_parts(networks: BTreeMap<NetworkId, Arc<NetworkNames>>, scopes: Arc<Scopes>) -> Self {
        Self { networks, scopes }
    }

    /// Resolves a name (`name`, `alias`, short id, or one of these with `.network`) in all networks of this node, for the
    /// node itself.
    pub fn find(&self, name: &str) -> Vec<(NetworkId, IpAddr)> {
        let name = name.to_ascii_lowercase();
        let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
        let in_network = |(&id, network): (&NetworkId, &Arc<NetworkNames>)| {
            let addresses = network.addresses(&labels).unwrap_or_default();
            addresses.into_iter().map(move |address| (id, address))
        };

        self.networks.iter().flat_map(in_network).collect()
    }

    /// Resolves a query for `labels`, in lower case and in order. Several addresses are rotated by `seed`.
    pub(crate) fn meaning(&self, asker: Asker<'_>, labels: &[&str], kind: RecordKind, seed: u64) -> Meaning {
        let scope = self.scope(asker);
        if let Some(address) = arpa_address(labels) {
            return reverse(&scope, address, kind);
        }
        let known: Vec<Vec<IpAddr>> = scope.iter().filter_map(|network| network.addresses(labels)).collect();
        if known.is_empty() {
            return Meaning::Unknown;
        }
        let wanted = |address: &IpAddr| match kind {
            RecordKind::A => address.is_ipv4(),
            RecordKind::Aaaa => address.is_ipv6(),
            RecordKind::Ptr | RecordKind::Other => false,
        };
        let mut addresses: Vec<IpAddr> = known.into_iter().flatten().filter(wanted).collect();
        if addresses.is_empty() {
            return Meaning::Nothing;
        }
        let turn = seed.checked_rem(addresses.len() as u64).and_then(|turn| usize::try_from(turn).ok());
        addresses.rotate_left(turn.unwrap_or(0));
        addresses.truncate(MAX_ADDRESSES);

        Meaning::Addresses(addresses)
    }

    /// Lists the networks that a client is on. An unknown client is on the network that it asks in: its packets got there.
    fn scope(&self, asker: Asker<'_>) -> Vec<&NetworkNames> {
        let here;
        let scope = match asker {
            Asker::Sandbox(networks) => networks,
            Asker::Address { network, source } => {
                here = BTreeSet::from([network]);
                self.scopes.get(&(network, source)).unwrap_or(&here)
            }
        };

        scope.iter().filter_map(|id| self.networks.get(id).map(Arc::as_ref)).collect()
    }
}

/// Finds out which networks the sandbox behind each address is on. Each of `sandboxes` lists the endpoints of one sandbox.
pub(crate) fn scopes<'a, S>(sandboxes: impl IntoIterator<Item = S>) -> Scopes
where
    S: IntoIterator<Item = &'a Endpoint>,
{
    let mut scopes = Scopes::new();
    for sandbox in sandboxes {
        let endpoints: Vec<&Endpoint> = sandbox.into_iter().collect();
        let scope: BTreeSet<NetworkId> = endpoints.iter().map(|endpoint| endpoint.network).collect();
        for endpoint in endpoints {
            for &address in &endpoint.addresses {
                scopes.entry((endpoint.network, address)).or_default().extend(&scope);
            }
        }
    }

    scopes
}

impl NetworkNames {
    /// Collects the names of a network's endpoints.
    pub(crate) fn new<'a>(network: &Network, endpoints: impl Iterator<Item = &'a Endpoint>) -> Self {
        let mut names = Self { name: network.name.to_string(), prefixes: prefixes(network), ..Self::default() };
        for endpoint in endpoints {
            names.add(endpoint);
        }

        names
    }

    /// Tells whether these are the names of a network as it is described now.
    pub(crate) fn is_of(&self, network: &Network) -> bool {
        self.name == network.name.as_str() && self.prefixes == prefixes(network)
    }

    /// Puts an endpoint in the place of the one with its id; nothing takes that away.
    pub(crate) fn replace(&mut self, id: EndpointId, endpoint: Option<&Endpoint>) {
        let known = self.endpoints.get(&id).cloned().flatten();
        if known.as_deref() == endpoint {
            return;
        }
        if let Some(known) = known {
            self.remove(&known);
        }
        if let Some(endpoint) = endpoint {
            self.add(endpoint);
        }
    }

    fn add(&mut self, endpoint: &Endpoint) {
        for name in names(endpoint) {
            self.by_name.change(name, |addresses| addresses.extend(&endpoint.addresses));
        }
        let full = self.full_name(endpoint);
        for &address in &endpoint.addresses {
            self.by_address.change(address, |known| {
                if !known.contains(&full) {
                    known.push(full.clone());
                }
            });
        }
        self.endpoints.change(endpoint.id, |known| *known = Some(Arc::new(endpoint.clone())));
    }

    fn remove(&mut self, endpoint: &Endpoint) {
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
        let full = self.full_name(endpoint);
        for &address in &endpoint.addresses {
            let is_still_named = self.by_name.get(endpoint.name.as_str()).is_some_and(|all| all.contains(&address));
            if !is_still_named {
                self.by_address.change(address, |known| known.retain(|name| *name != full));
            }
        }
        self.endpoints.change(endpoint.id, |known| *known = None);
    }

    fn full_name(&self, endpoint: &Endpoint) -> String {
        format!("{}.{}", endpoint.name, self.name)
    }

    /// Finds a name, which may have several labels, by itself and without the network's name at its end.
    fn addresses(&self, labels: &[&str]) -> Option<Vec<IpAddr>> {
        let within = match labels {
            [name @ .., network] if *network == self.name => Some(name),
            _ => None,
        };
        let known = [Some(labels), within]
            .into_iter()
            .flatten()
            .filter_map(|labels| self.by_name.get(labels.join(".").as_str()));
        let mut known = known.peekable();
        known.peek()?;
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in known.flatten() {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }

        Some(addresses)
    }
}

/// Lists the names of an endpoint, each once: an alias may repeat the name.
fn names(endpoint: &Endpoint) -> BTreeSet<String> {
    let aliases = endpoint.aliases.iter().map(|alias| alias.as_str().to_owned());

    [endpoint.name.as_str().to_owned(), endpoint.id.to_string()].into_iter().chain(aliases).collect()
}

fn prefixes(network: &Network) -> Vec<IpNet> {
    std::iter::once(IpNet::V4(network.prefix)).chain(network.prefix6.map(IpNet::V6)).collect()
}

fn reverse(scope: &[&NetworkNames], address: IpAddr, kind: RecordKind) -> Meaning {
    let names: BTreeSet<&String> =
        scope.iter().filter_map(|network| network.by_address.get(&address)).flatten().collect();
    let ours = scope.iter().any(|network| network.prefixes.iter().any(|prefix| prefix.contains(&address)));
    match (names.is_empty(), kind) {
        (false, RecordKind::Ptr) => Meaning::Names(names.into_iter().cloned().collect()),
        (false, RecordKind::A | RecordKind::Aaaa | RecordKind::Other) => Meaning::Nothing,
        // Addresses of the overlay are nobody else's business.
        (true, _) if ours => Meaning::Nowhere,
        (true, _) => Meaning::Unknown,
    }
}

/// Parses the address in a name below `in-addr.arpa` or `ip6.arpa`.
fn arpa_address(labels: &[&str]) -> Option<IpAddr> {
    match labels {
        [bytes @ .., "in-addr", "arpa"] => {
            let bytes: Vec<u8> = bytes.iter().rev().map(|label| label.parse().ok()).collect::<Option<_>>()?;
            let bytes: [u8; 4] = bytes.try_into().ok()?;

            Some(Ipv4Addr::from(bytes).into())
        }
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 => {
            let nibble = |label: &&str| u128::from_str_radix(label, 16).ok().filter(|_| label.len() == 1);
            let bits = nibbles.iter().rev().try_fold(0, |bits, label| Some(bits << 4 | nibble(label)?))?;

            Some(Ipv6Addr::from_bits(bits).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dns::testing::{World, ip};

    fn asker(network: u64, source: &str) -> Asker<'static> {
        Asker::Address { network: World::network(network), source: ip(source) }
    }

    /// Two networks; `both` is on both, `solo` on the first, `other` on the second.
    fn world() -> World {
        World::default()
            .with_network(1, "blue", "10.1.0.0/16")
            .with_network(2, "red", "10.2.0.0/16")
            .with_endpoint(1, 1, "both", &["web"], &["10.1.0.2", "fd01::2"])
            .with_endpoint(2, 2, "both", &[], &["10.2.0.2"])
            .with_endpoint(1, 3, "solo", &["web"], &["10.1.0.3"])
            .with_endpoint(2, 4, "other", &["web"], &["10.2.0.4"])
            .with_sandbox(&[(1, 1), (2, 2)])
            .with_sandbox(&[(1, 3)])
            .with_sandbox(&[(2, 4)])
    }

    fn addresses(list: &[&str]) -> Meaning {
        Meaning::Addresses(list.iter().map(|text| ip(text)).collect())
    }

    #[test]
    fn a_name_is_answered_with_and_without_its_network() {
        let names = world().names();
        let solo = asker(1, "10.1.0.3");

        assert_eq!(names.meaning(solo, &["both"], RecordKind::A, 0), addresses(&["10.1.0.2"]));
        assert_eq!(names.meaning(solo, &["both", "blue"], RecordKind::Aaaa, 0), addresses(&["fd01::2"]));
        assert_eq!(names.meaning(solo, &["000000000001"], RecordKind::A, 0), addresses(&["10.1.0.2"]));
    }

    #[test]
    fn a_name_of_several_labels_is_answered_with_and_without_its_network() {
        let world = world().with_endpoint(1, 9, "app", &["my.app", "db.internal", "x.blue"], &["10.1.0.9"]);
        let names = world.with_endpoint(1, 8, "x", &[], &["10.1.0.8"]).names();
        let solo = asker(1, "10.1.0.3");
        let meaning = |name: &str| names.meaning(solo, &name.split('.').collect::<Vec<_>>(), RecordKind::A, 0);

        for name in ["my.app", "my.app.blue", "db.internal", "x.blue.blue"] {
            assert_eq!(meaning(name), addresses(&["10.1.0.9"]), "{name}");
        }
        assert_eq!(meaning("x.blue"), addresses(&["10.1.0.9", "10.1.0.8"]), "an alias, and a name with its network");
        for name in ["my", "internal", "my.app.red", "blue", "app.my"] {
            assert_eq!(meaning(name), Meaning::Unknown, "{name}");
        }
    }

    #[test]
    fn a_sandbox_on_two_networks_sees_the_names_of_both() {
        let names = world().names();

        for both in [asker(1, "10.1.0.2"), asker(2, "10.2.0.2"), asker(1, "fd01::2")] {
            let web = names.meaning(both, &["web"], RecordKind::A, 0);
            assert_eq!(web, addresses(&["10.1.0.2", "10.1.0.3", "10.2.0.4"]));
            assert_eq!(names.meaning(both, &["both", "red"], RecordKind::A, 0), addresses(&["10.2.0.2"]));
        }
    }

    #[test]
    fn names_of_other_networks_do_not_exist() {
        let names = world().names();
        let solo = asker(1, "10.1.0.3");

        assert_eq!(names.meaning(solo, &["other"], RecordKind::A, 0), Meaning::Unknown);
        assert_eq!(names.meaning(solo, &["other", "red"], RecordKind::A, 0), Meaning::Unknown);
        assert_eq!(names.meaning(solo, &["both", "red"], RecordKind::A, 0), Meaning::Unknown);
        assert_eq!(
            names.meaning(solo, &["4", "0", "2", "10", "in-addr", "arpa"], RecordKind::Ptr, 0),
            Meaning::Unknown
        );
    }

    #[test]
    fn an_asker_that_is_not_known_is_on_the_network_it_asks_in() {
        let names = world().names();

        assert_eq!(names.meaning(asker(2, "10.2.9.9"), &["other"], RecordKind::A, 0), addresses(&["10.2.0.4"]));
        assert_eq!(names.meaning(asker(2, "10.2.9.9"), &["solo"], RecordKind::A, 0), Meaning::Unknown);
        assert_eq!(names.meaning(asker(3, "10.2.9.9"), &["solo"], RecordKind::A, 0), Meaning::Unknown);
    }

    #[test]
    fn a_name_without_the_wanted_kind_has_nothing() {
        let names = world().names();
        let solo = asker(1, "10.1.0.3");

        assert_eq!(names.meaning(solo, &["solo"], RecordKind::Aaaa, 0), Meaning::Nothing);
        assert_eq!(names.meaning(solo, &["solo"], RecordKind::Other, 0), Meaning::Nothing);
    }

    #[test]
    fn addresses_have_names_and_those_of_nobody_have_none() {
        let names = world().names();
        let solo = asker(1, "10.1.0.3");
        let v6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.d.f.ip6.arpa";
        let v6: Vec<&str> = v6.split('.').collect();
        let both = Meaning::Names(vec!["both.blue".to_owned()]);

        assert_eq!(names.meaning(solo, &["2", "0", "1", "10", "in-addr", "arpa"], RecordKind::Ptr, 0), both);
        assert_eq!(names.meaning(solo, &v6, RecordKind::Ptr, 0), both);
        assert_eq!(
            names.meaning(solo, &["9", "0", "1", "10", "in-addr", "arpa"], RecordKind::Ptr, 0),
            Meaning::Nowhere
        );
        assert_eq!(names.meaning(solo, &["8", "8", "8", "8", "in-addr", "arpa"], RecordKind::Ptr, 0), Meaning::Unknown);
    }

    #[test]
    fn a_question_from_inside_a_sandbox_sees_the_networks_of_the_sandbox() {
        let names = world().names();
        let (both, red) = ([1, 2].map(World::network).into(), [World::network(2)].into());

        let web = names.meaning(Asker::Sandbox(&both), &["web"], RecordKind::A, 0);

        assert_eq!(web, addresses(&["10.1.0.2", "10.1.0.3", "10.2.0.4"]));
        assert_eq!(names.meaning(Asker::Sandbox(&red), &["solo"], RecordKind::A, 0), Meaning::Unknown);
        assert_eq!(names.meaning(Asker::Sandbox(&BTreeSet::new()), &["solo"], RecordKind::A, 0), Meaning::Unknown);
    }

    #[test]
    fn the_seed_turns_the_addresses() {
        let names = world().names();
        let both = asker(1, "10.1.0.2");
        let first = |seed| match names.meaning(both, &["web"], RecordKind::A, seed) {
            Meaning::Addresses(addresses) => addresses.first().copied(),
            Meaning::Names(_) | Meaning::Nothing | Meaning::Nowhere | Meaning::Unknown => None,
        };

        let firsts: BTreeSet<_> = (0..3).map(first).collect();

        assert_eq!(firsts.len(), 3);
    }

    #[test]
    fn the_node_itself_finds_names_in_all_its_networks() {
        let names = world().names();

        let found = names.find("Both.");

        assert_eq!(found.len(), 3);
        assert_eq!(names.find("both.red"), [(World::network(2), ip("10.2.0.2"))]);
        assert_eq!(names.find("nobody"), []);
        assert_eq!(names.find(""), []);
    }

    proptest! {
        #[test]
        fn no_labels_can_make_it_panic(labels in prop::collection::vec("[a-f0-9.]{0,3}|in-addr|ip6|arpa|web|blue", 0..36)) {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();

            let _ = world().names().meaning(asker(1, "10.1.0.3"), &labels, RecordKind::Ptr, 7);
        }
    }
}
