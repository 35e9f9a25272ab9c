//! The entry point for fuzzers. The corpus is in `fuzz/corpus`; the test of this module replays all
//! of it.

use crate::{Key, Message, NONCE_LEN, Refused, TAG_LEN, Work, open_two, portable, seal_two};

/// Seals two messages, alone and together, corrupts one, and opens them. The first bytes of the
/// input give the length of the first message, how many zeros are added and which bit is flipped;
/// each buffer has exactly the size that is needed.
///
/// # Panics
///
/// If the result differs from that of `ring`, or a corrupted message is accepted.
pub fn sealed_messages(bytes: &[u8]) {
    let Some(([low, high, zeros, broken], rest)) = bytes.split_first_chunk::<4>() else { return };
    let at = usize::from(u16::from_le_bytes([*low, *high])) % (rest.len() + 1);
    let (first, second) = rest.split_at(at);
    let (key, nonce) = ([*zeros; 32], [*broken; NONCE_LEN]);
    let work_key = Key::new(&key);
    let plaintexts = [first, second];

    let mut sealed =
        plaintexts.map(|plaintext| vec![0xee; plaintext.len() + usize::from(*zeros) + TAG_LEN]);
    let [one, other] = &mut sealed;
    let results = seal_two([
        Work { key: &work_key, nonce, from: first, to: one },
        Work { key: &work_key, nonce, from: second, to: other },
    ]);
    assert_eq!(results, [Ok(()), Ok(())]);
    for (sealed, plaintext) in sealed.iter().zip(plaintexts) {
        let mut alone = vec![0xee; sealed.len()];
        assert_eq!(work_key.seal(&nonce, plaintext, &mut alone), Ok(()));
        let mut by_ring = vec![0; sealed.len() - TAG_LEN];
        let tag =
            portable::seal(Message { key: &key, nonce: &nonce, from: plaintext, to: &mut by_ring });
        by_ring.extend(tag.expect("it fits"));
        assert!(*sealed == by_ring && alone == by_ring, "{} bytes", sealed.len());
    }

    let bit = usize::from(*broken) * 8 % (sealed[1].len() * 8);
    sealed[1][bit / 8] ^= 1 << (broken % 8);
    let mut opened = sealed.each_ref().map(|sealed| vec![0xee; sealed.len() - TAG_LEN]);
    let [one, other] = &mut opened;
    let results = open_two([
        Work { key: &work_key, nonce, from: &sealed[0], to: one },
        Work { key: &work_key, nonce, from: &sealed[1], to: other },
    ]);
    assert_eq!(results, [Ok(sealed[0].len() - TAG_LEN), Err(Refused)]);
    assert!(opened[0].starts_with(first) && opened[1].iter().all(|byte| *byte == 0));
    let refused = work_key.open(&nonce, &sealed[1], &mut opened[1]);
    assert_eq!(refused, Err(Refused));
}

#[cfg(test)]
#[path = "../../fuzz/corpus.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_messages_again() {
        corpus::replay("sealed_messages", sealed_messages);
    }
}
