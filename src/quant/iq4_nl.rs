//! IQ4_NL: `{ f16 d; u8 qs[16] }`, value = d·level, with the levels of [`super::iq4`].
//! Layout: ggml's `block_iq4_nl`.

use super::act::ActRow;
use super::float::{put_scale, scale};
use super::iq4::{LEVELS, fit_scales, places};
use super::{BLOCK, put_nibbles, table};

/// Bytes of a block, and where its quants begin.
const BYTES: usize = 18;
const QUANTS: usize = 2;

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    for (block, out) in src.as_chunks::<BYTES>().0.iter().zip(dst.as_chunks_mut::<BLOCK>().0) {
        table::dequantize(&LEVELS, scale(block), table::nibbles(block), out);
    }
}

/// `importance` is as long as `src`.
pub(super) fn encode(src: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
    for (b, (x, block)) in src.as_chunks().0.iter().zip(dst.as_chunks_mut::<BYTES>().0).enumerate() {
        let [d] = fit_scales(x, importance.map(|i| &i[BLOCK * b..][..BLOCK]));
        put_scale(d, block);
        put_nibbles(places(x, scale(block)), &mut block[QUANTS..]);
    }
}

/// acc = fma(Σ level·q_x, d·d_x, acc), blocks ascending.
pub(super) fn dot(row: &[u8], x: ActRow<'_>) -> f32 {
    x.blocks().zip(row.as_chunks::<BYTES>().0).fold(0.0, |acc, (x, block)| {
        let sum = table::dot(&LEVELS, table::nibbles(block), x.quants);
        (sum as f32).mul_add(scale(block) * x.scale, acc)
    })
}
