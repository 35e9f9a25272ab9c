//! ChaCha20-Poly1305 (RFC 8439) of data messages: no additional data, out of one buffer into another, from packet to datagram.
//!
//! `ring` does it on every processor. Where there is AVX-512 with IFMA (Intel since Ice Lake, AMD since Zen 4), messages that are
//! long enough are done sixteen blocks at once (`avx512`), which takes two thirds of the time. Both make the same bytes; which
//! one is at work shows nowhere. Nonces are the caller's: a nonce used twice under one key gives both messages away.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
#[cfg(test)]
mod tests;

use std::fmt;

use zeroize::Zeroizing;

/// The length of a key, in bytes (RFC 8439, section 2.8).
pub const KEY_LEN: usize = 32;
/// The length of a nonce, in bytes (RFC 8439, section 2.8).
pub const NONCE_LEN: usize = 12;
/// The length of a tag, in bytes (RFC 8439, section 2.8).
pub const TAG_LEN: usize = 16;

/// The key of one direction of a session. Wiped when dropped.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_LEN]>);

/// Why a message was not opened or sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the message is not what its tag says, or does not fit")
    }
}

impl std::error::Error for Refused {}

impl Key {
    /// Takes a copy of a key.
    pub fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(Zeroizing::new(*key))
    }

    /// Seals `plaintext`, followed by as many zeros as `sealed` has room for, into `sealed`: ciphertext, then tag.
    ///
    /// # Errors
    ///
    /// When `sealed` has no room for plaintext and tag, or is longer than the cipher allows (256 GiB).
    pub fn seal(&self, nonce: &[u8; NONCE_LEN], plaintext: &[u8], sealed: &mut [u8]) -> Result<(), Refused> {
        let len = sealed.len().checked_sub(TAG_LEN).filter(|&len| plaintext.len() <= len).ok_or(Refused)?;
        let (ciphertext, rest) = sealed.split_at_mut(len);
        let tag: &mut [u8; TAG_LEN] = rest.first_chunk_mut().ok_or(Refused)?;

        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = avx512::Avx512::for_message(len) {
            *tag = avx512.seal(&self.0, nonce, plaintext, ciphertext);
            return Ok(());
        }
        *tag = portable::seal(&self.0, nonce, plaintext, ciphertext)?;

        Ok(())
    }

    /// Opens `sealed`, which is ciphertext and tag, into the start of `plaintext`, and returns the plaintext's length.
    ///
    /// # Errors
    ///
    /// When the tag is wrong, which leaves zeros in `plaintext`, or when that is shorter than the ciphertext.
    pub fn open(&self, nonce: &[u8; NONCE_LEN], sealed: &[u8], plaintext: &mut [u8]) -> Result<usize, Refused> {
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(Refused)?;
        let plaintext = plaintext.get_mut(..ciphertext.len()).ok_or(Refused)?;

        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = avx512::Avx512::for_message(ciphertext.len()) {
            avx512.open(&self.0, nonce, ciphertext, tag, plaintext)?;
            return Ok(ciphertext.len());
        }
        portable::open(&self.0, nonce, ciphertext, tag, plaintext)?;

        Ok(ciphertext.len())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}
