//! The entry point for fuzzers: the same datagrams go to us and to `boringtun`, and both must agree
//! on all of them.
//!
//! Both have the same key and know the same peer. The peer exists twice, with the same seed, so
//! that it sends the same bytes to both where it can: initiations, and whatever a stranger makes of
//! them. The answers differ because ephemeral keys do, so data messages are sealed for each
//! separately, with equal counters.
//!
//! The two differ intentionally in two cases:
//!
//! - Counters from 2^64 - 2^13 - 1 on end `boringtun` if overflows are checked (rule D3), and those
//!   that are 1,024 to 8,192 behind are too old for it (rule D4). Neither is tested here.
//! - `boringtun` trusts the length in the header of a data message's packet; we return the padding
//!   as well, and the caller checks it (rule D2). It does not pad what it sends (§5.4.6).
//!
//! The corpus is in `fuzz/corpus`; the test of this module replays all of it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use mock_instant::MockClock;
use overlay_core::PrivateKey;

use crate::interface::{Interface, Message};
use crate::message::Kind;
use crate::static_key::PresharedKey;
use crate::tunnel::Tunnel;

/// The most deeds taken from one input; more find nothing that fewer do not.
const MOST_DEEDS: usize = 200;
/// How far behind a counter may be for `boringtun`.
const THEIR_WINDOW: u64 = 1_024;
/// The interval between handshake messages, long enough that nobody is under load.
const STEP: Duration = Duration::from_millis(20);
const EPOCH: Duration = Duration::from_secs(1_800_000_000);

/// An event for both.
#[derive(Debug, Arbitrary)]
enum Deed {
    /// A stranger sends something made up.
    Own(Vec<u8>),
    /// The peer sends an initiation.
    Call,
    /// A message of the peer is replayed, with some bytes changed and possibly cut short.
    Again { which: u8, changes: Vec<(u8, u8)>, len: Option<u8> },
    /// Both are told to send an initiation to the peer, which answers.
    Answer { is_forged: bool },
    /// The peer sends a packet whose counter differs from the last by `step`, possibly with a wrong
    /// bit.
    Packet { step: i16, len: u8, flip: Option<u8> },
    /// The peer sends an empty message.
    KeepAlive,
    /// Both send a packet.
    Back { len: u8 },
}

/// The result of a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Refused,
    /// A message of this type was sent in return.
    Answered(u8),
    Accepted,
    Packet(Vec<u8>),
}

/// One of the two implementations under test, with its peer.
struct Side {
    peer_interface: Interface,
    peer: Tunnel,
    /// Datagrams that it sent and the peer has not received yet.
    sent: VecDeque<Vec<u8>>,
}

struct Match {
    now: Instant,
    ours: (Interface, Tunnel),
    theirs: Tunn,
    /// The two implementations under test.
    sides: [Side; 2],
    /// The datagrams that the peer sent to both.
    heard: Vec<Vec<u8>>,
    /// The highest counter that the peer used with both.
    counter: Option<u64>,
}

fn own_address() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 51_820))
}

impl Match {
    fn new(now: Instant) -> Self {
        let mut ours = Interface::new(&PrivateKey::from([1; 32]), &[1; 32], now, EPOCH);
        let secret = x25519::StaticSecret::from([1; 32]);
        let sides = [0, 1].map(|_| {
            let mut interface = Interface::new(&PrivateKey::from([2; 32]), &[2; 32], now, EPOCH);
            let peer = interface.new_tunnel(&ours.public_key(), PresharedKey::default(), now);
            Side {
                peer_interface: interface,
                peer: peer.expect("a good key"),
                sent: VecDeque::new(),
            }
        });
        let peer = sides[0].peer_interface.public_key();
        let limiter = RateLimiter::new(&x25519::PublicKey::from(&secret), u64::MAX);
        let peer_key = x25519::PublicKey::from(*peer.as_bytes());
        let theirs = Tunn::new(secret, peer_key, None, None, 7, Some(Arc::new(limiter)));
        let tunnel = ours.new_tunnel(&peer, PresharedKey::default(), now).expect("a good key");

        Self { now, ours: (ours, tunnel), theirs, sides, heard: Vec::new(), counter: None }
    }

    fn live(&mut self, deed: Deed) {
        self.now += STEP;
        MockClock::advance(STEP);
        match deed {
            Deed::Own(bytes) => self.give_same(&bytes),
            Deed::Call => {
                let now = self.now;
                let [one, other] = self.sides.each_mut().map(|side| side.peer.initiate_again(now));
                let (one, other) = (one.expect("an initiation"), other.expect("an initiation"));
                assert_eq!(one[..], other[..], "the peer is the same");
                self.heard.push(one.to_vec());
                self.give_same(&one);
                self.settle();
            }
            Deed::Again { which, changes, len } => {
                let Some(heard) = self.heard.get(usize::from(which) % self.heard.len().max(1))
                else {
                    return;
                };
                let mut bytes = heard.clone();
                for (at, change) in changes {
                    if let Some(byte) = bytes.get_mut(usize::from(at)) {
                        *byte ^= change;
                    }
                }
                if let Some(len) = len {
                    bytes.resize(len.into(), 0);
                }
                self.give_same(&bytes);
                self.settle();
            }
            Deed::Answer { is_forged } => self.answer(is_forged),
            Deed::Packet { step, len, flip } => self.packet(step, &packet(len), flip),
            Deed::KeepAlive => self.packet(1, &[], None),
            Deed::Back { len } => self.back(&packet(len)),
        }
    }

    /// Gives the same datagram to both.
    fn give_same(&mut self, datagram: &[u8]) {
        let outcomes = [self.give_ours(datagram), self.give_theirs(datagram)];
        assert_eq!(outcomes[0], outcomes[1], "{datagram:02x?}");
    }

    /// Carries datagrams between both and the peer until there are none left.
    fn settle(&mut self) {
        for _ in 0..4 {
            let answers = [0, 1].map(|side| {
                let datagram = self.sides[side].sent.pop_front();
                datagram.and_then(|datagram| self.give_peer(side, &datagram))
            });
            let [Some(one), Some(other)] = answers else {
                assert_eq!(answers, [None, None]);
                continue;
            };
            let outcomes = [self.give_ours(&one), self.give_theirs(&other)];
            assert_eq!(outcomes[0], outcomes[1]);
        }
        assert!(self.sides.iter().all(|side| side.sent.is_empty()));
    }

    /// Gives the peer a datagram of one side, and returns its answer.
    fn give_peer(&mut self, side: usize, datagram: &[u8]) -> Option<Vec<u8>> {
        let now = self.now;
        let Side { peer_interface, peer, .. } = &mut self.sides[side];
        if let Some(Kind::Data(header)) = Kind::of(datagram) {
            let mut slot = vec![0; datagram.len()];
            let opened = peer.begin_open(header, now).expect("a session").run(datagram, &mut slot);
            assert_eq!(peer.commit(&opened, now), Ok(None), "a keepalive");
            return None;
        }
        let answer = match peer_interface.receive(own_address(), datagram, now).expect("authentic")
        {
            Message::Initiation(initiation) => peer.answer(initiation, now).expect("new"),
            Message::Response(response) => {
                let keepalive = peer.complete(response, now).expect("asked for");
                self.counter = Some(0);
                keepalive
            }
            Message::Challenge(_) | Message::Cookie(_) => panic!("nobody is under load"),
        };

        Some(answer.to_vec())
    }

    fn answer(&mut self, is_forged: bool) {
        let ours = self.ours.1.initiate_again(self.now).expect("an initiation").to_vec();
        let mut buffer = [0; 200];
        let TunnResult::WriteToNetwork(theirs) =
            self.theirs.format_handshake_initiation(&mut buffer, true)
        else {
            panic!("no initiation")
        };
        let theirs = theirs.to_vec();
        let [one, other] =
            [(0, ours), (1, theirs)].map(|(side, initiation)| self.give_peer(side, &initiation));
        let (mut one, mut other) = (one.expect("an answer"), other.expect("an answer"));
        if is_forged {
            one[50] ^= 1;
            other[50] ^= 1;
        }
        let outcomes = [self.give_ours(&one), self.give_theirs(&other)];
        assert_eq!(outcomes[0], outcomes[1]);
        if !is_forged {
            assert_eq!(outcomes[0], Outcome::Answered(4));
            self.counter = None;
        }
        self.settle();
    }

    fn packet(&mut self, step: i16, packet: &[u8], flip: Option<u8>) {
        let now = self.now;
        let Some(next) = self.counter.map_or(Some(0), |last| last.checked_add_signed(step.into()))
        else {
            return;
        };
        if self.counter.is_some_and(|last| next + THEIR_WINDOW <= last) {
            return;
        }
        let messages = self.sides.each_mut().map(|side| {
            side.peer.begin_seal(now)?;
            side.peer.skip_to(next);
            let mut message = vec![0; crate::sealed_len(packet.len())];
            let is_sealed = side.peer.begin_seal(now)?.run(packet, &mut message);
            assert!(is_sealed);
            if let Some(flip) = flip {
                let at = usize::from(flip) % message.len();
                // Not the receiver index, because the sessions of the two have different ones.
                message[if (4..8).contains(&at) { 0 } else { at }] ^= 1;
            }
            Some(message)
        });
        let [Some(one), Some(other)] = &messages else {
            assert_eq!(messages, [None, None]);
            return;
        };
        let outcomes = [self.give_ours(one), self.give_theirs(other)];
        assert_eq!(outcomes[0], outcomes[1], "{next} after {:?}, flipped {flip:?}", self.counter);
        if flip.is_none() {
            self.counter = self.counter.max(Some(next));
        }
    }

    /// Makes both send a packet, and gives the peer what they send.
    fn back(&mut self, packet: &[u8]) {
        let now = self.now;
        let mut message = vec![0; crate::sealed_len(packet.len())];
        let ours = self.ours.1.begin_seal(now).map(|seal| {
            assert!(seal.run(packet, &mut message));
            message
        });
        let mut buffer = [0; 600];
        let theirs = match self.theirs.encapsulate(packet, &mut buffer) {
            TunnResult::WriteToNetwork(message) if message[0] == 4 => Some(message.to_vec()),
            // It sends an initiation by itself, once; nobody answers it, and we are not compared
            // with that.
            TunnResult::WriteToNetwork(_) | TunnResult::Done => None,
            TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..)
            | TunnResult::Err(_) => panic!("it does not take the packet"),
        };
        assert_eq!(ours.is_some(), theirs.is_some());
        for (side, message) in [ours, theirs].into_iter().enumerate() {
            let Some(message) = message else { continue };
            let Some(Kind::Data(header)) = Kind::of(&message) else { panic!("no data") };
            let mut slot = vec![0; message.len()];
            let peer = &mut self.sides[side].peer;
            let opened = peer.begin_open(header, now).expect("a session").run(&message, &mut slot);
            let len = peer.commit(&opened, now).expect("authentic").expect("a packet");
            assert_eq!(slot[..packet.len()], *packet);
            assert!(len >= packet.len() && slot[packet.len()..len].iter().all(|byte| *byte == 0));
        }
    }

    fn give_ours(&mut self, datagram: &[u8]) -> Outcome {
        let (now, (interface, tunnel)) = (self.now, &mut self.ours);
        let answer = match Kind::of(datagram) {
            Some(Kind::Data(header)) => {
                let mut slot = vec![0; datagram.len()];
                let Ok(open) = tunnel.begin_open(header, now) else { return Outcome::Refused };
                return match tunnel.commit(&open.run(datagram, &mut slot), now) {
                    Ok(Some(_)) => Outcome::Packet(slot[..usize::from(slot[3])].to_vec()),
                    Ok(None) => Outcome::Accepted,
                    Err(_) => Outcome::Refused,
                };
            }
            Some(Kind::Initiation | Kind::Answer(_)) | None => {
                match interface.receive(own_address(), datagram, now) {
                    Ok(Message::Initiation(initiation)) => tunnel.answer(initiation, now).ok(),
                    Ok(Message::Response(response)) => tunnel.complete(response, now).ok(),
                    Ok(Message::Cookie(reply)) => {
                        return if tunnel.keep_cookie(&reply, now).is_ok() {
                            Outcome::Accepted
                        } else {
                            Outcome::Refused
                        };
                    }
                    Ok(Message::Challenge(_)) => panic!("nobody is under load"),
                    Err(_) => None,
                }
            }
        };
        let Some(answer) = answer else { return Outcome::Refused };
        self.sides[0].sent.push_back(answer.to_vec());

        Outcome::Answered(answer[0])
    }

    fn give_theirs(&mut self, datagram: &[u8]) -> Outcome {
        let mut buffer = [0; 2000];
        // An empty datagram makes it return what it has queued, and is not a message.
        if datagram.is_empty() {
            return Outcome::Refused;
        }
        match self.theirs.decapsulate(Some(own_address().ip()), datagram, &mut buffer) {
            TunnResult::WriteToNetwork(answer) => {
                self.sides[1].sent.push_back(answer.to_vec());
                Outcome::Answered(answer[0])
            }
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Outcome::Packet(packet.to_vec())
            }
            TunnResult::Done => Outcome::Accepted,
            TunnResult::Err(_) => Outcome::Refused,
        }
    }
}

/// Returns a packet that `boringtun` accepts: complete IPv4.
fn packet(len: u8) -> Vec<u8> {
    let len = len.max(20);
    let mut packet = vec![0xAB; len.into()];
    packet[..4].copy_from_slice(&[0x45, 0, 0, len]);

    packet
}

/// Performs the same events on us and on `boringtun`.
///
/// # Panics
///
/// If they do not agree.
pub fn same_datagrams(bytes: &[u8]) {
    #[expect(
        clippy::disallowed_methods,
        reason = "an instant cannot be made of nothing; only differences matter"
    )]
    let mut game = Match::new(Instant::now());
    let mut input = Unstructured::new(bytes);
    for _ in 0..MOST_DEEDS {
        if input.is_empty() {
            break;
        }
        let Ok(deed) = Deed::arbitrary(&mut input) else { break };
        game.live(deed);
    }
}

#[cfg(test)]
#[path = "../../fuzz/corpus.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::corpus;

    #[test]
    fn same_datagrams() {
        corpus::replay("same_datagrams", super::same_datagrams);
    }

    proptest! {
        #[test]
        fn any_deeds_end_alike(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            super::same_datagrams(&bytes);
        }
    }
}
