//! A tunnel that continues in another process, which the paper does not cover.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::message::DataHeader;
use crate::timers::{KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_AFTER_TIME};

impl Pair {
    /// Makes another process take over a side.
    fn hand_over(&mut self, side: usize) {
        let state = self.sides[side].tunnel.state().expect("it is not over");
        let number = if side == 0 { 1 } else { 2 };
        let (now, unix_time) = (self.now, EPOCH + (self.now - start()));
        let key = PrivateKey::from([number; 32]);
        let mut interface = Interface::new(&key, &[number + 100; 32], now, unix_time);
        let tunnel = interface.resume_tunnel(&state, PresharedKey::default(), now);
        self.sides[side].tunnel = tunnel.expect("a good state");
        self.sides[side].interface = interface;
    }
}

fn header(message: &[u8]) -> DataHeader {
    match Kind::of(message) {
        Some(Kind::Data(header)) => header,
        Some(Kind::Initiation | Kind::Answer(_)) | None => panic!("no data message"),
    }
}

#[test]
fn what_was_accepted_before_is_not_accepted_again() {
    let mut pair = Pair::connected();
    let messages: Vec<_> = (0..10).map(|_| pair.seal(0, b"packet").expect("a session")).collect();
    for message in messages.iter().skip(1).step_by(2) {
        pair.give(1, message).expect("the first time");
    }

    pair.hand_over(1);

    for (number, message) in messages.iter().enumerate() {
        assert_eq!(pair.give(1, message).is_ok(), number % 2 == 0, "{number}");
        assert!(pair.give(1, message).is_err());
    }
}

#[test]
fn counters_go_on_where_they_were() {
    let mut pair = Pair::connected();
    pair.say(0, b"packet");
    let before = header(&pair.seal(0, b"packet").expect("a session"));

    pair.hand_over(0);

    let after = header(&pair.seal(0, b"packet").expect("a session"));
    assert_eq!((after.index, after.counter), (before.index, before.counter + 1));
}

#[test]
fn a_handshake_under_way_is_made_again_at_once() {
    for side in 0..2 {
        let mut pair = Pair::new();
        pair.initiate(0);
        let (to, initiation) = pair.wire.remove(0);
        pair.give(to, &initiation).expect("a good initiation");

        pair.hand_over(side);
        pair.wait(Duration::ZERO);
        pair.carry();

        assert_eq!(pair.ages(), [Some(Duration::ZERO); 2], "side {side}");
        pair.say(0, b"packet");
        pair.say(1, b"packet");
        assert_eq!([pair.received(0).len(), pair.received(1).len()], [1, 1]);
    }
}

#[test]
fn an_initiation_that_was_answered_is_a_replay_afterwards() {
    let mut pair = Pair::new();
    pair.initiate(0);
    let (_, initiation) = pair.wire.remove(0);
    pair.give(1, &initiation).expect("a good initiation");

    pair.hand_over(1);

    assert_eq!(pair.give(1, &initiation), Err(HandshakeRefusal::Replayed.to_string()));
}

#[test]
fn sessions_are_renewed_and_kept_alive_as_if_nothing_had_been() {
    let mut pair = Pair::connected();
    pair.say(0, b"packet");
    pair.hand_over(0);
    pair.hand_over(1);

    pair.wait(KEEPALIVE_TIMEOUT);
    assert_eq!(pair.keepalives, [0, 1]);
    pair.wait(REKEY_AFTER_TIME - KEEPALIVE_TIMEOUT + JITTER);

    assert_eq!(pair.initiations, [1, 0]);
    assert!(pair.ages().iter().all(|age| age.is_some_and(|age| age <= JITTER)));
}

#[test]
fn a_state_that_no_tunnel_has_is_refused() {
    type Spoil = fn(&mut TunnelState);
    let mut pair = Pair::connected();
    let spoil: [(&str, Spoil); 6] = [
        ("a name is too long", |state| state.id |= 1 << 24),
        ("a session is another tunnel's", |state| state.id ^= 1),
        ("a secret has another length", |state| state.shared.truncate(31)),
        ("a key has another length", |state| session(state).opening.push(0)),
        ("a replay window is none", |state| session(state).window_seen.truncate(127)),
        ("a counter is past its limit", |state| session(state).next = u64::MAX),
    ];

    for (why, spoil) in spoil {
        let mut state = pair.sides[0].tunnel.state().expect("it is not over");
        spoil(&mut state);
        let now = pair.now;
        let resumed = pair.sides[0].interface.resume_tunnel(&state, PresharedKey::default(), now);

        assert_eq!(resumed.err(), Some(InvalidState(why)));
    }
}

fn session(state: &mut TunnelState) -> &mut crate::state::SessionState {
    state.current.as_mut().expect("a session")
}

#[derive(Debug, Clone)]
enum Step {
    /// A side seals a message, which is held back.
    Seal(usize),
    /// One of the messages held back arrives.
    Arrive(prop::sample::Index),
    /// A message that arrived arrives again.
    Replay(prop::sample::Index),
    HandOver(usize),
    Wait(u64),
    Initiate(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..2_usize).prop_map(Step::Seal),
        6 => any::<prop::sample::Index>().prop_map(Step::Arrive),
        2 => any::<prop::sample::Index>().prop_map(Step::Replay),
        2 => (0..2_usize).prop_map(Step::HandOver),
        2 => (1..20_000_u64).prop_map(Step::Wait),
        1 => (0..2_usize).prop_map(Step::Initiate),
    ];

    proptest::collection::vec(step, 1..120)
}

/// How many sessions a side keeps.
const KEPT: usize = 4;

/// A message on its way.
struct Held {
    to: usize,
    bytes: Vec<u8>,
    /// When its session was made, which is the same moment on both sides: the wire takes no time.
    session: Instant,
}

impl Pair {
    /// Returns when the session that a side must have now was made.
    fn session_expected(&self, side: usize) -> Option<Instant> {
        let last = self.sessions[side].last().copied();

        last.filter(|since| self.now < *since + REJECT_AFTER_TIME)
    }

    /// Returns whether a message that has not arrived before must be accepted: its session has not
    /// ended and is among the last that were made. `None` if it shares the moment of others and
    /// only some of them are kept.
    fn is_acceptable(&self, message: &Held) -> Option<bool> {
        let made = &self.sessions[message.to];
        let later = made.iter().filter(|since| **since > message.session).count();
        let not_earlier = made.iter().filter(|since| **since >= message.session).count();
        if self.now >= message.session + REJECT_AFTER_TIME || later >= KEPT {
            return Some(false);
        }

        (not_earlier <= KEPT).then_some(true)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn wherever_it_is_handed_over_no_counter_is_used_twice_and_nothing_lost_or_repeated(
        steps in steps()
    ) {
        let mut pair = Pair::connected();
        let (mut held, mut arrived) = (Vec::<Held>::new(), Vec::<Held>::new());
        let mut used = BTreeSet::new();

        for step in steps {
            match step {
                Step::Seal(from) => {
                    let session = pair.session_expected(from);
                    let age = session.map(|since| pair.now - since);
                    prop_assert_eq!(pair.ages()[from], age);
                    if let (Some(session), Some(bytes)) = (session, pair.seal(from, b"packet")) {
                        let header = header(&bytes);
                        let index = header.index.to_bytes();
                        prop_assert!(used.insert((from, index, header.counter)));
                        held.push(Held { to: 1 - from, bytes, session });
                    }
                }
                Step::Arrive(at) if !held.is_empty() => {
                    let message = held.remove(at.index(held.len()));
                    let expected = pair.is_acceptable(&message);
                    let given = pair.give(message.to, &message.bytes);
                    prop_assert!(expected.is_none_or(|it| it == given.is_ok()), "{given:?}");
                    arrived.push(message);
                }
                Step::Replay(at) if !arrived.is_empty() => {
                    let message = &arrived[at.index(arrived.len())];
                    prop_assert!(pair.give(message.to, &message.bytes).is_err());
                }
                Step::Arrive(_) | Step::Replay(_) => {}
                Step::HandOver(side) => pair.hand_over(side),
                Step::Wait(millis) => pair.wait(Duration::from_millis(millis)),
                Step::Initiate(side) => {
                    if let Some(initiation) = pair.sides[side].tunnel.initiate(pair.now) {
                        pair.put(side, &initiation);
                    }
                    pair.carry();
                    pair.wait(SECOND);
                }
            }
        }
    }
}
