//! The agent of Overlay.

pub mod dns;
pub mod kernel;
pub mod path;
