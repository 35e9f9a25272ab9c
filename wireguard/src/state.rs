//! The state of a tunnel, as plain values, for another process that takes over.
//!
//! A counter must not be used twice. So whoever takes a state must not use the tunnel afterwards,
//! unless the state was dropped without becoming a tunnel.
//!
//! The state does not contain a handshake under way, because its secrets are inside `snow`; the
//! other process starts another at once. Nor does it contain cookies: a new one will be demanded.

use std::fmt;
use std::time::{Duration, Instant};

use overlay_core::PublicKey;
use zeroize::Zeroizing;

/// A secret that stays in one place in memory when its holder is moved. Wiped when dropped.
pub type SecretBytes = Zeroizing<Vec<u8>>;

/// A state that is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid tunnel state: {0}")]
pub struct InvalidState(pub(crate) &'static str);

/// The state of a tunnel.
pub struct TunnelState {
    /// The id of the tunnel in its indices: 24 bits.
    pub id: u32,
    /// The number of the last handshake.
    pub handshakes: u8,
    /// The peer's key.
    pub peer: PublicKey,
    /// The shared secret of both static keys: 32 bytes.
    pub shared: SecretBytes,
    /// The session that sends.
    pub current: Option<SessionState>,
    /// The sessions that only receive, at most three.
    pub others: Vec<SessionState>,
    /// The state of its timers.
    pub timers: TimersState,
    /// The timestamp of our last initiation, in wire format.
    pub told: [u8; 12],
    /// The timestamp of the peer's last answered initiation, in wire format.
    pub heard: [u8; 12],
}

/// The state of a session.
pub struct SessionState {
    /// Whether we initiated it.
    pub is_initiator: bool,
    /// Our index.
    pub index: u32,
    /// The peer's index, in wire format.
    pub receiver: [u8; 4],
    /// When the session was made.
    pub since: Instant,
    /// The key that seals: 32 bytes.
    pub sealing: SecretBytes,
    /// The key that opens: 32 bytes.
    pub opening: SecretBytes,
    /// The counter of the next message sent.
    pub next: u64,
    /// One more than the highest counter that was accepted.
    pub window_next: u64,
    /// One bit for each of the 8,192 counters below that, at the counter modulo 8,192: 128 words.
    pub window_seen: Vec<u64>,
    /// Whether a message was received.
    pub is_confirmed: bool,
    /// Whether anything but keepalives was sent.
    pub has_sent: bool,
    /// Whether anything but keepalives was received.
    pub has_received: bool,
}

/// The state of a tunnel's timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimersState {
    /// When a handshake last made a session, or else when the tunnel was made.
    pub handshake: Instant,
    /// Since when a handshake has been tried.
    pub trying: Option<Instant>,
    /// When the initiation that is due will be sent.
    pub scheduled: Option<Instant>,
    /// When the first packet was sent since anything was last received.
    pub unanswered: Option<Instant>,
    /// When the last packet was received since anything was last sent.
    pub unacknowledged: Option<Instant>,
    /// How long an initiation waits for its answer.
    pub retry: Duration,
}

impl fmt::Debug for TunnelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TunnelState({:06x}, {})", self.id, self.peer)
    }
}

impl fmt::Debug for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionState({:08x}, {})", self.index, self.next)
    }
}
