//! The WireGuard protocol as values: datagrams and the time go in, datagrams and deadlines come
//! out.
//!
//! An [`Interface`] is one static key: it verifies handshake messages and limits floods. A
//! [`Tunnel`] is what it shares with one peer: the handshake under way and up to four sessions. The
//! Noise handshake is done by [`snow`], the cipher of data messages by [`overlay_aead`]. The rest
//! is here, following "WireGuard: Next Generation Kernel Network Tunnel" by Jason A. Donenfeld
//! (revision of 1 June 2020), which is called *the paper* throughout. A number such as §5.4.2 is a
//! section of it.
//!
//! The caller decides which tunnel a receiver index belongs to, who may have a tunnel, and where a
//! peer is reached; it queues packets, and checks everything that a data message carries. Nothing
//! here does I/O, reads a clock, asks the operating system for randomness or takes a lock.
#![forbid(unsafe_code)]

#[cfg(test)]
mod boringtun_tests;
mod cookie;
mod entropy;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod handshake;
mod index;
mod initiation;
mod interface;
mod limiter;
mod mac;
mod message;
mod refusal;
mod replay;
mod resolver;
mod session;
mod sessions;
mod state;
mod static_key;
mod timers;
mod timestamp;
mod tunnel;
mod wipe;

pub use index::{Index, TunnelId};
pub use initiation::Initiation;
pub use interface::{Interface, Message};
pub use message::{CookieReply, DataHeader, Datagram, Kind, PADDING, Response};
pub use message::{open_room, sealed_len};
pub use refusal::{DataRefusal, HandshakeRefusal};
pub use session::{Open, Opened, Seal};
pub use state::{InvalidState, SecretBytes, SessionState, TimersState, TunnelState};
pub use static_key::{PresharedKey, public_key};
pub use timers::{KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT};
pub use timestamp::Timestamp;
pub use tunnel::{Action, Tunnel};
