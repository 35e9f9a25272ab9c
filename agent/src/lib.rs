//! The agent of Overlay.
