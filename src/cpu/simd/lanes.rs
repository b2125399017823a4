//! The sixteen lanes of the Float kernels by instruction set, and the weights that are read into them.

use crate::quant::float::LANES;
use crate::tensor::TensorType;
use std::arch::x86_64::*;

/// Sixteen `f32`.
///
/// # Safety
/// Every method needs the features of the level, and pointers that are valid for the bytes it says it reads or
/// writes; no alignment is asked for.
pub(super) trait Lanes: Copy {
    unsafe fn splat(v: f32) -> Self;
    /// 16 values of F32.
    unsafe fn load_f32(p: *const u8) -> Self;
    /// 16 values of F16.
    unsafe fn load_f16(p: *const u8) -> Self;
    /// 16 values of BF16.
    unsafe fn load_bf16(p: *const u8) -> Self;
    /// Stores 16 values.
    unsafe fn store(self, p: *mut f32);
    /// self·b + c, rounded once.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    /// The first step of [`crate::quant::float::reduce`]: lane i plus lane i + 8.
    unsafe fn fold(self) -> __m256;
}

/// [`crate::quant::float::reduce`] of four at a time.
///
/// # Safety
/// As [`Lanes`] says.
#[inline(always)]
pub(super) unsafe fn reduce<L: Lanes>(v: [L; 4]) -> [f32; 4] {
    // SAFETY: as the caller vouches; the array takes the four values that are stored.
    unsafe {
        let (a, b, c, d) = (v[0].fold(), v[1].fold(), v[2].fold(), v[3].fold());
        // Lanes i and i + 4: those of a and b, of c and d in the halves of a vector.
        let ab = _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
        let cd = _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(c, d), _mm256_permute2f128_ps::<0x31>(c, d));
        let (ab, cd) = (_mm256_castps_pd(ab), _mm256_castps_pd(cd));
        let pairs =
            _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd)), _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd)));
        // Now each half holds two lanes of a or b, then two of c or d.
        let (first, other) = (_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
        let sums =
            _mm_add_ps(_mm_shuffle_ps::<0b10_00_10_00>(first, other), _mm_shuffle_ps::<0b11_01_11_01>(first, other));
        let mut out = [0.0; 4];
        _mm_storeu_ps(out.as_mut_ptr(), sums);
        [out[0], out[2], out[1], out[3]]
    }
}

/// The lanes as two vectors of AVX2.
#[derive(Clone, Copy)]
pub(super) struct Avx2Lanes([__m256; 2]);

// SAFETY of all: as the trait says; the pointers are advanced inside the bytes it names.
impl Lanes for Avx2Lanes {
    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        // SAFETY: see above.
        unsafe { Self([_mm256_set1_ps(v); 2]) }
    }

    #[inline(always)]
    unsafe fn load_f32(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { Self([_mm256_loadu_ps(p.cast()), _mm256_loadu_ps(p.add(32).cast())]) }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let (low, high) = (_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(16).cast()));
            Self([_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)])
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(16).cast()));
            let (low, high) = (_mm256_slli_epi32::<16>(low), _mm256_slli_epi32::<16>(high));
            Self([_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)])
        }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_ps(p, self.0[0]);
            _mm256_storeu_ps(p.add(8), self.0[1]);
        }
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self([_mm256_fmadd_ps(self.0[0], b.0[0], c.0[0]), _mm256_fmadd_ps(self.0[1], b.0[1], c.0[1])]) }
    }

    #[inline(always)]
    unsafe fn fold(self) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_add_ps(self.0[0], self.0[1]) }
    }
}

/// The lanes as one vector of AVX-512.
#[derive(Clone, Copy)]
pub(super) struct Avx512Lanes(__m512);

// SAFETY of all: as the trait says.
impl Lanes for Avx512Lanes {
    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_set1_ps(v)) }
    }

    #[inline(always)]
    unsafe fn load_f32(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_loadu_ps(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(p, self.0) }
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_fmadd_ps(self.0, b.0, c.0)) }
    }

    #[inline(always)]
    unsafe fn fold(self) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_add_ps(_mm512_castps512_ps256(self.0), _mm512_extractf32x8_ps::<1>(self.0)) }
    }
}

/// A float type of weights.
pub(super) trait Weight {
    const TYPE: TensorType;
    const LANE_BYTES: usize = LANES * Self::TYPE.block_bytes();

    /// The next 16 values.
    ///
    /// # Safety
    /// As [`Lanes`] says, for `LANE_BYTES` bytes.
    unsafe fn load<L: Lanes>(p: *const u8) -> L;
}

pub(super) struct F32;

impl Weight for F32 {
    const TYPE: TensorType = TensorType::F32;

    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const u8) -> L {
        // SAFETY: as the caller vouches.
        unsafe { L::load_f32(p) }
    }
}

pub(super) struct F16;

impl Weight for F16 {
    const TYPE: TensorType = TensorType::F16;

    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const u8) -> L {
        // SAFETY: as the caller vouches.
        unsafe { L::load_f16(p) }
    }
}

pub(super) struct Bf16;

impl Weight for Bf16 {
    const TYPE: TensorType = TensorType::BF16;

    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const u8) -> L {
        // SAFETY: as the caller vouches.
        unsafe { L::load_bf16(p) }
    }
}
