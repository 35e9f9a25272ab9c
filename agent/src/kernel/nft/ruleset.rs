//! One nftables table as a value: chains on hooks, and rules of matches and a verdict. Pure.
//!
//! A table is compared and replaced as a whole, so chains and rules have no names or handles by
//! which they could be changed alone.

use std::net::{Ipv4Addr, SocketAddrV4};

/// A table of the IPv4 family, with all that is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// The table's name, by which the kernel keys it.
    pub table: &'static str,
    /// The chains, in the order in which they are made.
    pub chains: Vec<Chain>,
}

/// A base chain: packets that pass its hook go through its rules, and on where none decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name within the table.
    pub name: &'static str,
    /// What its rules may do.
    pub kind: ChainKind,
    /// Where packets come by it.
    pub hook: Hook,
    /// Its place among the chains on the hook; lower comes first.
    pub priority: i32,
    /// The rules, in order.
    pub rules: Vec<Rule>,
}

/// The type of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Sees the first packet of each flow, and may translate its addresses.
    Nat,
}

/// A hook of the kernel's packet path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Packets that processes of this namespace send.
    Output,
}

/// What happens to packets that all its matches agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Looked at in order, until one does not agree.
    pub matches: Vec<Match>,
    /// What happens.
    pub verdict: Verdict,
}

/// One condition on a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// The mark of the sending socket.
    Mark(u32),
    /// The transport protocol.
    Protocol(L4Protocol),
    /// The destination address.
    Destination(Ipv4Addr),
    /// The destination port of a transport that was matched before.
    DestinationPort(u16),
}

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L4Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What a rule does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Ends the chain, as if no further rule were in it.
    Return,
    /// Sends the packet's flow to another destination.
    Dnat(SocketAddrV4),
}

/// One change of the kernel's tables, which it makes whole or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction<'a> {
    /// The table that goes first, with all that is in it.
    pub remove: Option<&'a Ruleset>,
    /// The table that is made.
    pub make: &'a Ruleset,
}
