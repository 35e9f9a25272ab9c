//! Names inside the overlay: a DNS server at the gateway address of every network, in that network's namespace.
//!
//! A query's way: `server` receives it, `answer` decides what it deserves, `names` knows who may ask for which name and what
//! the answer is, and `forward` asks the host's resolvers for everything else. Names and answers are pure.
//!
//! What a container may ask for follows from where it is: its address tells which endpoint it is, the endpoint which sandbox,
//! the sandbox which networks. A name of any other network does not exist for it; the question goes to the host's resolvers
//! like every unknown name.
//!
//! Not here: making namespaces and addresses (`kernel`), deciding which endpoints there are.

mod answer;
mod forward;
mod front;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod limits;
mod names;
mod resolvers;
mod server;
#[cfg(any(test, fuzzing))]
#[cfg_attr(not(test), allow(dead_code, reason = "tests use the rest"))]
mod testing;

pub(crate) use front::Front;
pub use names::{Asker, Names};
pub use server::{DnsServers, DnsSockets};
