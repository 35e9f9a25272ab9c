//! Placeholder of the engine: signatures only.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlay_core::NetworkId;

use crate::drop::Counters;
use crate::event::Event;
use crate::status::PeerStatus;
use crate::tables::{LaneId, Tables};

/// Free bytes in front of every inner packet of a [`Delivery`], for the header a TUN device wants.
pub const TUN_HEADROOM: usize = 16;

/// How an engine starts.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Which lane of this node it is.
    pub lane: LaneId,
    /// How many lanes this node has, at least 1.
    pub lanes: u16,
    /// Fresh entropy of the operating system; never used twice.
    pub seed: [u8; 32],
    /// The time.
    pub now: Instant,
    /// The time since the Unix epoch at `now`. It must not go back across restarts with the same keys, or peers refuse
    /// handshakes as replayed.
    pub unix_time: Duration,
}

/// Datagrams for one destination, to be sent in one call with `UDP_SEGMENT`.
#[derive(Debug)]
pub struct Transmit<'a> {
    /// Where to. An IPv4 address is never written as an IPv6 one; a driver with an IPv6 socket maps it.
    pub to: SocketAddr,
    /// The datagrams, one behind the other; at most 65,507 bytes.
    pub bytes: &'a [u8],
    /// The size of each datagram; only the last may be shorter. There are at most 64.
    pub segment: usize,
}

/// Inner packets for the TUN device of one network, in order.
#[derive(Debug)]
pub struct Delivery<'a> {
    /// The network.
    pub network: NetworkId,
    /// Holds the packets, each with at least [`TUN_HEADROOM`] bytes of its own in front.
    pub bytes: &'a mut [u8],
    /// Where in `bytes` each packet is. At least one.
    pub packets: &'a [Range<usize>],
}

/// The packet engine of one lane.
#[derive(Debug)]
pub struct Engine {
    counters: Counters,
}

impl Engine {
    /// Makes an engine that knows no network.
    pub fn new(_config: EngineConfig) -> Self {
        Self { counters: Counters::default() }
    }

    /// Takes over new tables: sessions of peers and keys that stay go on, all others are wiped at once.
    pub fn publish(&mut self, _tables: &Arc<Tables>, _now: Instant) {}

    /// Sends a handshake at once to every peer lane that this lane talks to and has no session with.
    ///
    /// For a lane that just started: its peers may hold sessions that it no longer knows.
    pub fn wake_peers(&mut self, _now: Instant) {}

    /// Accepts inner packets read from the TUN device of a network.
    pub fn handle_tun<'p>(&mut self, _network: NetworkId, _packets: impl IntoIterator<Item = &'p [u8]>, _now: Instant) {
    }

    /// Accepts datagrams from one sender: `datagrams` holds them one behind the other, each `segment` bytes long and the
    /// last one perhaps shorter, as `UDP_GRO` delivers them. A single datagram has `segment` = its length.
    pub fn handle_udp(&mut self, _from: SocketAddr, _datagrams: &[u8], _segment: usize, _now: Instant) {}

    /// Performs whatever is due at `now`.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// Returns when [`Engine::handle_timeout`] must next be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Takes the next datagrams to send. Those of one peer come in order.
    pub fn poll_transmit(&mut self) -> Option<Transmit<'_>> {
        None
    }

    /// Takes the next inner packets to write to a TUN device.
    pub fn poll_tun(&mut self) -> Option<Delivery<'_>> {
        None
    }

    /// Takes the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// Returns what became of all packets.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Lists how each peer is doing.
    pub fn status(&self, _now: Instant) -> Vec<PeerStatus> {
        Vec::new()
    }
}
