//! An address at which a lane of a node may be reached.

use std::net::SocketAddr;

/// How an address of a node is known, the most trustworthy first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CandidateKind {
    /// The node announces it as one of its host's.
    Host,
    /// The node announces it, and so do others: the first card of every virtual machine on one
    /// host has the same address.
    Shared,
}

/// An address at which a lane of a node may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    /// The address and UDP port.
    pub address: SocketAddr,
    /// The lane of the node that listens there.
    pub lane: u16,
    /// How the address is known.
    pub kind: CandidateKind,
}

impl Candidate {
    /// Describes an address that a node announces as its host's.
    pub const fn host(address: SocketAddr, lane: u16) -> Self {
        Self { address, lane, kind: CandidateKind::Host }
    }
}
