//! Answers Docker's plugin calls from the plugin store and the journal.

mod endpoint;
mod error;
mod network;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use overlay_proto::{Code, Refusal};

use super::interceptor_reserves::InterceptorReserves;
use super::ipam;
use super::plugin::{
    AddressRequest, Driver, EndpointRequest, JoinRequest, Joined, NetworkRequest, NewInterface,
    PoolGranted, PoolRequest,
};
use crate::node_handle::NodeHandle;

pub(super) use endpoint::{find, reservation, sandbox_of};
pub(crate) use error::{CreateEndpointError, CreateNetworkError, HandOutError};

/// The driver of networks and addresses.
#[derive(Debug)]
pub(super) struct OverlayDriver {
    handle: Arc<NodeHandle>,
    reserves: Arc<InterceptorReserves>,
}

impl OverlayDriver {
    /// Answers for the node behind this handle.
    pub(super) fn new(handle: Arc<NodeHandle>, reserves: Arc<InterceptorReserves>) -> Self {
        Self { handle, reserves }
    }
}

impl Driver for OverlayDriver {
    async fn request_pool(&self, request: PoolRequest) -> Result<PoolGranted, Refusal> {
        let joined = self.handle.joined()?;
        Ok(ipam::request_pool(&joined.docker, &joined.endpoints, request).await?)
    }

    async fn release_pool(&self, pool: String) -> Result<(), Refusal> {
        match self.handle.joined() {
            Ok(joined) => Ok(ipam::release_pool(&joined.docker, &pool).await?),
            // A node that has left holds nothing.
            Err(_) => Ok(()),
        }
    }

    async fn request_address(&self, request: AddressRequest) -> Result<IpNet, Refusal> {
        let joined = self.handle.joined()?;
        // Runs to completion even if the caller stops waiting.
        spawned(
            async move { ipam::request_address(&joined.docker, &joined.endpoints, request).await },
        )
        .await
    }

    async fn release_address(&self, pool: String, address: IpAddr) -> Result<(), Refusal> {
        match self.handle.joined() {
            Ok(joined) => Ok(ipam::release_address(&joined.docker, pool, address).await?),
            Err(_) => Ok(()),
        }
    }

    async fn create_network(&self, request: NetworkRequest) -> Result<(), Refusal> {
        let joined = self.handle.joined()?;
        spawned(async move { network::create_network(&joined.docker, &joined.endpoints, request).await }).await
    }

    async fn delete_network(&self, network: String) -> Result<(), Refusal> {
        match self.handle.joined() {
            Ok(joined) => Ok(joined.docker.delete_network(&network).await?),
            Err(_) => Ok(()),
        }
    }

    async fn create_endpoint(&self, request: EndpointRequest) -> Result<NewInterface, Refusal> {
        let joined = self.handle.joined()?;
        spawned(async move {
            endpoint::create_endpoint(&joined.docker, &joined.endpoints, request).await
        })
        .await
    }

    async fn delete_endpoint(&self, endpoint: String) -> Result<(), Refusal> {
        let Ok(joined) = self.handle.joined() else { return Ok(()) };
        let known = find(&joined.endpoints, &endpoint)
            .map(|record| record.endpoint.id)
            .into_iter()
            .collect();
        spawned(async move { joined.endpoints.remove(known, "Docker removed it").await.map(drop) })
            .await
    }

    async fn join(&self, request: JoinRequest) -> Result<Joined, Refusal> {
        let joined = self.handle.joined()?;
        let reserves = Arc::clone(&self.reserves);
        spawned(async move {
            endpoint::join(&joined.docker, &joined.endpoints, &reserves, request).await
        })
        .await
    }
}

async fn spawned<T: Send + 'static, E: Into<Refusal> + Send + 'static>(
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::spawn(work).await.map_err(|error| Refusal::new(Code::Fault, error))?;

    done.map_err(Into::into)
}
