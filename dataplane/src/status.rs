//! How each peer is doing, for people who ask.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use overlay_core::{NetworkId, NodeId, PublicKey};

use crate::echo::Loss;
use crate::tables::LaneId;

/// A lane of a peer, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The network.
    pub network: NetworkId,
    /// The peer.
    pub node: NodeId,
    /// The peer's lane.
    pub lane: LaneId,
    /// The peer lane's key in this network.
    pub public_key: PublicKey,
    /// Where it was last heard, with proof; or where it is being tried.
    pub underlay: Option<SocketAddr>,
    /// How long ago the last handshake was completed.
    pub last_handshake: Option<Duration>,
    /// Bytes of UDP payload sent to it.
    pub tx_bytes: u64,
    /// Bytes of authentic UDP payload heard from it.
    pub rx_bytes: u64,
    /// What holds between the two lanes.
    pub state: PeerState,
    /// Since when it holds.
    pub since: Duration,
    /// What stands in the way, if something does.
    pub error: Option<PeerError>,
    /// How long ago anything authentic was heard of it.
    pub heard: Option<Duration>,
    /// How long ago a container's packet was last sent to it, or wanted to be.
    pub wanted: Option<Duration>,
    /// Where it sees this node, as it says.
    pub seen_at: Option<SocketAddr>,
    /// Whether it is heard from an address that it does not claim: a router translates.
    pub is_translated: bool,
    /// What is lost of what it sends.
    pub incoming_loss: Option<Loss>,
    /// What is lost of what is sent to it, as it says.
    pub outgoing_loss: Option<Loss>,
    /// How long a message to it and the answer take.
    pub round_trip: Option<Duration>,
    /// The largest inner packet that is sent to it, in bytes.
    pub mtu: u16,
    /// How that is known.
    pub mtu_source: MtuSource,
}

/// How the largest packet that a path carries is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MtuSource {
    /// It is the tunnel's, and nobody has tried it: no session yet, or nothing is sent on this lane.
    Unprobed,
    /// It is the tunnel's, and the path carries it.
    Link,
    /// It is the path's, which carries less than the tunnel would.
    Probed,
    /// It is the tunnel's, and the peer does not answer probes.
    Assumed,
}

/// What holds between this lane and a lane of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// No session, and nothing to send.
    Idle,
    /// A handshake is under way and no session can be used.
    Connecting,
    /// Packets flow.
    Established,
    /// Packets are sent and nothing is heard, or the peer hears nothing.
    Unreachable,
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Connecting => "connecting",
            Self::Established => "established",
            Self::Unreachable => "unreachable",
        })
    }
}

/// Why a peer cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerError {
    /// Nobody knows where the peer could be reached.
    NoUnderlayAddr,
    /// The handshakes sent since the last answer.
    NoAnswer {
        /// How many there were.
        attempts: u32,
    },
    /// Packets are sent, and neither they nor requests nor handshakes are answered.
    Silent {
        /// How many handshakes there were.
        attempts: u32,
    },
    /// The peer is heard, and hears nothing that is sent to it.
    NotHeard,
    /// The peer's public key is one that no session can be made with.
    InvalidKey,
    /// The peer's initiations carry an older time than one seen before: its clock went back, or somebody replays them.
    ClockWentBack,
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoUnderlayAddr => f.write_str("no underlay address is known"),
            Self::NoAnswer { attempts: 1 } => f.write_str("1 handshake not answered"),
            Self::NoAnswer { attempts } => write!(f, "{attempts} handshakes not answered"),
            Self::Silent { attempts: 0 | 1 } => f.write_str("nothing arrives from it"),
            Self::Silent { attempts } => write!(f, "nothing arrives from it; {attempts} handshakes not answered"),
            Self::NotHeard => f.write_str("it is heard, but hears nothing of this node"),
            Self::InvalidKey => f.write_str("the public key is invalid"),
            Self::ClockWentBack => f.write_str("handshakes older than the last one (clock set back, or replayed)"),
        }
    }
}
