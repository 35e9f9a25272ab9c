//! What the programs of Overlay need from their host: configuration files, and the owners of ports.

pub mod config;
pub mod port_owner;
