//! What the agent and control share as processes of a host: a log that stops nobody, descriptors that are used up, disks
//! that are full.
//!
//! Nothing here knows of networks, nodes or the membership.

pub mod descriptors;
pub mod disk;
pub mod log;

use std::time::{SystemTime, UNIX_EPOCH};

/// Something that this process cannot do at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// One line for people.
    pub text: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
