//! How nodes learn what changes: control's present and its recent past, and the open watches.
//!
//! A watcher is at some revision. What it may know between there and the present is computed when it is read, so a slow
//! watcher costs nothing but its place, and its changes coalesce by themselves.

pub(crate) mod catch_up;
pub(crate) mod history;
pub(crate) mod hub;
pub(crate) mod rival;
pub(crate) mod stream;

pub(crate) use hub::{Hub, Opened};
