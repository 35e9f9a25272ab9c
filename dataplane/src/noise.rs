//! The WireGuard protocol: the only file that names the crate that implements it.
//!
//! What a WireGuard implementation leaves to its caller (routing, inner checks, queues, the life of
//! tunnels) is elsewhere.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use overlay_core::{PrivateKey, PublicKey};
use overlay_wireguard::{DataRefusal, HandshakeRefusal, PresharedKey};
use zeroize::Zeroizing;

pub(crate) use overlay_wireguard::{
    Action as TunnelEvent, CookieReply, DataHeader, Datagram, Initiation, Kind, Message, Open,
    Opened, PADDING, REJECT_AFTER_TIME as SESSION_TIME, REKEY_ATTEMPT_TIME as ATTEMPT_TIME,
    REKEY_TIMEOUT as RETRY_TIME, Response, Seal, Timestamp, TunnelId, open_room, sealed_len,
};
pub use overlay_wireguard::{SecretBytes, SessionState, TimersState, TunnelState, public_key};

use crate::drop::DropReason;

/// The protocol state between one of our keys and one of a peer's.
pub(crate) type Tunnel = Box<overlay_wireguard::Tunnel>;

/// One WireGuard interface: a static key and the limits for those who send to it.
#[derive(Debug)]
pub(crate) struct Interface(overlay_wireguard::Interface);

impl Interface {
    /// Makes the interface of a static key. `unix_time` is the time since the Unix epoch at `now`.
    pub(crate) fn new(
        key: &PrivateKey,
        seed: Zeroizing<[u8; 32]>,
        now: Instant,
        unix_time: Duration,
    ) -> Self {
        Self(overlay_wireguard::Interface::new(key, &seed, now, unix_time))
    }

    /// Returns the public half of the static key.
    pub(crate) fn public_key(&self) -> PublicKey {
        self.0.public_key()
    }

    /// Makes a tunnel to the holder of `peer`, or returns `None` if no session can be made with
    /// that key.
    pub(crate) fn new_tunnel(&mut self, peer: &PublicKey, now: Instant) -> Option<Tunnel> {
        self.0.new_tunnel(peer, PresharedKey::default(), now).map(Box::new)
    }

    /// Makes a tunnel from the state of another process, or returns `None` if the state is not
    /// valid.
    pub(crate) fn resume_tunnel(&mut self, state: &TunnelState, now: Instant) -> Option<Tunnel> {
        self.0.resume_tunnel(state, PresharedKey::default(), now).ok().map(Box::new)
    }

    /// Verifies a handshake message and applies the rate limits of its sender.
    pub(crate) fn receive(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Message, DropReason> {
        Ok(self.0.receive(from, datagram, now)?)
    }
}

impl From<HandshakeRefusal> for DropReason {
    fn from(refusal: HandshakeRefusal) -> Self {
        match refusal {
            HandshakeRefusal::Malformed => Self::NotWireguard,
            HandshakeRefusal::WrongMac => Self::WrongMac,
            HandshakeRefusal::RateLimited => Self::RateLimited,
            HandshakeRefusal::Replayed => Self::HandshakeReplayed,
            HandshakeRefusal::Unexpected
            | HandshakeRefusal::WrongPeer
            | HandshakeRefusal::NotAuthentic => Self::HandshakeRefused,
        }
    }
}

impl From<DataRefusal> for DropReason {
    fn from(refusal: DataRefusal) -> Self {
        match refusal {
            DataRefusal::NoSession => Self::NoSession,
            DataRefusal::Counter => Self::CounterRefused,
            DataRefusal::NotAuthentic => Self::WrongTag,
        }
    }
}
