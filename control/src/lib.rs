//! The control service of Overlay: it keeps the nodes, the networks, their members, and the
//! addresses of endpoints.
//!
//! `registry` decides and does no I/O, `store` keeps the state on disk, `writer` serialises
//! changes, `watch` sends them to nodes, `pki` signs certificates, and `service` speaks gRPC.
#![forbid(unsafe_code)]

mod addresses;
mod audit;
mod backup;
mod clock;
mod conditions;
mod config;
mod connection_limits;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod init;
mod listener;
mod location;
mod pki;
mod random;
mod registry;
mod server;
mod service;
mod start_error;
mod store;
mod token;
mod watch;
mod write_error;
mod writer;

pub use backup::{BackupError, BackupSummary, RestoreConfig, RestoreSummary, back_up, restore};
pub use config::{
    Config, DEFAULT_CERT_TTL, DEFAULT_POOL, DEFAULT_PORT, InitConfig, InvalidConfig, parse_duration,
};
pub use init::{Initialised, create_token, init};
pub use server::{MAX_REQUEST, Server};
pub use start_error::{StartError, StateFailure};
