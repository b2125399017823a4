//! Q6_K: `{ u8 ql[128]; u8 qh[64]; i8 scales[16]; f16 d }`, sixteen sub-blocks of 16; value = d·s·(q − 32).
//!
//! Each half of the 256 values has 64 bytes of `ql` and 32 of `qh`. Of its values i + 32k, i < 32, the low four bits
//! are in byte i + 32·(k mod 2) of its `ql`, in the low nibble for k < 2; the high two are bits 2k of byte i of its
//! `qh`. Layout: ggml's `block_q6_K`.

use super::BLOCK;
use super::act::ActRow;
use super::float::{put_scale, scale};
use super::k::{self, Halves, SUB, SUPER};
use super::search;

/// Bytes of a block, and where its parts begin.
const BYTES: usize = 210;
const HIGH: usize = 128;
const SCALES: usize = 192;
const STEP: usize = 208;

/// The quants of values 32j..32j + 32, 0..64 each.
#[inline(always)]
pub(crate) fn quants(block: &[u8; BYTES], j: usize) -> [u8; BLOCK] {
    let (half, k) = (j / 4, j % 4);
    let low: &[u8; BLOCK] = block[64 * half + BLOCK * (k % 2)..].first_chunk().expect("32 bytes");
    let high: &[u8; BLOCK] = block[HIGH + BLOCK * half..].first_chunk().expect("32 bytes");
    let shift = 4 * (k / 2);
    std::array::from_fn(|i| low[i] >> shift & 15 | (high[i] >> (2 * k) & 3) << 4)
}

/// The same with the scales of both halves.
#[inline(always)]
fn part(block: &[u8; BYTES], j: usize) -> Halves {
    (quants(block, j), [block[SCALES + 2 * j] as i8, block[SCALES + 2 * j + 1] as i8])
}

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    k::dequantize_halves::<BYTES>(src, dst, 32.0, part);
}

pub(super) fn encode(src: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
    k::encode_blocks(src, importance, dst, encode_block);
}

/// Errors count by x², or by their importance alone.
fn encode_block(x: &[f32; SUPER], importance: Option<&[f32; SUPER]>, block: &mut [u8; BYTES]) {
    let weights = importance.map_or_else(|| x.map(|v| v * v), search::relative);
    let subs = x.as_chunks::<SUB>().0;
    let mut fits = [0.0f32; SUPER / SUB];
    for ((fit, x), weights) in fits.iter_mut().zip(subs).zip(weights.as_chunks::<SUB>().0) {
        *fit = search::symmetric(x, weights, 32.0);
    }
    let peak = fits.iter().fold(0.0f32, |peak, &s| if s.abs() > peak.abs() { s } else { peak });
    let d = peak / -128.0;
    put_scale(d, &mut block[STEP..]);
    let d_read = scale(&block[STEP..]);
    block[..SCALES].fill(0);
    for (s, (fit, x)) in fits.iter().zip(subs).enumerate() {
        let index = if d == 0.0 { 0.0 } else { (fit / d).round().min(127.0) };
        block[SCALES + s] = index as i8 as u8;
        let step = d_read * index;
        for (i, v) in x.iter().enumerate() {
            let q = if step == 0.0 { 32.0 } else { (v / step).round().clamp(-32.0, 31.0) + 32.0 };
            put(block, s * SUB + i, q as u8);
        }
    }
}

/// Writes quant `q` of value `at` over zeros.
fn put(block: &mut [u8; BYTES], at: usize, q: u8) {
    let (half, k, i) = (at / 128, at / BLOCK % 4, at % BLOCK);
    block[64 * half + BLOCK * (k % 2) + i] |= (q & 15) << (4 * (k / 2));
    block[HIGH + BLOCK * half + i] |= q >> 4 << (2 * k);
}

/// As [`k::dot_halves`] says.
pub(super) fn dot(row: &[u8], x: ActRow<'_>) -> f32 {
    k::dot_halves::<BYTES>(row, x, 32, part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quants_lie_where_the_format_puts_them() {
        let mut block = [0; BYTES];
        (0..SUPER).for_each(|at| put(&mut block, at, (at * 7 % 64) as u8));
        for j in 0..8 {
            assert_eq!(quants(&block, j), std::array::from_fn(|i| ((BLOCK * j + i) * 7 % 64) as u8));
        }
    }

    #[test]
    fn what_lies_on_levels_survives() {
        let x: [f32; SUPER] = std::array::from_fn(|i| ((i * 11 % 64) as f32 - 32.0) * 0.25);
        let (mut block, mut out) = ([0; BYTES], [0.0; SUPER]);
        encode(&x, None, &mut block);
        dequantize(&block, &mut out);
        assert!(x.iter().zip(&out).all(|(a, b)| (a - b).abs() < 0.15), "{x:?}\n{out:?}");
        encode(&[0.0; SUPER], None, &mut block);
        dequantize(&block, &mut out);
        assert_eq!(out, [0.0; SUPER]);
    }
}
