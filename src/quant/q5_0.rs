//! Q5_0: `{ f16 d; u8 qh[4]; u8 qs[16] }`, value = d·(q − 16). The low nibbles of `qs` are the low bits of values
//! 0..16, the high nibbles those of values 16..32; bit i of `qh`, little-endian, is the fifth bit of value i.
//! Layout and encoder: ggml's `block_q5_0` and `quantize_row_q5_0_ref`.

use super::act::ActRow;
use super::float::{opaque_scale, put_scale, scale};
use super::{BLOCK, dot_block, five_bits, put_five_bits, search};

/// Bytes of a block.
const BYTES: usize = 22;

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    for (block, out) in src.as_chunks::<BYTES>().0.iter().zip(dst.as_chunks_mut::<BLOCK>().0) {
        let d = opaque_scale(block);
        let quants = five_bits(block[2..].first_chunk().expect("20 bytes"));
        for i in 0..BLOCK {
            out[i] = (f32::from(quants[i]) - 16.0) * d;
        }
    }
}

/// The value of the largest magnitude becomes −16; the others round half up.
pub(super) fn encode(src: &[f32], dst: &mut [u8]) {
    for (x, block) in src.as_chunks::<BLOCK>().0.iter().zip(dst.as_chunks_mut::<BYTES>().0) {
        let peak = x.iter().fold(0.0f32, |peak, &v| if v.abs() > peak.abs() { v } else { peak });
        let d = peak / -16.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        put_scale(d, block);
        put_five_bits(x.map(|v| ((v * inverse + 16.5) as u8).min(31)), &mut block[2..]);
    }
}

/// By the importance of the columns of one row.
pub(super) fn encode_weighted(src: &[f32], importance: &[f32], dst: &mut [u8]) {
    search::symmetric_blocks::<BYTES>(src, importance, 16.0, dst, put_five_bits);
}

/// acc = fma(Σ (q_w − 16)·q_x, d_w·d_x, acc), blocks ascending.
pub(super) fn dot(row: &[u8], x: ActRow<'_>) -> f32 {
    row.as_chunks::<BYTES>().0.iter().zip(x.blocks()).fold(0.0, |acc, (block, x)| {
        let quants = five_bits(block[2..].first_chunk().expect("20 bytes"));
        let sum = dot_block(&quants, x.quants) - 16 * x.sum();
        (sum as f32).mul_add(scale(block) * x.scale, acc)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fifth_bits_lie_where_the_format_puts_them() {
        let x: [f32; BLOCK] = std::array::from_fn(|i| i as f32 - 16.0);
        let mut block = [0; BYTES];
        encode(&x, &mut block);
        assert_eq!((scale(&block), u32::from_le_bytes(*block[2..].first_chunk().unwrap())), (1.0, 0xffff_0000));
        let mut out = [0.0; BLOCK];
        dequantize(&block, &mut out);
        assert_eq!(out, x);
    }
}
