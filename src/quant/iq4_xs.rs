//! IQ4_XS: `{ f16 d; u16 scales_h; u8 scales_l[4]; u8 qs[128] }`, eight sub-blocks of 32; value = d·s·level, with the
//! levels of [`super::iq4`]. The 6-bit s + 32 of sub-block j has its low four bits in nibble j of `scales_l`, its high
//! two at bits 2j of `scales_h`. Layout: ggml's `block_iq4_xs`.

use super::act::ActRow;
use super::float::{put_scale, scale};
use super::iq4::{LEVELS, fit_scales, places};
use super::k::{SUBS, SUPER};
use super::{BLOCK, put_nibbles, table};

/// Bytes of a block, and where its parts begin.
const BYTES: usize = 136;
const HIGH: usize = 2;
const LOW: usize = 4;
const QUANTS: usize = 8;
/// What is added to a sub-block's scale.
const BIAS: i32 = 32;

#[inline(always)]
fn quants(block: &[u8; BYTES], j: usize) -> &[u8; table::BYTES] {
    block[QUANTS + table::BYTES * j..].first_chunk().expect("16 bytes")
}

/// s + 32 of sub-block `j`.
#[inline(always)]
pub(crate) fn scale_index(block: &[u8; BYTES], j: usize) -> u8 {
    let low = block[LOW + j / 2] >> (4 * (j % 2)) & 15;
    let high = block[HIGH + j / 4] >> (2 * (j % 4)) & 3;
    low | high << 4
}

/// d·s of sub-block `j`: exact.
#[inline(always)]
fn step(block: &[u8; BYTES], j: usize) -> f32 {
    scale(block) * (i32::from(scale_index(block, j)) - BIAS) as f32
}

/// Writes the scales of the sub-blocks, −32..=31 each.
fn put_steps(scales: [i32; SUBS], block: &mut [u8; BYTES]) {
    block[HIGH..QUANTS].fill(0);
    for (j, s) in scales.into_iter().enumerate() {
        let index = (s + BIAS) as u8;
        block[LOW + j / 2] |= (index & 15) << (4 * (j % 2));
        block[HIGH + j / 4] |= index >> 4 << (2 * (j % 4));
    }
}

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    for (block, out) in src.as_chunks::<BYTES>().0.iter().zip(dst.as_chunks_mut::<SUPER>().0) {
        for (j, out) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            table::dequantize(&LEVELS, step(block, j), quants(block, j), out);
        }
    }
}

/// `importance` is as long as `src`.
pub(super) fn encode(src: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
    for (b, (x, block)) in src.as_chunks::<SUPER>().0.iter().zip(dst.as_chunks_mut::<BYTES>().0).enumerate() {
        let fits: [f32; SUBS] = fit_scales(x, importance.map(|i| &i[SUPER * b..][..SUPER]));
        let peak = fits.iter().fold(0.0f32, |peak, &s| if s.abs() > peak.abs() { s } else { peak });
        // The scale of the largest magnitude becomes −32, which has no positive counterpart.
        put_scale(peak / -(BIAS as f32), block);
        let d = scale(block);
        let index = |s: f32| if d == 0.0 { 0 } else { (s / d).round().clamp(-32.0, 31.0) as i32 };
        put_steps(fits.map(index), block);
        for (j, x) in x.as_chunks().0.iter().enumerate() {
            let places = places(x, step(block, j));
            put_nibbles(places, &mut block[QUANTS + table::BYTES * j..]);
        }
    }
}

/// acc = fma(Σ level·q_x, (d·s)·d_x, acc), sub-blocks ascending.
pub(super) fn dot(row: &[u8], x: ActRow<'_>) -> f32 {
    x.blocks().enumerate().fold(0.0, |acc, (at, x)| {
        let (block, j) = (&row.as_chunks().0[at / SUBS], at % SUBS);
        let sum = table::dot(&LEVELS, quants(block, j), x.quants);
        (sum as f32).mul_add(step(block, j) * x.scale, acc)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_lie_where_they_are_read() {
        let (scales, mut block) = ([-32, 31, 0, -1, 17, -16, 5, -29], [0xff; BYTES]);
        put_scale(0.5, &mut block);
        put_steps(scales, &mut block);
        for (j, s) in scales.into_iter().enumerate() {
            assert_eq!(step(&block, j), 0.5 * s as f32);
        }
    }
}
