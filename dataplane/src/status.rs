//! The status of each peer, for people who ask.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use overlay_core::{NetworkId, NodeId, PublicKey};

use crate::echo::Loss;
use crate::tables::LaneId;

/// The status of one lane of a peer, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The network.
    pub network: NetworkId,
    /// The peer.
    pub node: NodeId,
    /// The peer's lane.
    pub lane: LaneId,
    /// The key of the peer's lane in this network.
    pub public_key: PublicKey,
    /// The underlay address of its last authentic message, or the one being tried.
    pub underlay: Option<SocketAddr>,
    /// How long ago the last handshake was completed.
    pub last_handshake: Option<Duration>,
    /// Bytes of UDP payload sent to it.
    pub tx_bytes: u64,
    /// Bytes of UDP payload of its authentic messages.
    pub rx_bytes: u64,
    /// The state between the two lanes.
    pub state: PeerState,
    /// How long the state has held.
    pub since: Duration,
    /// Why the peer cannot be reached, if it cannot.
    pub error: Option<PeerError>,
    /// How long ago its last authentic message came.
    pub heard: Option<Duration>,
    /// How long ago a container's packet was last sent to it, or wanted to be.
    pub wanted: Option<Duration>,
    /// The address at which it says that it sees this node.
    pub seen_at: Option<SocketAddr>,
    /// Whether it is heard from an address that it was not published with: a router translates.
    pub is_translated: bool,
    /// The loss among the messages that it sends.
    pub incoming_loss: Option<Loss>,
    /// The loss among the messages sent to it, as it reports.
    pub outgoing_loss: Option<Loss>,
    /// The last measured round-trip time.
    pub round_trip: Option<Duration>,
    /// The largest inner packet that is sent to it, in bytes.
    pub mtu: u16,
    /// How the MTU was determined.
    pub mtu_source: MtuSource,
}

/// How the largest packet that a path carries was determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MtuSource {
    /// The tunnel's MTU, which nothing has probed: there is no session yet, or this lane does not
    /// send on the path.
    Unprobed,
    /// The tunnel's MTU, which the path carries.
    Link,
    /// The path's MTU, which is smaller than the tunnel's.
    Probed,
    /// The tunnel's MTU; the peer does not answer probes.
    Assumed,
}

/// The state between this lane and a lane of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// There is no session and nothing to send.
    Idle,
    /// A handshake is under way and there is no session that can be used.
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
    /// No underlay address of the peer is known.
    NoUnderlayAddr,
    /// No handshake was answered since the last answer.
    NoAnswer {
        /// How many handshakes were sent.
        attempts: u32,
    },
    /// Packets are sent, and neither they nor requests nor handshakes are answered.
    Silent {
        /// How many handshakes were sent.
        attempts: u32,
    },
    /// The peer is heard, but hears nothing that is sent to it.
    NotHeard,
    /// No session can be made with the peer's public key.
    InvalidKey,
    /// The peer's initiations have an older timestamp than one seen before: its clock was set back,
    /// or they are replayed.
    ClockWentBack,
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoUnderlayAddr => f.write_str("no underlay address is known"),
            Self::NoAnswer { attempts: 1 } => f.write_str("1 handshake not answered"),
            Self::NoAnswer { attempts } => write!(f, "{attempts} handshakes not answered"),
            Self::Silent { attempts: 0 | 1 } => f.write_str("nothing arrives from it"),
            Self::Silent { attempts } => {
                write!(f, "nothing arrives from it; {attempts} handshakes not answered")
            }
            Self::NotHeard => f.write_str("it is heard, but hears nothing from this node"),
            Self::InvalidKey => f.write_str("the public key is invalid"),
            Self::ClockWentBack => {
                f.write_str("handshakes older than the last one (clock set back, or replayed)")
            }
        }
    }
}
