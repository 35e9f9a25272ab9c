//! The cipher by `ring`: every processor, every length.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

use crate::{KEY_LEN, NONCE_LEN, Refused, TAG_LEN};

/// Seals `plaintext` and the zeros that fill it up to `ciphertext`, and returns the tag.
pub(crate) fn seal(
    key: &[u8; KEY_LEN],
    nonce: &[u8; NONCE_LEN],
    plaintext: &[u8],
    ciphertext: &mut [u8],
) -> Result<[u8; TAG_LEN], Refused> {
    let (front, zeros) = ciphertext.split_at_mut_checked(plaintext.len()).ok_or(Refused)?;
    front.copy_from_slice(plaintext);
    zeros.fill(0);
    let tag = cipher(key)?
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(*nonce), Aad::empty(), ciphertext)
        .map_err(|_| Refused)?;

    tag.as_ref().try_into().map_err(|_| Refused)
}

/// Opens `ciphertext` into `plaintext`, which is as long.
pub(crate) fn open(
    key: &[u8; KEY_LEN],
    nonce: &[u8; NONCE_LEN],
    ciphertext: &[u8],
    tag: &[u8; TAG_LEN],
    plaintext: &mut [u8],
) -> Result<(), Refused> {
    plaintext.copy_from_slice(ciphertext);
    let opened = cipher(key)?
        .open_in_place_separate_tag(Nonce::assume_unique_for_key(*nonce), Aad::empty(), Tag::from(*tag), plaintext, 0..)
        .is_ok();
    if !opened {
        plaintext.fill(0);
    }

    opened.then_some(()).ok_or(Refused)
}

/// The key schedule of this cipher is a copy, so it is made for each message.
fn cipher(key: &[u8; KEY_LEN]) -> Result<LessSafeKey, Refused> {
    UnboundKey::new(&CHACHA20_POLY1305, key).map(LessSafeKey::new).map_err(|_| Refused)
}
