//! How nodes learn of changes: the current state, the recent change log, and the open watches.
//!
//! A watcher is at some revision. What it may see of the changes since then is computed when it is
//! ready to read, so a slow watcher costs nothing but an entry, and its changes coalesce.

pub(crate) mod catch_up;
pub(crate) mod change_log;
pub(crate) mod duplicate;
pub(crate) mod end;
pub(crate) mod hub;
pub(crate) mod revocations;
pub(crate) mod stream;
pub(crate) mod transfer;

pub(crate) use hub::{Hub, OpenResult};
