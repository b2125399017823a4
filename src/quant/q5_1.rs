//! Q5_1: `{ f16 d; f16 m; u8 qh[4]; u8 qs[16] }`, value = d·q + m, with the bits of q where Q5_0 has them.
//! Layout and encoder: ggml's `block_q5_1` and `quantize_row_q5_1_ref`.

use super::act::ActRow;
use super::float::{opaque_scale, put_scale, scale};
use super::{BLOCK, dot_block, five_bits, put_five_bits, search};

/// Bytes of a block.
const BYTES: usize = 24;

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    for (block, out) in src.as_chunks::<BYTES>().0.iter().zip(dst.as_chunks_mut::<BLOCK>().0) {
        let (d, m) = (opaque_scale(block), scale(&block[2..]));
        let quants = five_bits(block[4..].first_chunk().expect("20 bytes"));
        for i in 0..BLOCK {
            out[i] = f32::from(quants[i]) * d + m;
        }
    }
}

/// The smallest value becomes 0 and the largest 31; the others round half up.
pub(super) fn encode(src: &[f32], dst: &mut [u8]) {
    for (x, block) in src.as_chunks::<BLOCK>().0.iter().zip(dst.as_chunks_mut::<BYTES>().0) {
        let min = x.iter().fold(f32::MAX, |m, &v| if v < m { v } else { m });
        let max = x.iter().fold(f32::MIN, |m, &v| if v > m { v } else { m });
        let d = (max - min) / 31.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        put_scale(d, block);
        put_scale(min, &mut block[2..]);
        put_five_bits(x.map(|v| ((v - min) * inverse + 0.5) as u8), &mut block[4..]);
    }
}

/// By the importance of the columns of one row.
pub(super) fn encode_weighted(src: &[f32], importance: &[f32], dst: &mut [u8]) {
    search::affine_blocks::<BYTES>(src, importance, 31, dst, put_five_bits);
}

/// acc = fma(Σ q_w·q_x, d_w·d_x, acc), then acc = fma(m_w, d_x·Σ q_x, acc), blocks ascending.
pub(super) fn dot(row: &[u8], x: ActRow<'_>) -> f32 {
    row.as_chunks::<BYTES>().0.iter().zip(x.blocks()).fold(0.0, |acc, (block, x)| {
        let quants = five_bits(block[4..].first_chunk().expect("20 bytes"));
        let acc = (dot_block(&quants, x.quants) as f32).mul_add(scale(block) * x.scale, acc);
        scale(&block[2..]).mul_add(x.scale * x.sum() as f32, acc)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_spanned_from_zero_to_thirty_one() {
        let x: [f32; BLOCK] = std::array::from_fn(|i| 31.0 - i as f32);
        let mut block = [0; BYTES];
        encode(&x, &mut block);
        assert_eq!((scale(&block), scale(&block[2..])), (1.0, 0.0));
        let mut out = [0.0; BLOCK];
        dequantize(&block, &mut out);
        assert_eq!(out, x);
        encode(&[-7.0; BLOCK], &mut block);
        dequantize(&block, &mut out);
        assert_eq!(out, [-7.0; BLOCK]);
    }
}
