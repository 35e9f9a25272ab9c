//! Two interfaces in virtual time.

mod cookies;
mod hand_over;
mod timers;

use std::net::SocketAddr;
use std::sync::OnceLock;

use overlay_core::PrivateKey;

use super::*;
use crate::interface::{Interface, Message};
use crate::message::Kind;
use crate::static_key::PresharedKey;

const EPOCH: Duration = Duration::from_secs(1_800_000_000);
const SECOND: Duration = Duration::from_secs(1);
/// The longest delay of a due handshake.
const JITTER: Duration = Duration::from_millis(333);

/// Returns the moment at which virtual time starts, the same throughout a test.
pub(crate) fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();

    #[expect(
        clippy::disallowed_methods,
        reason = "an instant cannot be made of nothing; only differences matter"
    )]
    *START.get_or_init(Instant::now)
}

pub(crate) fn interface(number: u8, now: Instant) -> Interface {
    Interface::new(&PrivateKey::from([number; 32]), &[number; 32], now, EPOCH)
}

pub(crate) fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 51_820))
}

/// One of two sides.
struct Side {
    interface: Interface,
    tunnel: Tunnel,
    address: SocketAddr,
    /// The packets that came out of the tunnel.
    received: Vec<Vec<u8>>,
    refused: Vec<String>,
}

/// Two sides, and the time.
struct Pair {
    now: Instant,
    sides: [Side; 2],
    /// The datagrams on their way, with their receiver.
    wire: Vec<(usize, Vec<u8>)>,
    /// When each side made its sessions, the oldest first.
    sessions: [Vec<Instant>; 2],
    initiations: [usize; 2],
    keepalives: [usize; 2],
    is_cut: bool,
}

impl Pair {
    fn new() -> Self {
        Self::with_preshared([PresharedKey::default(), PresharedKey::default()])
    }

    fn with_preshared(preshared: [PresharedKey; 2]) -> Self {
        let now = start();
        let [mut one, mut other] = [1, 2].map(|number| interface(number, now));
        let [first, second] = preshared;
        let tunnels = [
            one.new_tunnel(&other.public_key(), first, now).expect("a tunnel"),
            other.new_tunnel(&one.public_key(), second, now).expect("a tunnel"),
        ];
        let side = |(number, (interface, tunnel))| Side {
            interface,
            tunnel,
            address: address(number),
            received: Vec::new(),
            refused: Vec::new(),
        };
        let [first, second] = tunnels;
        let sides = [(1, (one, first)), (2, (other, second))].map(side);

        Self {
            now,
            sides,
            wire: Vec::new(),
            sessions: [Vec::new(), Vec::new()],
            initiations: [0; 2],
            keepalives: [0; 2],
            is_cut: false,
        }
    }

    /// Makes two sides with a session that both have, initiated by the first.
    fn connected() -> Self {
        let mut pair = Self::new();
        pair.initiate(0);
        pair.carry();
        assert_eq!(pair.ages(), [Some(Duration::ZERO); 2]);
        pair
    }

    fn initiate(&mut self, from: usize) {
        let initiation = self.sides[from].tunnel.initiate(self.now).expect("an initiation");
        self.put(from, &initiation);
    }

    fn put(&mut self, from: usize, datagram: &[u8]) {
        self.wire.push((1 - from, datagram.to_vec()));
    }

    fn seal(&mut self, from: usize, packet: &[u8]) -> Option<Vec<u8>> {
        let seal = self.sides[from].tunnel.begin_seal(self.now)?;
        let mut message = vec![0; crate::sealed_len(packet.len())];
        assert!(seal.run(packet, &mut message));
        Some(message)
    }

    fn say(&mut self, from: usize, packet: &[u8]) {
        let message = self.seal(from, packet).expect("a session");
        self.put(from, &message);
        self.carry();
    }

    /// Gives a side a datagram and returns the result.
    fn give(&mut self, to: usize, datagram: &[u8]) -> Result<(), String> {
        let (now, from) = (self.now, self.sides[1 - to].address);
        let Side { interface, tunnel, received, .. } = &mut self.sides[to];
        let answer = match Kind::of(datagram) {
            Some(Kind::Data(header)) => {
                let mut slot = vec![0; crate::open_room(datagram.len())];
                let open = tunnel.begin_open(header, now).map_err(|error| error.to_string())?;
                let opened = open.run(datagram, &mut slot);
                if let Some(len) = tunnel.commit(&opened, now).map_err(|error| error.to_string())? {
                    received.push(slot[..len].to_vec());
                }
                None
            }
            Some(Kind::Initiation | Kind::Answer(_)) | None => {
                let message =
                    interface.receive(from, datagram, now).map_err(|error| error.to_string())?;
                let makes_session =
                    matches!(message, Message::Initiation(_) | Message::Response(_));
                let answer = match message {
                    Message::Challenge(reply) => Ok(Some(reply)),
                    Message::Initiation(initiation) => tunnel.answer(initiation, now).map(Some),
                    Message::Response(response) => tunnel.complete(response, now).map(Some),
                    Message::Cookie(reply) => tunnel.keep_cookie(&reply, now).map(|()| None),
                };
                let answer = answer.map_err(|error| error.to_string())?;
                if makes_session {
                    self.sessions[to].push(now);
                }
                answer
            }
        };
        if let Some(answer) = answer {
            self.put(to, &answer);
        }

        Ok(())
    }

    /// Carries datagrams in both directions until there are none left.
    fn carry(&mut self) {
        while !self.wire.is_empty() {
            let (to, datagram) = self.wire.remove(0);
            if self.is_cut {
                continue;
            }
            if let Err(refusal) = self.give(to, &datagram) {
                self.sides[to].refused.push(refusal);
            }
        }
    }

    /// Lets time pass, and performs whatever falls due.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = self.sides.iter().filter_map(|side| side.tunnel.poll_timeout()).min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            for side in 0..2 {
                self.tick(side);
            }
            self.carry();
        }
        self.now = end;
    }

    fn tick(&mut self, side: usize) {
        for _ in 0..10 {
            if self.sides[side].tunnel.poll_timeout().is_none_or(|at| at > self.now) {
                return;
            }
            self.sides[side].tunnel.handle_timeout(self.now);
            match self.sides[side].tunnel.poll_action() {
                Some(Action::Initiate(datagram)) => {
                    self.initiations[side] += 1;
                    self.put(side, &datagram);
                }
                Some(Action::KeepAlive(datagram)) => {
                    self.keepalives[side] += 1;
                    self.put(side, &datagram);
                }
                Some(Action::Forget) => self.sides[side].refused.push("forgotten".to_owned()),
                None => {}
            }
        }
        panic!("a handled timeout is still due");
    }

    fn ages(&self) -> [Option<Duration>; 2] {
        self.sides.each_ref().map(|side| side.tunnel.session_age(self.now))
    }

    fn refused(&mut self, side: usize) -> Vec<String> {
        std::mem::take(&mut self.sides[side].refused)
    }

    fn received(&mut self, side: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.sides[side].received)
    }

    fn session(&mut self, side: usize) -> &mut Session {
        self.sides[side].tunnel.sessions.current_mut().expect("a session")
    }

    fn is_over(&self, side: usize) -> bool {
        self.sides[side].tunnel.is_over
    }
}

/// Returns a packet as it is received: padded (§5.4.6).
fn padded(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet.resize(packet.len().next_multiple_of(16), 0);
    packet
}

#[test]
fn a_handshake_makes_a_session_that_carries_packets_both_ways() {
    let mut pair = Pair::connected();

    for len in (1..100).chain([1_408, 65_000]) {
        let packet = vec![7; len];
        pair.say(0, &packet);
        pair.say(1, &packet);
        assert_eq!([pair.received(0), pair.received(1)], [[padded(&packet)], [padded(&packet)]]);
    }
    assert_eq!([pair.refused(0), pair.refused(1)], [const { Vec::<String>::new() }; 2]);
}

#[test]
fn a_tunnel_is_called_what_the_wire_calls_it() {
    let mut pair = Pair::new();
    pair.initiate(0);
    let (_, initiation) = pair.wire.remove(0);
    pair.give(1, &initiation).expect("a good initiation");
    let (_, response) = &pair.wire[0];

    let sender = Index::from_bytes(*initiation[4..].first_chunk().expect("an index"));
    let Some(Kind::Answer(receiver)) = Kind::of(response) else { panic!("an answer") };
    assert_eq!([sender.tunnel(), receiver.tunnel()], [pair.sides[0].tunnel.id(); 2]);
}

#[test]
fn the_responder_waits_for_the_first_message() {
    let mut pair = Pair::new();
    pair.initiate(0);
    let (_, initiation) = pair.wire.remove(0);
    pair.give(1, &initiation).expect("a good initiation");

    assert!(pair.seal(1, b"packet").is_none());
    pair.carry();

    assert!(pair.seal(1, b"packet").is_some());
}

#[test]
fn a_preshared_key_must_be_the_same() {
    let mut pair = Pair::with_preshared([[9; 32].into(), [9; 32].into()]);
    pair.initiate(0);
    pair.carry();
    assert_eq!(pair.ages(), [Some(Duration::ZERO); 2]);

    let mut pair = Pair::with_preshared([[9; 32].into(), [8; 32].into()]);
    pair.initiate(0);
    pair.carry();
    assert_eq!(pair.ages(), [None; 2]);
    assert_eq!(pair.refused(0), ["the message is not authentic"]);
}

#[test]
fn nothing_is_accepted_twice() {
    let mut pair = Pair::new();
    pair.initiate(0);
    let mut seen = Vec::new();
    while !pair.wire.is_empty() {
        let (to, datagram) = pair.wire.remove(0);
        pair.give(to, &datagram).expect("the first time");
        seen.push((to, datagram));
    }
    let data = pair.seal(0, b"packet").expect("a session");
    pair.give(1, &data).expect("the first time");
    seen.push((1, data));

    for (to, datagram) in &seen {
        assert!(pair.give(*to, datagram).is_err(), "{:?}", Kind::of(datagram));
    }
    assert!(pair.wire.is_empty());
    assert_eq!(seen.len(), 4);
}

#[test]
fn a_broken_bit_changes_nothing() {
    let mut pair = Pair::new();
    pair.initiate(0);
    while !pair.wire.is_empty() {
        let (to, mut datagram) = pair.wire.remove(0);
        // mac2 is not checked without load.
        let checked = if datagram.len() > 64 { datagram.len() - 16 } else { datagram.len() };
        for at in 0..checked {
            datagram[at] ^= 1 << (at % 8);
            assert!(pair.give(to, &datagram).is_err(), "byte {at} of {:?}", Kind::of(&datagram));
            datagram[at] ^= 1 << (at % 8);
        }
        pair.now += SECOND;
        pair.give(to, &datagram).expect("the whole one");
    }

    assert!(pair.ages().iter().all(Option::is_some));
}

#[test]
fn an_initiation_must_be_newer_than_the_last() {
    let mut pair = Pair::new();
    let old = pair.sides[0].tunnel.initiate(pair.now).expect("an initiation");
    let new = pair.sides[0].tunnel.initiate_again(pair.now).expect("an initiation");

    assert_eq!(pair.give(1, &new), Ok(()));
    assert_eq!(pair.give(1, &old), Err("the initiation is not newer than the last".to_owned()));
}

#[test]
fn an_initiation_is_for_its_peers_tunnel_alone() {
    let mut pair = Pair::new();
    let mut third = interface(3, pair.now);
    let public = pair.sides[1].interface.public_key();
    let mut tunnel =
        third.new_tunnel(&public, PresharedKey::default(), pair.now).expect("a tunnel");
    let initiation = tunnel.initiate(pair.now).expect("an initiation");

    assert_eq!(pair.give(1, &initiation), Err("the initiator is another peer".to_owned()));
}

#[test]
fn no_tunnel_is_made_to_a_key_of_low_order() {
    let mut interface = interface(1, start());

    assert!(
        interface.new_tunnel(&PublicKey::from([0; 32]), PresharedKey::default(), start()).is_none()
    );
}

#[test]
fn an_answer_that_comes_after_the_next_try_still_counts() {
    let mut pair = Pair::new();
    let first = pair.sides[0].tunnel.initiate(pair.now).expect("an initiation");
    let second = pair.sides[0].tunnel.initiate_again(pair.now + SECOND).expect("an initiation");
    pair.put(0, &first);
    let (_, first) = pair.wire.remove(0);
    pair.give(1, &first).expect("a good initiation");
    let (_, late) = pair.wire.remove(0);

    pair.now += SECOND;
    pair.give(1, &second).expect("a good initiation");
    let (_, last) = pair.wire.remove(0);
    pair.give(0, &late).expect("a good answer");
    pair.carry();

    assert!(pair.ages().iter().all(Option::is_some));
    pair.say(0, b"by the first");
    pair.say(1, b"by the first");
    pair.give(0, &last).expect("a good answer, too");
    pair.carry();
    pair.say(0, b"by the second");
    pair.say(1, b"by the second");
    assert_eq!([pair.received(0).len(), pair.received(1).len()], [2, 2]);
}

#[test]
fn both_may_call_at_once() {
    let mut pair = Pair::connected();
    pair.say(0, b"before");
    let in_flight = [0, 1].map(|from| pair.seal(from, b"in flight").expect("a session"));

    pair.now += SECOND;
    pair.initiate(0);
    pair.initiate(1);
    pair.carry();

    assert_eq!(pair.ages(), [Some(Duration::ZERO); 2]);
    for (from, datagram) in in_flight.into_iter().enumerate() {
        pair.give(1 - from, &datagram).expect("still known");
    }
    pair.say(0, b"after");
    pair.say(1, b"after");
    assert_eq!([pair.received(0).len(), pair.received(1).len()], [2, 3]);
    assert_eq!([pair.refused(0), pair.refused(1)], [const { Vec::<String>::new() }; 2]);
}

#[test]
fn indices_are_not_used_twice_at_a_time() {
    let mut pair = Pair::connected();
    for round in 0..600 {
        pair.now += Duration::from_millis(1);
        let from = round % 2;
        let initiation = pair.sides[from].tunnel.initiate_again(pair.now).expect("an initiation");
        pair.put(from, &initiation);
        pair.carry();
        pair.say(0, b"packet");
        pair.say(1, b"packet");
        // There is no load any more.
        pair.now += SECOND;
    }

    assert_eq!([pair.received(0).len(), pair.received(1).len()], [600, 600]);
    assert_eq!([pair.refused(0), pair.refused(1)], [const { Vec::<String>::new() }; 2]);
}

#[test]
fn a_tunnel_is_small() {
    // With one session and no handshake under way; docs/PERFORMANCE.md relies on this.
    let sizes = [size_of::<Tunnel>(), size_of::<Parties>(), size_of::<Session>()];

    assert!(sizes.iter().sum::<usize>() <= 3 * 1024, "{sizes:?}");
}
