//! What an engine knows of its peers, as plain values: to be given to another process, which goes on where this one stopped.
//!
//! Not among it: tables, which the other process has of its own; limits of floods, fragments' numbers aside, and counts of
//! packets, which begin anew; and whatever asks a peer something, which is asked again.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use overlay_core::{NetworkId, NodeId, PublicKey};

use crate::engine::Engine;
use crate::noise::TunnelState;
use crate::status::{MtuSource, PeerState};

/// An engine that does nothing: what it knows may be given away.
///
/// Whoever goes on by what [`FrozenEngine::state`] gave uses the counters of its sessions, so this engine must then never be
/// thawed: while this value is there, nobody else reaches it.
#[derive(Debug)]
pub struct FrozenEngine<'e>(&'e mut Engine);

impl<'e> FrozenEngine<'e> {
    pub(crate) fn new(engine: &'e mut Engine) -> Self {
        Self(engine)
    }

    /// Returns the engine, to be looked at.
    pub fn engine(&self) -> &Engine {
        self.0
    }

    /// Returns what the engine knows of its peers.
    pub fn state(&self) -> EngineState {
        self.0.state()
    }

    /// Goes on, where nobody went on in its place.
    pub fn thaw(self) -> &'e mut Engine {
        self.0
    }
}

/// An engine as plain values.
#[derive(Debug)]
pub struct EngineState {
    /// Its networks.
    pub networks: Vec<NetworkState>,
    /// Where a peer sees this lane, if that is no address of the host.
    pub translated: Option<SocketAddr>,
}

/// A network of one lane as plain values.
#[derive(Debug)]
pub struct NetworkState {
    /// The network.
    pub id: NetworkId,
    /// The public half of the lane's key in it: the sessions are this key's.
    pub public_key: PublicKey,
    /// Names the next packet that is cut into fragments.
    pub next_fragment: u32,
    /// Its links.
    pub links: Vec<PeerLinkState>,
}

/// What one lane shares with a lane of a peer, as plain values.
pub struct PeerLinkState {
    /// The peer.
    pub node: NodeId,
    /// The key of its lane.
    pub public_key: PublicKey,
    /// The tunnel, if there is one.
    pub tunnel: Option<TunnelState>,
    /// The time in the last initiation accepted from the peer, as the wire has it.
    pub last_initiation: [u8; 12],
    /// Where it is reached.
    pub path: PathState,
    /// What is known of who hears whom.
    pub life: Option<LivenessState>,
    /// Bytes sent to it.
    pub tx_bytes: u64,
    /// Authentic bytes heard from it.
    pub rx_bytes: u64,
    /// When it last carried, or was wanted to carry, a packet.
    pub last_use: Instant,
    /// The packets that wait for a session, the oldest first.
    pub waiting: Vec<Vec<u8>>,
    /// When the last handshake was completed.
    pub last_handshake: Option<Instant>,
    /// What holds between the two lanes.
    pub state: PeerState,
    /// Since when.
    pub since: Instant,
}

/// A path as plain values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathState {
    /// Where the peer was last heard, with proof.
    pub confirmed: Option<SocketAddr>,
    /// Handshakes sent in vain.
    pub attempts: u32,
    /// When the first of them was sent.
    pub trying_since: Option<Instant>,
    /// The largest inner packet, in bytes; nothing where that is the tunnel's MTU.
    pub mtu: Option<u16>,
    /// How that is known.
    pub mtu_source: MtuSource,
    /// Whether the peer has answered a probe.
    pub answers_probes: bool,
    /// Whether an answer to probes is out.
    pub is_probing: bool,
}

/// Who hears whom, as plain values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LivenessState {
    /// When it was first asked; the clock of requests counts from there.
    pub born: Instant,
    /// Whether the peer answers requests, if that is known.
    pub speaks: Option<bool>,
    /// Messages sent.
    pub sent: u32,
    /// Authentic messages received.
    pub received: u32,
    /// When the peer was last heard.
    pub heard: Option<Instant>,
    /// Since when packets have nothing in return.
    pub unanswered: Option<Instant>,
    /// When a packet was last wanted to arrive.
    pub wanted: Option<Instant>,
    /// When the next check is due, and how many there were.
    pub check: Option<(Instant, u32)>,
    /// Since when the peer is silent.
    pub silent: Option<Instant>,
    /// When a translation on our side must be used again to stay open.
    pub keep_open: Option<Instant>,
    /// When the peer was last told how much was sent, and how much that was.
    pub told: (Instant, u32),
    /// How long a message and its answer take.
    pub trip: Option<Duration>,
    /// Where the peer sees us.
    pub seen_at: Option<SocketAddr>,
}

impl fmt::Debug for PeerLinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerLinkState").field("node", &self.node).field("tunnel", &self.tunnel).finish_non_exhaustive()
    }
}
