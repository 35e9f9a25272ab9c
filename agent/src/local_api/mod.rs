//! What `overlayctl` asks of this node, over a Unix socket that only root and the agent's own user
//! may use.

mod control;
mod events;
mod gate_layer;
mod guard_counts;
mod listing;
mod ping;
mod policy_counts;
mod service;
mod socket;
mod status;

pub(crate) use socket::open;
