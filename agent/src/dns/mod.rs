//! Names inside the overlay: a DNS server at the gateway address of every network, in that
//! network's namespace.
//!
//! The path of a query: `server` receives it, `answer` decides how to handle it, `names` knows who
//! may ask for which name and what the answer is, and `forward` asks the host's resolvers for
//! everything else. Names and answers are pure.
//!
//! What a container may ask for follows from where it is: its address identifies its endpoint, the
//! endpoint its sandbox, and the sandbox its networks. Names of other networks do not exist for it,
//! and no resolver is asked for them (`outside`).
//!
//! Not here: creating namespaces and addresses (`kernel`), and deciding which endpoints exist.

mod answer;
mod counts;
mod domains;
mod flood_guard;
mod forward;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod interceptor;
mod limits;
mod names;
mod network_names;
mod outside;
mod rates;
mod redirect;
mod resolvers;
mod sandbox_resolver;
mod served_sockets;
mod server;
mod service;
mod shards;
mod sockets;
#[cfg(any(test, fuzzing))]
#[cfg_attr(not(test), allow(dead_code, reason = "tests use the rest"))]
mod testing;

pub(crate) use counts::DnsCounts;
pub(crate) use interceptor::DnsInterceptor;
pub use names::{Asker, Names};
#[cfg(test)]
pub(crate) use names::{Meaning, RecordKind};
pub(crate) use names::{Scopes, reserved, scopes};
pub(crate) use network_names::NetworkNames;
pub(crate) use outside::ReservedLabels;
pub use outside::{EngineNames, SandboxScope};
pub(crate) use rates::{ASKED, LONGEST_PAUSE};
pub use server::DnsServers;
pub(crate) use service::NameSource;
pub use sockets::DnsSockets;
