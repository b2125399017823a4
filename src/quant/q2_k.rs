//! Q2_K: `{ u8 scales[16]; u8 qs[64]; f16 d; f16 dmin }`, sixteen sub-blocks of 16; value = d·s·q − dmin·m, where byte
//! j of `scales` has s of sub-block j in its low nibble and m in its high one. `qs` is laid out as
//! [`super::k::two_bits`] says. Layout: ggml's `block_q2_K`.

use super::BLOCK;
use super::act::ActRow;
use super::float::{put_scale, scale};
use super::k::{self, SUB, SUBS, SUPER, half_dots, put_two_bits, two_bits};
use super::search::{self, Minimum};

/// Bytes of a block, and where its parts begin.
const BYTES: usize = 84;
const QUANTS: usize = 16;
const STEP: usize = 80;
const MINIMUM: usize = 82;

/// The largest quant, and the largest scale and minimum.
const LEVELS: u8 = 3;
const LARGEST: u8 = 15;

/// The integer scale and minimum of sub-block `s`.
#[inline(always)]
fn scale_and_minimum(block: &[u8; BYTES], s: usize) -> (u8, u8) {
    (block[s] & 15, block[s] >> 4)
}

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    for (block, out) in src.as_chunks::<BYTES>().0.iter().zip(dst.as_chunks_mut::<SUPER>().0) {
        let (d, dmin) = (scale(&block[STEP..]), scale(&block[MINIMUM..]));
        for (j, out) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let quants = two_bits(&block[QUANTS..], j);
            let steps = [2 * j, 2 * j + 1].map(|s| {
                let (scale, minimum) = scale_and_minimum(block, s);
                (d * f32::from(scale), dmin * f32::from(minimum))
            });
            for i in 0..BLOCK {
                let (s, m) = steps[i / SUB];
                out[i] = f32::from(quants[i]) * s - m;
            }
        }
    }
}

/// acc = fma(s₀·Σ q_w·q_x + s₁·Σ q_w·q_x, d·d_x, acc), then acc = fma(m₀·Σ q_x + m₁·Σ q_x, −dmin·d_x, acc), every sum
/// over the 16 values of a half, in integers: at most 2·15·16·3·127 < 2²⁴, exact in f32. Blocks of 32 ascending.
pub(super) fn dot(row: &[u8], x: ActRow<'_>) -> f32 {
    x.blocks().enumerate().fold(0.0, |acc, (at, x)| {
        let (block, j) = (&row.as_chunks::<BYTES>().0[at / SUBS], at % SUBS);
        let dots = half_dots(&two_bits(&block[QUANTS..], j), x.quants);
        let (mut sum, mut taken) = (0, 0);
        for (half, (dot, x_sum)) in dots.into_iter().zip(x.sums).enumerate() {
            let (scale, minimum) = scale_and_minimum(block, 2 * j + half);
            sum += i32::from(scale) * dot;
            taken += i32::from(minimum) * i32::from(x_sum);
        }
        let acc = (sum as f32).mul_add(scale(&block[STEP..]) * x.scale, acc);
        (taken as f32).mul_add(-scale(&block[MINIMUM..]) * x.scale, acc)
    })
}

pub(super) fn encode(src: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
    k::encode_blocks(src, importance, dst, encode_block);
}

/// The scales that fit the sub-blocks best are fitted by multiples of one step, weighing each as its values do, and so
/// are the minimums; then each sub-block takes the pair of multiples near its own fit that leaves the least error.
fn encode_block(x: &[f32; SUPER], importance: Option<&[f32; SUPER]>, block: &mut [u8; BYTES]) {
    let weights = k::weights::<SUB>(x, importance, 1.0);
    let subs = || x.as_chunks::<SUB>().0.iter().zip(weights.as_chunks::<SUB>().0);
    let (mut steps, mut minimums, mut sums) = ([0.0; SUPER / SUB], [0.0; SUPER / SUB], [0.0; SUPER / SUB]);
    for (s, (x, weights)) in subs().enumerate() {
        (steps[s], minimums[s]) = search::affine(x, weights, LEVELS, Minimum::NotNegative);
        sums[s] = weights.iter().sum();
    }
    block.fill(0);
    put_scale(search::positive(&steps, &sums, f32::from(LARGEST)), &mut block[STEP..]);
    put_scale(search::positive(&minimums, &sums, f32::from(LARGEST)), &mut block[MINIMUM..]);
    let units = (scale(&block[STEP..]), scale(&block[MINIMUM..]));
    for (s, (x, weights)) in subs().enumerate() {
        let mut best = (f32::INFINITY, 0, [0; SUB]);
        for index in around(steps[s], units.0) {
            for taken in around(minimums[s], units.1) {
                let (error, quants) = round(x, weights, units.0 * f32::from(index), units.1 * f32::from(taken));
                if error < best.0 {
                    best = (error, index | taken << 4, quants);
                }
            }
        }
        block[s] = best.1;
        for (i, q) in best.2.into_iter().enumerate() {
            put_two_bits(&mut block[QUANTS..], s * SUB + i, q);
        }
    }
}

/// The multiples of `unit` next to `value`, nearest first, as far as four bits go.
fn around(value: f32, unit: f32) -> [u8; 3] {
    let near = if unit > 0.0 { (value / unit).round().clamp(0.0, f32::from(LARGEST)) as u8 } else { 0 };
    [near, near.saturating_sub(1), (near + 1).min(LARGEST)]
}

/// The quants of `x` ≈ s·q − m, and Σ w·(x − value)².
fn round(x: &[f32; SUB], weights: &[f32; SUB], s: f32, m: f32) -> (f32, [u8; SUB]) {
    let quants = x.map(|v| if s > 0.0 { ((v + m) / s).round().clamp(0.0, f32::from(LEVELS)) } else { 0.0 });
    let errors = x.iter().zip(weights).zip(&quants).map(|((v, w), q)| w * (s * q - m - v).powi(2));
    (errors.sum(), quants.map(|q| q as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quants_scales_and_minimums_lie_where_the_format_puts_them() {
        let (mut block, mut out) = ([0; BYTES], [0.0; SUPER]);
        (0..SUPER).for_each(|at| put_two_bits(&mut block[QUANTS..], at, (at * 5 % 4) as u8));
        (0..16).for_each(|s| block[s] = (15 - s) as u8 | (s as u8) << 4);
        put_scale(2.0, &mut block[STEP..]);
        put_scale(0.5, &mut block[MINIMUM..]);
        dequantize(&block, &mut out);
        for (at, value) in out.into_iter().enumerate() {
            let s = at / SUB;
            assert_eq!(value, 2.0 * (15 - s) as f32 * (at * 5 % 4) as f32 - 0.5 * s as f32);
        }
    }

    #[test]
    fn what_lies_on_levels_survives() {
        let x: [f32; SUPER] = std::array::from_fn(|i| ((i * 7 % 4) as f32 - 1.0) * (1 + i / SUB) as f32 * 0.25);
        let (mut block, mut out) = ([0; BYTES], [0.0; SUPER]);
        encode(&x, None, &mut block);
        dequantize(&block, &mut out);
        assert!(x.iter().zip(&out).all(|(a, b)| (a - b).abs() < 0.3), "{x:?}\n{out:?}");
        for rest in [0.0, 1e-20, f32::NAN] {
            encode(&[rest; SUPER], None, &mut block);
            dequantize(&block, &mut out);
            assert!(out.iter().all(|v| *v == 0.0 || v.is_nan()));
        }
    }
}
