//! Works with secrets without leaving any of them on the stack.
//!
//! Secrets that are kept are wiped where they are kept. But values are moved on their way there,
//! and neither the language nor `snow` wipes the places that they leave.

use std::hint::black_box;

use zeroize::Zeroize as _;

/// How much of the stack is overwritten, in words of 8 bytes: several times what a step of a
/// handshake uses.
const DEPTH: usize = 4096;

/// Does some work and overwrites the stack that it used. The result itself must not be secret.
pub(crate) fn leaving_nothing<T>(work: impl FnOnce() -> T) -> T {
    let result = apart(work);
    overwrite();

    result
}

/// Keeps the work out of its caller's frame, so that [`overwrite`] reaches all of it.
#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[inline(never)]
fn overwrite() {
    let mut frame = [0_u64; DEPTH];
    frame.zeroize();
    black_box(&mut frame);
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;
    use std::sync::Arc;

    use overlay_core::PrivateKey;
    use x25519_dalek::StaticSecret;

    use super::*;
    use crate::entropy::Entropy;
    use crate::handshake::{Initiator, Parties, Responder};
    use crate::session::{HandshakeRole, Session};
    use crate::static_key::{self, PresharedKey, StaticKey};
    use crate::timestamp::Timestamp;
    use crate::tunnel::tests::start;

    type Needle = [u8; 32];

    /// A test that remembers a secret to search for it must store it inverted.
    fn inverted(secret: &[u8]) -> Needle {
        std::array::from_fn(|at| !secret[at])
    }

    /// Returns how many times a secret occurs in this process's writable memory.
    fn found(needle: &Needle) -> usize {
        const PAGE: usize = 4096;
        let maps = std::fs::read_to_string("/proc/self/maps").expect("the maps of this process");
        let memory = File::open("/proc/self/mem").expect("the memory of this process");
        // Large enough to have pages of its own, which are skipped because what is read passes
        // through them.
        let mut buffer = vec![0; 1 << 20];
        let own = buffer.as_ptr_range();
        let own = own.start.addr() / PAGE..=own.end.addr() / PAGE;
        let mut count = 0;
        for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
            let range =
                line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
            let [start, end] =
                [range.0, range.1].map(|hex| usize::from_str_radix(hex, 16).expect("an address"));
            for at in (start..end).step_by(PAGE).filter(|at| !own.contains(&(at / PAGE))) {
                // A secret that crosses into the next page is found, too.
                let most = (PAGE + 31).min(end - at);
                let Ok(len @ 1..) = memory.read_at(&mut buffer[..most], at as u64) else {
                    continue;
                };
                count +=
                    buffer[..len].windows(32).filter(|bytes| inverted(bytes) == *needle).count();
                buffer[..len].zeroize();
            }
        }
        count
    }

    fn parties(own: u8, peer: &StaticKey) -> Parties {
        let own = Arc::new(StaticKey::new(&PrivateKey::from([own; 32])));
        let shared = own.shared(peer.public().as_bytes()).expect("a good key");
        let preshared = PresharedKey::default();
        Parties { own, peer: *peer.public(), shared, preshared }
    }

    /// Completes a handshake as a tunnel does, and notes the secrets of the handshake in inverted
    /// form.
    fn sessions(mut note: impl FnMut(&[u8])) -> [Box<Session>; 2] {
        let (one, other) = leaving_nothing(|| {
            let keys = [0x31, 0x32].map(|byte| StaticKey::new(&PrivateKey::from([byte; 32])));
            (Box::new(parties(0x31, &keys[1])), Box::new(parties(0x32, &keys[0])))
        });
        let mut entropies = [Entropy::new(&[0x41; 32]), Entropy::new(&[0x42; 32])];
        let [mine, theirs] = &mut entropies;
        leaving_nothing(|| {
            let secrets =
                [0x41, 0x42].map(|seed| StaticSecret::from(*Entropy::new(&[seed; 32]).draw()));
            let publics =
                secrets.each_ref().map(|secret| *static_key::public_half(secret).as_bytes());
            note(secrets[0].as_bytes());
            note(secrets[1].as_bytes());
            note(&static_key::shared(&secrets[0], &publics[1]).expect("good keys")[..]);
            note(&static_key::shared(&secrets[0], one.peer.as_bytes()).expect("good keys")[..]);
            note(&static_key::shared(&secrets[1], other.peer.as_bytes()).expect("good keys")[..]);
            note(&one.shared[..]);
        });

        let started = leaving_nothing(|| Initiator::start(&one, mine, Timestamp::ZERO.successor()));
        let (mut initiator, first) = started.expect("a handshake");
        let read = leaving_nothing(|| Responder::read(&other.own, theirs, &first));
        let responder = read.expect("a good message");
        let index =
            |number| crate::index::TunnelId::draw(&mut Entropy::new(&[number; 32])).index(1);
        let (second, theirs) = leaving_nothing(|| {
            let (second, keys) = responder.answer(&other.preshared).expect("a good message");
            note(&keys.send[..]);
            note(&keys.receive[..]);
            (second, Session::new(HandshakeRole::Responder, index(1), [1; 4], &keys, start()))
        });
        let mine = leaving_nothing(|| {
            let keys = initiator.finish(&second).expect("a good message");
            // Next to it is the chaining key, from which all others are derived.
            note(initiator.handshake_hash());
            Session::new(HandshakeRole::Initiator, index(2), [2; 4], &keys, start())
        });
        leaving_nothing(|| drop((initiator, one, other)));
        [mine, theirs]
    }

    #[test]
    fn a_handshake_leaves_nothing_but_the_keys_of_its_session_and_they_go_with_it() {
        let mut needles = Vec::new();
        let sessions = sessions(|secret| needles.push(inverted(secret)));
        let [ephemerals @ .., responders_send, responders_receive, hash] = &needles[..] else {
            panic!("too few")
        };
        let keys = [responders_send, responders_receive];

        assert_eq!(keys.map(found), [2, 2], "one each for either side");
        for needle in ephemerals.iter().chain([hash]) {
            assert_eq!(found(needle), 0);
        }
        let given = leaving_nothing(|| sessions.each_ref().map(|session| session.state()));
        assert_eq!(keys.map(found), [4, 4], "one more for either side that is given away");
        let taken = leaving_nothing(|| given.each_ref().map(Session::resume));
        assert_eq!(keys.map(found), [6, 6]);
        drop((given, taken));
        assert_eq!(keys.map(found), [2, 2]);
        drop(sessions);
        assert_eq!(keys.map(found), [0, 0]);
    }
}
