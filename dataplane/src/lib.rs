//! The packet engine of one lane: WireGuard, routing, replay protection, MTU, and batches in both
//! directions.
//!
//! Nothing here does I/O, reads a clock, draws random numbers of its own or takes a lock. A driver
//! calls [`Engine::handle_tun`], [`Engine::handle_udp`] and [`Engine::handle_timeout`], and drains
//! [`Engine::poll_transmit`], [`Engine::poll_tun`] and [`Engine::poll_event`] afterwards.
#![forbid(unsafe_code)]

#[cfg(feature = "bench")]
pub mod bench;
mod context;
mod drop;
mod echo;
mod engine;
mod event;
mod fragment;
mod frozen;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod handshake_limiter;
mod icmp;
mod index;
mod io;
mod ip;
mod link;
mod liveness;
mod loss;
mod mss;
mod network;
mod noise;
mod notice;
mod path;
mod path_mtu;
mod probe;
mod rehandshake;
mod routes;
mod rx_buffer;
#[cfg(any(test, fuzzing))]
#[cfg_attr(not(test), allow(dead_code, reason = "tests use the rest"))]
mod sim;
mod stage;
mod state;
mod status;
mod tables;
mod transmit_queue;
mod underlay;

pub use drop::{Counters, Direction, DropKind, DropReason};
pub use echo::Loss;
pub use engine::{Engine, EngineConfig};
pub use event::Event;
pub use frozen::FrozenEngine;
pub use io::{ReceivedPackets, TUN_HEADROOM, Transmit};
pub use noise::{SecretBytes, SessionState, TimersState, TunnelState, public_key};
pub use notice::{MAX_NOTICE, Notices};
pub use state::{EngineState, LivenessState, NetworkState, PathState, PeerLinkState};
pub use status::{MtuSource, PeerError, PeerState, PeerStatus};
pub use tables::{LaneId, LinkTable, NetworkTable, PeerLane, PeerTable, Tables};
