//! The WireGuard protocol: the only file that names the library behind it.
//!
//! What the library leaves to its caller (routing, inner checks, queues, tunnels that expire) is elsewhere.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use overlay_core::{PrivateKey, PublicKey};
use zeroize::Zeroizing;

pub(crate) use sanstun::{CookieReply, Datagram, HandshakeInitiation, HandshakeResponse, TransportData};

use crate::drop::DropReason;

/// How much longer than its padded inner packet a data message is: header and tag, in bytes.
const OVERHEAD: usize = 32;
/// The header of a data message, in bytes.
const HEADER: usize = 16;
/// Inner packets are padded to a multiple of this many bytes.
pub(crate) const PADDING: usize = 16;

/// How long an unanswered handshake is tried before a peer counts as unreachable (`REKEY_ATTEMPT_TIME`).
pub(crate) const ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// How long to wait for the answer to a handshake (`REKEY_TIMEOUT`).
pub(crate) const RETRY_TIME: Duration = Duration::from_secs(5);
/// How long a session lives (`REJECT_AFTER_TIME`).
pub(crate) const SESSION_TIME: Duration = Duration::from_secs(180);

/// Returns the size of the data message that carries an inner packet of `len` bytes.
pub(crate) const fn sealed_len(len: usize) -> usize {
    len.next_multiple_of(PADDING) + OVERHEAD
}

/// Returns the room that opening a data message of `len` bytes takes.
pub(crate) const fn open_room(len: usize) -> usize {
    len.saturating_sub(HEADER)
}

/// Returns the public half of a key.
pub fn public_key(key: &PrivateKey) -> PublicKey {
    let secret = sanstun::StaticSecret::from(Zeroizing::new(*key.expose()));

    PublicKey::from(sanstun::PublicKey::from(&secret).to_bytes())
}

/// Names a tunnel in receiver indices: 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TunnelId(u32);

impl TunnelId {
    fn in_index(bytes: [u8; 4]) -> Self {
        Self(u32::from_le_bytes(bytes) >> 8)
    }
}

/// What a datagram claims to be. Nothing is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A handshake initiation: which interface it is for, only its MAC tells.
    Initiation,
    /// A handshake response or cookie for a tunnel.
    Answer(TunnelId),
    /// A data message for a tunnel.
    Data(TunnelId),
    /// No message at all.
    Unknown,
}

impl Kind {
    /// Looks at type, length and receiver index.
    pub(crate) fn of(datagram: &[u8]) -> Self {
        let index = |at: usize| datagram.get(at..).and_then(|rest| rest.first_chunk().copied()).map(TunnelId::in_index);
        let kind = match (datagram.first_chunk::<4>(), datagram.len()) {
            (Some([1, 0, 0, 0]), 148) => Some(Self::Initiation),
            (Some([2, 0, 0, 0]), 92) => index(8).map(Self::Answer),
            (Some([3, 0, 0, 0]), 64) => index(4).map(Self::Answer),
            (Some([4, 0, 0, 0]), OVERHEAD..) => index(4).map(Self::Data),
            _ => None,
        };

        kind.unwrap_or(Self::Unknown)
    }
}

/// A message that passed the checks of the interface it came to.
#[derive(Debug)]
pub(crate) enum Message {
    /// The sender must first prove that it hears us: send it this.
    Challenge(Datagram),
    /// An initiation by whoever holds the key it names.
    Initiation(HandshakeInitiation),
    /// The answer to an initiation.
    Response(HandshakeResponse),
    /// The challenge to an initiation.
    Cookie(CookieReply),
    /// The header of a data message.
    Data(TransportData),
}

/// One WireGuard interface: a static key and what is known of those who talk to it.
pub(crate) struct Interface(sanstun::Interface);

impl Interface {
    /// Makes the interface of a static key. `unix_time` belongs to `now`.
    pub(crate) fn new(key: &PrivateKey, seed: Zeroizing<[u8; 32]>, now: Instant, unix_time: Duration) -> Self {
        let secret = sanstun::StaticSecret::from(Zeroizing::new(*key.expose()));

        Self(sanstun::Interface::new(seed, now, unix_time).with_static_private(secret))
    }

    /// Returns the public half of the static key.
    pub(crate) fn public_key(&self) -> PublicKey {
        PublicKey::from(self.0.static_public().to_bytes())
    }

    /// Makes a tunnel to the holder of `peer`, unless no session can be made with that key.
    pub(crate) fn new_tunnel(&mut self, peer: &PublicKey, now: Instant) -> Option<Tunnel> {
        let peer = sanstun::PublicKey::from(*peer.as_bytes());
        let tunnel = self.0.new_tunnel(peer, sanstun::TunnelConfig::default(), now).ok()?;

        Some(Tunnel(Box::new(tunnel)))
    }

    /// Verifies the MACs of a handshake message and the limits of its sender; data messages only get parsed.
    pub(crate) fn receive(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> Result<Message, DropReason> {
        let received = self.0.receive(from, datagram, now).map_err(handshake_reason)?;

        Ok(match received {
            sanstun::Received::SendCookieReply(reply) => Message::Challenge(reply),
            sanstun::Received::Message(message) => match message {
                sanstun::ReceivedMessage::HandshakeInitiation(initiation) => Message::Initiation(initiation),
                sanstun::ReceivedMessage::HandshakeResponse(response) => Message::Response(response),
                sanstun::ReceivedMessage::CookieReply(cookie) => Message::Cookie(cookie),
                sanstun::ReceivedMessage::TransportData(data) => Message::Data(data),
            },
        })
    }
}

impl std::fmt::Debug for Interface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Interface({})", self.public_key())
    }
}

/// Returns the key whose holder made an initiation.
pub(crate) fn initiator(initiation: &HandshakeInitiation) -> PublicKey {
    PublicKey::from(initiation.peer_static_public().to_bytes())
}

/// What a tunnel wants done.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Send this initiation.
    Initiate(Datagram),
    /// Send this keepalive.
    KeepAlive(Datagram),
    /// Forget the tunnel: it will never work again.
    Forget,
}

/// The protocol state between one of our keys and one of theirs.
pub(crate) struct Tunnel(Box<sanstun::Tunnel>);

impl Tunnel {
    /// Returns the name that receiver indices call this tunnel by.
    pub(crate) fn id(&self) -> TunnelId {
        // The library keeps the number to itself, but shows it.
        TunnelId(self.0.id().to_string().parse().unwrap_or(u32::MAX))
    }

    /// Starts a handshake, unless one is under way.
    pub(crate) fn initiate(&mut self, now: Instant) -> Option<Datagram> {
        self.0.initiate_handshake(now)
    }

    /// Starts a handshake, also if one is under way.
    pub(crate) fn initiate_again(&mut self, now: Instant) -> Option<Datagram> {
        self.0.restart_handshake(now)
    }

    /// Sets how long the handshake under way waits for its answer.
    pub(crate) fn set_retry_time(&mut self, retry: Duration) {
        self.0.set_rekey_timeout(retry);
    }

    /// Answers an initiation.
    pub(crate) fn answer(&mut self, initiation: HandshakeInitiation, now: Instant) -> Result<Datagram, DropReason> {
        self.0.handle_handshake_initiation(initiation, now).map_err(handshake_reason)
    }

    /// Completes our handshake; the result is the keepalive that proves it to the peer.
    pub(crate) fn complete(&mut self, response: HandshakeResponse, now: Instant) -> Result<Datagram, DropReason> {
        self.0.handle_handshake_response(response, now).map_err(handshake_reason)
    }

    /// Keeps a cookie for the next initiation.
    pub(crate) fn keep_cookie(&mut self, cookie: CookieReply, now: Instant) -> Result<(), DropReason> {
        self.0.handle_cookie_reply(cookie, now).map_err(handshake_reason)
    }

    /// Reserves the counter of the next data message; `None` without a session.
    pub(crate) fn begin_seal(&mut self, now: Instant) -> Option<Seal> {
        self.0.begin_encapsulate(now).ok().map(Seal)
    }

    /// Finds the session of a data message and checks its counter.
    pub(crate) fn begin_open(&self, data: TransportData, now: Instant) -> Result<Open, DropReason> {
        self.0.begin_decapsulate(data, now).map(Open).map_err(data_reason)
    }

    /// Accepts an opened message exactly once and returns the length of its padded payload; keepalives have none.
    pub(crate) fn commit(&mut self, opened: Opened, now: Instant) -> Result<Option<usize>, DropReason> {
        match self.0.commit_decapsulate(opened.0, now).map_err(data_reason)? {
            sanstun::Committed::Data { len, .. } => Ok(Some(len)),
            sanstun::Committed::Keepalive => Ok(None),
        }
    }

    /// Returns the age of the session that sends, if there is one.
    pub(crate) fn session_age(&self, now: Instant) -> Option<Duration> {
        self.0.time_since_last_handshake(now)
    }

    /// Performs whatever is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.0.handle_timeout(now);
    }

    /// Returns when [`Tunnel::handle_timeout`] must next be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.0.poll_timeout()
    }

    /// Takes the next wish.
    pub(crate) fn poll_wish(&mut self) -> Option<Wish> {
        loop {
            return Some(match self.0.poll_event()? {
                sanstun::Event::SendHandshakeInitiation(datagram) => Wish::Initiate(datagram),
                sanstun::Event::SendKeepalive(datagram) => Wish::KeepAlive(datagram),
                sanstun::Event::ConnectionExpired => Wish::Forget,
                sanstun::Event::Established { .. } => continue,
            });
        }
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tunnel({})", self.0.id())
    }
}

/// A data message that has its counter but is not sealed yet. Any thread may do it.
#[derive(Debug)]
pub(crate) struct Seal(sanstun::PendingEncapsulate);

impl Seal {
    /// Seals `packet` into `slot`, which must have room for [`sealed_len`] bytes.
    pub(crate) fn run(self, packet: &[u8], slot: &mut [u8]) -> bool {
        self.0.encrypt(packet, slot).is_ok()
    }

    /// Seals two packets, together where that is faster.
    pub(crate) fn run_two(seals: [Self; 2], packets: [&[u8]; 2], slots: [&mut [u8]; 2]) -> [bool; 2] {
        sanstun::PendingEncapsulate::encrypt_two(seals.map(|seal| seal.0), packets, slots).map(|sealed| sealed.is_ok())
    }
}

/// A data message that is not opened yet. Any thread may do it.
#[derive(Debug)]
pub(crate) struct Open(sanstun::PendingDecapsulate);

impl Open {
    /// Opens `message` into `slot`, which must have room for [`open_room`] bytes.
    pub(crate) fn run(self, message: &[u8], slot: &mut [u8]) -> Opened {
        Opened(self.0.decrypt(message, slot).map(|_, _| ()))
    }

    /// Opens two messages, together where that is faster.
    pub(crate) fn run_two(opens: [Self; 2], messages: [&[u8]; 2], slots: [&mut [u8]; 2]) -> [Opened; 2] {
        sanstun::PendingDecapsulate::decrypt_two(opens.map(|open| open.0), messages, slots)
            .map(|decrypted| Opened(decrypted.map(|_, _| ())))
    }
}

/// An opened data message; it counts only once it is committed to its tunnel.
#[derive(Debug)]
pub(crate) struct Opened(sanstun::Decrypted<()>);

fn handshake_reason(error: sanstun::Error) -> DropReason {
    match error {
        sanstun::Error::InvalidMac => DropReason::WrongMac,
        sanstun::Error::RateLimited => DropReason::RateLimited,
        sanstun::Error::ReplayedHandshakeInitiation => DropReason::HandshakeReplayed,
        sanstun::Error::InvalidPacket => DropReason::NotWireguard,
        sanstun::Error::DestinationBufferTooSmall { .. }
        | sanstun::Error::UnexpectedPacket
        | sanstun::Error::WrongIndex
        | sanstun::Error::WrongKey
        | sanstun::Error::InvalidAeadTag
        | sanstun::Error::InvalidCounter
        | sanstun::Error::DuplicateCounter
        | sanstun::Error::NoCurrentSession
        | sanstun::Error::ConnectionExpired
        | sanstun::Error::EmptyPlaintext
        | sanstun::Error::LowOrderPoint => DropReason::HandshakeRefused,
    }
}

fn data_reason(error: sanstun::Error) -> DropReason {
    match error {
        sanstun::Error::InvalidCounter | sanstun::Error::DuplicateCounter => DropReason::CounterRefused,
        sanstun::Error::WrongIndex | sanstun::Error::NoCurrentSession | sanstun::Error::ConnectionExpired => {
            DropReason::NoSession
        }
        sanstun::Error::DestinationBufferTooSmall { .. }
        | sanstun::Error::UnexpectedPacket
        | sanstun::Error::WrongKey
        | sanstun::Error::InvalidAeadTag
        | sanstun::Error::ReplayedHandshakeInitiation
        | sanstun::Error::InvalidMac
        | sanstun::Error::InvalidPacket
        | sanstun::Error::EmptyPlaintext
        | sanstun::Error::LowOrderPoint
        | sanstun::Error::RateLimited => DropReason::WrongTag,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sim::{key, pub_key, start};

    #[test]
    fn a_tunnel_is_called_what_the_wire_calls_it() {
        let mut interface = Interface::new(&key(1, 0), Zeroizing::new([1; 32]), start(), Duration::ZERO);
        let mut tunnel = interface.new_tunnel(&pub_key(1, 1), start()).expect("a tunnel");

        let initiation = tunnel.initiate(start()).expect("an initiation");

        assert_eq!(initiation[4..].first_chunk().copied().map(TunnelId::in_index), Some(tunnel.id()));
        assert_eq!(Kind::of(&initiation), Kind::Initiation);
    }

    #[test]
    fn sizes_follow_the_padding() {
        assert_eq!(sealed_len(1), 48);
        assert_eq!(sealed_len(16), 48);
        assert_eq!(sealed_len(1408), 1440);
        assert_eq!(sealed_len(1409), 1456);
        assert_eq!(open_room(1440), 1424);
        assert_eq!(open_room(3), 0);
    }

    #[test]
    fn the_public_half_is_the_one_of_rfc_7748() {
        // Section 5.2: the first of the iterated values, whose scalar and point are both 9.
        let mut nine = [0; 32];
        nine[0] = 9;

        let public = public_key(&PrivateKey::from(nine));

        let hex: String = public.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079");
    }

    proptest! {
        #[test]
        fn only_messages_of_the_right_size_have_a_kind(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            match Kind::of(&bytes) {
                Kind::Initiation => prop_assert_eq!(bytes.len(), 148),
                Kind::Answer(_) => prop_assert!(bytes.len() == 92 || bytes.len() == 64),
                Kind::Data(_) => prop_assert!(bytes.len() >= 32),
                Kind::Unknown => {}
            }
        }
    }
}
