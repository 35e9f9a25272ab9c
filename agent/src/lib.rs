//! The agent of Overlay.

pub mod path;
