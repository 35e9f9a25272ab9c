//! What the programs of Overlay ask of the host that they run on: configuration files, and who holds a port.

pub mod config;
pub mod holder;
