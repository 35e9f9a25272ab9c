//! Keys that outlive a handshake: our own, and one that two peers have agreed on beforehand.

use std::fmt;

use overlay_core::{PrivateKey, PublicKey};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use crate::wipe::leaving_nothing;

/// A shared secret of X25519. Wiped when dropped.
pub(crate) type SharedSecret = Zeroizing<[u8; 32]>;

/// Returns the public key of a private key.
pub fn public_key(key: &PrivateKey) -> PublicKey {
    leaving_nothing(|| public_half(&StaticSecret::from(*key.expose())))
}

/// The static key of an interface. Its secret is wiped when dropped.
pub(crate) struct StaticKey {
    secret: StaticSecret,
    public: PublicKey,
}

impl StaticKey {
    pub(crate) fn new(key: &PrivateKey) -> Self {
        let secret = StaticSecret::from(*key.expose());
        let public = public_half(&secret);

        Self { secret, public }
    }

    pub(crate) fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Returns the secret shared with the holder of `peer`; `None` for a key of low order.
    pub(crate) fn shared(&self, peer: &[u8; 32]) -> Option<SharedSecret> {
        shared(&self.secret, peer)
    }
}

/// Returns the public key of a secret.
pub(crate) fn public_half(secret: &StaticSecret) -> PublicKey {
    PublicKey::from(x25519_dalek::PublicKey::from(secret).to_bytes())
}

/// Computes X25519 (RFC 7748, section 6.1). An all-zero result is rejected, because it means that
/// the key has low order.
pub(crate) fn shared(secret: &StaticSecret, peer: &[u8; 32]) -> Option<SharedSecret> {
    let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(*peer));

    shared.was_contributory().then(|| Zeroizing::new(shared.to_bytes()))
}

/// A secret that is mixed into every handshake of a tunnel (§5.2). Wiped when dropped.
#[derive(Clone)]
pub struct PresharedKey(Zeroizing<[u8; 32]>);

impl PresharedKey {
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for PresharedKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

/// The value if no key was agreed on: 32 zero bytes (§5.4: `Q`).
impl Default for PresharedKey {
    fn default() -> Self {
        Self::from([0; 32])
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> [u8; 32] {
        std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex"))
    }

    #[test]
    fn keys_agree_as_in_rfc_7748() {
        // Section 6.1.
        let secrets = [
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        ];
        let [alice, bob] = secrets.map(|hex| StaticKey::new(&PrivateKey::from(bytes(hex))));

        let publics = [alice.public(), bob.public()].map(|key| *key.as_bytes());
        let shared =
            [alice.shared(&publics[1]), bob.shared(&publics[0])].map(|key| key.map(|key| *key));

        let expected = [
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
        ];
        assert_eq!(publics, expected.map(bytes));
        let expected = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742";
        assert_eq!(shared, [Some(bytes(expected)); 2]);
    }

    #[test]
    fn a_key_of_low_order_shares_nothing() {
        let key = StaticKey::new(&PrivateKey::from([7; 32]));
        let mut one = [0; 32];
        one[0] = 1;

        assert_eq!(key.shared(&[0; 32]), None);
        assert_eq!(key.shared(&one), None);
    }

    #[test]
    fn a_preshared_key_does_not_print() {
        assert_eq!(format!("{:?}", PresharedKey::from([7; 32])), "PresharedKey(hidden)");
    }
}
