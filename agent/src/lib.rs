//! The agent of Overlay.

pub mod desired;
pub mod dns;
pub mod kernel;
pub mod path;
pub mod ping;
