//! The engine's plugin protocol: a Unix socket, HTTP/1.1, one POST a call, JSON both ways
//! (libnetwork's remote drivers).
//!
//! `socket` opens it or takes it from systemd, `server` reads requests and writes answers, `wire`
//! checks what they say. Decisions are made behind [`Driver`].

mod forward;
mod gated;
mod server;
mod socket;
mod wire;

use std::future::Future;

use overlay_proto::Refusal;

use hyper::StatusCode;
use hyper::body::Bytes;

pub use super::container_ifname::ContainerIfname;
pub(crate) use forward::forward;
pub(crate) use gated::Gated;
pub(crate) use server::{ACTIVATE, MAX_BODY, constant, failure};
pub use server::{RESERVED, answer, serve};
pub use socket::{PluginSocket, PluginSocketError};
pub(crate) use wire::endpoint_id;
pub use wire::{
    AddressRequest, AddressUse, DockerInterface, EndpointRequest, JoinRequest, Joined,
    NetworkRequest, NewInterface, Pool4, Pool6, PoolGranted, PoolRequest, Route,
};

/// Where engines look for the plugin of our name.
pub const PATH: &str = "/run/docker/plugins/overlay-wg.sock";

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status; the engine reads the body whatever it is.
    pub status: StatusCode,
    /// JSON.
    pub body: Bytes,
}

impl Answer {
    /// Answers with JSON.
    pub fn json(status: StatusCode, reply: &serde_json::Value) -> Self {
        Self { status, body: Bytes::from(reply.to_string()) }
    }
}

/// Whoever answers the engine's calls: a [`Driver`], or somebody in its place.
pub trait Answers: Send + Sync + 'static {
    /// Answers one call.
    fn answer(&self, path: &str, body: Bytes) -> impl Future<Output = Answer> + Send;
}

/// What the engine asks of a driver of networks and addresses. Each call may be repeated, and gets
/// the same answer again.
pub trait Driver: Send + Sync + 'static {
    /// Gives a pool.
    fn request_pool(
        &self,
        request: PoolRequest,
    ) -> impl Future<Output = Result<PoolGranted, Refusal>> + Send;
    /// Takes a pool back; an unknown one is gone already.
    fn release_pool(&self, pool: String) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// Gives an address with the prefix length that an interface gets.
    fn request_address(
        &self,
        request: AddressRequest,
    ) -> impl Future<Output = Result<ipnet::IpNet, Refusal>> + Send;
    /// Takes an address back; an unknown one is free already.
    fn release_address(
        &self,
        pool: String,
        address: std::net::IpAddr,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// Takes note of a network.
    fn create_network(
        &self,
        request: NetworkRequest,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// Forgets a network; an unknown one is forgotten already.
    fn delete_network(&self, network: String) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// Makes an endpoint; says what Docker has not said of its interface.
    fn create_endpoint(
        &self,
        request: EndpointRequest,
    ) -> impl Future<Output = Result<NewInterface, Refusal>> + Send;
    /// Removes an endpoint; an unknown one is removed already.
    fn delete_endpoint(&self, endpoint: String)
    -> impl Future<Output = Result<(), Refusal>> + Send;
    /// Hands an endpoint's interface over.
    fn join(&self, request: JoinRequest) -> impl Future<Output = Result<Joined, Refusal>> + Send;
}
