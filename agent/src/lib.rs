//! The agent of Overlay: one per host; keeps the kernel, the packet engine and the names as the
//! membership says.
//!
//! `node` owns the tasks, `membership` speaks with control, `endpoint` attaches and detaches,
//! `desired` computes what must be, `reconcile` makes it so, `local_api` answers `overlayctl`,
//! `state` remembers; `kernel` and `path` hold what is privileged.

mod backend;
mod call_gate;
pub mod config;
#[cfg(test)]
#[path = "../../fuzz/corpus.rs"]
mod corpus;
pub mod descriptor_reserves;
mod desired;
pub mod dns;
pub mod docker;
mod endpoint;
mod event_source;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod hand_over;
mod health;
mod host_state;
mod joined_node;
pub mod kernel;
pub mod local_api;
pub mod lock;
mod membership;
pub mod node;
mod node_handle;
pub mod path;
pub mod ping;
mod problem;
mod problem_code;
mod problem_key;
mod process_health;
mod readiness;
mod reconcile;
mod refusals;
mod request_error;
mod signals;
pub mod state;
mod status;

pub use hand_over::{NoPredecessor, Program};
#[cfg(feature = "bench")]
pub use reconcile::bench as change;
pub mod unix_socket;
