//! Small worlds for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::LazyLock;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use overlay_core::network::NetworkMode;
use overlay_core::view::{Change, View};
use overlay_core::{
    Endpoint, EndpointId, LinkAccess, Network, NetworkId, NetworkLink, Node, NodeId, Role, Runtime,
};

use super::answer::{Disposition, Transport, judge};
use super::names::{Asker, Names};

/// A View and the sandboxes of this node.
#[derive(Debug, Default)]
pub(crate) struct World {
    view: View,
    sandboxes: Vec<Vec<(NetworkId, EndpointId)>>,
}

/// One network with a name of one address, its alias, and a name of 98 addresses.
pub(crate) fn blue() -> World {
    let world = World::default().with_network(1, "blue", "10.1.0.0/16");
    let world = world.with_endpoint(1, 1, "service2", &["alias"], &["10.1.0.2"]);

    (2..100).fold(world, |world, number| {
        world.with_endpoint(1, number, "many", &[], &[&format!("10.1.1.{number}")])
    })
}

/// Judges a query of somebody on that network.
pub(crate) fn judged(bytes: &[u8], transport: Transport) -> Disposition {
    /// Made once: nothing changes it.
    static NAMES: LazyLock<Names> = LazyLock::new(|| blue().names());

    judge(
        bytes,
        transport,
        Asker::Address { network: World::network(1), source: ip("10.1.0.9") },
        &NAMES,
        0,
    )
}

/// Writes a question as a resolver of the C library asks it.
pub(crate) fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));

    message
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

impl World {
    pub(crate) fn network(number: u64) -> NetworkId {
        NetworkId::from_random(number)
    }

    pub(crate) fn with_network(mut self, number: u64, name: &str, prefix: &str) -> Self {
        self.view.apply(Change::Network(Network {
            id: Self::network(number),
            name: name.parse().expect("a name"),
            prefix: prefix.parse().expect("a prefix"),
            prefix6: None,
            mode: NetworkMode::L3,
            labels: BTreeMap::new(),
            settings: overlay_core::NetworkSettings::default(),
            creator: None,
        }));

        self
    }

    pub(crate) fn with_link(mut self, one: u64, other: u64) -> Self {
        for (from, to) in
            [(one, other), (other, one)].map(|(a, b)| (Self::network(a), Self::network(b)))
        {
            let other = &self.view.networks[&to];
            let link = NetworkLink {
                network: to,
                name: other.name.clone(),
                prefix: other.prefix,
                prefix6: other.prefix6,
                access: LinkAccess::Defaults,
                gateways: Vec::new(),
            };
            let network = self.view.networks.get_mut(&from).expect("it is there");
            network.settings.links.push(link);
        }

        self
    }

    pub(crate) fn with_endpoint(
        mut self,
        network: u64,
        number: u64,
        name: &str,
        aliases: &[&str],
        addresses: &[&str],
    ) -> Self {
        self.view.apply(Change::Endpoint(Endpoint {
            id: EndpointId::from_random(number),
            network: Self::network(network),
            node: NodeId::from_random(1),
            name: name.parse().expect("a name"),
            aliases: aliases
                .iter()
                .map(|alias| alias.parse().expect("a name"))
                .collect::<BTreeSet<_>>(),
            addresses: addresses.iter().map(|text| ip(text)).collect(),
            labels: BTreeMap::new(),
            runtime: Runtime::Run,
            group: None,
            container: None,
            taken: BTreeSet::new(),
        }));

        self
    }

    /// Makes a network `--internal`.
    #[cfg(test)]
    pub(crate) fn internal(mut self, number: u64) -> Self {
        let mut network = self.view.networks[&Self::network(number)].clone();
        network.settings.internal = true;
        self.view.apply(Change::Network(network));

        self
    }

    /// Puts an endpoint onto a host, with these names taken from it.
    pub(crate) fn on_host(mut self, network: u64, number: u64, host: u64, taken: &[&str]) -> Self {
        let host_id = NodeId::from_random(host);
        self.view.apply(Change::Node(Node {
            id: host_id,
            name: format!("host{host}").parse().expect("a name"),
            role: Role::Node,
            labels: BTreeMap::new(),
            underlay: Vec::new(),
            lane_ports: Vec::new(),
        }));
        let key = (Self::network(network), EndpointId::from_random(number));
        let endpoint = self.view.endpoints.get_mut(&key).expect("it is there");
        endpoint.node = host_id;
        endpoint.taken = taken.iter().map(|name| name.parse().expect("a name")).collect();

        self
    }

    pub(crate) fn with_sandbox(mut self, endpoints: &[(u64, u64)]) -> Self {
        let key =
            |&(network, endpoint)| (Self::network(network), EndpointId::from_random(endpoint));
        self.sandboxes.push(endpoints.iter().map(key).collect());

        self
    }

    pub(crate) fn names(&self) -> Names {
        Names::new(&self.view, self.sandboxes.iter().cloned())
    }

    pub(crate) fn view(self) -> View {
        self.view
    }
}
