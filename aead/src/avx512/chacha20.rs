//! The key stream of ChaCha20 (RFC 8439, section 2.3), 16 or 8 blocks at once: each register holds
//! one word of every block.

use std::arch::x86_64::{
    _mm256_add_epi32, _mm256_permute2x128_si256, _mm256_rol_epi32, _mm256_set1_epi32,
    _mm256_setr_epi32, _mm256_setzero_si256, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64,
    _mm256_unpacklo_epi32, _mm256_unpacklo_epi64, _mm256_xor_si256, _mm512_add_epi32,
    _mm512_castsi256_si512, _mm512_inserti64x4, _mm512_mask_mov_epi32, _mm512_rol_epi32,
    _mm512_set1_epi32, _mm512_setr_epi32, _mm512_setzero_si512, _mm512_shuffle_i32x4,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    _mm512_xor_si512,
};

use super::lanes::VectorLanes;
use crate::message::{KEY_LEN, NONCE_LEN};

/// "expand 32-byte k", the first four words of every block.
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];
/// The index of the block counter.
const COUNTER: usize = 12;

/// The initial state of a block; the counter is 0.
pub(crate) struct State([u32; 16]);

/// Performs the two rounds ten times on the 16 words `$v` of all blocks, then adds the initial
/// state.
macro_rules! blocks {
    ($start:expr, $add:ident, $xor:ident, $rol:ident) => {{
        let start = $start;
        let mut v = start;
        macro_rules! quarter_round {
            ($a:literal, $b:literal, $c:literal, $d:literal) => {
                v[$a] = $add(v[$a], v[$b]);
                v[$d] = $rol::<16>($xor(v[$d], v[$a]));
                v[$c] = $add(v[$c], v[$d]);
                v[$b] = $rol::<12>($xor(v[$b], v[$c]));
                v[$a] = $add(v[$a], v[$b]);
                v[$d] = $rol::<8>($xor(v[$d], v[$a]));
                v[$c] = $add(v[$c], v[$d]);
                v[$b] = $rol::<7>($xor(v[$b], v[$c]));
            };
        }
        for _ in 0..10 {
            quarter_round!(0, 4, 8, 12);
            quarter_round!(1, 5, 9, 13);
            quarter_round!(2, 6, 10, 14);
            quarter_round!(3, 7, 11, 15);
            quarter_round!(0, 5, 10, 15);
            quarter_round!(1, 6, 11, 12);
            quarter_round!(2, 7, 8, 13);
            quarter_round!(3, 4, 9, 14);
        }

        for (word, start) in v.iter_mut().zip(start) {
            *word = $add(*word, start);
        }
        v
    }};
}

/// Transposes four words of every block, one word per row, into quarters of blocks: what was column
/// `4 l + c` of the four rows becomes the 128-bit lane `l` of result `c`.
macro_rules! quarters {
    ($rows:expr, $lo32:ident, $hi32:ident, $lo64:ident, $hi64:ident) => {{
        let rows = $rows;
        let (even, odd) = ($lo32(rows[0], rows[1]), $hi32(rows[0], rows[1]));
        let (even_rest, odd_rest) = ($lo32(rows[2], rows[3]), $hi32(rows[2], rows[3]));

        [$lo64(even, even_rest), $hi64(even, even_rest), $lo64(odd, odd_rest), $hi64(odd, odd_rest)]
    }};
}

impl State {
    /// Makes the state from a key and a nonce.
    pub(crate) fn new(key: &[u8; KEY_LEN], nonce: &[u8; NONCE_LEN]) -> Self {
        let (key, nonce) = (key.as_chunks::<4>().0, nonce.as_chunks::<4>().0);
        let mut words = [0; 16];
        words[..4].copy_from_slice(&CONSTANTS);
        for (word, bytes) in words[4..COUNTER].iter_mut().zip(key) {
            *word = u32::from_le_bytes(*bytes);
        }
        for (word, bytes) in words[COUNTER + 1..].iter_mut().zip(nonce) {
            *word = u32::from_le_bytes(*bytes);
        }

        Self(words)
    }

    /// Returns 16 blocks of the key stream, from the block `counter` on.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(crate) fn sixteen(&self, counter: u32) -> [VectorLanes; 16] {
        let count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let mut start = [_mm512_setzero_si512(); 16];
        for (word, value) in start.iter_mut().zip(self.0) {
            *word = _mm512_set1_epi32(value.cast_signed());
        }
        start[COUNTER] = _mm512_add_epi32(_mm512_set1_epi32(counter.cast_signed()), count);

        stream_of(start)
    }

    /// Returns 8 blocks of this key stream and 8 of another's, each from its block `counter` on.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(crate) fn eight_and_eight(&self, other: &Self, counter: u32) -> [VectorLanes; 16] {
        let count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7);
        let mut start = [_mm512_setzero_si512(); 16];
        for (word, (ours, others)) in start.iter_mut().zip(self.0.into_iter().zip(other.0)) {
            let others = _mm512_set1_epi32(others.cast_signed());
            *word = _mm512_mask_mov_epi32(others, 0x00FF, _mm512_set1_epi32(ours.cast_signed()));
        }
        start[COUNTER] = _mm512_add_epi32(_mm512_set1_epi32(counter.cast_signed()), count);

        stream_of(start)
    }

    /// Returns 8 blocks of the key stream, from the block `counter` on.
    #[target_feature(enable = "avx512f,avx512vl")]
    #[inline]
    pub(crate) fn eight(&self, counter: u32) -> [VectorLanes; 8] {
        let count = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let mut start = [_mm256_setzero_si256(); 16];
        for (word, value) in start.iter_mut().zip(self.0) {
            *word = _mm256_set1_epi32(value.cast_signed());
        }
        start[COUNTER] = _mm256_add_epi32(_mm256_set1_epi32(counter.cast_signed()), count);
        let words = blocks!(start, _mm256_add_epi32, _mm256_xor_si256, _mm256_rol_epi32);

        let mut quarters = [[_mm256_setzero_si256(); 4]; 4];
        for (quarters, rows) in quarters.iter_mut().zip(words.as_chunks::<4>().0) {
            *quarters = quarters!(
                rows,
                _mm256_unpacklo_epi32,
                _mm256_unpackhi_epi32,
                _mm256_unpacklo_epi64,
                _mm256_unpackhi_epi64
            );
        }

        let mut stream = [_mm512_setzero_si512(); 8];
        for c in 0..4 {
            let [a, b, c_, d] = [quarters[0][c], quarters[1][c], quarters[2][c], quarters[3][c]];
            let low =
                (_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x20>(c_, d));
            let high =
                (_mm256_permute2x128_si256::<0x31>(a, b), _mm256_permute2x128_si256::<0x31>(c_, d));
            stream[c] = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low.0), low.1);
            stream[4 + c] = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(high.0), high.1);
        }
        stream
    }
}

/// Returns 16 blocks that start with the states in the lanes of `start`.
#[target_feature(enable = "avx512f")]
#[inline]
fn stream_of(start: [VectorLanes; 16]) -> [VectorLanes; 16] {
    let words = blocks!(start, _mm512_add_epi32, _mm512_xor_si512, _mm512_rol_epi32);

    let mut quarters = [[_mm512_setzero_si512(); 4]; 4];
    for (quarters, rows) in quarters.iter_mut().zip(words.as_chunks::<4>().0) {
        *quarters = quarters!(
            rows,
            _mm512_unpacklo_epi32,
            _mm512_unpackhi_epi32,
            _mm512_unpacklo_epi64,
            _mm512_unpackhi_epi64
        );
    }

    let mut stream = [_mm512_setzero_si512(); 16];
    for c in 0..4 {
        let [first, second, third, fourth] =
            [quarters[0][c], quarters[1][c], quarters[2][c], quarters[3][c]];
        let low = (
            _mm512_shuffle_i32x4::<0x44>(first, second),
            _mm512_shuffle_i32x4::<0x44>(third, fourth),
        );
        let high = (
            _mm512_shuffle_i32x4::<0xEE>(first, second),
            _mm512_shuffle_i32x4::<0xEE>(third, fourth),
        );
        stream[c] = _mm512_shuffle_i32x4::<0x88>(low.0, low.1);
        stream[4 + c] = _mm512_shuffle_i32x4::<0xDD>(low.0, low.1);
        stream[8 + c] = _mm512_shuffle_i32x4::<0x88>(high.0, high.1);
        stream[12 + c] = _mm512_shuffle_i32x4::<0xDD>(high.0, high.1);
    }
    stream
}
