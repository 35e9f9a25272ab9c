//! What a tunnel is, as plain values: to be given to another process, which goes on where this one
//! stopped.
//!
//! A counter that was given away must not be used again, so whoever takes a state must not use the
//! tunnel after it, unless the state was dropped without having become a tunnel.
//!
//! A handshake under way is not among it: its secrets lie in `snow`. Whoever goes on makes another
//! at once. Cookies are not, either: who is asked for one is asked again.

use std::fmt;
use std::time::{Duration, Instant};

use overlay_core::PublicKey;
use zeroize::Zeroizing;

/// A secret that stays in one place in memory, wherever its holder is moved. Wiped when dropped.
pub type SecretBytes = Zeroizing<Vec<u8>>;

/// A state that no tunnel can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid tunnel state: {0}")]
pub struct InvalidState(pub(crate) &'static str);

/// A tunnel as plain values.
pub struct TunnelState {
    /// What names the tunnel in its indices: 24 bits.
    pub id: u32,
    /// The number of the last handshake.
    pub handshakes: u8,
    /// The peer's key.
    pub peer: PublicKey,
    /// The secret of both static keys: 32 bytes.
    pub shared: SecretBytes,
    /// The session that sends.
    pub current: Option<SessionState>,
    /// Those that only receive, at most three.
    pub others: Vec<SessionState>,
    /// When things happened.
    pub timers: TimersState,
    /// The time in our last initiation, as the wire has it.
    pub told: [u8; 12],
    /// The time in the peer's last initiation that was answered, as the wire has it.
    pub heard: [u8; 12],
}

/// A session as plain values.
pub struct SessionState {
    /// Whether the handshake was ours.
    pub is_initiator: bool,
    /// Our index.
    pub index: u32,
    /// The peer's index, as the wire has it.
    pub receiver: [u8; 4],
    /// When it was made.
    pub since: Instant,
    /// The key that seals: 32 bytes.
    pub sealing: SecretBytes,
    /// The key that opens: 32 bytes.
    pub opening: SecretBytes,
    /// The counter of the next message that is sent.
    pub next: u64,
    /// One more than the highest counter that was accepted.
    pub window_next: u64,
    /// A bit for each of the 8,192 counters below that, at its remainder: 128 words.
    pub window_seen: Vec<u64>,
    /// Whether a message came.
    pub is_confirmed: bool,
    /// Whether more than keepalives went out.
    pub has_sent: bool,
    /// Whether more than keepalives came in.
    pub has_received: bool,
}

/// When things happened to a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimersState {
    /// When a handshake last made a session, or the tunnel was made.
    pub handshake: Instant,
    /// Since when a handshake has been tried.
    pub trying: Option<Instant>,
    /// When the initiation that is due will be sent.
    pub scheduled: Option<Instant>,
    /// Since when packets of ours have nothing in return.
    pub unanswered: Option<Instant>,
    /// When the last packet came that got nothing in return.
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
