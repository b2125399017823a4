//! Vectors of `f32` as the kernels of attention use them: single values, and those of each level.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A type that values are read in.
pub(super) trait Source {
    const BYTES: usize;

    /// # Safety
    /// `LANES` values lie at `p`, and the machine has the instructions of `V`.
    unsafe fn load<V: FloatVector>(p: *const u8) -> V;
}

pub(super) struct F32;

impl Source for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<V: FloatVector>(p: *const u8) -> V {
        // SAFETY: as the caller vouches.
        unsafe { V::load(p.cast()) }
    }
}

pub(super) struct F16;

impl Source for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<V: FloatVector>(p: *const u8) -> V {
        // SAFETY: as the caller vouches.
        unsafe { V::load_f16(p) }
    }
}

/// `LANES` × `f32`.
///
/// # Safety
/// Every method needs the features of the level, and pointers that are valid for `LANES` values; no alignment is
/// asked for.
pub(super) trait FloatVector: Copy {
    const LANES: usize;

    unsafe fn splat(v: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn load_f16(p: *const u8) -> Self;
    unsafe fn store(self, p: *mut f32);
    /// self · b + c, rounded once.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
}

impl FloatVector for f32 {
    const LANES: usize = 1;

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        // SAFETY: nothing is asked for.
        v
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: see the trait.
        unsafe { p.read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Self {
        // SAFETY: see the trait.
        crate::quant::float::f16_to_f32(unsafe { p.cast::<u16>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: see the trait.
        unsafe { p.write_unaligned(self) }
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: nothing is asked for.
        self.mul_add(b, c)
    }
}

/// [`FloatVector`] of a vector type by its intrinsics.
#[cfg(target_arch = "x86_64")]
macro_rules! lanes {
    ($ty:ty, $lanes:expr, $splat:ident, $load:ident, $half:ident, $widen:ident, $store:ident, $fma:ident) => {
        impl FloatVector for $ty {
            const LANES: usize = $lanes;

            #[inline(always)]
            unsafe fn splat(v: f32) -> Self {
                // SAFETY: see the trait.
                unsafe { $splat(v) }
            }

            #[inline(always)]
            unsafe fn load(p: *const f32) -> Self {
                // SAFETY: see the trait.
                unsafe { $load(p) }
            }

            #[inline(always)]
            unsafe fn load_f16(p: *const u8) -> Self {
                // SAFETY: see the trait.
                unsafe { $widen($half(p.cast())) }
            }

            #[inline(always)]
            unsafe fn store(self, p: *mut f32) {
                // SAFETY: see the trait.
                unsafe { $store(p, self) }
            }

            #[inline(always)]
            unsafe fn fma(self, b: Self, c: Self) -> Self {
                // SAFETY: see the trait.
                unsafe { $fma(self, b, c) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
lanes!(__m256, 8, _mm256_set1_ps, _mm256_loadu_ps, _mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps, _mm256_fmadd_ps);
#[cfg(target_arch = "x86_64")]
lanes!(
    __m512,
    16,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm256_loadu_si256,
    _mm512_cvtph_ps,
    _mm512_storeu_ps,
    _mm512_fmadd_ps
);
