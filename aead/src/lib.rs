//! ChaCha20-Poly1305 (RFC 8439) for data messages: without additional data, and from one buffer
//! into another, as from packet to datagram.
//!
//! `ring` works on every processor. Where there is AVX-512 with IFMA (Intel since Ice Lake, AMD
//! since Zen 4), messages that are long enough are processed sixteen blocks at a time (`avx512`),
//! which takes two thirds of the time. Both give the same bytes, so it does not matter which one is
//! used. The caller chooses the nonces: using a nonce twice with one key reveals both messages.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod message;
mod portable;
#[cfg(test)]
mod tests;

use std::fmt;

use zeroize::Zeroizing;

use message::Message;
pub use message::{KEY_LEN, NONCE_LEN, Refused, TAG_LEN};

/// The key of one direction of a session. Wiped when dropped.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_LEN]>);

impl Key {
    /// Copies a key.
    pub fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(Zeroizing::new(*key))
    }

    /// Returns the key itself, to be passed to another process.
    pub fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// Seals `plaintext`, followed by as many zeros as fit, into `sealed`: the ciphertext, then the
    /// tag.
    ///
    /// # Errors
    ///
    /// If `sealed` has no room for plaintext and tag, or is longer than the cipher allows (256
    /// GiB).
    pub fn seal(
        &self,
        nonce: &[u8; NONCE_LEN],
        plaintext: &[u8],
        sealed: &mut [u8],
    ) -> Result<(), Refused> {
        let (message, tag) =
            Message { key: &self.0, nonce, from: plaintext, to: sealed }.for_sealing()?;

        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = avx512::Avx512::for_message(message.to.len()) {
            *tag = avx512.seal(message);
            return Ok(());
        }
        *tag = portable::seal(message)?;

        Ok(())
    }

    /// Opens `sealed`, which is ciphertext and tag, into the start of `plaintext`, and returns the
    /// length of the plaintext in bytes.
    ///
    /// # Errors
    ///
    /// If the tag is wrong, which leaves zeros in `plaintext`, or if `plaintext` is shorter than
    /// the ciphertext.
    pub fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        sealed: &[u8],
        plaintext: &mut [u8],
    ) -> Result<usize, Refused> {
        let (message, tag) =
            Message { key: &self.0, nonce, from: sealed, to: plaintext }.for_opening()?;
        let len = message.from.len();

        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = avx512::Avx512::for_message(len) {
            return avx512.open(message, tag).map(|()| len);
        }

        portable::open(message, tag).map(|()| len)
    }
}

/// A message to be sealed or opened from one buffer into another.
#[derive(Debug)]
pub struct Work<'a> {
    /// The key of its session.
    pub key: &'a Key,
    /// The nonce; when sealing, it must never have been used with this key.
    pub nonce: [u8; NONCE_LEN],
    /// The input, as for [`Key::seal`] and [`Key::open`].
    pub from: &'a [u8],
    /// The output buffer, as for [`Key::seal`] and [`Key::open`].
    pub to: &'a mut [u8],
}

impl Work<'_> {
    fn message(&mut self) -> Message<'_> {
        Message { key: &self.key.0, nonce: &self.nonce, from: self.from, to: self.to }
    }
}

/// Seals two messages as [`Key::seal`] would, together where that is faster.
pub fn seal_two(mut work: [Work<'_>; 2]) -> [Result<(), Refused>; 2] {
    #[cfg(target_arch = "x86_64")]
    if let [Ok((first, first_tag)), Ok((second, second_tag))] =
        work.each_mut().map(|work| work.message().for_sealing())
        && let Some(avx512) = avx512::Avx512::for_pair([first.to.len(), second.to.len()])
    {
        [*first_tag, *second_tag] = avx512.seal_two([first, second]);
        return [Ok(()), Ok(())];
    }

    work.map(|work| work.key.seal(&work.nonce, work.from, work.to))
}

/// Opens two messages as [`Key::open`] would, together where that is faster.
pub fn open_two(mut work: [Work<'_>; 2]) -> [Result<usize, Refused>; 2] {
    #[cfg(target_arch = "x86_64")]
    if let [Ok((first, first_tag)), Ok((second, second_tag))] =
        work.each_mut().map(|work| work.message().for_opening())
        && let lens = [first.from.len(), second.from.len()]
        && let Some(avx512) = avx512::Avx512::for_pair(lens)
    {
        let [one, other] = avx512.open_two([first, second], [first_tag, second_tag]);
        return [one.map(|()| lens[0]), other.map(|()| lens[1])];
    }

    work.map(|work| work.key.open(&work.nonce, work.from, work.to))
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}
