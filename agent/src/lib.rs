//! The agent of Overlay.

pub mod path;
pub mod kernel;
