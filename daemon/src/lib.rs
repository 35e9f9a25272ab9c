//! What the agent and control have in common as daemons: a log that never blocks, and detection of
//! exhausted file descriptors and full disks, and tasks that do not end unnoticed.
//!
//! Nothing here knows about networks, nodes or the membership.

pub mod descriptors;
pub mod disk;
mod lack;
pub mod log;
pub mod reserve;
pub mod supervise;

use std::time::{SystemTime, UNIX_EPOCH};

/// Something that this process currently cannot do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// One line for operators.
    pub text: String,
    /// When it began, in seconds since 1970.
    pub since: u64,
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
