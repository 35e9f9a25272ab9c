//! Docker: networks of ours in the engines of all hosts, containers on them, and their names.
//!
//! ```text
//!  dockerd ── plugin socket ──► plugin ──► driver, ipam ──► plugin_store, journal ──► reconcile
//!     │                                                        ▲
//!     └── API, events ──► client ──► sync, container_watcher ──┘ ──► control
//! ```
//!
//! `plugin` speaks the engine's plugin protocol and checks what it says; `driver` and `ipam` answer
//! from `plugin_store`, which holds what Docker was promised and never repeats. `client` speaks the
//! engine's API: `sync` brings the engine's networks and those of the cluster in line with each
//! other, `container_watcher` finds the names of containers, `lifetime` the endpoints that ended
//! unnoticed, and `recovery` gives running containers back what this node lost of theirs. Nothing
//! here is on a packet's path, and no call of the plugin waits for the engine's API: while the
//! engine starts, it serves none. `plugin_proxy` stands in front of the plugin, in a process of its
//! own, because Docker's start must not wait for the agent's.

mod client;
mod container_ifname;
mod container_watcher;
pub(crate) mod detachable;
mod dns_interceptors;
mod door_watch;
pub(crate) mod driver;
mod engine;
mod engine_names;
mod fitting;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gwbridge;
pub(crate) mod interceptor_reserves;
mod ipam;
pub(crate) mod ipam_error;
mod lifetime;
mod naming;
mod network_plan;
pub(crate) mod options;
pub mod plugin;
pub mod plugin_proxy;
pub(crate) mod plugin_service;
pub(crate) mod plugin_store;
pub(crate) mod prefixes;
mod publish;
mod ready;
pub(crate) mod recovery;
mod returning;
pub(crate) mod sync;
pub(crate) mod task;
#[cfg(test)]
pub(crate) mod testing;

/// The driver's name, as in `docker network create -d`.
pub const DRIVER: &str = "overlay-wg";

/// The option of the address management by which a replica says which overlay network it stands
/// for. It is none of the network's own options: compose takes a network that has one it did not
/// give for another than its own.
pub(crate) const NETWORK_OPTION: &str = "overlay.network";
