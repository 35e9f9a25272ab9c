//! Both ciphers against each other, against the RFC, and with corrupted messages.

use proptest::prelude::*;

use crate::{
    KEY_LEN, Key, Message, NONCE_LEN, Refused, TAG_LEN, Work, open_two, portable, seal_two,
};

/// The longest message needs a third step of the key stream: after sixteen blocks, and sixteen
/// more.
const LENGTHS: std::ops::Range<usize> = 0..2_200;

fn key() -> [u8; KEY_LEN] {
    std::array::from_fn(|index| u8::try_from(index).unwrap() * 7)
}

fn sealed(plaintext: &[u8], len: usize) -> Vec<u8> {
    let mut sealed = vec![0xee; len + TAG_LEN];
    Key::new(&key()).seal(&[9; NONCE_LEN], plaintext, &mut sealed).unwrap();

    sealed
}

/// Seals with `ring`.
fn by_ring(key: &[u8; KEY_LEN], nonce: &[u8; NONCE_LEN], plaintext: &[u8], len: usize) -> Vec<u8> {
    let mut sealed = vec![0; len];
    let tag = portable::seal(Message { key, nonce, from: plaintext, to: &mut sealed }).unwrap();
    sealed.extend(tag);

    sealed
}

fn plaintext(len: usize) -> Vec<u8> {
    (0..len).map(|index| u8::try_from(index * 31 % 251).unwrap()).collect()
}

#[test]
fn each_length_is_sealed_as_ring_seals_it_and_opens_again() {
    for len in LENGTHS.chain([9_000, 65_507, 1 << 20, (1 << 20) + 1]) {
        let plaintext = plaintext(len);
        let sealed = sealed(&plaintext, len);

        assert!(sealed == by_ring(&key(), &[9; NONCE_LEN], &plaintext, len), "{len} bytes");
        let mut opened = vec![0xee; len + TAG_LEN];
        assert_eq!(Key::new(&key()).open(&[9; NONCE_LEN], &sealed, &mut opened), Ok(len));
        assert!(opened[..len] == plaintext && opened[len..] == [0xee; TAG_LEN], "{len} bytes");
    }
}

#[test]
fn zeros_follow_a_plaintext_that_is_shorter() {
    for len in [16, 320, 400, 959, 960, 961, 1_424, 3_000] {
        for short in [0, 1, len / 3, len - 65.min(len), len - 1] {
            let mut padded = plaintext(short);
            padded.resize(len, 0);

            assert!(
                sealed(&plaintext(short), len) == sealed(&padded, len),
                "{short} of {len} bytes"
            );
        }
    }
}

/// RFC 8439, A.5 has additional data; this is the cipher half of A.2, test vector 3, and the
/// message of 2.8.2 without any.
#[test]
fn it_is_the_cipher_of_the_rfc() {
    let key: [u8; KEY_LEN] = std::array::from_fn(|index| 0x80 + u8::try_from(index).unwrap());
    let nonce = [7, 0, 0, 0, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47];
    let plaintext = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
                      sunscreen would be it.";
    let start = [
        0xd3, 0x1a, 0x8d, 0x34, 0x64, 0x8e, 0x60, 0xdb, 0x7b, 0x86, 0xaf, 0xbc, 0x53, 0xef, 0x7e,
        0xc2,
    ];

    // Alone, and as the start of a message that is long enough for either implementation.
    for len in [plaintext.len(), 1_424] {
        let mut sealed = vec![0; len + TAG_LEN];
        Key::new(&key).seal(&nonce, plaintext, &mut sealed).unwrap();

        assert_eq!(sealed[..16], start);
    }
}

#[test]
fn no_bit_may_differ() {
    for len in [40, 400] {
        let good = sealed(&plaintext(len), len);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut opened = vec![0xee; len];

            assert_eq!(
                Key::new(&key()).open(&[9; NONCE_LEN], &bad, &mut opened),
                Err(Refused),
                "bit {bit}"
            );
            assert_eq!(opened, vec![0; len], "nothing of it is shown");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let key = Key::new(&key());

    assert_eq!(key.seal(&[0; NONCE_LEN], &[1; 400], &mut [0; 415]), Err(Refused));
    assert_eq!(key.seal(&[0; NONCE_LEN], &[], &mut [0; 15]), Err(Refused));
    assert_eq!(key.open(&[0; NONCE_LEN], &[0; 15], &mut [0; 100]), Err(Refused));
    assert_eq!(key.open(&[0; NONCE_LEN], &sealed(&[1; 400], 400), &mut [0; 399]), Err(Refused));
}

#[test]
fn of_two_messages_each_is_refused_by_itself() {
    let key = Key::new(&key());
    let from = plaintext(1_424);
    let mut sealed = [vec![0; 1_440], vec![0; 1_439]];
    let [to0, to1] = &mut sealed;

    let results =
        seal_two([to0, to1].map(|to| Work { key: &key, nonce: [9; NONCE_LEN], from: &from, to }));

    assert_eq!(results, [Ok(()), Err(Refused)]);
    assert!(sealed[0] == by_ring(&super::tests::key(), &[9; NONCE_LEN], &from, 1_424));
}

#[test]
fn a_key_does_not_show_itself() {
    assert_eq!(format!("{:?}", Key::new(&key())), "Key");
}

/// Mostly lengths that are processed together.
fn lengths_of_pairs() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 961_usize..=1_472, 1 => 0_usize..2_000]
}

proptest! {
    #[test]
    fn any_message_under_any_key_is_sealed_as_ring_seals_it(
        key: [u8; KEY_LEN],
        nonce: [u8; NONCE_LEN],
        plaintext in proptest::collection::vec(any::<u8>(), LENGTHS),
        more in 0_usize..200,
    ) {
        let len = plaintext.len() + more;
        let mut sealed = vec![0; len + TAG_LEN];
        Key::new(&key).seal(&nonce, &plaintext, &mut sealed).unwrap();
        prop_assert!(sealed == by_ring(&key, &nonce, &plaintext, len));

        let mut opened = vec![0; len];
        let (ciphertext, tag) = sealed.split_last_chunk().unwrap();
        portable::open(Message { key: &key, nonce: &nonce, from: ciphertext, to: &mut opened }, tag).unwrap();
        prop_assert!(opened[..plaintext.len()] == plaintext);
    }

    #[test]
    fn two_messages_are_what_each_would_be(
        keys: [[u8; KEY_LEN]; 2],
        nonces: [[u8; NONCE_LEN]; 2],
        lens in [lengths_of_pairs(), lengths_of_pairs()],
        short in [0_usize..100, 0_usize..100],
        broken in proptest::option::of((0_usize..2, any::<proptest::sample::Index>())),
    ) {
        let both = [Key::new(&keys[0]), Key::new(&keys[1])];
        let plaintexts = [0, 1].map(|i: usize| plaintext(lens[i].saturating_sub(short[i])));
        let mut sealed = lens.map(|len| vec![0xee; len + TAG_LEN]);
        let [to0, to1] = &mut sealed;
        let results = seal_two([
            Work { key: &both[0], nonce: nonces[0], from: &plaintexts[0], to: to0 },
            Work { key: &both[1], nonce: nonces[1], from: &plaintexts[1], to: to1 },
        ]);
        prop_assert_eq!(results, [Ok(()), Ok(())]);
        for i in 0..2 {
            prop_assert!(sealed[i] == by_ring(&keys[i], &nonces[i], &plaintexts[i], lens[i]));
        }

        if let Some((which, at)) = broken {
            let at = at.index(sealed[which].len());
            sealed[which][at] ^= 4;
        }
        let mut opened = lens.map(|len| vec![0xee; len]);
        let [to0, to1] = &mut opened;
        let results = open_two([
            Work { key: &both[0], nonce: nonces[0], from: &sealed[0], to: to0 },
            Work { key: &both[1], nonce: nonces[1], from: &sealed[1], to: to1 },
        ]);
        for i in 0..2 {
            let is_broken = broken.is_some_and(|(which, _)| which == i);
            prop_assert_eq!(results[i], if is_broken { Err(Refused) } else { Ok(lens[i]) });
            let shown = if is_broken { &[][..] } else { &plaintexts[i] };
            prop_assert!(opened[i][..shown.len()] == *shown && opened[i][shown.len()..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(sealed in proptest::collection::vec(any::<u8>(), 0..2_200)) {
        let mut opened = vec![0; sealed.len()];

        prop_assert_eq!(Key::new(&[1; KEY_LEN]).open(&[0; NONCE_LEN], &sealed, &mut opened), Err(Refused));
    }
}
