//! Q8_0 for the key/value cache: stored and widened with vector instructions, the bits of [`crate::quant`].

use super::{Level, half, multiversion};
use crate::quant::encode_q8_0;

/// Values in a block, and bytes of its scale.
const BLOCK: usize = 32;
const SCALE: usize = 2;

/// Columns widened at a time.
const COLUMNS: usize = 64;

multiversion! {
    /// `dst = src` in blocks of 32.
    pub(super) fn narrow(src: &[f32], dst: &mut [u8]) {
        encode_q8_0(src, dst)
    }

    /// `out[i] = scales[i] · quants[i]` in every row; rows start `ld` values apart, the last may be cut short.
    fn widen_rows(quants: &[u8], scales: &[f32], ld: usize, out: &mut [f32]) {
        let rows = quants.chunks(ld).zip(out.chunks_mut(ld));
        if let Ok(scales) = <&[f32; COLUMNS]>::try_from(scales) {
            // The usual page is one run of columns, whose length the compiler then knows.
            for (quants, out) in rows {
                let (quants, out) = (&quants.as_chunks::<COLUMNS>().0[0], &mut out.as_chunks_mut::<COLUMNS>().0[0]);
                for i in 0..COLUMNS {
                    out[i] = f32::from(quants[i] as i8) * scales[i];
                }
            }
            return;
        }
        for (quants, out) in rows {
            for ((out, q), scale) in out.iter_mut().zip(quants).zip(scales) {
                *out = f32::from(*q as i8) * scale;
            }
        }
    }
}

/// [`super::Kernels::widen_columns`].
pub(super) fn widen_columns(level: Level, page: &[u8], columns: usize, out: &mut [f32]) {
    let blocks = page.chunks_exact((SCALE + BLOCK) * columns).zip(out.chunks_exact_mut(BLOCK * columns));
    for (block, out) in blocks {
        let (scales, quants) = block.split_at(SCALE * columns);
        let mut wide = [0.0; COLUMNS];
        for first in (0..columns).step_by(COLUMNS) {
            let n = COLUMNS.min(columns - first);
            half::widen(level, &scales[SCALE * first..][..SCALE * n], &mut wide[..n]);
            widen_rows(level, &quants[first..], &wide[..n], columns, &mut out[first..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant;
    use crate::tensor::TensorType;

    #[test]
    fn encoding_has_the_bits_of_the_truth_at_every_level() {
        let mut rng = crate::rng::Rng::new(5);
        let mut values: Vec<f32> =
            (0..64 * BLOCK).map(|i| rng.normal() * 10f32.powi(i as i32 / 61 % 60 - 40)).collect();
        // Ties, zeros of both signs, and what is no number.
        values[..6].copy_from_slice(&[127.0, 0.5, -0.5, 1.5, -0.0, -126.5]);
        values[6..BLOCK].fill(0.0);
        values[BLOCK..2 * BLOCK].fill(-0.0);
        values[2 * BLOCK] = f32::NAN;
        values[3 * BLOCK + 7] = f32::NEG_INFINITY;
        let mut truth = vec![0; TensorType::Q8_0.row_bytes(values.len()).unwrap()];
        quant::encode(TensorType::Q8_0, &values, &mut truth);
        let mut wide = vec![0.0; values.len()];
        quant::dequantize(TensorType::Q8_0, &truth, &mut wide);
        assert!(wide[2 * BLOCK..4 * BLOCK].iter().all(|v| v.is_nan()), "a fault is not rounded into a number");
        for level in Level::ALL {
            let mut out = vec![0; truth.len()];
            narrow(level, &values, &mut out);
            let same = |(a, b): (&[u8], &[u8])| a == b || quant_is_nan(a) && quant_is_nan(b);
            assert!(out.chunks(SCALE + BLOCK).zip(truth.chunks(SCALE + BLOCK)).all(same), "{}", level.name());
        }
    }

    /// Whether a block's scale is a NaN, of any payload.
    fn quant_is_nan(block: &[u8]) -> bool {
        ::half::f16::from_le_bytes([block[0], block[1]]).is_nan()
    }
}
