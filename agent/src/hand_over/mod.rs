//! Handing over: a new process takes the place of a running agent without a packet lost
//! (`docs/adr/0019-hand-over.md`).
//!
//! `successor` is the new program as the running one sees it, `predecessor` the running one as the
//! new one does. What they say goes over a `channel`; `encoding` writes what engines know, with
//! `moments` that both share; `descriptor_store` holds sockets and queues for whoever comes next.
//! What of the node stops and goes on is in `node/hand_over.rs`.

mod channel;
mod descriptor_store;
mod encoding;
mod handed_node;
mod moments;
mod predecessor;
mod successor;

pub(crate) use descriptor_store::{DescriptorStore, Kept, Lingering, Share, SharedDescriptors};
pub(crate) use handed_node::HandedNode;
pub use predecessor::NoPredecessor;
pub(crate) use predecessor::Predecessor;
pub use successor::Program;
pub(crate) use successor::{NoSuccessor, Successor};

/// What the two say to each other, and how sessions are written. Fields may be added within a
/// format.
const FORMAT: u32 = 1;

/// The option by which a program is started that is to take over.
const TAKE_OVER: &str = "--take-over";
