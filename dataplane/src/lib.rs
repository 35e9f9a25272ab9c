//! The packet engine of one lane: WireGuard, routing, replay protection, MTU, and batches in both directions.
//!
//! Nothing here does I/O, reads a clock, draws random numbers of its own or takes a lock. A driver feeds
//! [`Engine::handle_tun`], [`Engine::handle_udp`] and [`Engine::handle_timeout`], and empties [`Engine::poll_transmit`],
//! [`Engine::poll_tun`] and [`Engine::poll_event`] afterwards.
#![forbid(unsafe_code)]

#[cfg(feature = "bench")]
pub mod bench;
mod budget;
mod callers;
mod drop;
mod echo;
mod engine;
mod event;
mod fragment;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod guard;
mod icmp;
mod inbox;
mod ip;
mod link;
mod liveness;
mod loss;
mod mss;
mod network;
mod noise;
mod outbox;
mod path;
mod path_mtu;
mod probe;
mod routes;
mod shared;
#[cfg(any(test, fuzzing))]
#[cfg_attr(not(test), allow(dead_code, reason = "tests use the rest"))]
mod sim;
mod stage;
mod status;
mod tables;

pub use drop::{Counters, Direction, DropKind, DropReason};
pub use echo::Loss;
pub use engine::{Delivery, Engine, EngineConfig, TUN_HEADROOM, Transmit};
pub use event::Event;
pub use noise::public_key;
pub use status::{MtuSource, PeerState, PeerStatus, Trouble};
pub use tables::{LaneId, NetworkTable, PeerLane, PeerTable, Tables};
