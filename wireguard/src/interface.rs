//! One WireGuard interface: a static key, and the verification of all handshake messages.
//!
//! Its size does not grow with the number of peers. The timestamps of handshakes are kept by
//! tunnels, and by the caller when tunnels come and go.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlay_core::{PrivateKey, PublicKey};
use zeroize::Zeroizing;

use crate::cookie::{self, CookieMaker};
use crate::entropy::Entropy;
use crate::handshake::{Parties, Responder};
use crate::index::Index;
use crate::initiation::Initiation;
use crate::limiter::Limiter;
use crate::mac::{ReceiverKeys, Signed};
use crate::message::{self, CookieReply, Datagram, RESPONSE_LEN, Response};
use crate::refusal::HandshakeRefusal;
use crate::state::{InvalidState, TunnelState};
use crate::static_key::{PresharedKey, StaticKey};
use crate::timestamp::WallClock;
use crate::tunnel::Tunnel;
use crate::wipe::leaving_nothing;

/// A message that passed the checks of its interface.
#[derive(Debug)]
pub enum Message {
    /// The sender must first prove its address: send it this cookie reply (§5.4.7).
    Challenge(Datagram),
    /// A handshake by the holder of the key in it, for [`Tunnel::answer`].
    Initiation(Initiation),
    /// For [`Tunnel::complete`] of the tunnel that its receiver index belongs to.
    Response(Response),
    /// For [`Tunnel::keep_cookie`] of the tunnel that its receiver index belongs to.
    Cookie(CookieReply),
}

/// One WireGuard interface.
pub struct Interface {
    own: Arc<StaticKey>,
    keys: ReceiverKeys,
    clock: WallClock,
    limiter: Limiter,
    cookies: CookieMaker,
    entropy: Entropy,
}

impl Interface {
    /// Makes the interface of a static key.
    ///
    /// `seed` is fresh entropy from the operating system that is used for nothing else. `unix_time`
    /// is the time since the Unix epoch at `now`; it must not go back across restarts with the same
    /// key, or peers reject handshakes as replays (rule D7).
    pub fn new(key: &PrivateKey, seed: &[u8; 32], now: Instant, unix_time: Duration) -> Self {
        let own = leaving_nothing(|| Arc::new(StaticKey::new(key)));
        let mut entropy = Entropy::new(seed);

        Self {
            keys: ReceiverKeys::new(own.public()),
            own,
            clock: WallClock::new(now, unix_time),
            limiter: Limiter::new(now),
            cookies: CookieMaker::new(&mut entropy, now),
            entropy,
        }
    }

    /// Returns the public key.
    pub fn public_key(&self) -> PublicKey {
        *self.own.public()
    }

    /// Makes a tunnel to the holder of `peer`, or returns `None` if no session can be made with
    /// that key.
    ///
    /// The id of the tunnel is random; a caller in which it is taken already must make another
    /// tunnel.
    pub fn new_tunnel(
        &mut self,
        peer: &PublicKey,
        preshared: PresharedKey,
        now: Instant,
    ) -> Option<Tunnel> {
        let entropy = self.entropy.fork();

        leaving_nothing(|| {
            let shared = self.own.shared(peer.as_bytes())?;
            let parties = Parties { own: Arc::clone(&self.own), peer: *peer, shared, preshared };

            Some(Tunnel::new(Box::new(parties), self.clock, entropy, now))
        })
    }

    /// Makes a tunnel at `now` from a state, which came from an interface with the same key.
    ///
    /// # Errors
    ///
    /// If the state is not valid.
    pub fn resume_tunnel(
        &mut self,
        state: &TunnelState,
        preshared: PresharedKey,
        now: Instant,
    ) -> Result<Tunnel, InvalidState> {
        let entropy = self.entropy.fork();

        leaving_nothing(|| {
            let shared = <[u8; 32]>::try_from(state.shared.as_slice()).map(Zeroizing::new);
            let shared = shared.map_err(|_| InvalidState("a secret has another length"))?;
            let own = Arc::clone(&self.own);
            let parties = Box::new(Parties { own, peer: state.peer, shared, preshared });

            Tunnel::resume(state, parties, self.clock, entropy, now)
        })
    }

    /// Verifies a handshake message or cookie reply as far as possible without its tunnel.
    ///
    /// # Errors
    ///
    /// If it is not such a message, not for this interface, not authentic, or its source sends too
    /// many (rule D5).
    pub fn receive(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Message, HandshakeRefusal> {
        match (message::Kind::of(datagram), datagram.len()) {
            (Some(message::Kind::Initiation), _) => match self.challenge(from, datagram, now)? {
                Some(challenge) => Ok(Message::Challenge(challenge)),
                None => self.read_initiation(datagram).map(Message::Initiation),
            },
            (Some(message::Kind::Answer(_)), RESPONSE_LEN) => {
                match self.challenge(from, datagram, now)? {
                    Some(challenge) => Ok(Message::Challenge(challenge)),
                    None => Response::read(datagram)
                        .map(Message::Response)
                        .ok_or(HandshakeRefusal::Malformed),
                }
            }
            (Some(message::Kind::Answer(_)), _) => {
                CookieReply::read(datagram).map(Message::Cookie).ok_or(HandshakeRefusal::Malformed)
            }
            (Some(message::Kind::Data(_)) | None, _) => Err(HandshakeRefusal::Malformed),
        }
    }

    fn read_initiation(&mut self, datagram: &[u8]) -> Result<Initiation, HandshakeRefusal> {
        let message = message::Initiation::read(datagram).ok_or(HandshakeRefusal::Malformed)?;
        let (own, entropy) = (&self.own, &mut self.entropy);
        let responder = leaving_nothing(|| Responder::read(own, entropy, message.noise))?;

        Ok(Initiation { responder, sender: message.sender })
    }

    /// Verifies mac1, and under load mac2 and the source's share. A sender with a wrong mac2 gets a
    /// cookie; one that does not know our key gets nothing (§5.3).
    fn challenge(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Option<Datagram>, HandshakeRefusal> {
        let signed = Signed::of(datagram).ok_or(HandshakeRefusal::Malformed)?;
        if !self.keys.verifies_mac1(&signed) {
            return Err(HandshakeRefusal::WrongMac);
        }
        if !self.limiter.is_under_load(now) {
            return Ok(None);
        }
        let cookie = self.cookies.cookie(from, &mut self.entropy, now);
        if signed.verifies_mac2(&cookie) {
            let is_admitted = self.limiter.admits(from.ip(), now);
            return if is_admitted { Ok(None) } else { Err(HandshakeRefusal::RateLimited) };
        }
        let sender =
            datagram.get(4..).and_then(<[u8]>::first_chunk).ok_or(HandshakeRefusal::Malformed)?;
        let receiver = Index::from_bytes(*sender);
        let reply = cookie::reply(&self.keys, &cookie, &signed, receiver, &mut self.entropy);

        Ok(reply.map(|reply| Datagram::cookie_reply(&reply)))
    }
}

impl fmt::Debug for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Interface({})", self.own.public())
    }
}
