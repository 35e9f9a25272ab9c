//! Everything durable, in one file: who we are, our keys, the last view, the endpoints' journal.
//!
//! A damaged file is an error that names the file and what to do; it is never an empty start,
//! because an agent that forgot its endpoints would give their addresses away again.

mod docker;
mod error;
mod file;
mod in_store;
pub(crate) mod journal;
pub(crate) mod keyring;
mod load;
mod record;
mod store;
mod tables;

pub use docker::{DockerKey, DockerLease, DockerNetwork, DockerPool, DockerRow, IpamMode};
pub use error::StateError;
pub(crate) use error::StoreFailure;
pub use file::panic_is_contained;
pub(crate) use in_store::in_store;
pub use load::StoredState;
pub(crate) use record::short_id;
pub use record::{
    EndpointRecord, Identity, Joining, KeptContact, KnownControl, ManagedSandbox, Owner,
    SandboxRecord,
};
pub use store::StateStore;
