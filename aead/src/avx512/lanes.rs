//! A register of 64 bytes, and how it is loaded and stored. All pointers in this crate are here.

use std::arch::x86_64::{
    __m512i, _mm256_storeu_si256, _mm512_castsi512_si256, _mm512_loadu_si512,
    _mm512_mask_storeu_epi8, _mm512_maskz_expandloadu_epi64, _mm512_maskz_loadu_epi8,
    _mm512_storeu_si512, _mm512_xor_si512,
};

/// A register of 64 bytes.
pub(crate) type VectorLanes = __m512i;

/// Returns the bitwise exclusive or.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn xor(a: VectorLanes, b: VectorLanes) -> VectorLanes {
    _mm512_xor_si512(a, b)
}

/// Reads 64 bytes.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn load(bytes: &[u8; 64]) -> VectorLanes {
    // SAFETY: reads as many bytes as the array has, aligned or not.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Loads at most 64 bytes, followed by zeros.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(crate) fn load_front(bytes: &[u8]) -> VectorLanes {
    // SAFETY: reads only bytes whose bit is set, and there are as many of those as the slice has.
    unsafe { _mm512_maskz_loadu_epi8(front(bytes.len()), bytes.as_ptr().cast()) }
}

/// Loads at most eight words of 8 bytes, preceded by zeros.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn load_back(words: &[[u8; 8]]) -> VectorLanes {
    let mask =
        u8::MAX.checked_shl(8_u32.saturating_sub(words.len().try_into().unwrap_or(8))).unwrap_or(0);

    // SAFETY: reads one word for each bit that is set, at most as many as the slice has.
    unsafe { _mm512_maskz_expandloadu_epi64(mask, words.as_ptr().cast()) }
}

/// Writes 64 bytes.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn store(bytes: &mut [u8; 64], lanes: VectorLanes) {
    // SAFETY: writes as many bytes as the array has, aligned or not.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), lanes) }
}

/// Stores as many bytes as fit, at most 64.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(crate) fn store_front(bytes: &mut [u8], lanes: VectorLanes) {
    // SAFETY: writes only bytes whose bit is set, and there are as many of those as the slice has.
    unsafe { _mm512_mask_storeu_epi8(bytes.as_mut_ptr().cast(), front(bytes.len()), lanes) }
}

/// Returns the first 32 bytes as words.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn first_words(lanes: VectorLanes) -> [u64; 4] {
    let mut words = [0; 4];
    // SAFETY: writes the 32 bytes that the array has, aligned or not.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), _mm512_castsi512_si256(lanes)) };

    words
}

/// Returns a mask with one bit for each of the first `len` of 64 bytes.
fn front(len: usize) -> u64 {
    u32::try_from(len).ok().and_then(|len| 1_u64.checked_shl(len)).map_or(u64::MAX, |bit| bit - 1)
}
