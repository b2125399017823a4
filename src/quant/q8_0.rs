//! Q8_0: `{ f16 d; i8 qs[32] }`, value = d·q. Files may hold any q, −128 included.
//! Layout and encoder: ggml's `block_q8_0` and `quantize_row_q8_0_ref`.

use super::BLOCK;
use super::act::ActRow;
use super::float::{opaque_scale, put_scale, scale};

/// Bytes of a block.
const BYTES: usize = 34;

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    for (block, out) in src.as_chunks::<BYTES>().0.iter().zip(dst.as_chunks_mut::<BLOCK>().0) {
        let d = opaque_scale(block);
        let quants: &[u8; BLOCK] = block[2..].first_chunk().expect("32 bytes");
        for i in 0..BLOCK {
            out[i] = f32::from(quants[i] as i8) * d;
        }
    }
}

/// d = max|x| / 127; values round half away from zero. A NaN makes d NaN and an infinity makes it infinite, with
/// every q zero, so that what is read back is NaN. Always inlined, so that a caller's instruction set applies to it.
#[inline(always)]
pub(crate) fn encode(src: &[f32], dst: &mut [u8]) {
    /// Masks the sign off; what is left orders as an integer like the magnitudes do, NaN above infinity.
    const MAGNITUDE: u32 = 0x7fff_ffff;
    for (x, block) in src.as_chunks::<BLOCK>().0.iter().zip(dst.as_chunks_mut::<BYTES>().0) {
        let d = f32::from_bits(x.iter().map(|v| v.to_bits() & MAGNITUDE).fold(0, u32::max)) / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        put_scale(d, block);
        for (q, v) in block[2..].iter_mut().zip(x) {
            *q = (v * inverse).round() as i8 as u8;
        }
    }
}

/// acc = fma(Σ q_w·q_x, d_w·d_x, acc), blocks ascending.
pub(super) fn dot(row: &[u8], x: ActRow<'_>) -> f32 {
    let blocks = row.as_chunks::<BYTES>().0.iter().zip(x.quants.as_chunks::<BLOCK>().0).zip(x.scales);
    blocks.fold(0.0, |acc, ((block, quants), d_x)| {
        let products = block[2..].iter().zip(quants).map(|(w, x)| i32::from(*w as i8) * i32::from(*x));
        (products.sum::<i32>() as f32).mul_add(scale(block) * d_x, acc)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_away_from_zero() {
        let mut x = [0.0; BLOCK];
        x[..5].copy_from_slice(&[127.0, 0.5, -0.5, 1.5, -2.5]);
        let mut block = [0; BYTES];
        encode(&x, &mut block);
        assert_eq!(scale(&block), 1.0);
        assert_eq!(block[2..7].iter().map(|q| *q as i8).collect::<Vec<_>>(), [127, 1, -1, 2, -3]);
    }

    #[test]
    fn minus_128_counts_in_full() {
        let mut block = [0x80; BYTES];
        put_scale(0.5, &mut block);
        let (quants, scales, sums) = ([-127i8; BLOCK], [2.0], [[-127 * 16; 2]]);
        let x = ActRow { quants: &quants, scales: &scales, sums: &sums };
        assert_eq!(dot(&block, x), 128.0 * 127.0 * 32.0);
        let mut out = [0.0; BLOCK];
        dequantize(&block, &mut out);
        assert_eq!(out, [-64.0; BLOCK]);
    }
}
