//! The cipher with 512-bit vectors: a whole message is encrypted, then its ciphertext is
//! authenticated.
//!
//! Neither branches nor addresses depend on secrets, so timing reveals nothing about keys and
//! contents, only lengths. Only `lanes` accesses memory through pointers.

#![expect(unsafe_code, reason = "functions for one kind of processor may only be called on it")]

mod chacha20;
mod lanes;
mod poly1305;

use subtle::ConstantTimeEq;

use self::chacha20::State;
use self::lanes::{VectorLanes, xor};
use crate::message::{Message, Refused, TAG_LEN};

/// The shortest message for which this pays, in bytes: `ring` is as fast for shorter ones
/// (benchmark `messages`).
const SHORTEST: usize = 320;
/// The longest message, in bytes: more than any datagram carries, and far from the end of the block
/// counter.
const LONGEST: usize = 1 << 20;
/// The lengths of two messages that are faster together, in bytes: 16 blocks of key stream are too
/// few for each, 24 are enough.
const PAIRED: std::ops::RangeInclusive<usize> = 15 * BLOCK + 1..=23 * BLOCK;
/// The size of a ChaCha20 block, in bytes (RFC 8439, section 2.3).
const BLOCK: usize = 64;

/// Proof that the processor supports what this module needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// Returns the cipher if the processor supports it and it is faster for `len` bytes.
    pub(crate) fn for_message(len: usize) -> Option<Self> {
        let suits = (SHORTEST..=LONGEST).contains(&len);

        (suits && Self::is_here()).then_some(Self(()))
    }

    /// Returns the cipher if it processes two messages of these lengths faster together than one
    /// after the other.
    pub(crate) fn for_pair(lens: [usize; 2]) -> Option<Self> {
        let suit = lens.iter().all(|len| PAIRED.contains(len));

        (suit && Self::is_here()).then_some(Self(()))
    }

    fn is_here() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512ifma")
    }

    /// Seals a message, whose `to` has room for the ciphertext only, and returns the tag.
    pub(crate) fn seal(self, message: Message<'_>) -> [u8; TAG_LEN] {
        let Message { key, nonce, from, to } = message;
        // SAFETY: a value of this type is made only where the processor has these features.
        unsafe {
            let one_time_key = encipher(&State::new(key, nonce), from, to);

            poly1305::mac(&one_time_key, to)
        }
    }

    /// Seals two messages.
    pub(crate) fn seal_two(self, mut messages: [Message<'_>; 2]) -> [[u8; TAG_LEN]; 2] {
        // SAFETY: a value of this type is made only where the processor has these features.
        unsafe {
            let keys = encipher_two(&mut messages);

            poly1305::mac_two(&keys, [messages[0].to, messages[1].to])
        }
    }

    /// Opens a message, whose `from` is the ciphertext only; `to` has the same length.
    pub(crate) fn open(self, message: Message<'_>, tag: &[u8; TAG_LEN]) -> Result<(), Refused> {
        let Message { key, nonce, from, to } = message;
        // SAFETY: a value of this type is made only where the processor has these features.
        let expected = unsafe {
            let one_time_key = encipher(&State::new(key, nonce), from, to);

            poly1305::mac(&one_time_key, from)
        };

        show_if(&expected, tag, to)
    }

    /// Opens two messages.
    pub(crate) fn open_two(
        self,
        mut messages: [Message<'_>; 2],
        tags: [&[u8; TAG_LEN]; 2],
    ) -> [Result<(), Refused>; 2] {
        // SAFETY: a value of this type is made only where the processor has these features.
        let expected = unsafe {
            let keys = encipher_two(&mut messages);

            poly1305::mac_two(&keys, [messages[0].from, messages[1].from])
        };
        let [first, second] = messages;

        [show_if(&expected[0], tags[0], first.to), show_if(&expected[1], tags[1], second.to)]
    }
}

/// Wipes the plaintext if the tag is wrong.
fn show_if(
    expected: &[u8; TAG_LEN],
    tag: &[u8; TAG_LEN],
    opened: &mut [u8],
) -> Result<(), Refused> {
    if bool::from(expected.ct_eq(tag)) {
        return Ok(());
    }
    opened.fill(0);

    Err(Refused)
}

/// Encrypts `from`, followed by zeros, into `to`, and returns the one-time key of Poly1305, which
/// is the start of the key stream (RFC 8439, section 2.6).
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn encipher(state: &State, from: &[u8], to: &mut [u8]) -> [u64; 4] {
    let first = state.sixteen(0);
    let (now, mut to) = split(to, 15);
    let (now_from, mut from) = from.split_at(from.len().min(now.len()));
    xor_all(&first[1..], now_from, now);

    let mut counter = 16;
    while !to.is_empty() {
        let blocks = if to.len() <= 8 * BLOCK { 8 } else { 16 };
        let (now, later) = split(to, blocks);
        let (now_from, later_from) = from.split_at(from.len().min(now.len()));
        if blocks == 8 {
            xor_all(&state.eight(counter), now_from, now);
            counter += 8;
        } else {
            xor_all(&state.sixteen(counter), now_from, now);
            counter += 16;
        }
        (to, from) = (later, later_from);
    }

    lanes::first_words(first[0])
}

/// Does the same for two messages of at most 24 blocks, including the one-time key: after 16 blocks
/// of each, the last eight blocks of both are computed together.
#[target_feature(enable = "avx512f,avx512bw")]
fn encipher_two(messages: &mut [Message<'_>; 2]) -> [[u64; 4]; 2] {
    let [first, second] = messages;
    let states = [State::new(first.key, first.nonce), State::new(second.key, second.nonce)];
    let mut one_time_keys = [[0; 4]; 2];
    for ((state, message), one_time_key) in
        states.iter().zip([&mut *first, &mut *second]).zip(&mut one_time_keys)
    {
        let stream = state.sixteen(0);
        let (now, _) = split(message.to, 15);
        xor_all(&stream[1..], &message.from[..message.from.len().min(now.len())], now);
        *one_time_key = lanes::first_words(stream[0]);
    }

    let rest = states[0].eight_and_eight(&states[1], 16);
    for (stream, message) in rest.chunks_exact(8).zip([first, second]) {
        xor_all(
            stream,
            message.from.get(15 * BLOCK..).unwrap_or_default(),
            &mut message.to[15 * BLOCK..],
        );
    }
    one_time_keys
}

fn split(bytes: &mut [u8], blocks: usize) -> (&mut [u8], &mut [u8]) {
    let len = bytes.len().min(blocks * BLOCK);

    bytes.split_at_mut(len)
}

/// Encrypts `from`, followed by zeros, into `to` with as much of the key stream as that takes.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn xor_all(stream: &[VectorLanes], from: &[u8], to: &mut [u8]) {
    let (blocks, last) = to.as_chunks_mut::<BLOCK>();
    let (whole, rest) = from.as_chunks::<BLOCK>();
    if whole.len() == blocks.len() {
        for ((to, from), stream) in blocks.iter_mut().zip(whole).zip(stream) {
            lanes::store(to, xor(lanes::load(from), *stream));
        }
        if let (Some(stream), false) = (stream.get(blocks.len()), last.is_empty()) {
            lanes::store_front(last, xor(lanes::load_front(rest), *stream));
        }
        return;
    }

    // Padding can begin before the last block.
    for (index, (to, stream)) in to.chunks_mut(BLOCK).zip(stream).enumerate() {
        let from = from.get(index * BLOCK..).unwrap_or_default();
        lanes::store_front(to, xor(lanes::load_front(&from[..from.len().min(BLOCK)]), *stream));
    }
}
