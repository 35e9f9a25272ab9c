//! What the engine says, checked, and what it is answered. Measured on engines 20.10, 26.1 and
//! 28.5.

mod address;
mod endpoint;
mod field;
mod network;
#[cfg(test)]
mod tests;

pub use address::{AddressRequest, AddressUse, PoolGranted, PoolRequest};
pub(super) use address::{read_release_address, read_release_pool};
pub(crate) use endpoint::endpoint_id;
pub use endpoint::{DockerInterface, EndpointRequest, JoinRequest, Joined, NewInterface, Route};
pub(super) use endpoint::{read_endpoint, read_network};
pub use network::{NetworkRequest, Pool4, Pool6};
