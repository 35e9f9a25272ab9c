//! What crosses the border of an engine: datagrams and packets on their way out.

use std::net::SocketAddr;
use std::ops::Range;

use overlay_core::NetworkId;

/// Free bytes in front of every inner packet of a [`ReceivedPackets`], for the header that a TUN
/// device expects.
pub const TUN_HEADROOM: usize = 16;

/// Datagrams for one destination, to be sent in one call with `UDP_SEGMENT`.
#[derive(Debug)]
pub struct Transmit<'a> {
    /// The destination. An IPv4 address is never given as an IPv4-mapped IPv6 address; a driver
    /// with an IPv6 socket maps it.
    pub to: SocketAddr,
    /// The datagrams, back to back; at most 65,507 bytes.
    pub bytes: &'a [u8],
    /// The size of each datagram in bytes; only the last may be shorter. There are at most 64.
    pub segment: usize,
}

/// Inner packets for the TUN device of one network, in order.
#[derive(Debug)]
pub struct ReceivedPackets<'a> {
    /// The network.
    pub network: NetworkId,
    /// Holds the packets, each with at least [`TUN_HEADROOM`] unused bytes in front of it.
    pub bytes: &'a mut [u8],
    /// Where in `bytes` each packet is. There is at least one.
    pub packets: &'a [Range<usize>],
}
