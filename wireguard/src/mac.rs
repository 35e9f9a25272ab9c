//! mac1 and mac2, the last 32 bytes of a handshake message (§5.4.4).
//!
//! mac1 proves that the sender knows the receiver's key; without it nothing is answered (§5.3).
//! mac2 proves, if that is required, that the sender receives packets at its source address.

use blake2::digest::Mac as _;
use blake2::digest::common::KeyInit as _;
use blake2::digest::consts::U16;
use blake2::{Blake2s256, Blake2sMac, Digest as _};
use overlay_core::PublicKey;
use subtle::ConstantTimeEq as _;

/// The length of each MAC, in bytes.
pub(crate) const MAC_LEN: usize = 16;

/// mac1 or mac2.
pub(crate) type Mac = [u8; MAC_LEN];

/// The prefix of the public key in the hash that gives the key of mac1 (§5.4.4).
const LABEL_MAC1: &[u8; 8] = b"mac1----";
/// The prefix of the public key in the hash that gives the key of cookie replies (§5.4.7).
const LABEL_COOKIE: &[u8; 8] = b"cookie--";

/// The keys that anybody can derive from a receiver's public key.
#[derive(Debug, Clone)]
pub(crate) struct ReceiverKeys {
    mac1: [u8; 32],
    /// The key by which cookie replies of this receiver are encrypted.
    pub(crate) cookie: [u8; 32],
}

impl ReceiverKeys {
    pub(crate) fn new(receiver: &PublicKey) -> Self {
        let key =
            |label: &[u8]| Blake2s256::new().chain_update(label).chain_update(receiver.as_bytes());

        Self {
            mac1: key(LABEL_MAC1).finalize().into(),
            cookie: key(LABEL_COOKIE).finalize().into(),
        }
    }

    /// Writes mac1, and mac2 if there is a cookie, to the end of a message, which has room for
    /// them. Returns mac1.
    pub(crate) fn sign(&self, message: &mut [u8], cookie: Option<&Mac>) -> Mac {
        let Some(SignedMut { body, macs: [mac1, mac2] }) = SignedMut::of(message) else {
            return Mac::default();
        };
        *mac1 = mac(&self.mac1, [body, &[]]);
        // "If there is no cookie, or it is older than 120 seconds, mac2 is zero."
        *mac2 = cookie.map_or(Mac::default(), |cookie| mac(cookie, [body, mac1]));

        *mac1
    }

    /// Returns whether a message is for this receiver.
    pub(crate) fn verifies_mac1(&self, signed: &Signed<'_>) -> bool {
        mac(&self.mac1, [signed.body, &[]]).ct_eq(signed.mac1).into()
    }
}

/// A handshake message, split into its parts.
#[derive(Debug)]
pub(crate) struct Signed<'a> {
    body: &'a [u8],
    pub(crate) mac1: &'a Mac,
    mac2: &'a Mac,
}

impl<'a> Signed<'a> {
    pub(crate) fn of(message: &'a [u8]) -> Option<Self> {
        let (rest, mac2) = message.split_last_chunk()?;
        let (body, mac1) = rest.split_last_chunk()?;

        Some(Self { body, mac1, mac2 })
    }

    /// Returns whether the sender has this cookie.
    pub(crate) fn verifies_mac2(&self, cookie: &Mac) -> bool {
        mac(cookie, [self.body, self.mac1]).ct_eq(self.mac2).into()
    }
}

struct SignedMut<'a> {
    body: &'a [u8],
    macs: [&'a mut Mac; 2],
}

impl<'a> SignedMut<'a> {
    fn of(message: &'a mut [u8]) -> Option<Self> {
        let (rest, mac2) = message.split_last_chunk_mut()?;
        let (body, mac1) = rest.split_last_chunk_mut()?;

        Some(Self { body, macs: [mac1, mac2] })
    }
}

/// `Mac(key, input)` of §5.4: BLAKE2s with a key and 16 bytes of output. A key has 1 to 32 bytes.
pub(crate) fn mac(key: &[u8], input: [&[u8]; 2]) -> Mac {
    let Ok(mut mac) = Blake2sMac::<U16>::new_from_slice(key) else { return Mac::default() };
    input.into_iter().for_each(|part| mac.update(part));

    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(byte: u8) -> ReceiverKeys {
        ReceiverKeys::new(&PublicKey::from([byte; 32]))
    }

    #[test]
    fn a_mac_is_that_of_the_reference() {
        // Python's hashlib (the reference implementation of BLAKE2):
        // blake2s(bytes(range(100)), digest_size=16, key=bytes(range(32))).hexdigest()
        let (input, key): (Vec<u8>, Vec<u8>) = ((0..100).collect(), (0..32).collect());
        let expected =
            u128::from_str_radix("0b67d33f8b859c3157fbabd9e6e47ed0", 16).map(u128::to_be_bytes);

        let (front, back) = input.split_at(37);

        assert_eq!(Ok(mac(&key, [front, back])), expected);
        // The same with key=bytes(range(16)), as cookies are.
        let expected =
            u128::from_str_radix("56301549e674c3b72a0e1dafb7a2c620", 16).map(u128::to_be_bytes);
        assert_eq!(Ok(mac(&key[..16], [&input, &[]])), expected);
    }

    #[test]
    fn a_message_is_verified_by_its_receiver_alone() {
        let mut message = [7; 148];
        keys(1).sign(&mut message, None);

        let signed = Signed::of(&message).expect("long enough");

        assert!(keys(1).verifies_mac1(&signed));
        assert!(!keys(2).verifies_mac1(&signed));
        assert_eq!(signed.mac2, &[0; 16]);
    }

    #[test]
    fn every_bit_of_a_message_counts() {
        let (mut message, cookie) = ([7; 92], [3; 16]);
        keys(1).sign(&mut message, Some(&cookie));
        assert!(Signed::of(&message).expect("long enough").verifies_mac2(&cookie));

        for at in 0..message.len() {
            message[at] ^= 1;
            let signed = Signed::of(&message).expect("long enough");
            let verified = (keys(1).verifies_mac1(&signed), signed.verifies_mac2(&cookie));
            // mac1 does not cover mac2; mac2 covers everything before it.
            assert_eq!(verified, (at >= 76, false), "byte {at}");
            message[at] ^= 1;
        }
    }

    #[test]
    fn what_is_shorter_than_its_macs_is_no_message() {
        assert!(Signed::of(&[0; 31]).is_none());
        assert_eq!(keys(1).sign(&mut [0; 31], None), [0; 16]);
    }
}
