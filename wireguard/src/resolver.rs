//! The primitives of the handshake, as `snow` requests them (§5.4): X25519, ChaCha20-Poly1305,
//! BLAKE2s.
//!
//! Each keeps its secrets to itself and wipes them. The static key is never passed to `snow`, and
//! the only random number of a handshake, its ephemeral key, is drawn before the handshake begins.

use std::sync::Arc;

use blake2::{Blake2s256, Digest as _};
use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use overlay_core::PublicKey;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use crate::static_key::{self, SharedSecret, StaticKey};

/// The length of every key and hash, in bytes.
const LEN: usize = 32;
/// The block size of BLAKE2s, in bytes (RFC 7693, section 2.1).
const BLOCK_LEN: usize = 64;
/// The length of the tag of ChaCha20-Poly1305, in bytes.
const TAG_LEN: usize = overlay_aead::TAG_LEN;

/// The primitives for one handshake.
pub(crate) struct Resolver {
    pub(crate) own: Arc<StaticKey>,
    /// The shared secret of both static keys with the peer's key, if it is known already: it never
    /// changes.
    pub(crate) shared: Option<(PublicKey, SharedSecret)>,
    /// The ephemeral key of this handshake.
    pub(crate) ephemeral: Zeroizing<[u8; LEN]>,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once { key: self.ephemeral.clone(), is_given: false }))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let pair =
            KeyPair { own: Arc::clone(&self.own), shared: self.shared.clone(), ephemeral: None };

        (*choice == DHChoice::Curve25519).then(|| Box::new(pair) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        (*choice == HashChoice::Blake2s).then(|| Box::<Blake2s>::default() as Box<dyn Hash>)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        let is_known = *choice == CipherChoice::ChaChaPoly;

        is_known.then(|| Box::<ChaChaPoly>::default() as Box<dyn Cipher>)
    }
}

/// Returns the ephemeral key, once.
struct Once {
    key: Zeroizing<[u8; LEN]>,
    is_given: bool,
}

impl Random for Once {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        if self.is_given || dest.len() != LEN {
            return Err(snow::Error::Rng);
        }
        self.is_given = true;
        dest.copy_from_slice(&self.key[..]);

        Ok(())
    }
}

/// Our static key, until an ephemeral key is generated in its place.
struct KeyPair {
    own: Arc<StaticKey>,
    shared: Option<(PublicKey, SharedSecret)>,
    ephemeral: Option<(StaticSecret, PublicKey)>,
}

impl Dh for KeyPair {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        LEN
    }

    fn priv_len(&self) -> usize {
        LEN
    }

    /// Does nothing: the static key is here already, and no other is ever set.
    fn set(&mut self, _: &[u8]) {}

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        let mut bytes = Zeroizing::new([0; LEN]);
        rng.try_fill_bytes(&mut bytes[..])?;
        let secret = StaticSecret::from(*bytes);
        let public = static_key::public_half(&secret);
        self.ephemeral = Some((secret, public));

        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        match &self.ephemeral {
            Some((_, public)) => public.as_bytes(),
            None => self.own.public().as_bytes(),
        }
    }

    /// Returns nothing, because no handshake needs it.
    fn privkey(&self) -> &[u8] {
        &[]
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let peer = pubkey.first_chunk().ok_or(snow::Error::Dh)?;
        let shared = match (&self.ephemeral, &self.shared) {
            (Some((secret, _)), _) => static_key::shared(secret, peer),
            (None, Some((known, shared))) if known.as_bytes() == peer => Some(shared.clone()),
            (None, _) => self.own.shared(peer),
        };
        out[..LEN].copy_from_slice(&shared.ok_or(snow::Error::Dh)?[..]);

        Ok(())
    }
}

/// ChaCha20-Poly1305 with Noise's nonce: four zeros, then the counter (RFC 8439).
#[derive(Default)]
struct ChaChaPoly(Zeroizing<[u8; LEN]>);

impl ChaChaPoly {
    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new((&*self.0).into())
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; overlay_aead::NONCE_LEN];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());

    nonce.into()
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; LEN]) {
        *self.0 = *key;
    }

    fn encrypt(&self, counter: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (ciphertext, rest) = out.split_at_mut(plaintext.len());
        ciphertext.copy_from_slice(plaintext);
        let tag = self
            .cipher()
            .encrypt_inout_detached(&nonce(counter), authtext, ciphertext.into())
            .expect("a handshake message is shorter than 256 GiB");
        rest[..TAG_LEN].copy_from_slice(&tag);

        plaintext.len() + TAG_LEN
    }

    fn decrypt(
        &self,
        counter: u64,
        authtext: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, snow::Error> {
        let (ciphertext, tag) =
            ciphertext.split_last_chunk::<TAG_LEN>().ok_or(snow::Error::Decrypt)?;
        let out = out.get_mut(..ciphertext.len()).ok_or(snow::Error::Decrypt)?;
        out.copy_from_slice(ciphertext);
        self.cipher()
            .decrypt_inout_detached(&nonce(counter), authtext, out.into(), &Tag::from(*tag))
            .map_err(|_| snow::Error::Decrypt)?;

        Ok(ciphertext.len())
    }
}

/// BLAKE2s with 32 bytes of output. Its input is wiped when it is finished, reset or dropped.
#[derive(Default)]
struct Blake2s(Blake2s256);

impl Hash for Blake2s {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }

    fn block_len(&self) -> usize {
        BLOCK_LEN
    }

    fn hash_len(&self) -> usize {
        LEN
    }

    fn reset(&mut self) {
        self.0 = Blake2s256::new();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..LEN].copy_from_slice(&std::mem::take(&mut self.0).finalize());
    }
}
