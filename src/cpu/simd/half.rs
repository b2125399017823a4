//! F16 to F32 and back with the instructions made for it; elsewhere the code of [`crate::quant`].

use super::{Level, Rows};
use crate::quant;
use crate::tensor::TensorType;

/// Outputs of `expand` that stay in registers.
#[cfg(target_arch = "x86_64")]
const EXPAND: usize = 64;

/// Values that one step of the vector code converts.
#[cfg(target_arch = "x86_64")]
const STEP: usize = 8;

/// `dst = src`, F16 values widened; exact.
pub(super) fn widen(level: Level, src: &[u8], dst: &mut [f32]) {
    assert!(src.len() == 2 * dst.len(), "{} bytes are not {} f16 values", src.len(), dst.len());
    #[cfg(target_arch = "x86_64")]
    if level.min(Level::detect()) >= Level::Avx2 {
        // SAFETY: this machine has F16C, as `detect` found, and the lengths were compared above.
        return unsafe { widen_f16c(src, dst) };
    }
    let _ = level;
    quant::dequantize(TensorType::F16, src, dst);
}

/// `dst = src`, rounded to nearest even F16.
pub(super) fn narrow(level: Level, src: &[f32], dst: &mut [u8]) {
    assert!(dst.len() == 2 * src.len(), "{} bytes are not {} f16 values", dst.len(), src.len());
    #[cfg(target_arch = "x86_64")]
    if level.min(Level::detect()) >= Level::Avx2 {
        // SAFETY: as above.
        return unsafe { narrow_f16c(src, dst) };
    }
    let _ = level;
    quant::encode(TensorType::F16, src, dst);
}

/// [`super::float::expand`] of an F16 `b`.
pub(super) fn expand(level: Level, y: &mut [f32], b: &Rows<'_>, first: usize, u: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    if level.min(Level::detect()) >= Level::Avx2 {
        let (whole, tail) = y.as_chunks_mut::<EXPAND>();
        for (i, y) in whole.iter_mut().enumerate() {
            let columns = b.data.chunks_exact(b.row_bytes()).map(|row| &row[2 * (first + i * EXPAND)..][..2 * EXPAND]);
            // SAFETY: this machine has AVX2, FMA and F16C, as `detect` found.
            unsafe { expand_f16c(y, columns, u) };
        }
        return super::float::expand(level, tail, b, first + whole.len() * EXPAND, u);
    }
    super::float::expand(level, y, b, first, u);
}

/// One chunk of outputs against the same columns of every row.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn expand_f16c<'a>(y: &mut [f32; EXPAND], rows: impl Iterator<Item = &'a [u8]>, u: &[f32]) {
    use std::arch::x86_64::*;
    // SAFETY: the 64 floats of `y` are read as eight vectors of eight.
    let mut sums: [__m256; EXPAND / STEP] =
        std::array::from_fn(|i| unsafe { _mm256_loadu_ps(y.as_ptr().add(i * STEP)) });
    for (row, u) in rows.zip(u) {
        let u = _mm256_set1_ps(*u);
        let (halves, _) = row.as_chunks::<{ 2 * STEP }>();
        for i in 0..EXPAND / STEP {
            // SAFETY: the array type holds the 16 bytes that are read.
            let w = _mm256_cvtph_ps(unsafe { _mm_loadu_si128(halves[i].as_ptr().cast()) });
            sums[i] = _mm256_fmadd_ps(u, w, sums[i]);
        }
    }
    for (i, sum) in sums.iter().enumerate() {
        // SAFETY: as for the reads.
        unsafe { _mm256_storeu_ps(y.as_mut_ptr().add(i * STEP), *sum) };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn widen_f16c(src: &[u8], dst: &mut [f32]) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
    let (from, from_tail) = src.as_chunks::<{ 2 * STEP }>();
    let (to, to_tail) = dst.as_chunks_mut::<STEP>();
    for (from, to) in from.iter().zip(to) {
        // SAFETY: 16 bytes are read and 8 floats written, which the array types hold.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast()))) };
    }
    quant::dequantize(TensorType::F16, from_tail, to_tail);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn narrow_f16c(src: &[f32], dst: &mut [u8]) {
    use std::arch::x86_64::{_MM_FROUND_TO_NEAREST_INT, _mm_storeu_si128, _mm256_cvtps_ph, _mm256_loadu_ps};
    let (from, from_tail) = src.as_chunks::<STEP>();
    let (to, to_tail) = dst.as_chunks_mut::<{ 2 * STEP }>();
    for (from, to) in from.iter().zip(to) {
        // SAFETY: 8 floats are read and 16 bytes written, which the array types hold.
        unsafe {
            let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(from.as_ptr()));
            _mm_storeu_si128(to.as_mut_ptr().cast(), half);
        }
    }
    quant::encode(TensorType::F16, from_tail, to_tail);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_value_widens_and_narrows_alike_at_every_level() {
        let src: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut truth = vec![0.0; 1 << 16];
        quant::dequantize(TensorType::F16, &src, &mut truth);
        for level in Level::ALL {
            let mut wide = vec![0.0; 1 << 16];
            widen(level, &src, &mut wide);
            let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
            assert!(wide.iter().zip(&truth).all(same), "{}", level.name());
            let mut back = vec![0; src.len()];
            narrow(level, &wide, &mut back);
            let finite = truth.iter().enumerate().filter(|(_, v)| !v.is_nan());
            assert!(finite.clone().all(|(i, _)| back[2 * i..2 * i + 2] == src[2 * i..2 * i + 2]), "{}", level.name());
        }
    }

    #[test]
    fn rounding_is_to_nearest_even_at_every_level_and_length() {
        let mut rng = crate::rng::Rng::new(3);
        let values: Vec<f32> = (0..4099).map(|i| rng.normal() * 10f32.powi(i % 13 - 8)).collect();
        for n in [0, 1, 7, 8, 9, 31, 4099] {
            let mut truth = vec![0; 2 * n];
            quant::encode(TensorType::F16, &values[..n], &mut truth);
            for level in Level::ALL {
                let mut out = vec![0; 2 * n];
                narrow(level, &values[..n], &mut out);
                assert_eq!(out, truth, "{n} values at {}", level.name());
            }
        }
    }
}
