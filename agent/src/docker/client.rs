//! A client for the part of Docker's API that is needed, in our own types. Every call has a
//! deadline; Docker may be away at any time.
#![expect(
    clippy::disallowed_types,
    reason = "the client library's own maps; they are sorted at once"
)]

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::Duration;

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use bollard::query_parameters::{
    EventsOptions, InspectContainerOptions, InspectNetworkOptions, ListContainersOptions,
    ListNetworksOptions, StartContainerOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::{Stream, StreamExt as _};
use ipnet::IpNet;
use tokio::time::timeout;

use super::engine::{
    Container, EngineEvent, EngineKind, EngineNetwork, ListedContainer, NewNetwork, NewPrefix,
    description, endpoints, network, read, summary,
};
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

/// A connection to Docker's API.
#[derive(Debug, Clone)]
pub(crate) struct DockerClient {
    docker: Docker,
}

impl DockerClient {
    /// Connects, and negotiates the version of the API.
    pub(crate) async fn connect(socket: &Path) -> Result<Self, EngineError> {
        let docker = Docker::connect_with_unix(
            &socket.to_string_lossy(),
            DEADLINE_SECS,
            API_DEFAULT_VERSION,
        )?;
        let settled =
            timeout(GREETING, docker.negotiate_version()).await.map_err(|_| EngineError::Slow)?;

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
            auxiliary_addresses: Some(
                prefix.reserved.iter().map(|(k, v)| (k.clone(), v.to_string())).collect(),
            ),
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
    pub(crate) async fn endpoints_of(
        &self,
        network: &str,
    ) -> Result<BTreeSet<String>, EngineError> {
        let found = self.docker.inspect_network(network, None::<InspectNetworkOptions>).await?;

        Ok(endpoints(found))
    }

    /// Starts a container.
    pub(crate) async fn start_container(&self, id: &str) -> Result<(), EngineError> {
        Ok(self.docker.start_container(id, None::<StartContainerOptions>).await?)
    }

    /// Streams events from now on. Ends with an error when the engine ends.
    pub(crate) fn events(
        &self,
    ) -> impl Stream<Item = Result<EngineEvent, EngineError>> + Send + use<> {
        let kinds = ["network", "container"].map(str::to_owned).to_vec();
        let options = EventsOptions {
            filters: Some(HashMap::from([("type".to_owned(), kinds)])),
            ..EventsOptions::default()
        };

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
