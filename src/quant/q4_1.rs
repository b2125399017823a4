//! Q4_1: `{ f16 d; f16 m; u8 qs[16] }`, value = d·q + m. The low nibbles of `qs` are values 0..16, the high
//! nibbles values 16..32. Layout and encoder: ggml's `block_q4_1` and `quantize_row_q4_1_ref`.

use super::act::ActRow;
use super::float::{opaque_scale, put_scale, scale};
use super::{BLOCK, nibbles, put_nibbles, search};

/// Bytes of a block.
const BYTES: usize = 20;

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    for (block, out) in src.as_chunks::<BYTES>().0.iter().zip(dst.as_chunks_mut::<BLOCK>().0) {
        let (d, m) = (opaque_scale(block), scale(&block[2..]));
        let quants = nibbles(block[4..].first_chunk().expect("16 bytes"));
        for i in 0..BLOCK {
            out[i] = f32::from(quants[i]) * d + m;
        }
    }
}

/// The smallest value becomes 0 and the largest 15; the others round half up.
pub(super) fn encode(src: &[f32], dst: &mut [u8]) {
    for (x, block) in src.as_chunks::<BLOCK>().0.iter().zip(dst.as_chunks_mut::<BYTES>().0) {
        let min = x.iter().fold(f32::MAX, |m, &v| if v < m { v } else { m });
        let max = x.iter().fold(f32::MIN, |m, &v| if v > m { v } else { m });
        let d = (max - min) / 15.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let q = |v: f32| (((v - min) * inverse + 0.5) as u8).min(15);
        put_scale(d, block);
        put_scale(min, &mut block[2..]);
        put_nibbles(x.map(q), &mut block[4..]);
    }
}

/// By the importance of the columns of one row.
pub(super) fn encode_weighted(src: &[f32], importance: &[f32], dst: &mut [u8]) {
    search::affine_blocks::<BYTES>(src, importance, 15, dst, put_nibbles);
}

/// acc = fma(Σ q_w·q_x, d_w·d_x, acc), then acc = fma(m_w, d_x·Σ q_x, acc), blocks ascending.
pub(super) fn dot(row: &[u8], x: ActRow<'_>) -> f32 {
    row.as_chunks::<BYTES>().0.iter().zip(x.blocks()).fold(0.0, |acc, (block, x)| {
        let (mut low, mut high) = (0, 0);
        for i in 0..16 {
            let q = i32::from(block[4 + i]);
            low += (q & 15) * i32::from(x.quants[i]);
            high += (q >> 4) * i32::from(x.quants[16 + i]);
        }
        let acc = ((low + high) as f32).mul_add(scale(block) * x.scale, acc);
        scale(&block[2..]).mul_add(x.scale * x.sum() as f32, acc)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nibbles_lie_where_the_format_puts_them() {
        let mut block = [0; BYTES];
        put_scale(2.0, &mut block);
        put_scale(-3.0, &mut block[2..]);
        for i in 0..16 {
            block[4 + i] = (i | (15 - i) << 4) as u8;
        }
        let mut out = [0.0; BLOCK];
        dequantize(&block, &mut out);
        for i in 0..16 {
            assert_eq!(out[i], 2.0 * i as f32 - 3.0);
            assert_eq!(out[16 + i], 2.0 * (15 - i) as f32 - 3.0);
        }
    }

    #[test]
    fn the_range_is_spanned_from_zero_to_fifteen() {
        let mut x = [1.0; BLOCK];
        (x[0], x[31]) = (-2.0, 5.5);
        let mut block = [0; BYTES];
        encode(&x, &mut block);
        assert_eq!((scale(&block), scale(&block[2..])), (0.5, -2.0));
        assert_eq!(block[4], 0x60);
        assert_eq!(block[4 + 15], 0xf6);
        encode(&[-7.0; BLOCK], &mut block);
        assert_eq!((scale(&block), scale(&block[2..]), block[4]), (0.0, -7.0, 0));
    }
}
