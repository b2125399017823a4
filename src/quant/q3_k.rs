//! Q3_K: `{ u8 hmask[32]; u8 qs[64]; u8 scales[12]; f16 d }`, sixteen sub-blocks of 16; value = d·(s − 32)·(q − 4).
//!
//! Value 128h + 32k + i, i < 32, has its two low bits at bits 2k of byte 32h + i of `qs`, and its high bit at bit
//! 4h + k of byte i of `hmask`. The low nibbles of the scales 0..8 are the low ones of bytes 0..8 of `scales`, those of
//! 8..16 the high ones; the two high bits of scale s are at bits 2·(s / 4) of byte 8 + s mod 4. Layout: ggml's
//! `block_q3_K`.

use super::BLOCK;
use super::act::ActRow;
use super::float::{put_scale, scale};
use super::k::{self, Halves, SCALES_BYTES, SUB, SUPER, put_two_bits, two_bits};
use super::search;

/// Bytes of a block, and where its parts begin.
const BYTES: usize = 110;
const QUANTS: usize = 32;
const SCALES: usize = 96;
const STEP: usize = 108;

/// What a stored quant and a stored scale exceed theirs by.
const EXCESS: i32 = 4;
const SCALE_EXCESS: u8 = 32;

/// The quants of values 32j..32j + 32, 0..8 each.
#[inline(always)]
pub(crate) fn quants(block: &[u8; BYTES], j: usize) -> [u8; BLOCK] {
    let low = two_bits(&block[QUANTS..], j);
    std::array::from_fn(|i| low[i] | (block[i] >> j & 1) << 2)
}

/// The scale of sub-block `s` as stored, 0..64.
#[inline(always)]
pub(crate) fn stored_scale(block: &[u8; BYTES], s: usize) -> u8 {
    let low = block[SCALES + s % 8] >> (4 * (s / 8)) & 15;
    let high = block[SCALES + 8 + s % 4] >> (2 * (s / 4)) & 3;
    low | high << 4
}

/// The scale of sub-block `s`.
#[inline(always)]
fn sub_scale(block: &[u8; BYTES], s: usize) -> i8 {
    stored_scale(block, s) as i8 - SCALE_EXCESS as i8
}

#[inline(always)]
fn part(block: &[u8; BYTES], j: usize) -> Halves {
    (quants(block, j), [sub_scale(block, 2 * j), sub_scale(block, 2 * j + 1)])
}

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    k::dequantize_halves::<BYTES>(src, dst, EXCESS as f32, part);
}

/// As [`k::dot_halves`] says.
pub(super) fn dot(row: &[u8], x: ActRow<'_>) -> f32 {
    k::dot_halves::<BYTES>(row, x, EXCESS, part)
}

pub(super) fn encode(src: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
    k::encode_blocks(src, importance, dst, encode_block);
}

/// Errors count by x², or by their importance. The scales that fit the sub-blocks best are fitted by multiples of one
/// step, weighing each as its values do; then each sub-block takes the multiple near its own fit that leaves the least
/// error.
fn encode_block(x: &[f32; SUPER], importance: Option<&[f32; SUPER]>, block: &mut [u8; BYTES]) {
    let by = |importance| search::weights(x, importance, 2.0 * search::mean_square(x));
    let weights = importance.map_or_else(|| x.map(|v| v * v), by);
    let subs = || x.as_chunks::<SUB>().0.iter().zip(weights.as_chunks::<SUB>().0);
    let (mut fits, mut sums) = ([0.0; SUPER / SUB], [0.0; SUPER / SUB]);
    for (s, (x, weights)) in subs().enumerate() {
        (fits[s], sums[s]) = (search::symmetric(x, weights, 4.0), weights.iter().sum());
    }
    block.fill(0);
    put_scale(search::symmetric(&fits, &sums, 32.0), &mut block[STEP..]);
    let d = scale(&block[STEP..]);
    for (s, (x, weights)) in subs().enumerate() {
        let fit = if d == 0.0 { 0.0 } else { (fits[s] / d).round().clamp(-32.0, 31.0) };
        let mut best = (f32::INFINITY, 0.0, [0; SUB]);
        for index in [fit, fit - 1.0, fit + 1.0].into_iter().filter(|index| (-32.0..=31.0).contains(index)) {
            let (error, quants) = round(x, weights, d * index);
            if error < best.0 {
                best = (error, index, quants);
            }
        }
        put_sub_scale(block, s, (best.1 as i8 + SCALE_EXCESS as i8) as u8);
        for (i, q) in best.2.into_iter().enumerate() {
            put(block, s * SUB + i, q);
        }
    }
}

/// The quants of `x` by a step, and Σ w·(x − value)².
fn round(x: &[f32; SUB], weights: &[f32; SUB], step: f32) -> (f32, [u8; SUB]) {
    let levels = x.map(|v| if step == 0.0 { 0.0 } else { (v / step).round().clamp(-4.0, 3.0) });
    let errors = x.iter().zip(weights).zip(&levels).map(|((v, w), level)| w * (v - step * level).powi(2));
    (errors.sum(), levels.map(|level| (level + EXCESS as f32) as u8))
}

/// Writes quant `q` of value `at` over zeros.
fn put(block: &mut [u8; BYTES], at: usize, q: u8) {
    put_two_bits(&mut block[QUANTS..], at, q & 3);
    block[at % BLOCK] |= q >> 2 << (at / BLOCK);
}

/// Writes the stored scale of sub-block `s` over zeros.
fn put_sub_scale(block: &mut [u8; BYTES], s: usize, stored: u8) {
    let scales = &mut block[SCALES..][..SCALES_BYTES];
    scales[s % 8] |= (stored & 15) << (4 * (s / 8));
    scales[8 + s % 4] |= stored >> 4 << (2 * (s / 4));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quants_and_scales_lie_where_the_format_puts_them() {
        let mut block = [0; BYTES];
        (0..SUPER).for_each(|at| put(&mut block, at, (at * 5 % 8) as u8));
        (0..16).for_each(|s| put_sub_scale(&mut block, s, (s * 27 % 64) as u8));
        for j in 0..8 {
            assert_eq!(quants(&block, j), std::array::from_fn(|i| ((BLOCK * j + i) * 5 % 8) as u8));
        }
        for s in 0..16 {
            assert_eq!(sub_scale(&block, s), (s * 27 % 64) as i8 - 32);
        }
    }

    #[test]
    fn what_lies_on_levels_survives() {
        let x: [f32; SUPER] = std::array::from_fn(|i| ((i * 11 % 8) as f32 - 4.0) * (1 + i / SUB) as f32 * 0.125);
        let (mut block, mut out) = ([0; BYTES], [0.0; SUPER]);
        encode(&x, None, &mut block);
        dequantize(&block, &mut out);
        assert!(x.iter().zip(&out).all(|(a, b)| (a - b).abs() < 0.13), "{x:?}\n{out:?}");
        for rest in [0.0, 1e-20, f32::NAN] {
            encode(&[rest; SUPER], None, &mut block);
            dequantize(&block, &mut out);
            assert!(out.iter().all(|v| *v == 0.0 || v.is_nan()));
        }
    }
}
