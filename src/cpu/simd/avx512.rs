//! AVX-512 with VNNI: sixteen weight rows at a time. With AMX, many activation rows are multiplied in squares.

use super::avx2::Avx2;
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
/// The machine has AVX-512 F, BW, DQ, VL and VNNI, and the AVX2 set, and AMX where that is asked for; type and shapes
/// are checked.
pub(super) unsafe fn linear_int8<const AMX: bool>(w: &Rows<'_>, x: &Acts, y: &mut Strided<'_>, scratch: &mut Scratch) {
    // SAFETY: as the caller vouches.
    unsafe { int8::linear::<Avx512<AMX>>(w, x, y, &mut scratch.int8) }
}

/// Whether products with many rows are AMX's.
#[derive(Clone, Copy)]
pub(super) struct Avx512<const AMX: bool>;

/// Rows of activations from which on products in squares are the faster ones.
const SQUARE_ROWS: usize = 16;

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

/// One vector of four parts.
///
/// # Safety
/// The machine has AVX-512 F.
#[inline(always)]
unsafe fn join(parts: [__m128i; 4]) -> __m512i {
    // SAFETY: as the caller vouches.
    unsafe {
        let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(parts[0]), parts[1]);
        let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(parts[2]), parts[3]);
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
    }
}

// SAFETY of every block below: the caller of an `Isa` method vouches for the features and for its pointers.
impl<const AMX: bool> Isa for Avx512<AMX> {
    const LANES: usize = 16;
    const GROUPS: usize = 2;
    const BIAS: i32 = 128;
    type Bytes = __m512i;
    type Ints = __m512i;
    type Floats = __m512;

    #[inline(always)]
    unsafe fn load_rows(p: *const u8, stride: usize) -> __m512i {
        // SAFETY: see above.
        unsafe { join([part(p), part(p.add(4 * stride)), part(p.add(8 * stride)), part(p.add(12 * stride))]) }
    }

    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }

    #[inline(always)]
    unsafe fn store(p: *mut u8, v: __m512i) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }

    #[inline(always)]
    unsafe fn splat_16(p: *const i8) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_broadcast_i32x4(part(p.cast())) }
    }

    #[inline(always)]
    unsafe fn splat_4(p: *const i8) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn bits(v: __m512i, from: usize, mask: u8) -> __m512i {
        // SAFETY: see above.
        unsafe {
            let shifted = _mm512_srl_epi16(v, _mm_cvtsi32_si128(from as i32));
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask as i8))
        }
    }

    #[inline(always)]
    unsafe fn join_bits(low: __m512i, high: __m512i, at: usize) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_or_si512(low, _mm512_sll_epi16(high, _mm_cvtsi32_si128(at as i32))) }
    }

    #[inline(always)]
    unsafe fn load_bits(p: *const u8, stride: usize) -> __m512i {
        // SAFETY: see above.
        unsafe {
            let bits = |k: usize| u64::from(p.add(4 * k * stride).cast::<u16>().read_unaligned()) << (16 * k);
            _mm512_maskz_set1_epi8(bits(0) | bits(1) | bits(2) | bits(3), 1)
        }
    }

    /// VNNI takes the weight unsigned: flipping the top bit adds 128.
    #[inline(always)]
    unsafe fn operand(v: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_xor_si512(v, _mm512_set1_epi8(-128)) }
    }

    #[inline(always)]
    unsafe fn lookup(table: __m512i, v: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_shuffle_epi8(table, v) }
    }

    #[inline(always)]
    unsafe fn transpose(v: [__m512i; 4]) -> [__m512i; 4] {
        // SAFETY: see above.
        unsafe {
            let (a, b) = (_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpacklo_epi32(v[2], v[3]));
            let (c, d) = (_mm512_unpackhi_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[2], v[3]));
            [
                _mm512_unpacklo_epi64(a, b),
                _mm512_unpackhi_epi64(a, b),
                _mm512_unpacklo_epi64(c, d),
                _mm512_unpackhi_epi64(c, d),
            ]
        }
    }

    #[inline(always)]
    unsafe fn dot<F: Format>(w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, x) }
    }

    #[inline(always)]
    unsafe fn dot_pair<F: Format>(w: [__m512i; 2], x: [__m512i; 2]) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), w[0], x[0]), w[1], x[1]) }
    }

    #[inline(always)]
    unsafe fn sum_lanes(v: [__m512i; 4]) -> __m512i {
        // SAFETY: see above.
        unsafe {
            let a = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
            let b = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
            _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
        }
    }

    #[inline(always)]
    unsafe fn open<F: Format>(offset: i32) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_set1_epi32(offset) }
    }

    #[inline(always)]
    unsafe fn dot_quad<F: Format>(sum: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_dpbusd_epi32(sum, w, x) }
    }

    #[inline(always)]
    unsafe fn close<F: Format>(sum: __m512i, _: i32) -> __m512i {
        sum
    }

    #[inline(always)]
    unsafe fn splat_i32(v: i32) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_set1_epi32(v) }
    }

    #[inline(always)]
    unsafe fn add_i32(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_i32(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_mullo_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn pair_i16(low: __m512i, high: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_mask_blend_epi16(0xaaaa_aaaa, low, _mm512_slli_epi32::<16>(high)) }
    }

    #[inline(always)]
    unsafe fn dot_i16(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_madd_epi16(a, b) }
    }

    #[inline(always)]
    unsafe fn add_dot_i16(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_dpwssd_epi32(sum, a, b) }
    }

    #[inline(always)]
    unsafe fn or_i32(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn bits_i32(v: __m512i, from: usize, mask: i32) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_and_si512(_mm512_srl_epi32(v, _mm_cvtsi32_si128(from as i32)), _mm512_set1_epi32(mask)) }
    }

    #[inline(always)]
    unsafe fn byte_i32(v: __m512i, k: usize) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_srai_epi32::<24>(_mm512_sll_epi32(v, _mm_cvtsi32_si128(24 - 8 * k as i32))) }
    }

    #[inline(always)]
    unsafe fn load_words(p: *const u8, stride: usize) -> __m512i {
        // SAFETY: see above.
        unsafe {
            join([
                dwords(p, stride),
                dwords(p.add(4 * stride), stride),
                dwords(p.add(8 * stride), stride),
                dwords(p.add(12 * stride), stride),
            ])
        }
    }

    #[inline(always)]
    unsafe fn load_i32(p: *const i32) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }

    #[inline(always)]
    unsafe fn store_i32(p: *mut i32, v: __m512i) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }

    #[inline(always)]
    unsafe fn to_f32(v: __m512i) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_cvtepi32_ps(v) }
    }

    #[inline(always)]
    unsafe fn power(v: __m512i) -> __m512 {
        // SAFETY: see above.
        unsafe {
            let one = _mm512_set1_epi32(1);
            // The exponent of a normal power; negative or zero for the other two, which are one bit of a mantissa.
            let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(v, one));
            let subnormal = _mm512_sllv_epi32(_mm512_set1_epi32(1 << 21), _mm512_min_epi32(v, one));
            _mm512_castsi512_ps(_mm512_max_epi32(normal, subnormal))
        }
    }

    #[inline(always)]
    unsafe fn load_scales(p: *const u8, stride: usize) -> [__m512; 2] {
        // SAFETY: see above.
        unsafe {
            let both = Self::load_words(p, stride);
            let high = _mm512_srli_epi32::<16>(both);
            [_mm512_cvtph_ps(_mm512_cvtepi32_epi16(both)), _mm512_cvtph_ps(_mm512_cvtepi32_epi16(high))]
        }
    }

    #[inline(always)]
    unsafe fn load_f32(p: *const f32) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn store_f32(p: *mut f32, v: __m512) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn splat_f32(v: f32) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_set1_ps(v) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn few<F: Format, const M: usize>(w: &Rows<'_>, x: [ActRow<'_>; M], y: &mut Strided<'_>) {
        // SAFETY: see above.
        unsafe { int8::few::<Avx2<true>, F, M>(w, x, y) }
    }

    unsafe fn many<F: Format>(w: &Rows<'_>, x: &Acts, y: &mut Strided<'_>, buffers: &mut Buffers) {
        // SAFETY: see above.
        unsafe {
            match AMX && x.rows() >= SQUARE_ROWS {
                true => int8::squares::<F>(w, x, y, buffers),
                false => int8::many::<Avx512<false>, F>(w, x, y, buffers),
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn pack_weights<F: Format>(w: [*const u8; 2], stride: usize, blocks: usize, tile: *mut u8) {
        // SAFETY: see above.
        unsafe { int8::pack_weights::<Self, F>(w, stride, blocks, tile) }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
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
