//! Types and pure logic shared by every part of Overlay: identities, names, addresses, the
//! membership view and its history, policies.
//!
//! Nothing here does I/O, reads a clock, draws random numbers or takes a lock.
#![forbid(unsafe_code)]

mod candidate;
pub mod claims;
pub mod endpoint;
pub mod fuzzing;
pub mod id;
pub mod instant;
pub mod ipam;
pub mod key;
pub mod lease;
pub mod lineage;
pub mod message;
pub mod name;
pub mod network;
pub mod node;
pub mod policy;
pub mod pool;
pub mod revocation;
pub mod selector;
pub mod token_bucket;
pub mod view;
pub mod visibility;

pub use candidate::{Candidate, CandidateKind};
pub use endpoint::{Endpoint, Runtime};
pub use id::{ClusterId, EndpointId, NetworkId, NodeId};
pub use key::{PrivateKey, PublicKey};
pub use lease::Lease;
pub use lineage::{Lineage, Mark, Stamp};
pub use name::{Alias, MAX_NAME, Name};
pub use network::{
    Block, Creator, LinkAccess, Member, Network, NetworkLink, NetworkMode, NetworkSettings,
};
pub use node::{Difference, HostPrefix, HostReport, Node, Role};
pub use revocation::Revocation;
pub use selector::Selector;
pub use view::{Change, Delta, Gap, Revision, RowKey, View};
