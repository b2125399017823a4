//! What the K formats share: super-blocks of 256 values, 6-bit scales and minimums, and the search for them.
//!
//! A super-block has sub-blocks whose scales are small integers times an F16 of the super-block, so that scales
//! cost little and still fit their values. The encoders here look for the scales by least squares over a range of
//! candidates, weighing errors as ggml's do; they do not write ggml's bytes, and err no more
//! (`tests/ggml_oracle.rs`).

use super::BLOCK;
use super::act::ActRow;
use super::float::{put_scale, scale};
use super::search::{self, Minimum, mean_square};

/// Values in a super-block.
pub(super) const SUPER: usize = 256;
/// Values of a sub-block where these are small.
pub(super) const SUB: usize = 16;
/// Sub-blocks of 32 values in it.
pub(crate) const SUBS: usize = SUPER / BLOCK;
/// Bytes of eight scales and eight minimums of 6 bits.
pub(crate) const SCALES_BYTES: usize = 12;
/// The largest of those.
const LARGEST: u8 = 63;

/// The 6-bit scale and minimum of sub-block `j`. The first four of both lie in the low bits of bytes 0..4 and 4..8;
/// the others have their low nibbles in bytes 8..12 and their two high bits above the first ones'.
#[inline(always)]
pub(crate) fn scale_and_minimum(packed: &[u8; SCALES_BYTES], j: usize) -> (u8, u8) {
    if j < 4 {
        return (packed[j] & 63, packed[j + 4] & 63);
    }
    let low = packed[j + 4];
    ((low & 15) | packed[j - 4] >> 6 << 4, (low >> 4) | packed[j] >> 6 << 4)
}

/// The inverse of [`scale_and_minimum`], for all eight.
fn pack(scales: [u8; SUBS], minimums: [u8; SUBS]) -> [u8; SCALES_BYTES] {
    let mut packed = [0; SCALES_BYTES];
    for j in 0..4 {
        packed[j] = scales[j] | scales[j + 4] >> 4 << 6;
        packed[j + 4] = minimums[j] | minimums[j + 4] >> 4 << 6;
        packed[j + 8] = (scales[j + 4] & 15) | (minimums[j + 4] & 15) << 4;
    }
    packed
}

/// The affine step of sub-block `j` of a block that starts `{ f16 d; f16 dmin; u8 scales[12] }`: value = s·q − m.
#[inline(always)]
pub(super) fn step(block: &[u8], j: usize) -> (f32, f32) {
    let (s, m) = scale_and_minimum(block[4..].first_chunk().expect("12 bytes"), j);
    (scale(block) * f32::from(s), scale(&block[2..]) * f32::from(m))
}

/// s·q − m for every value, where `quants` gives those of sub-block j of a block of `BYTES` bytes.
#[inline(always)]
pub(super) fn dequantize<const BYTES: usize>(
    src: &[u8],
    dst: &mut [f32],
    quants: impl Fn(&[u8; BYTES], usize) -> [u8; BLOCK],
) {
    for (block, out) in src.as_chunks::<BYTES>().0.iter().zip(dst.as_chunks_mut::<SUPER>().0) {
        for (j, out) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let (s, m) = step(block, j);
            let quants = quants(block, j);
            for i in 0..BLOCK {
                out[i] = f32::from(quants[i]) * s - m;
            }
        }
    }
}

/// acc = fma(Σ q_w·q_x, s·d_x, acc), then acc = fma(−m, d_x·Σ q_x, acc), sub-blocks ascending, where `quants` gives
/// those of sub-block j of a block of `BYTES` bytes.
pub(super) fn dot<const BYTES: usize>(
    row: &[u8],
    x: ActRow<'_>,
    quants: impl Fn(&[u8; BYTES], usize) -> [u8; BLOCK],
) -> f32 {
    x.blocks().enumerate().fold(0.0, |acc, (i, x)| {
        let block = &row.as_chunks::<BYTES>().0[i / SUBS];
        let (s, m) = step(block, i % SUBS);
        let sum = super::dot_block(&quants(block, i % SUBS), x.quants);
        let acc = (sum as f32).mul_add(s * x.scale, acc);
        (-m).mul_add(x.scale * x.sum() as f32, acc)
    })
}

/// A part of 32 values of a format whose sub-blocks of [`SUB`] have integer scales: the quants, and the scales of both
/// halves.
pub(super) type Halves = ([u8; BLOCK], [i8; 2]);

/// (d·s)·(q − excess) for every value, where the F16 d is the last of the block and `part` gives that of values
/// 32j..32j + 32.
#[inline(always)]
pub(super) fn dequantize_halves<const BYTES: usize>(
    src: &[u8],
    dst: &mut [f32],
    excess: f32,
    part: impl Fn(&[u8; BYTES], usize) -> Halves,
) {
    for (block, out) in src.as_chunks::<BYTES>().0.iter().zip(dst.as_chunks_mut::<SUPER>().0) {
        let d = scale(&block[BYTES - 2..]);
        for (j, out) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let (quants, scales) = part(block, j);
            let steps = scales.map(|s| d * f32::from(s));
            for i in 0..BLOCK {
                out[i] = (f32::from(quants[i]) - excess) * steps[i / SUB];
            }
        }
    }
}

/// acc = fma(s₀·Σ (q_w − excess)·q_x + s₁·Σ (q_w − excess)·q_x, d·d_x, acc), the two sums over 16 values each, in
/// integers: at most 2·128·16·32·127 < 2²⁴ of Q6_K, exact in f32. Blocks of 32 ascending.
pub(super) fn dot_halves<const BYTES: usize>(
    row: &[u8],
    x: ActRow<'_>,
    excess: i32,
    part: impl Fn(&[u8; BYTES], usize) -> Halves,
) -> f32 {
    x.blocks().enumerate().fold(0.0, |acc, (at, x)| {
        let block = &row.as_chunks::<BYTES>().0[at / SUBS];
        let (quants, scales) = part(block, at % SUBS);
        let dots = half_dots(&quants, x.quants);
        let sum: i32 = (0..2).map(|h| i32::from(scales[h]) * (dots[h] - excess * i32::from(x.sums[h]))).sum();
        (sum as f32).mul_add(scale(&block[BYTES - 2..]) * x.scale, acc)
    })
}

/// Σ q_w·q_x of both halves.
pub(super) fn half_dots(quants: &[u8; BLOCK], x: &[i8; BLOCK]) -> [i32; 2] {
    std::array::from_fn(|half| {
        let values = half * SUB..(half + 1) * SUB;
        quants[values.clone()].iter().zip(&x[values]).map(|(w, x)| i32::from(*w) * i32::from(*x)).sum()
    })
}

/// The two bits of values 32j..32j + 32 of the formats whose `{ u8 qs[64] }` has those of value 128h + 32k + i, i < 32,
/// at bits 2k of byte 32h + i.
#[inline(always)]
pub(crate) fn two_bits(bytes: &[u8], j: usize) -> [u8; BLOCK] {
    let bytes: &[u8; BLOCK] = bytes[BLOCK * (j / 4)..].first_chunk().expect("32 bytes");
    bytes.map(|b| b >> (2 * (j % 4)) & 3)
}

/// Writes two bits of value `at` over zeros, the inverse of [`two_bits`].
pub(super) fn put_two_bits(bytes: &mut [u8], at: usize, bits: u8) {
    bytes[BLOCK * (at / 128) + at % BLOCK] |= bits << (2 * (at / BLOCK % 4));
}

/// What an error of each value counts: √(mean x² of its sub-block of `N`) + |x|, or by its importance and `spread`
/// times the mean x² of all.
pub(super) fn weights<const N: usize>(
    x: &[f32; SUPER],
    importance: Option<&[f32; SUPER]>,
    spread: f32,
) -> [f32; SUPER] {
    if let Some(importance) = importance {
        return search::weights(x, importance, spread * mean_square(x));
    }
    let mut weights = x.map(f32::abs);
    for (weights, x) in weights.as_chunks_mut::<N>().0.iter_mut().zip(x.as_chunks::<N>().0) {
        let mean = mean_square(x).sqrt();
        weights.iter_mut().for_each(|weight| *weight += mean);
    }
    weights
}

/// Encodes a super-block whose quants are 0..=`levels`: writes its head, returns the quants.
pub(super) fn encode(x: &[f32; SUPER], importance: Option<&[f32; SUPER]>, levels: u8, head: &mut [u8]) -> [u8; SUPER] {
    let weights = weights::<BLOCK>(x, importance, 2.0);
    let subs: &[[f32; BLOCK]] = x.as_chunks().0;
    let (mut steps, mut minimums, mut sums) = ([0.0; SUBS], [0.0; SUBS], [0.0; SUBS]);
    for (j, (x, weights)) in subs.iter().zip(weights.as_chunks().0).enumerate() {
        (steps[j], minimums[j]) = search::affine(x, weights, levels, Minimum::NotNegative);
        sums[j] = weights.iter().sum();
    }
    let d = search::positive(&steps, &sums, f32::from(LARGEST));
    let dmin = search::positive(&minimums, &sums, f32::from(LARGEST));
    let index = |v: f32, d: f32| if d > 0.0 { (v / d).round().min(f32::from(LARGEST)) as u8 } else { 0 };
    put_scale(d, head);
    put_scale(dmin, &mut head[2..]);
    head[4..4 + SCALES_BYTES].copy_from_slice(&pack(steps.map(|v| index(v, d)), minimums.map(|v| index(v, dmin))));
    let mut quants = [0; SUPER];
    for (j, (x, quants)) in subs.iter().zip(quants.as_chunks_mut::<BLOCK>().0).enumerate() {
        let (s, m) = step(head, j);
        if s > 0.0 {
            *quants = x.map(|v| ((v + m) / s).round().clamp(0.0, f32::from(levels)) as u8);
        }
    }
    quants
}

/// `encode(values, importance, block)` for every super-block of a row, in blocks of `BYTES` bytes.
pub(super) fn encode_blocks<const BYTES: usize>(
    src: &[f32],
    importance: Option<&[f32]>,
    dst: &mut [u8],
    encode: impl Fn(&[f32; SUPER], Option<&[f32; SUPER]>, &mut [u8; BYTES]),
) {
    for (at, (x, block)) in src.as_chunks().0.iter().zip(dst.as_chunks_mut().0).enumerate() {
        encode(x, importance.map(|all| &all.as_chunks().0[at]), block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_and_unpacking_are_inverse() {
        let scales = [63, 0, 17, 42, 63, 1, 32, 15];
        let minimums = [5, 63, 0, 16, 48, 63, 7, 33];
        let packed = pack(scales, minimums);
        for j in 0..SUBS {
            assert_eq!(scale_and_minimum(&packed, j), (scales[j], minimums[j]));
        }
    }
}
