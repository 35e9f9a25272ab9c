//! The control service of Overlay: who is a node, which networks there are, who is a member, and what has which address.
//!
//! `registry` decides and does no I/O, `store` keeps, `writer` does one after the other, `watch` tells, `pki` signs, and
//! `service` speaks gRPC.
#![forbid(unsafe_code)]

mod addresses;
mod clock;
mod conditions;
mod config;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod init;
mod listener;
mod pki;
mod place;
mod random;
mod registry;
mod server;
mod service;
mod store;
mod token;
mod watch;
mod writer;

pub use config::{Config, DEFAULT_CERT_TTL, DEFAULT_POOL, DEFAULT_PORT, InitConfig, InvalidConfig, parse_duration};
pub use init::{Initialised, StartError, create_token, init};
pub use server::{MAX_REQUEST, Server};
