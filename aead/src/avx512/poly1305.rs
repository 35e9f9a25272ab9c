//! The Poly1305 tag (RFC 8439, section 2.5), eight blocks at once.
//!
//! Numbers modulo 2^130 - 5 have three limbs of 44, 44 and 42 bits, which leaves room for the 52
//! bits that IFMA multiplies. Each of eight consecutive blocks has its own lane, which is
//! multiplied by r^8 for each group of eight. At the end, block `b` of the last group still lacks
//! r^(8 - b), and the sum over the lanes is what one block after another would have given. If the
//! number of blocks is not a multiple of eight, zero blocks in front fill it up, which changes
//! nothing.

use std::arch::x86_64::{
    _mm512_add_epi64, _mm512_and_si512, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64,
    _mm512_mask_mov_epi64, _mm512_maskz_mov_epi64, _mm512_or_si512, _mm512_reduce_add_epi64,
    _mm512_set1_epi64, _mm512_setr_epi64, _mm512_setzero_si512, _mm512_slli_epi64,
    _mm512_srli_epi64, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
};

use super::lanes::{self, VectorLanes};
use crate::message::TAG_LEN;

/// The size of a block, in bytes.
const BLOCK: usize = 16;
/// The number of blocks processed at once.
const EIGHT: usize = 8;
/// The size of a group of eight blocks, in bytes.
const GROUP: usize = EIGHT * BLOCK;
const LOW_44: u64 = (1 << 44) - 1;
const LOW_42: u64 = (1 << 42) - 1;
/// The bit after a full block, 2^128, in the highest limb.
const AFTER_BLOCK: u64 = 1 << 40;
/// The bits that "clamping" keeps of the two halves of r (section 2.5).
const CLAMP: [u64; 2] = [0x0fff_fffc_0fff_ffff, 0x0fff_fffc_0fff_fffc];
/// The block of a group that is in each lane: the order that two unpack instructions leave.
const LANE_BLOCKS: [usize; EIGHT] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Eight numbers, one limb per vector.
#[derive(Clone, Copy)]
struct Numbers([VectorLanes; 3]);

/// Eight factors, and their upper two limbs times 20, as they count at the bottom: 2^132 is 4 times
/// 5.
#[derive(Clone, Copy)]
struct Factors {
    limbs: [VectorLanes; 3],
    twenty: [VectorLanes; 2],
}

/// The factor for all lanes between groups, and the factor for each lane at the end.
struct Powers {
    eighth: Factors,
    last: Factors,
}

/// Returns the tag of a message without additional data (section 2.8): over the ciphertext, padded
/// to full blocks, and both lengths. There must be more than 112 bytes, so that there are two
/// groups.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(super) fn mac(one_time_key: &[u64; 4], ciphertext: &[u8]) -> [u8; TAG_LEN] {
    let mut running = Running::new(one_time_key, ciphertext);
    for group in running.groups {
        running.add(group);
    }

    running.finish()
}

/// Does the same for two messages in turn: each multiplication depends on the one before it, but
/// not on those of the other message.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
pub(super) fn mac_two(
    one_time_keys: &[[u64; 4]; 2],
    ciphertexts: [&[u8]; 2],
) -> [[u8; TAG_LEN]; 2] {
    let mut first = Running::new(&one_time_keys[0], ciphertexts[0]);
    let mut second = Running::new(&one_time_keys[1], ciphertexts[1]);
    let both = first.groups.len().min(second.groups.len());
    for (one, other) in first.groups.iter().zip(second.groups) {
        first.add(one);
        second.add(other);
    }
    for running in [&mut first, &mut second] {
        for group in &running.groups[both..] {
            running.add(group);
        }
    }

    [first.finish(), second.finish()]
}

/// A message whose first group has been added.
struct Running<'a> {
    powers: Powers,
    sum: Numbers,
    /// The groups still to be added, except for the last.
    groups: &'a [[u8; GROUP]],
    last: &'a [u8],
    len: usize,
    second_half: [u64; 2],
}

impl<'a> Running<'a> {
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
    #[inline]
    fn new([r0, r1, s0, s1]: &[u64; 4], ciphertext: &'a [u8]) -> Self {
        let blocks = ciphertext.len().div_ceil(BLOCK) + 1;
        let missing = blocks.next_multiple_of(EIGHT) - blocks;
        let (first, rest) = ciphertext.split_at(GROUP - missing * BLOCK);
        let (groups, last) = rest.as_chunks();

        Self {
            powers: Powers::new([r0 & CLAMP[0], r1 & CLAMP[1]]),
            sum: first_group(first, missing),
            groups,
            last,
            len: ciphertext.len(),
            second_half: [*s0, *s1],
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
    #[inline]
    fn add(&mut self, group: &[u8; GROUP]) {
        let (halves, _) = group.as_chunks();
        if let [front, back] = halves {
            let blocks = blocks(lanes::load(front), lanes::load(back), every(AFTER_BLOCK));
            self.sum = self.sum.times(&self.powers.eighth).plus(blocks);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
    #[inline]
    fn finish(self) -> [u8; TAG_LEN] {
        let sum = self.sum.times(&self.powers.eighth).plus(last_group(self.last, self.len));

        finish(sum.times(&self.powers.last).across(), self.second_half)
    }
}

/// Returns the first blocks of a message, preceded by `missing` zero blocks.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn first_group(bytes: &[u8], missing: usize) -> Numbers {
    let words = bytes.as_chunks::<8>().0;
    let (front, back) = words.split_at(words.len().saturating_sub(EIGHT));
    let mut here = 0;
    for (lane, block) in LANE_BLOCKS.into_iter().enumerate() {
        here |= u8::from(block >= missing) << lane;
    }

    blocks(
        lanes::load_back(front),
        lanes::load_back(back),
        _mm512_maskz_mov_epi64(here, every(AFTER_BLOCK)),
    )
}

/// Returns the rest of a message, padded with zeros, and the block with the lengths.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn last_group(bytes: &[u8], len: usize) -> Numbers {
    let (front, back) = bytes.split_at(bytes.len().min(GROUP / 2));
    let lengths = _mm512_setr_epi64(0, 0, 0, 0, 0, 0, 0, (len as u64).cast_signed());
    let back = _mm512_or_si512(lanes::load_front(back), lengths);

    blocks(lanes::load_front(front), back, every(AFTER_BLOCK))
}

/// Splits eight blocks into limbs, and sets the bit after each.
#[target_feature(enable = "avx512f")]
#[inline]
fn blocks(front: VectorLanes, back: VectorLanes, after: VectorLanes) -> Numbers {
    let (low, high) = (_mm512_unpacklo_epi64(front, back), _mm512_unpackhi_epi64(front, back));
    let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
    let mask = every(LOW_44);

    Numbers([
        _mm512_and_si512(low, mask),
        _mm512_and_si512(middle, mask),
        _mm512_or_si512(_mm512_srli_epi64::<24>(high), after),
    ])
}

#[target_feature(enable = "avx512f")]
#[inline]
fn every(value: u64) -> VectorLanes {
    _mm512_set1_epi64(value.cast_signed())
}

impl Numbers {
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn plus(self, other: Self) -> Self {
        let ([a0, a1, a2], [b0, b1, b2]) = (self.0, other.0);

        Self([_mm512_add_epi64(a0, b0), _mm512_add_epi64(a1, b1), _mm512_add_epi64(a2, b2)])
    }

    /// Multiplies lane by lane. Limbs may have at most 52 bits; those of the result have 44, 45 and
    /// 42.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn times(self, factors: &Factors) -> Self {
        let zero = _mm512_setzero_si512();
        let ([a0, a1, a2], [b0, b1, b2], [w1, w2]) = (self.0, factors.limbs, factors.twenty);
        // The factor of each limb for each limb of the product. `a0` is known last, so it comes
        // last.
        let terms = [(a1, [w2, b0, b1]), (a2, [w1, w2, b0]), (a0, [b0, b1, b2])];
        let (mut low, mut high) = ([zero; 3], [zero; 3]);
        for (a, row) in terms {
            for limb in 0..3 {
                low[limb] = _mm512_madd52lo_epu64(low[limb], a, row[limb]);
                high[limb] = _mm512_madd52hi_epu64(high[limb], a, row[limb]);
            }
        }

        Self::carried(low, high)
    }

    /// Reduces a product to limbs. The high part of an IFMA product begins at bit 52: 8 bits up in
    /// the next limb, and 10 bits above the highest limb, where it counts five times as much at the
    /// bottom.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn carried(low: [VectorLanes; 3], high: [VectorLanes; 3]) -> Self {
        let add = |a, b| _mm512_add_epi64(a, b);
        let second =
            add(low[1], add(_mm512_srli_epi64::<44>(low[0]), _mm512_slli_epi64::<8>(high[0])));
        let third =
            add(low[2], add(_mm512_srli_epi64::<44>(second), _mm512_slli_epi64::<8>(high[1])));
        let over = add(_mm512_srli_epi64::<42>(third), _mm512_slli_epi64::<10>(high[2]));
        let first =
            add(_mm512_and_si512(low[0], every(LOW_44)), add(over, _mm512_slli_epi64::<2>(over)));

        Self([
            _mm512_and_si512(first, every(LOW_44)),
            add(_mm512_and_si512(second, every(LOW_44)), _mm512_srli_epi64::<44>(first)),
            _mm512_and_si512(third, every(LOW_42)),
        ])
    }

    /// Takes the lanes whose bit is set from `other`.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn or_in(self, mask: u8, other: Self) -> Self {
        let ([a0, a1, a2], [b0, b1, b2]) = (self.0, other.0);

        Self([
            _mm512_mask_mov_epi64(a0, mask, b0),
            _mm512_mask_mov_epi64(a1, mask, b1),
            _mm512_mask_mov_epi64(a2, mask, b2),
        ])
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn factors(self) -> Factors {
        let twenty =
            |limb| _mm512_add_epi64(_mm512_slli_epi64::<4>(limb), _mm512_slli_epi64::<2>(limb));

        Factors { limbs: self.0, twenty: [twenty(self.0[1]), twenty(self.0[2])] }
    }

    /// Adds up the lanes.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn across(self) -> [u64; 3] {
        [
            _mm512_reduce_add_epi64(self.0[0]).cast_unsigned(),
            _mm512_reduce_add_epi64(self.0[1]).cast_unsigned(),
            _mm512_reduce_add_epi64(self.0[2]).cast_unsigned(),
        ]
    }
}

impl Powers {
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn new([low, high]: [u64; 2]) -> Self {
        let one = Numbers([
            every(low & LOW_44),
            every((low >> 44 | high << 20) & LOW_44),
            every(high >> 24),
        ]);
        let two = one.times(&one.factors());
        let four = two.times(&two.factors());
        let eight = four.times(&four.factors());
        // The exponent of a lane is 8 minus its block: 8, 4, 7, 3, 6, 2, 5, 1. Even ones start from
        // two, odd ones from one; 3, 4, 7 and 8 are then multiplied by two, those above four by
        // four.
        let low = one.or_in(0b0011_0011, two);
        let middle = low.or_in(0b0000_1111, low.times(&two.factors()));
        let last = middle.or_in(0b0101_0101, middle.times(&four.factors()));

        Self { eighth: eight.factors(), last: last.factors() }
    }
}

/// Reduces the sum below 2^130 - 5 and adds the second half of the key.
fn finish([mut h0, mut h1, mut h2]: [u64; 3], [s0, s1]: [u64; 2]) -> [u8; TAG_LEN] {
    for _ in 0..2 {
        h1 += h0 >> 44;
        h2 += h1 >> 44;
        (h0, h1) = ((h0 & LOW_44) + (h2 >> 42) * 5, h1 & LOW_44);
        h2 &= LOW_42;
    }
    h1 += h0 >> 44;
    h2 += h1 >> 44;
    (h0, h1) = (h0 & LOW_44, h1 & LOW_44);

    // The sum minus 2^130 - 5, used if it is not negative.
    let g0 = h0 + 5;
    let g1 = h1 + (g0 >> 44);
    let g2 = (h2 + (g1 >> 44)).wrapping_sub(1 << 42);
    let negative = (g2 >> 63).wrapping_neg();
    let pick = |h: u64, g: u64| (h & negative) | (g & !negative);
    let [h0, h1, h2] = [pick(h0, g0 & LOW_44), pick(h1, g1 & LOW_44), pick(h2, g2 & LOW_42)];

    let hash = u128::from(h0) | u128::from(h1) << 44 | u128::from(h2) << 88;
    let second_half = u128::from(s0) | u128::from(s1) << 64;

    hash.wrapping_add(second_half).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use poly1305::Poly1305;
    use poly1305::universal_hash::KeyInit;
    use proptest::prelude::*;

    use super::*;
    use crate::avx512::Avx512;

    /// Arbitrary bytes, mixed with those that cause long carries.
    fn bytes(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![4 => Just(0xff), 2 => Just(0), 1 => Just(0xfb), 1 => Just(0xfc), 1 => Just(1), 2 => any::<u8>()];

        proptest::collection::vec(byte, len)
    }

    fn expected(key: &[u8], ciphertext: &[u8]) -> [u8; TAG_LEN] {
        let mut padded = ciphertext.to_vec();
        padded.resize(ciphertext.len().next_multiple_of(BLOCK), 0);
        padded.extend(0_u64.to_le_bytes());
        padded.extend((ciphertext.len() as u64).to_le_bytes());

        Poly1305::new_from_slice(key).expect("a key").compute_unpadded(&padded).into()
    }

    fn made(key: &[u8], ciphertext: &[u8]) -> Option<[u8; TAG_LEN]> {
        let words = key.as_chunks::<8>().0;
        let key = [0, 1, 2, 3].map(|index: usize| u64::from_le_bytes(words[index]));
        Avx512::for_message(320)?;

        // SAFETY: the processor has the features.
        Some(unsafe { mac(&key, ciphertext) })
    }

    proptest! {
        #[test]
        fn it_is_the_tag_that_others_make(key in bytes(32..33), ciphertext in bytes(113..600)) {
            if let Some(tag) = made(&key, &ciphertext) {
                prop_assert_eq!(tag, expected(&key, &ciphertext));
            }
        }
    }

    #[test]
    fn numbers_around_the_modulus_are_reduced() {
        // Whatever the hash is, the tag minus the second half is a number below 2^130 - 5,
        // truncated: compared for extreme sums.
        for r in [[0xff; 16], [0; 16], [1; 16]] {
            for fill in [0xff_u8, 0xfe, 0xfb, 0, 1] {
                for len in 113..450 {
                    let key = [r, [0xff; 16]].concat();
                    let ciphertext = vec![fill; len];

                    if let Some(tag) = made(&key, &ciphertext) {
                        assert_eq!(tag, expected(&key, &ciphertext), "{r:?} {fill} {len}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_left_is_below_the_modulus() {
        let p = [LOW_44 - 4, LOW_44, LOW_42];

        assert_eq!(finish(p, [0, 0]), [0; TAG_LEN], "2^130 - 5 itself");
        let one_less = (!0_u128 - 5).to_le_bytes();
        assert_eq!(
            finish([LOW_44 - 5, LOW_44, LOW_42], [0, 0]),
            one_less,
            "one less, of which 128 bits count"
        );
        assert_eq!(finish([LOW_44, LOW_44, LOW_42], [0, 0]), 4_u128.to_le_bytes(), "2^130 - 1");
        assert_eq!(finish([0; 3], [u64::MAX, u64::MAX]), [0xff; TAG_LEN], "the second half alone");
    }
}
