//! A message on its way through a cipher, and its lengths.

use std::fmt;

/// The length of a key, in bytes (RFC 8439, section 2.8).
pub const KEY_LEN: usize = 32;
/// The length of a nonce, in bytes (RFC 8439, section 2.8).
pub const NONCE_LEN: usize = 12;
/// The length of a tag, in bytes (RFC 8439, section 2.8).
pub const TAG_LEN: usize = 16;

/// Why a message was not opened or sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the message is not what its tag says, or does not fit")
    }
}

impl std::error::Error for Refused {}

/// The input of a cipher: without the tag, which [`Message::for_sealing`] or
/// [`Message::for_opening`] split off.
pub(crate) struct Message<'a> {
    /// The key.
    pub(crate) key: &'a [u8; KEY_LEN],
    /// The nonce.
    pub(crate) nonce: &'a [u8; NONCE_LEN],
    /// What is read.
    pub(crate) from: &'a [u8],
    /// What is written.
    pub(crate) to: &'a mut [u8],
}

impl<'a> Message<'a> {
    /// Takes the tag off what is written.
    pub(crate) fn for_sealing(self) -> Result<(Self, &'a mut [u8; TAG_LEN]), Refused> {
        let (to, tag) = self.to.split_last_chunk_mut().ok_or(Refused)?;
        if self.from.len() > to.len() {
            return Err(Refused);
        }

        Ok((Self { to, ..self }, tag))
    }

    /// Takes the tag off what is read.
    pub(crate) fn for_opening(self) -> Result<(Self, &'a [u8; TAG_LEN]), Refused> {
        let (from, tag) = self.from.split_last_chunk().ok_or(Refused)?;
        let to = self.to.get_mut(..from.len()).ok_or(Refused)?;

        Ok((Self { from, to, ..self }, tag))
    }
}
