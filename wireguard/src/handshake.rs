//! The Noise handshake of two messages that makes the keys of a session (§5.4.1 to §5.4.3, §5.4.5).
//!
//! ```text
//!   Initiator::start ──first──► Responder::read
//!                                    │ who is it? is it new? which preshared key?
//!   Initiator::finish ◄──second── Responder::answer
//! ```
//! `snow` runs the handshake and does not wipe its working data. So its state stays in one place on
//! the heap and is overwritten there with one that holds no secret. What is left on the stack is
//! for the callers to overwrite, see [`crate::wipe`].

use std::hint::black_box;
use std::sync::Arc;

use overlay_core::PublicKey;
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use crate::entropy::Entropy;
use crate::refusal::HandshakeRefusal;
use crate::resolver::Resolver;
use crate::static_key::{PresharedKey, SharedSecret, StaticKey};
use crate::timestamp::Timestamp;

/// The protocol (§5.4: `Construction`).
const PROTOCOL: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
/// What both sides hash first (§5.4: `Identifier`).
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// Where the preshared key is mixed in: in the second message.
const PSK_PLACE: usize = 2;
/// A pattern that needs no key at all.
const KEYLESS: &str = "Noise_NN_25519_ChaChaPoly_BLAKE2s";

const KEY_LEN: usize = overlay_aead::KEY_LEN;
const TAG_LEN: usize = overlay_aead::TAG_LEN;

/// The length of Noise's part of the first message: ephemeral key, encrypted static key, encrypted
/// timestamp (§5.4.2).
pub(crate) const FIRST_LEN: usize = KEY_LEN + KEY_LEN + TAG_LEN + Timestamp::LEN + TAG_LEN;
/// The length of Noise's part of the second message: ephemeral key, encrypted empty payload
/// (§5.4.3).
pub(crate) const SECOND_LEN: usize = KEY_LEN + TAG_LEN;

/// The keys of a session (§5.4.5). Wiped when dropped.
pub(crate) struct SessionKeys {
    pub(crate) send: Zeroizing<[u8; KEY_LEN]>,
    pub(crate) receive: Zeroizing<[u8; KEY_LEN]>,
}

/// The two sides of a handshake, and what they share.
pub(crate) struct Parties {
    pub(crate) own: Arc<StaticKey>,
    pub(crate) peer: PublicKey,
    /// The shared secret of both static keys.
    pub(crate) shared: SharedSecret,
    pub(crate) preshared: PresharedKey,
}

/// The initiator, waiting for the answer.
pub(crate) struct Initiator(Noise);

impl Initiator {
    /// Makes the first message.
    pub(crate) fn start(
        parties: &Parties,
        entropy: &mut Entropy,
        timestamp: Timestamp,
    ) -> Result<(Self, [u8; FIRST_LEN]), HandshakeRefusal> {
        let resolver = Resolver {
            own: Arc::clone(&parties.own),
            shared: Some((parties.peer, parties.shared.clone())),
            ephemeral: entropy.draw(),
        };
        let mut noise = Noise::new(resolver, Some(&parties.peer), IDENTIFIER)?;
        let mut message = [0; FIRST_LEN];
        noise.state.set_psk(PSK_PLACE, parties.preshared.expose())?;
        noise.state.write_message(&timestamp.to_bytes(), &mut message)?;

        Ok((Self(noise), message))
    }

    /// Reads the second message. A forged message changes nothing.
    pub(crate) fn finish(
        &mut self,
        message: &[u8; SECOND_LEN],
    ) -> Result<SessionKeys, HandshakeRefusal> {
        self.0.state.read_message(message, &mut [])?;
        let [send, receive] = self.0.split();

        Ok(SessionKeys { send, receive })
    }

    #[cfg(test)]
    pub(crate) fn handshake_hash(&self) -> &[u8] {
        self.0.state.get_handshake_hash()
    }
}

/// The responder, between the two messages.
pub(crate) struct Responder {
    noise: Noise,
    peer: PublicKey,
    timestamp: Timestamp,
}

impl Responder {
    /// Reads the first message.
    pub(crate) fn read(
        own: &Arc<StaticKey>,
        entropy: &mut Entropy,
        message: &[u8; FIRST_LEN],
    ) -> Result<Self, HandshakeRefusal> {
        let own = Arc::clone(own);
        let resolver = Resolver { own, shared: None, ephemeral: entropy.draw() };
        let mut noise = Noise::new(resolver, None, IDENTIFIER)?;
        let mut timestamp = [0; Timestamp::LEN];
        noise.state.read_message(message, &mut timestamp)?;
        let peer = noise.state.get_remote_static().and_then(|key| PublicKey::try_from(key).ok());

        Ok(Self {
            peer: peer.ok_or(HandshakeRefusal::NotAuthentic)?,
            timestamp: Timestamp::from_bytes(timestamp),
            noise,
        })
    }

    /// Returns the initiator's key.
    pub(crate) fn peer(&self) -> &PublicKey {
        &self.peer
    }

    /// Returns the timestamp of the initiation.
    pub(crate) fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// Makes the second message.
    pub(crate) fn answer(
        mut self,
        preshared: &PresharedKey,
    ) -> Result<([u8; SECOND_LEN], SessionKeys), HandshakeRefusal> {
        let mut message = [0; SECOND_LEN];
        self.noise.state.set_psk(PSK_PLACE, preshared.expose())?;
        self.noise.state.write_message(&[], &mut message)?;
        let [receive, send] = self.noise.split();

        Ok((message, SessionKeys { send, receive }))
    }
}

/// The state of a handshake in `snow`.
struct Noise {
    state: Box<HandshakeState>,
    own: Arc<StaticKey>,
}

impl Noise {
    /// Makes the state of an initiator, which knows the peer, or of a responder, which does not
    /// yet.
    fn new(
        resolver: Resolver,
        peer: Option<&PublicKey>,
        prologue: &[u8],
    ) -> Result<Self, snow::Error> {
        let own = Arc::clone(&resolver.own);
        let builder = Builder::with_resolver(PROTOCOL.parse()?, Box::new(resolver))
            // The resolver has the key.
            .local_private_key(&[])?
            .prologue(prologue)?;
        let state = match peer {
            Some(peer) => builder.remote_public_key(peer.as_bytes())?.build_initiator()?,
            None => builder.build_responder()?,
        };

        Ok(Self { state: Box::new(state), own })
    }

    /// Returns the keys that the initiator and the responder send with.
    fn split(&mut self) -> [Zeroizing<[u8; KEY_LEN]>; 2] {
        let (initiator, responder) = self.state.dangerously_get_raw_split();

        [initiator, responder].map(Zeroizing::new)
    }

    /// Makes a state that holds no secret.
    fn blank(&self) -> Result<HandshakeState, snow::Error> {
        let own = Arc::clone(&self.own);
        let resolver = Resolver { own, shared: None, ephemeral: Zeroizing::new([0; KEY_LEN]) };

        Builder::with_resolver(KEYLESS.parse()?, Box::new(resolver)).build_initiator()
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        if let Ok(blank) = self.blank() {
            *self.state = blank;
            // So that the compiler does not remove writes that nobody reads.
            black_box(&mut self.state);
        }
    }
}

/// `snow` gives more detail, but in every case the message or its keys are wrong.
impl From<snow::Error> for HandshakeRefusal {
    fn from(_: snow::Error) -> Self {
        Self::NotAuthentic
    }
}

#[cfg(test)]
mod tests {
    use overlay_aead::Key;
    use overlay_core::PrivateKey;

    use super::*;

    /// `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` from the test vectors of Cacophony, an
    /// implementation of Noise in Haskell (<https://github.com/haskell-cryptography/cacophony>,
    /// `vectors/cacophony.txt`).
    mod cacophony {
        pub(super) const PROLOGUE: &str = "4a6f686e2047616c74";
        pub(super) const PSK: &str =
            "54686973206973206d7920417573747269616e20706572737065637469766521";
        pub(super) const STATICS: [&str; 2] = [
            "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1",
            "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893",
        ];
        pub(super) const EPHEMERALS: [&str; 2] = [
            "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
            "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b",
        ];
        pub(super) const HASH: &str =
            "f5191b875290abcd41347ac3622d9679688a7e980229cb937ef748336cfde0e5";
        pub(super) const MESSAGES: [(&str, &str); 6] = [
            (
                "4c756477696720766f6e204d69736573",
                "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944001e21de9f98ddd8\
                 e2ad57527207feb56253c9c94a9e496782ecfcb2a75fbcaf1b52948cc48daefe660c62119ab50009\
                 80c84831215f2441eba616548e832985464cf17e51ee93109008399a21f7e13f",
            ),
            (
                "4d757272617920526f746862617264",
                "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843cb765f2caef0751b\
                 8f007572dab0322217755c0632f365717edbf34d33e87a",
            ),
            ("462e20412e20486179656b", "8153ca9833bc3c1b91a7e66e5f4d4f5b59bf9e64c2f20d15f0bba7"),
            ("4361726c204d656e676572", "07af0c9c86e1b4e80f36b04ff7688d51141af3debd0332f0a705ef"),
            (
                "4a65616e2d426170746973746520536179",
                "6ab1467c0448cc78394494abaaf23afce0e234315d6e2624dcbfa8a21c1c4d073d",
            ),
            (
                "457567656e2042f6686d20766f6e2042617765726b",
                "dfc346c0d2296ae6cf1acf6f12b8456a1dba228cf8d8b774aacf1c47fc53aa80ebc7a4c292",
            ),
        ];
    }

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
            .collect()
    }

    fn key(hex: &str) -> [u8; 32] {
        bytes(hex).try_into().expect("32 bytes")
    }

    #[test]
    fn messages_hash_and_keys_are_those_of_another_noise() {
        let statics =
            cacophony::STATICS.map(|hex| Arc::new(StaticKey::new(&PrivateKey::from(key(hex)))));
        let prologue = bytes(cacophony::PROLOGUE);
        let side = |at: usize, peer: Option<&PublicKey>| {
            let resolver = Resolver {
                own: Arc::clone(&statics[at]),
                shared: None,
                ephemeral: Zeroizing::new(key(cacophony::EPHEMERALS[at])),
            };
            let mut noise = Noise::new(resolver, peer, &prologue).expect("a state");
            noise.state.set_psk(PSK_PLACE, &key(cacophony::PSK)).expect("a key");
            noise
        };
        let mut sides = [side(0, Some(statics[1].public())), side(1, None)];

        for (from, (payload, message)) in cacophony::MESSAGES[..2].iter().enumerate() {
            let (mut written, mut read) = ([0; 200], [0; 200]);
            let len =
                sides[from].state.write_message(&bytes(payload), &mut written).expect("written");
            assert_eq!(written[..len], bytes(message));
            let len = sides[1 - from].state.read_message(&written[..len], &mut read).expect("read");
            assert_eq!(read[..len], bytes(payload));
        }

        let keys = sides.each_mut().map(|side| {
            assert_eq!(side.state.get_handshake_hash(), bytes(cacophony::HASH));
            side.split()
        });
        assert_eq!(keys[0], keys[1]);
        for (at, (payload, message)) in cacophony::MESSAGES[2..].iter().enumerate() {
            let mut nonce = [0; 12];
            nonce[4] = u8::try_from(at / 2).expect("small");
            let mut sealed = vec![0; payload.len() / 2 + TAG_LEN];
            Key::new(&keys[0][at % 2]).seal(&nonce, &bytes(payload), &mut sealed).expect("sealed");
            assert_eq!(sealed, bytes(message));
        }
    }

    #[test]
    fn a_forged_answer_does_not_end_a_handshake() {
        let statics = [1, 2].map(|byte| Arc::new(StaticKey::new(&PrivateKey::from([byte; 32]))));
        let parties = Parties {
            own: Arc::clone(&statics[0]),
            peer: *statics[1].public(),
            shared: statics[0].shared(statics[1].public().as_bytes()).expect("a good key"),
            preshared: PresharedKey::default(),
        };
        let mut entropy = Entropy::new(&[1; 32]);
        let time = Timestamp::ZERO.successor();
        let (mut initiator, first) =
            Initiator::start(&parties, &mut entropy, time).expect("a handshake");
        let responder = Responder::read(&statics[1], &mut entropy, &first).expect("a good message");
        assert_eq!((responder.peer(), responder.timestamp()), (statics[0].public(), time));
        let (second, theirs) = responder.answer(&parties.preshared).expect("a good message");

        for at in 0..second.len() {
            let mut forged = second;
            forged[at] ^= 1;
            assert!(initiator.finish(&forged).is_err());
        }
        let mine = initiator.finish(&second).expect("a good message");

        assert_eq!((mine.send, mine.receive), (theirs.receive, theirs.send));
    }

    #[test]
    fn every_bit_of_the_first_message_counts() {
        let own = Arc::new(StaticKey::new(&PrivateKey::from([1; 32])));
        let parties = Parties {
            own: Arc::clone(&own),
            peer: *own.public(),
            shared: own.shared(own.public().as_bytes()).expect("a good key"),
            preshared: PresharedKey::default(),
        };
        let mut entropy = Entropy::new(&[1; 32]);
        let (_, first) =
            Initiator::start(&parties, &mut entropy, Timestamp::ZERO).expect("a handshake");

        for at in 0..first.len() {
            let mut forged = first;
            forged[at] ^= 1;
            assert!(Responder::read(&own, &mut entropy, &forged).is_err(), "byte {at}");
        }
        assert!(Responder::read(&own, &mut entropy, &first).is_ok());
    }
}
