//! A client for the part of Docker's API that is needed, in our own types. Every call has a deadline; Docker may be away at
//! any time.
#![expect(clippy::disallowed_types, reason = "the client library's own maps; they are sorted at once")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary, ContainerSummaryStateEnum, EndpointSettings,
    EventMessage, EventMessageTypeEnum, Ipam, IpamConfig, Network, NetworkCreateRequest, NetworkInspect,
};
use bollard::query_parameters::{
    EventsOptions, InspectContainerOptions, InspectNetworkOptions, ListContainersOptions, ListNetworksOptions,
    StartContainerOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::{Stream, StreamExt as _};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::time::timeout;

use super::DRIVER;
use super::prefixes::DefaultPools;

/// How long a call may take, in seconds: an engine that starts a hundred containers answers slowly.
const DEADLINE_SECS: u64 = 20;
/// The first version that names interfaces exactly as a plugin says.
const HEEDS_NAMES: u32 = 29;
/// How long the engine may take to negotiate the API version.
const GREETING: Duration = Duration::from_secs(2);

/// Why a call to Docker failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// Nothing answers on its socket.
    #[error("Docker's engine does not answer")]
    Away(#[source] bollard::errors::Error),
    /// It refused the call.
    #[error("Docker's engine refused ({status}): {text}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its message.
        text: String,
    },
    /// It took too long.
    #[error("Docker's engine did not answer in time")]
    Slow,
}

impl EngineError {
    /// Tells whether the object does not exist.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }
}

impl From<bollard::errors::Error> for EngineError {
    fn from(error: bollard::errors::Error) -> Self {
        use bollard::errors::Error;
        if let Error::DockerResponseServerError { status_code, message } = error {
            return Self::Refused { status: status_code, text: message.replace(['\n', '\r'], " ") };
        }
        if matches!(error, Error::RequestTimeoutError) {
            return Self::Slow;
        }

        Self::Away(error)
    }
}

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
    /// The networks that it is configured on, by Docker's id.
    pub(crate) networks: Vec<String>,
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

/// A connection to Docker's API.
#[derive(Debug, Clone)]
pub(crate) struct DockerClient {
    docker: Docker,
}

impl DockerClient {
    /// Connects, and negotiates the version of the API.
    pub(crate) async fn connect(socket: &Path) -> Result<Self, EngineError> {
        let docker = Docker::connect_with_unix(&socket.to_string_lossy(), DEADLINE_SECS, API_DEFAULT_VERSION)?;
        let settled = timeout(GREETING, docker.negotiate_version()).await.map_err(|_| EngineError::Slow)?;

        Ok(Self { docker: settled? })
    }

    /// Lists all networks.
    pub(crate) async fn networks(&self) -> Result<Vec<EngineNetwork>, EngineError> {
        let networks = self.docker.list_networks(None::<ListNetworksOptions>).await?;

        Ok(networks.into_iter().filter_map(network).collect())
    }

    /// Returns the properties of the engine.
    pub(crate) async fn kind(&self) -> Result<EngineKind, EngineError> {
        let info = self.docker.info().await?;
        let major = info.server_version.as_deref().and_then(major);
        let read = info.default_address_pools.unwrap_or_default().into_iter().filter_map(|pool| {
            let base: IpNet = pool.base?.parse().ok()?;
            let IpNet::V4(base) = base else { return None };

            Some((base, u8::try_from(pool.size?).ok()?))
        });

        Ok(EngineKind {
            default_pools: DefaultPools::new(read),
            heeds_names: major.is_none_or(|major| major >= HEEDS_NAMES),
        })
    }

    /// Creates a network.
    pub(crate) async fn create_network(&self, new: NewNetwork) -> Result<String, EngineError> {
        let config = |prefix: &NewPrefix| IpamConfig {
            subnet: Some(prefix.subnet.to_string()),
            ip_range: prefix.range.map(|range| range.to_string()),
            gateway: prefix.gateway.map(|gateway| gateway.to_string()),
            auxiliary_addresses: Some(prefix.reserved.iter().map(|(k, v)| (k.clone(), v.to_string())).collect()),
        };
        let v6 = new.prefixes.iter().any(|prefix| matches!(prefix.subnet, IpNet::V6(_)));
        let request = NetworkCreateRequest {
            name: new.name,
            driver: Some(new.driver),
            internal: Some(new.internal),
            attachable: Some(false),
            enable_ipv6: Some(v6),
            ipam: Some(Ipam {
                driver: new.ipam,
                config: Some(new.prefixes.iter().map(config).collect()),
                options: Some(new.ipam_options.into_iter().collect()),
            }),
            options: Some(new.options.into_iter().collect()),
            labels: Some(new.labels.into_iter().collect()),
            ..NetworkCreateRequest::default()
        };

        Ok(self.docker.create_network(request).await?.id)
    }

    /// Removes a network; one that does not exist counts as removed.
    pub(crate) async fn remove_network(&self, id: &str) -> Result<(), EngineError> {
        match self.docker.remove_network(id).await.map_err(EngineError::from) {
            Err(error) if error.is_missing() => Ok(()),
            removed => removed,
        }
    }

    /// Lists all containers, including stopped ones.
    pub(crate) async fn containers(&self) -> Result<Vec<ListedContainer>, EngineError> {
        let options = ListContainersOptions { all: true, ..ListContainersOptions::default() };
        let listed = self.docker.list_containers(Some(options)).await?;

        Ok(listed.into_iter().filter_map(summary).collect())
    }

    /// Describes a container.
    pub(crate) async fn container(&self, id: &str) -> Result<Container, EngineError> {
        let found = self.docker.inspect_container(id, None::<InspectContainerOptions>).await?;

        Ok(description(found))
    }

    /// Lists the endpoints of a network by Docker's ids, including those that no container has yet.
    pub(crate) async fn endpoints_of(&self, network: &str) -> Result<BTreeSet<String>, EngineError> {
        let found = self.docker.inspect_network(network, None::<InspectNetworkOptions>).await?;

        Ok(endpoints(found))
    }

    /// Starts a container.
    pub(crate) async fn start_container(&self, id: &str) -> Result<(), EngineError> {
        Ok(self.docker.start_container(id, None::<StartContainerOptions>).await?)
    }

    /// Streams events from now on. Ends with an error when the engine ends.
    pub(crate) fn events(&self) -> impl Stream<Item = Result<EngineEvent, EngineError>> + Send + use<> {
        let kinds = ["network", "container"].map(str::to_owned).to_vec();
        let options =
            EventsOptions { filters: Some(HashMap::from([("type".to_owned(), kinds)])), ..EventsOptions::default() };

        self.docker.events(Some(options)).filter_map(|event| {
            std::future::ready(match event {
                Ok(event) => read(event).map(Ok),
                Err(error) => Some(Err(error.into())),
            })
        })
    }
}

/// Parses the major version of a text such as "28.5.2+dfsg4".
fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

fn sorted<T>(map: Option<HashMap<String, T>>) -> BTreeMap<String, T> {
    map.unwrap_or_default().into_iter().collect()
}

fn bare(name: Option<&str>) -> String {
    name.unwrap_or_default().trim_start_matches('/').to_owned()
}

fn attachment(settings: EndpointSettings) -> Option<(String, Attachment)> {
    let endpoint = settings.endpoint_id.filter(|id| !id.is_empty())?;
    let aliases = settings.aliases.into_iter().flatten().chain(settings.dns_names.into_iter().flatten());
    let addresses = [settings.ip_address, settings.global_ipv6_address].into_iter().flatten();

    Some((
        endpoint,
        Attachment {
            aliases: aliases.collect(),
            addresses: addresses.filter_map(|text| text.parse().ok()).collect(),
            mac: settings.mac_address.as_deref().and_then(hardware_address),
        },
    ))
}

fn hardware_address(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();

    bytes?.try_into().ok()
}

fn endpoints(found: NetworkInspect) -> BTreeSet<String> {
    let containers = found.containers.unwrap_or_default().into_values();

    containers.filter_map(|endpoint| endpoint.endpoint_id).collect()
}

fn summary(container: ContainerSummary) -> Option<ListedContainer> {
    use ContainerSummaryStateEnum as State;

    let names = container.names.unwrap_or_default();
    let networks = container.network_settings.and_then(|settings| settings.networks);
    let endpoint = |settings: EndpointSettings| {
        let endpoint = settings.endpoint_id.filter(|id| !id.is_empty())?;
        Some((endpoint, settings.network_id.unwrap_or_default()))
    };

    Some(ListedContainer {
        id: container.id?,
        // Names of links to other containers contain more slashes.
        name: bare(names.into_iter().find(|name| name.matches('/').count() == 1).as_deref()),
        is_running: matches!(container.state, Some(State::RUNNING | State::PAUSED)),
        endpoints: sorted(networks).into_values().filter_map(endpoint).collect(),
    })
}

fn description(found: ContainerInspectResponse) -> Container {
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
        networks: networks.values().filter_map(|settings| settings.network_id.clone()).collect(),
        attachments: networks.into_values().filter_map(attachment).collect(),
    }
}

/// Finds the network that a container was started on; `mode` is its name or id, as a person gave it.
fn first_network(networks: &BTreeMap<String, EndpointSettings>, mode: &str) -> Option<String> {
    let is_it = |(name, settings): &(&String, &EndpointSettings)| {
        name.as_str() == mode || settings.network_id.as_deref() == Some(mode)
    };

    networks.iter().find(is_it).and_then(|(_, settings)| settings.network_id.clone())
}

fn network(network: Network) -> Option<EngineNetwork> {
    let ipam = network.ipam.unwrap_or_default();
    let configs = ipam.config.unwrap_or_default();
    let of = |config: &IpamConfig| config.subnet.as_deref().and_then(|text| text.parse::<IpNet>().ok());
    let v4 = configs.iter().find_map(|config| match of(config)? {
        IpNet::V4(net) => Some((net, config.ip_range.as_deref().and_then(|text| text.parse().ok()))),
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

fn read(event: EventMessage) -> Option<EngineEvent> {
    let action = event.action.unwrap_or_default();
    let actor = event.actor.unwrap_or_default();
    match (event.typ?, action.as_str()) {
        (EventMessageTypeEnum::NETWORK, "create" | "destroy" | "remove") => Some(EngineEvent::Networks),
        (EventMessageTypeEnum::NETWORK, "connect" | "disconnect") => {
            sorted(actor.attributes).remove("container").map(EngineEvent::Container)
        }
        (EventMessageTypeEnum::CONTAINER, "start" | "rename" | "restart" | "die" | "destroy") => {
            actor.id.map(EngineEvent::Container)
        }
        _ => None,
    }
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
        Self { subnet: subnet.into(), range: None, gateway: Some(gateway.into()), reserved: BTreeMap::new() }
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

    /// Reads what an engine may have sent, as the client library would: a list of networks or of containers, a container, an event.
    pub(in crate::docker) fn answers(kind: u8, bytes: &[u8]) -> Vec<Container> {
        match kind % 4 {
            0 => drop(read::<Vec<Network>>(bytes).map(|all| all.into_iter().filter_map(network).collect::<Vec<_>>())),
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
