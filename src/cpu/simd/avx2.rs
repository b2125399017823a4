//! AVX2: eight weight rows at a time.

use super::format::Format;
use super::int8::{self, Buffers, Outputs, Panel};
use super::isa::Isa;
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
#[derive(Clone, Copy)]
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

/// Products of weights and activations, two summed in each `i16`. They do not overflow: unsigned weights make at
/// most 2·63·127, signed ones at most 2·128·127.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn products<F: Format>(w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: as the caller vouches.
    unsafe {
        if F::PEAK.is_some() {
            return _mm256_maddubs_epi16(w, x);
        }
        // |−128| is right as an unsigned byte; −x exists since no activation is −128.
        _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
    }
}

/// Whether the products of eight quads, two to an `i16`, can be summed there: nibbles make at most 16·15·127.
const fn sums_in_i16<F: Format>() -> bool {
    matches!(F::PEAK, Some(peak) if 16 * peak * 127 <= i16::MAX as i32)
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

/// Shuffle indices of the second byte, eight times.
const SECOND_BYTE: i64 = 0x0101_0101_0101_0101;
/// In byte k, bit k.
const ONE_OF_EIGHT: i64 = 0x8040_2010_0804_0201_u64 as i64;

// SAFETY of every block below: the caller of an `Isa` method vouches for the features and for its pointers.
impl<const VNNI: bool> Isa for Avx2<VNNI> {
    const LANES: usize = 8;
    const GROUPS: usize = 1;
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
    unsafe fn bits(v: __m256i, from: usize, mask: u8) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let shifted = _mm256_srl_epi16(v, _mm_cvtsi32_si128(from as i32));
            _mm256_and_si256(shifted, _mm256_set1_epi8(mask as i8))
        }
    }

    #[inline(always)]
    unsafe fn join_bits(low: __m256i, high: __m256i, at: usize) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_or_si256(low, _mm256_sll_epi16(high, _mm_cvtsi32_si128(at as i32))) }
    }

    #[inline(always)]
    unsafe fn load_bits(p: *const u8, stride: usize) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let (a, b) = (p.cast::<i16>().read_unaligned(), p.add(4 * stride).cast::<i16>().read_unaligned());
            let both = join(_mm_set1_epi16(a), _mm_set1_epi16(b));
            // Each byte gets the eight bits that its own is one of, and keeps that.
            let spread = _mm256_setr_epi64x(0, SECOND_BYTE, 0, SECOND_BYTE);
            let bit = _mm256_set1_epi64x(ONE_OF_EIGHT);
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(both, spread), bit), bit);
            _mm256_and_si256(set, _mm256_set1_epi8(1))
        }
    }

    #[inline(always)]
    unsafe fn operand(v: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { if VNNI { _mm256_xor_si256(v, _mm256_set1_epi8(-128)) } else { v } }
    }

    #[inline(always)]
    unsafe fn lookup(table: __m256i, v: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_shuffle_epi8(table, v) }
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
    unsafe fn dot<F: Format>(w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { if VNNI { _mm256_dpbusd_epi32(_mm256_setzero_si256(), w, x) } else { widen(products::<F>(w, x)) } }
    }

    #[inline(always)]
    unsafe fn dot_pair<F: Format>(w: [__m256i; 2], x: [__m256i; 2]) -> __m256i {
        // SAFETY: see above.
        unsafe {
            if VNNI {
                return _mm256_dpbusd_epi32(_mm256_dpbusd_epi32(_mm256_setzero_si256(), w[0], x[0]), w[1], x[1]);
            }
            let (a, b) = (products::<F>(w[0], x[0]), products::<F>(w[1], x[1]));
            if F::PEAK.is_some() { widen(_mm256_add_epi16(a, b)) } else { _mm256_add_epi32(widen(a), widen(b)) }
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

    /// Small quants are summed in `i16`: see [`sums_in_i16`].
    #[inline(always)]
    unsafe fn dot_quad<F: Format>(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe {
            if VNNI {
                return _mm256_dpbusd_epi32(sum, w, x);
            }
            let products = products::<F>(w, x);
            if sums_in_i16::<F>() { _mm256_add_epi16(sum, products) } else { _mm256_add_epi32(sum, widen(products)) }
        }
    }

    #[inline(always)]
    unsafe fn close<F: Format>(sum: __m256i, offset: i32) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let sum = if sums_in_i16::<F>() && !VNNI { widen(sum) } else { sum };
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
    unsafe fn mul_i32(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_mullo_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn pair_i16(low: __m256i, high: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_blend_epi16::<0xaa>(low, _mm256_slli_epi32::<16>(high)) }
    }

    #[inline(always)]
    unsafe fn dot_i16(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_madd_epi16(a, b) }
    }

    #[inline(always)]
    unsafe fn add_dot_i16(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { if VNNI { _mm256_dpwssd_epi32(sum, a, b) } else { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) } }
    }

    #[inline(always)]
    unsafe fn or_i32(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_or_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn bits_i32(v: __m256i, from: usize, mask: i32) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_and_si256(_mm256_srl_epi32(v, _mm_cvtsi32_si128(from as i32)), _mm256_set1_epi32(mask)) }
    }

    #[inline(always)]
    unsafe fn byte_i32(v: __m256i, k: usize) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_srai_epi32::<24>(_mm256_sll_epi32(v, _mm_cvtsi32_si128(24 - 8 * k as i32))) }
    }

    #[inline(always)]
    unsafe fn load_words(p: *const u8, stride: usize) -> __m256i {
        // SAFETY: see above.
        unsafe { join(dwords(p, stride), dwords(p.add(4 * stride), stride)) }
    }

    #[inline(always)]
    unsafe fn load_i32(p: *const i32) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }

    #[inline(always)]
    unsafe fn store_i32(p: *mut i32, v: __m256i) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_si256(p.cast(), v) }
    }

    #[inline(always)]
    unsafe fn to_f32(v: __m256i) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_cvtepi32_ps(v) }
    }

    #[inline(always)]
    unsafe fn power(v: __m256i) -> __m256 {
        // SAFETY: see above.
        unsafe {
            let one = _mm256_set1_epi32(1);
            // The exponent of a normal power; negative or zero for the other two, which are one bit of a mantissa.
            let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(v, one));
            let subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(1 << 21), _mm256_min_epi32(v, one));
            _mm256_castsi256_ps(_mm256_max_epi32(normal, subnormal))
        }
    }

    #[inline(always)]
    unsafe fn load_scales(p: *const u8, stride: usize) -> [__m256; 2] {
        // SAFETY: see above.
        unsafe {
            let both = Self::load_words(p, stride);
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

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn few<F: Format, const M: usize>(w: &Rows<'_>, x: [ActRow<'_>; M], y: &mut Strided<'_>) {
        // SAFETY: see above.
        unsafe { int8::few::<Self, F, M>(w, x, y) }
    }

    unsafe fn many<F: Format>(w: &Rows<'_>, x: &Acts, y: &mut Strided<'_>, buffers: &mut Buffers) {
        // SAFETY: see above.
        unsafe { int8::many::<Self, F>(w, x, y, buffers) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pack_weights<F: Format>(w: [*const u8; 2], stride: usize, blocks: usize, tile: *mut u8) {
        // SAFETY: see above.
        unsafe { int8::pack_weights::<Self, F>(w, stride, blocks, tile) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn tile<F: Format, const G: usize>(
        tile: *const u8,
        panel: Panel,
        blocks: usize,
        out: Outputs,
        ahead: Option<[*const u8; G]>,
        first: bool,
    ) {
        // SAFETY: see above.
        unsafe { int8::tile::<Self, F, G>(tile, panel, blocks, out, ahead, first) }
    }
}
