//! AVX2: eight weight rows at a time.

use super::int8::{self, Outputs};
use super::isa::{Format, Isa};
use super::kernels::Scratch;
use super::view::{Rows, Strided};
use crate::quant::act::{ActRow, Acts};
use std::arch::x86_64::*;

/// [`super::Kernels::linear_int8`].
///
/// # Safety
/// The machine has AVX2, FMA and F16C; type and shapes are checked.
pub(super) unsafe fn linear_int8(w: &Rows<'_>, x: &Acts, y: &mut Strided<'_>, scratch: &mut Scratch) {
    // SAFETY: as the caller vouches.
    unsafe { int8::linear::<Avx2<false>>(w, x, y, &mut scratch.int8) }
}

/// Vectors of 256 bits. With `VNNI` they also need AVX-512 VL and VNNI, and are not used by this level.
pub(super) struct Avx2<const VNNI: bool>;

/// The 16 bytes at `p`.
///
/// # Safety
/// As [`Isa`] says.
#[inline(always)]
unsafe fn part(p: *const u8) -> __m128i {
    // SAFETY: as the caller vouches.
    unsafe { _mm_loadu_si128(p.cast()) }
}

/// The dwords at `p`, `p + stride`, `p + 2·stride` and `p + 3·stride`.
///
/// # Safety
/// As [`Isa`] says.
#[inline(always)]
unsafe fn dwords(p: *const u8, stride: usize) -> __m128i {
    // SAFETY: as the caller vouches.
    unsafe {
        let dword = |k: usize| p.add(k * stride).cast::<i32>().read_unaligned();
        _mm_setr_epi32(dword(0), dword(1), dword(2), dword(3))
    }
}

/// One vector of two parts.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn join(low: __m128i, high: __m128i) -> __m256i {
    // SAFETY: as the caller vouches.
    unsafe { _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high) }
}

/// Products of weights and activations, two summed in each `i16`. They do not overflow: nibbles make at most
/// 2·15·127, signed weights at most 2·128·127.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn products<F: Format>(w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: as the caller vouches.
    unsafe {
        if F::NIBBLES {
            return _mm256_maddubs_epi16(w, x);
        }
        // |−128| is right as an unsigned byte; −x exists since no activation is −128.
        _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
    }
}

/// Sums of two `i16` in each `i32`.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn widen(v: __m256i) -> __m256i {
    // SAFETY: as the caller vouches.
    unsafe { _mm256_madd_epi16(v, _mm256_set1_epi16(1)) }
}

// SAFETY of every block below: the caller of an `Isa` method vouches for the features and for its pointers.
impl<const VNNI: bool> Isa for Avx2<VNNI> {
    const LANES: usize = 8;
    const BIAS: i32 = if VNNI { 128 } else { 0 };
    type Bytes = __m256i;
    type Ints = __m256i;
    type Floats = __m256;

    #[inline(always)]
    unsafe fn load_rows(p: *const u8, stride: usize) -> __m256i {
        // SAFETY: see above.
        unsafe { join(part(p), part(p.add(4 * stride))) }
    }

    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }

    #[inline(always)]
    unsafe fn store(p: *mut u8, v: __m256i) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_si256(p.cast(), v) }
    }

    #[inline(always)]
    unsafe fn splat_16(p: *const i8) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_broadcastsi128_si256(part(p.cast())) }
    }

    #[inline(always)]
    unsafe fn splat_4(p: *const i8) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn nibbles(v: __m256i) -> [__m256i; 2] {
        // SAFETY: see above.
        unsafe {
            let low = _mm256_set1_epi8(15);
            [_mm256_and_si256(v, low), _mm256_and_si256(_mm256_srli_epi16::<4>(v), low)]
        }
    }

    #[inline(always)]
    unsafe fn operand(v: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { if VNNI { _mm256_xor_si256(v, _mm256_set1_epi8(-128)) } else { v } }
    }

    #[inline(always)]
    unsafe fn transpose(v: [__m256i; 4]) -> [__m256i; 4] {
        // SAFETY: see above.
        unsafe {
            let (a, b) = (_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpacklo_epi32(v[2], v[3]));
            let (c, d) = (_mm256_unpackhi_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[2], v[3]));
            [
                _mm256_unpacklo_epi64(a, b),
                _mm256_unpackhi_epi64(a, b),
                _mm256_unpacklo_epi64(c, d),
                _mm256_unpackhi_epi64(c, d),
            ]
        }
    }

    #[inline(always)]
    unsafe fn dot_pair<F: Format>(w: [__m256i; 2], x: [__m256i; 2]) -> __m256i {
        // SAFETY: see above.
        unsafe {
            if VNNI {
                return _mm256_dpbusd_epi32(_mm256_dpbusd_epi32(_mm256_setzero_si256(), w[0], x[0]), w[1], x[1]);
            }
            let (a, b) = (products::<F>(w[0], x[0]), products::<F>(w[1], x[1]));
            if F::NIBBLES { widen(_mm256_add_epi16(a, b)) } else { _mm256_add_epi32(widen(a), widen(b)) }
        }
    }

    #[inline(always)]
    unsafe fn sum_lanes(v: [__m256i; 4]) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let a = _mm256_add_epi32(_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[0], v[1]));
            let b = _mm256_add_epi32(_mm256_unpacklo_epi32(v[2], v[3]), _mm256_unpackhi_epi32(v[2], v[3]));
            _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b))
        }
    }

    #[inline(always)]
    unsafe fn open<F: Format>(_: i32) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_setzero_si256() }
    }

    /// Nibbles are summed in `i16`: eight quads make at most 16·15·127 = 30480.
    #[inline(always)]
    unsafe fn dot_quad<F: Format>(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe {
            if VNNI {
                return _mm256_dpbusd_epi32(sum, w, x);
            }
            let products = products::<F>(w, x);
            if F::NIBBLES { _mm256_add_epi16(sum, products) } else { _mm256_add_epi32(sum, widen(products)) }
        }
    }

    #[inline(always)]
    unsafe fn close<F: Format>(sum: __m256i, offset: i32) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let sum = if F::NIBBLES && !VNNI { widen(sum) } else { sum };
            _mm256_add_epi32(sum, _mm256_set1_epi32(offset))
        }
    }

    #[inline(always)]
    unsafe fn splat_i32(v: i32) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_set1_epi32(v) }
    }

    #[inline(always)]
    unsafe fn add_i32(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn to_f32(v: __m256i) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_cvtepi32_ps(v) }
    }

    #[inline(always)]
    unsafe fn load_scales(p: *const u8, stride: usize) -> [__m256; 2] {
        // SAFETY: see above.
        unsafe {
            let both = join(dwords(p, stride), dwords(p.add(4 * stride), stride));
            let low = _mm256_and_si256(both, _mm256_set1_epi32(0xffff));
            let high = _mm256_srli_epi32::<16>(both);
            // Packing works on each 128-bit half: rows 0..4 and 4..8 of both, put back in order.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high));
            [_mm256_cvtph_ps(_mm256_castsi256_si128(words)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(words))]
        }
    }

    #[inline(always)]
    unsafe fn load_f32(p: *const f32) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn store_f32(p: *mut f32, v: __m256) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn splat_f32(v: f32) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_set1_ps(v) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn prefetch_near(p: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn prefetch_far(p: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn few<F: Format, const M: usize>(w: &Rows<'_>, x: [ActRow<'_>; M], y: &mut Strided<'_>) {
        // SAFETY: see above.
        unsafe { int8::few::<Self, F, M>(w, x, y) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pack_weights<F: Format>(w: *const u8, stride: usize, blocks: usize, tile: *mut u8) {
        // SAFETY: see above.
        unsafe { int8::pack_weights::<Self, F>(w, stride, blocks, tile) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn tile<F: Format, const R: usize>(tile: *const u8, panel: *const u8, blocks: usize, out: Outputs) {
        // SAFETY: see above.
        unsafe { int8::tile::<Self, F, R>(tile, panel, blocks, out) }
    }
}
