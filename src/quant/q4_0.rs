//! Q4_0: `{ f16 d; u8 qs[16] }`, value = d·(q − 8). The low nibbles of `qs` are values 0..16, the high
//! nibbles values 16..32. Layout and encoder: ggml's `block_q4_0` and `quantize_row_q4_0_ref`.

use super::act::ActRow;
use super::float::{opaque_scale, put_scale, scale};
use super::{BLOCK, nibbles, put_nibbles, search};

/// Bytes of a block.
const BYTES: usize = 18;

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    for (block, out) in src.as_chunks::<BYTES>().0.iter().zip(dst.as_chunks_mut::<BLOCK>().0) {
        let d = opaque_scale(block);
        let quants = nibbles(block[2..].first_chunk().expect("16 bytes"));
        for i in 0..BLOCK {
            out[i] = f32::from(quants[i] as i8 - 8) * d;
        }
    }
}

/// The value of largest magnitude becomes −8 exactly; the others round half up.
pub(super) fn encode(src: &[f32], dst: &mut [u8]) {
    for (x, block) in src.as_chunks::<BLOCK>().0.iter().zip(dst.as_chunks_mut::<BYTES>().0) {
        let extreme = x.iter().fold(0.0f32, |m, &v| if m.abs() < v.abs() { v } else { m });
        let d = extreme / -8.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let q = |v: f32| ((v * inverse + 8.5) as u8).min(15);
        put_scale(d, block);
        put_nibbles(x.map(q), &mut block[2..]);
    }
}

/// By the importance of the columns of one row.
pub(super) fn encode_weighted(src: &[f32], importance: &[f32], dst: &mut [u8]) {
    search::symmetric_blocks::<BYTES>(src, importance, 8.0, dst, put_nibbles);
}

/// acc = fma(Σ (q_w − 8)·q_x, d_w·d_x, acc), blocks ascending.
pub(super) fn dot(row: &[u8], x: ActRow<'_>) -> f32 {
    let blocks = row.as_chunks::<BYTES>().0.iter().zip(x.quants.as_chunks::<BLOCK>().0).zip(x.scales);
    blocks.fold(0.0, |acc, ((block, quants), d_x)| {
        let (mut low, mut high) = (0, 0);
        for i in 0..16 {
            let q = i32::from(block[2 + i]);
            low += ((q & 15) - 8) * i32::from(quants[i]);
            high += ((q >> 4) - 8) * i32::from(quants[16 + i]);
        }
        ((low + high) as f32).mul_add(scale(block) * d_x, acc)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nibbles_lie_where_the_format_puts_them() {
        let mut block = [0; BYTES];
        put_scale(2.0, &mut block);
        for i in 0..16 {
            block[2 + i] = (i | (15 - i) << 4) as u8;
        }
        let mut out = [0.0; BLOCK];
        dequantize(&block, &mut out);
        for i in 0..16 {
            assert_eq!(out[i], 2.0 * (i as f32 - 8.0));
            assert_eq!(out[16 + i], 2.0 * (7.0 - i as f32));
        }
    }

    #[test]
    fn the_extreme_encodes_as_minus_eight_with_its_sign_in_the_scale() {
        let mut x = [0.0; BLOCK];
        (x[3], x[20]) = (4.0, -3.9);
        let mut block = [0; BYTES];
        encode(&x, &mut block);
        assert_eq!(scale(&block), -0.5);
        assert_eq!(block[2 + 3] & 15, 0);
        assert_eq!(block[2 + 4] >> 4, 15, "-3.9 / -0.5 + 8.5 = 16.3 is clamped");
        let mut zeros = [0xff; BYTES];
        encode(&[0.0; BLOCK], &mut zeros);
        assert_eq!(zeros[..3], [0x00, 0x80, 0x88], "ggml writes a scale of -0");
    }
}
