//! What Docker's engine tells of its networks, containers and events, in our own types.
#![expect(
    clippy::disallowed_types,
    reason = "the client library's own maps; they are sorted at once"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary,
    ContainerSummaryStateEnum, EndpointSettings, EventMessage, EventMessageTypeEnum, IpamConfig,
    Network, NetworkInspect,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::DRIVER;
use super::prefixes::DefaultPools;

/// A network as Docker describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EngineNetwork {
    /// Docker's id of it.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// Its driver.
    pub(crate) driver: String,
    /// Its IPAM driver.
    pub(crate) ipam: String,
    /// Its IPv4 prefix, where it has one.
    pub(crate) prefix: Option<Ipv4Net>,
    /// The part of it that addresses are assigned from.
    pub(crate) range: Option<Ipv4Net>,
    /// Its IPv6 prefix.
    pub(crate) prefix6: Option<Ipv6Net>,
    /// `--internal`.
    pub(crate) internal: bool,
    /// `-o`.
    pub(crate) options: BTreeMap<String, String>,
    /// `--label`.
    pub(crate) labels: BTreeMap<String, String>,
}

impl EngineNetwork {
    /// Tells whether it uses our driver.
    pub(crate) fn is_ours(&self) -> bool {
        self.driver == DRIVER
    }
}

/// A network for Docker to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewNetwork {
    /// Its name.
    pub(crate) name: String,
    /// Its driver.
    pub(crate) driver: String,
    /// Its IPAM driver; Docker's own when missing.
    pub(crate) ipam: Option<String>,
    /// The options of its IPAM driver.
    pub(crate) ipam_options: BTreeMap<String, String>,
    /// Its prefixes.
    pub(crate) prefixes: Vec<NewPrefix>,
    /// `--internal`.
    pub(crate) internal: bool,
    /// `-o`.
    pub(crate) options: BTreeMap<String, String>,
    /// `--label`.
    pub(crate) labels: BTreeMap<String, String>,
}

/// A prefix of a network for Docker to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewPrefix {
    /// The addresses.
    pub(crate) subnet: IpNet,
    /// The part that addresses are assigned from.
    pub(crate) range: Option<IpNet>,
    /// The gateway.
    pub(crate) gateway: Option<IpAddr>,
    /// Addresses that are never assigned.
    pub(crate) reserved: BTreeMap<String, IpAddr>,
}

/// A container as Docker lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedContainer {
    /// Its id.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// Whether it is running, paused containers included.
    pub(crate) is_running: bool,
    /// Its endpoints with their networks, by Docker's ids.
    pub(crate) endpoints: BTreeMap<String, String>,
    /// The names of the networks that it is configured on, running or not, by Docker's id.
    pub(crate) networks: BTreeMap<String, String>,
}

/// A container as Docker describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Container {
    /// Its id.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// The path of its network namespace while it is running.
    pub(crate) netns: Option<PathBuf>,
    /// Whether it is running.
    pub(crate) running: bool,
    /// Whether it ran before.
    pub(crate) has_run: bool,
    /// Why it could not be started, in Docker's words; empty if it could.
    pub(crate) error: String,
    /// Whether Docker is to restart it in any case.
    pub(crate) restarts: bool,
    /// Its attachments, by Docker's id of the endpoint.
    pub(crate) attachments: BTreeMap<String, Attachment>,
    /// The names of the networks that it is configured on, by Docker's id.
    pub(crate) networks: BTreeMap<String, String>,
    /// The one of them that it is on first whenever it is started (`--network`), by Docker's id.
    pub(crate) first_network: Option<String>,
}

/// A container's attachment to one network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Attachment {
    /// Further names on that network.
    pub(crate) aliases: Vec<String>,
    /// Its addresses there, IPv4 first.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its interface's hardware address.
    pub(crate) mac: Option<[u8; 6]>,
    /// Whether it has names of its own there for other containers (`--link`).
    pub(crate) has_links: bool,
}

/// The properties of the Docker engine that matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EngineKind {
    /// The pools from which it chooses prefixes of networks that are created without one.
    pub(crate) default_pools: DefaultPools,
    /// Whether it names interfaces exactly as a plugin says.
    pub(crate) heeds_names: bool,
}

impl Default for EngineKind {
    /// Returns the defaults for an engine that has not answered yet.
    fn default() -> Self {
        Self { default_pools: DefaultPools::default(), heeds_names: true }
    }
}

/// An event of Docker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EngineEvent {
    /// Networks changed.
    Networks,
    /// A container was started or renamed, or got or lost a network.
    Container(String),
}

/// Constructors for prefixes.
impl NewPrefix {
    /// Makes an IPv4 prefix.
    pub(crate) fn v4(subnet: Ipv4Net, range: Option<Ipv4Net>, gateway: Ipv4Addr) -> Self {
        Self {
            subnet: subnet.into(),
            range: range.map(IpNet::V4),
            gateway: Some(gateway.into()),
            reserved: BTreeMap::new(),
        }
    }

    /// Makes an IPv6 prefix.
    pub(crate) fn v6(subnet: Ipv6Net, gateway: Ipv6Addr) -> Self {
        Self {
            subnet: subnet.into(),
            range: None,
            gateway: Some(gateway.into()),
            reserved: BTreeMap::new(),
        }
    }
}

fn sorted<T>(map: Option<HashMap<String, T>>) -> BTreeMap<String, T> {
    map.unwrap_or_default().into_iter().collect()
}

fn bare(name: Option<&str>) -> String {
    name.unwrap_or_default().trim_start_matches('/').to_owned()
}

fn attachment(settings: EndpointSettings) -> Option<(String, Attachment)> {
    let endpoint = settings.endpoint_id.filter(|id| !id.is_empty())?;
    let aliases =
        settings.aliases.into_iter().flatten().chain(settings.dns_names.into_iter().flatten());
    let addresses = [settings.ip_address, settings.global_ipv6_address].into_iter().flatten();

    Some((
        endpoint,
        Attachment {
            aliases: aliases.collect(),
            addresses: addresses.filter_map(|text| text.parse().ok()).collect(),
            mac: settings.mac_address.as_deref().and_then(hardware_address),
            has_links: settings.links.is_some_and(|links| !links.is_empty()),
        },
    ))
}

fn hardware_address(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();

    bytes?.try_into().ok()
}

pub(super) fn endpoints(found: NetworkInspect) -> BTreeSet<String> {
    let containers = found.containers.unwrap_or_default().into_values();

    containers.filter_map(|endpoint| endpoint.endpoint_id).collect()
}

pub(super) fn summary(container: ContainerSummary) -> Option<ListedContainer> {
    use ContainerSummaryStateEnum as State;

    let names = container.names.unwrap_or_default();
    let networks = sorted(container.network_settings.and_then(|settings| settings.networks));
    let endpoint = |settings: EndpointSettings| {
        let endpoint = settings.endpoint_id.filter(|id| !id.is_empty())?;
        Some((endpoint, settings.network_id.unwrap_or_default()))
    };

    Some(ListedContainer {
        id: container.id?,
        // Names of links to other containers contain more slashes.
        name: bare(names.into_iter().find(|name| name.matches('/').count() == 1).as_deref()),
        is_running: matches!(container.state, Some(State::RUNNING | State::PAUSED)),
        networks: by_id(&networks),
        endpoints: networks.into_values().filter_map(endpoint).collect(),
    })
}

pub(super) fn description(found: ContainerInspectResponse) -> Container {
    let settings = found.network_settings.unwrap_or_default();
    let state = found.state.unwrap_or_default();
    let host = found.host_config.unwrap_or_default();
    let policy = host.restart_policy.and_then(|policy| policy.name);
    let networks = sorted(settings.networks);

    Container {
        id: found.id.unwrap_or_default(),
        name: bare(found.name.as_deref()),
        labels: sorted(found.config.and_then(|config| config.labels)),
        netns: settings.sandbox_key.map(PathBuf::from).filter(|path| path.is_absolute()),
        running: state.running.unwrap_or(false),
        has_run: state.status == Some(ContainerStateStatusEnum::EXITED),
        error: state.error.unwrap_or_default(),
        restarts: policy.is_some_and(|name| {
            use bollard::models::RestartPolicyNameEnum as Name;
            matches!(name, Name::ALWAYS | Name::UNLESS_STOPPED)
        }),
        first_network: first_network(&networks, &host.network_mode.unwrap_or_default()),
        networks: by_id(&networks),
        attachments: networks.into_values().filter_map(attachment).collect(),
    }
}

/// Lists the names of networks by Docker's id.
fn by_id(networks: &BTreeMap<String, EndpointSettings>) -> BTreeMap<String, String> {
    let named =
        networks.iter().filter_map(|(name, settings)| Some((settings.network_id.clone()?, name)));

    named.map(|(id, name)| (id, name.clone())).collect()
}

/// Finds the network that a container was started on; `mode` is its name or id, as a person gave
/// it.
fn first_network(networks: &BTreeMap<String, EndpointSettings>, mode: &str) -> Option<String> {
    let is_it = |(name, settings): &(&String, &EndpointSettings)| {
        name.as_str() == mode || settings.network_id.as_deref() == Some(mode)
    };

    networks.iter().find(is_it).and_then(|(_, settings)| settings.network_id.clone())
}

pub(super) fn network(network: Network) -> Option<EngineNetwork> {
    let ipam = network.ipam.unwrap_or_default();
    let configs = ipam.config.unwrap_or_default();
    let of =
        |config: &IpamConfig| config.subnet.as_deref().and_then(|text| text.parse::<IpNet>().ok());
    let v4 = configs.iter().find_map(|config| match of(config)? {
        IpNet::V4(net) => {
            Some((net, config.ip_range.as_deref().and_then(|text| text.parse().ok())))
        }
        IpNet::V6(_) => None,
    });
    let v6 = configs.iter().find_map(|config| match of(config)? {
        IpNet::V6(net) => Some(net),
        IpNet::V4(_) => None,
    });

    Some(EngineNetwork {
        id: network.id?,
        name: network.name?,
        driver: network.driver.unwrap_or_default(),
        ipam: ipam.driver.unwrap_or_default(),
        prefix: v4.map(|(net, _)| net.trunc()),
        range: v4.and_then(|(_, range)| range),
        prefix6: v6.map(|net| net.trunc()),
        internal: network.internal.unwrap_or(false),
        options: sorted(network.options),
        labels: sorted(network.labels),
    })
}

pub(super) fn read(event: EventMessage) -> Option<EngineEvent> {
    let action = event.action.unwrap_or_default();
    let actor = event.actor.unwrap_or_default();
    match (event.typ?, action.as_str()) {
        (EventMessageTypeEnum::NETWORK, "create" | "destroy" | "remove") => {
            Some(EngineEvent::Networks)
        }
        (EventMessageTypeEnum::NETWORK, "connect" | "disconnect") => {
            sorted(actor.attributes).remove("container").map(EngineEvent::Container)
        }
        (EventMessageTypeEnum::CONTAINER, "start" | "rename" | "restart" | "die" | "destroy") => {
            actor.id.map(EngineEvent::Container)
        }
        _ => None,
    }
}

#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing {
    //! What an engine may answer, for fuzzers.

    use serde::de::DeserializeOwned;

    use super::*;

    fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
        serde_json::from_slice(bytes).ok()
    }

    /// Reads what an engine may have sent, as the client library would: a list of networks or of
    /// containers, a container, an event.
    pub(in crate::docker) fn answers(kind: u8, bytes: &[u8]) -> Vec<Container> {
        match kind % 4 {
            0 => drop(
                read::<Vec<Network>>(bytes)
                    .map(|all| all.into_iter().filter_map(network).collect::<Vec<_>>()),
            ),
            1 => {
                let all = read::<Vec<ContainerSummary>>(bytes);
                drop(all.map(|all| all.into_iter().filter_map(summary).collect::<Vec<_>>()));
            }
            2 => return read(bytes).map(description).into_iter().collect(),
            _ => drop(read(bytes).map(super::read)),
        }

        Vec::new()
    }
}
