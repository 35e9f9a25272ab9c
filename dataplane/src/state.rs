//! The state of an engine about its peers, as plain values, for another process that takes over.
//!
//! It does not contain tables, which the other process has itself; rate limits and packet counts,
//! which start over; or requests to peers, which are repeated.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use overlay_core::{NetworkId, NodeId, PublicKey};

use crate::noise::TunnelState;
use crate::status::{MtuSource, PeerState};

/// The state of an engine.
#[derive(Debug)]
pub struct EngineState {
    /// The state of its networks.
    pub networks: Vec<NetworkState>,
    /// Where a peer sees this lane, if that is not an address of the host.
    pub translated: Option<SocketAddr>,
}

/// The state of a network on one lane.
#[derive(Debug)]
pub struct NetworkState {
    /// The network.
    pub id: NetworkId,
    /// The public key of the lane in this network, which its sessions belong to.
    pub public_key: PublicKey,
    /// The identification for the next packet that is cut into fragments.
    pub next_fragment: u32,
    /// The state of its links.
    pub links: Vec<PeerLinkState>,
}

/// The state of a link to one lane of a peer.
pub struct PeerLinkState {
    /// The peer.
    pub node: NodeId,
    /// The key of the peer's lane.
    pub public_key: PublicKey,
    /// The tunnel, if there is one.
    pub tunnel: Option<TunnelState>,
    /// The timestamp of the last initiation accepted from the peer, in wire format.
    pub last_initiation: [u8; 12],
    /// The state of the path to it.
    pub path: PathState,
    /// Whether the two lanes hear each other; `None` if nothing is known.
    pub life: Option<LivenessState>,
    /// Bytes of UDP payload sent to it.
    pub tx_bytes: u64,
    /// Bytes of UDP payload of its authentic messages.
    pub rx_bytes: u64,
    /// When the link last carried, or was asked to carry, a packet.
    pub last_use: Instant,
    /// The packets that wait for a session, the oldest first.
    pub waiting: Vec<Vec<u8>>,
    /// When the last handshake was completed.
    pub last_handshake: Option<Instant>,
    /// The state between the two lanes.
    pub state: PeerState,
    /// Since when they are in this state.
    pub since: Instant,
}

/// The state of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathState {
    /// The underlay address that the peer was last heard from.
    pub confirmed: Option<SocketAddr>,
    /// How many handshakes were not answered.
    pub attempts: u32,
    /// When the first of these handshakes was sent.
    pub trying_since: Option<Instant>,
    /// The largest inner packet, in bytes; `None` if it is the tunnel's MTU.
    pub mtu: Option<u16>,
    /// How the MTU was determined.
    pub mtu_source: MtuSource,
    /// Whether the peer has answered a probe.
    pub answers_probes: bool,
    /// Whether a search for the MTU is under way.
    pub is_probing: bool,
}

/// What two lanes know about whether they hear each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LivenessState {
    /// When the value was created; requests are stamped with the time since then.
    pub born: Instant,
    /// Whether the peer answers requests, if that is known.
    pub speaks: Option<bool>,
    /// How many messages were sent; wraps around.
    pub sent: u32,
    /// How many authentic messages were received; wraps around.
    pub received: u32,
    /// When the peer was last heard.
    pub heard: Option<Instant>,
    /// When the first packet was sent, or wanted to be, since the peer was last heard.
    pub unanswered: Option<Instant>,
    /// When a packet was last sent to the peer, or wanted to be.
    pub wanted: Option<Instant>,
    /// When the next check is due, and how many there were; only while packets are unanswered.
    pub check: Option<(Instant, u32)>,
    /// Since when the peer has been silent.
    pub silent: Option<Instant>,
    /// When a translation on our side must be used again to stay open.
    pub keep_open: Option<Instant>,
    /// When the peer was last told how many messages were sent, and that number.
    pub told: (Instant, u32),
    /// The last measured round-trip time.
    pub trip: Option<Duration>,
    /// The address at which the peer sees us.
    pub seen_at: Option<SocketAddr>,
}

impl fmt::Debug for PeerLinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerLinkState")
            .field("node", &self.node)
            .field("tunnel", &self.tunnel)
            .finish_non_exhaustive()
    }
}
