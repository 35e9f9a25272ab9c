//! The cipher with `ring`, for every processor and length.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

use crate::message::{KEY_LEN, Message, Refused, TAG_LEN};

/// Seals a message, whose `to` has room for the ciphertext only, and returns the tag.
pub(crate) fn seal(message: Message<'_>) -> Result<[u8; TAG_LEN], Refused> {
    let Message { key, nonce, from, to } = message;
    let (front, zeros) = to.split_at_mut_checked(from.len()).ok_or(Refused)?;
    front.copy_from_slice(from);
    zeros.fill(0);
    let tag = cipher(key)?
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(*nonce), Aad::empty(), to)
        .map_err(|_| Refused)?;

    tag.as_ref().try_into().map_err(|_| Refused)
}

/// Opens a message, whose `from` is the ciphertext only; `to` has the same length.
pub(crate) fn open(message: Message<'_>, tag: &[u8; TAG_LEN]) -> Result<(), Refused> {
    let Message { key, nonce, from, to } = message;
    to.copy_from_slice(from);
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let opened = cipher(key)?
        .open_in_place_separate_tag(nonce, Aad::empty(), Tag::from(*tag), to, 0..)
        .is_ok();
    if !opened {
        to.fill(0);
    }

    opened.then_some(()).ok_or(Refused)
}

/// The key schedule of this cipher is a mere copy, so it is made for each message.
fn cipher(key: &[u8; KEY_LEN]) -> Result<LessSafeKey, Refused> {
    UnboundKey::new(&CHACHA20_POLY1305, key).map(LessSafeKey::new).map_err(|_| Refused)
}
