//! Arithmetic between the weight products: norms, activation, rotation, softmax.
//!
//! Plain loops, compiled once for each instruction-set level. All sums go through 16 lanes and a fixed tree, and
//! fuse only where `mul_add` says so: every level gives the same bits, whatever else is in the batch.

use super::simd::multiversion;
use crate::backend::RopeLayout;

const LANES: usize = 16;

/// Adds the lanes: 8+8, 4+4, 2+2, 1+1.
#[inline(always)]
fn tree(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Σ x²: lane l of 16 sums the values with index ≡ l.
#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for l in 0..LANES {
            lanes[l] = block[l].mul_add(block[l], lanes[l]);
        }
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        *lane = v.mul_add(*v, *lane);
    }
    tree(lanes)
}

/// The largest value; NaN never is.
#[inline(always)]
fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for l in 0..LANES {
            lanes[l] = if block[l] > lanes[l] { block[l] } else { lanes[l] };
        }
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        *lane = if *v > *lane { *v } else { *lane };
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// 1.5 · 2²³: adding it rounds to an integer that then stands in the low bits.
const ROUND: f32 = 12_582_912.0;

/// eˣ within 2 ulp of the exact value; 0 below −87.3 and 2¹²⁷·√2 at most.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2; e^r by its Taylor polynomial of degree 7.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let limited = x.clamp(-87.3, 88.0);
    let shifted = limited.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, limited));
    let mut p = 1.0f32 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p.mul_add(r, c);
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x < -87.3 { 0.0 } else { p * power }
}

/// 2ˣ within 2 ulp of the exact value for x ≤ 0; 0 below −126.
///
/// x = n + r with |r| ≤ 1/2; 2^r by a polynomial of degree 6 that is 1 at 0 and near the best elsewhere.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    let shifted = x + ROUND;
    let r = x - (shifted - ROUND);
    let mut p = 1.545_316_3e-4f32;
    for c in [1.339_086_3e-3, 9.618_083e-3, 5.550_357e-2, 0.240_226_5, std::f32::consts::LN_2, 1.0] {
        p = p.mul_add(r, c);
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x < -126.0 { 0.0 } else { p * power }
}

multiversion! {
    /// `out = x · weight / sqrt(mean(x²) + eps)`.
    pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let mean = sum_of_squares(x) / x.len() as f32;
        let scale = 1.0 / (mean + eps).sqrt();
        for ((o, v), w) in out.iter_mut().zip(x).zip(weight) {
            *o = v * scale * w;
        }
    }

    /// `gate = gate / (1 + e^−gate) · up`.
    pub fn silu_mul(gate: &mut [f32], up: &[f32]) {
        for (g, u) in gate.iter_mut().zip(up) {
            *g = *g / (1.0 + exp(-*g)) * u;
        }
    }

    /// `y += x`.
    pub fn add(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }

    /// `y *= factor`.
    pub fn scale(y: &mut [f32], factor: f32) {
        for y in y {
            *y *= factor;
        }
    }

    /// Replaces scores s by `e^(scale · (s − max s))` and returns that maximum, and the sum of the weights.
    pub fn softmax_weights(scores: &mut [f32], scale: f32) -> (f32, f32) {
        let (max, scale) = (max(scores), scale * std::f32::consts::LOG2_E);
        let mut lanes = [0.0f32; LANES];
        let (blocks, rest) = scores.as_chunks_mut::<LANES>();
        for block in blocks {
            for l in 0..LANES {
                block[l] = exp2(scale * (block[l] - max));
                lanes[l] += block[l];
            }
        }
        for (lane, s) in lanes.iter_mut().zip(rest) {
            *s = exp2(scale * (*s - max));
            *lane += *s;
        }
        (max, tree(lanes))
    }

    /// Adds a chunk to the softmax over the chunks before it: sums weighted by `e^(scale · (s − max))`, and `[max,
    /// total]`, the maximum and the sum of those weights, on both sides. The larger maximum becomes that of both.
    pub fn join_chunk(sums: &mut [f32], of: &mut [f32; 2], chunk: &[f32], of_chunk: [f32; 2], scale: f32) {
        let max = if of_chunk[0] > of[0] { of_chunk[0] } else { of[0] };
        let scale = scale * std::f32::consts::LOG2_E;
        let [before, added] = [exp2(scale * (of[0] - max)), exp2(scale * (of_chunk[0] - max))];
        *of = [max, of_chunk[1].mul_add(added, of[1] * before)];
        for (sum, v) in sums.iter_mut().zip(chunk) {
            *sum = v.mul_add(added, *sum * before);
        }
    }

    /// Turns each head's pairs by the angles whose cosines and sines are `cos` and `sin`; the values of a head
    /// beyond `2 · cos.len()` stay.
    pub fn rotate(row: &mut [f32], head_dim: usize, layout: RopeLayout, cos: &[f32], sin: &[f32]) {
        let RopeLayout::Interleaved = layout;
        for head in row.chunks_exact_mut(head_dim) {
            let (pairs, _) = head.as_chunks_mut::<2>();
            for ((pair, c), s) in pairs.iter_mut().zip(cos).zip(sin) {
                let [a, b] = *pair;
                *pair = [a.mul_add(*c, -(b * s)), a.mul_add(*s, b * c)];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::Level;
    use crate::rng::Rng;

    fn noise(seed: u64, n: usize, spread: f32) -> Vec<f32> {
        let mut rng = Rng::new(seed);
        (0..n).map(|_| rng.normal() * spread).collect()
    }

    #[test]
    fn exp_is_within_two_ulp() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            let ulp = f64::from(f32::from_bits((want as f32).to_bits() + 1)) - f64::from(want as f32);
            assert!((got - want).abs() <= 2.0 * ulp, "exp({x}) = {got}, {want} expected");
            x += 0.0137;
        }
        assert_eq!((exp(0.0), exp(f32::NEG_INFINITY), exp(-100.0)), (1.0, 0.0, 0.0));
        assert!(exp(f32::INFINITY) > 1e38 && exp(f32::NAN).is_nan());
    }

    #[test]
    fn exp2_is_within_two_ulp() {
        let mut x = 0.0f32;
        while x > -126.0 {
            let (got, want) = (f64::from(exp2(x)), f64::from(x).exp2());
            let ulp = f64::from(f32::from_bits((want as f32).to_bits() + 1)) - f64::from(want as f32);
            assert!((got - want).abs() <= 2.0 * ulp, "exp2({x}) = {got}, {want} expected");
            x -= 0.0137;
        }
        assert_eq!((exp2(0.0), exp2(f32::NEG_INFINITY), exp2(-127.0)), (1.0, 0.0, 0.0));
        assert!(exp2(f32::NAN).is_nan());
    }

    #[test]
    fn norm_matches_its_formula() {
        for n in [1, 5, 16, 33, 576] {
            let (x, w) = (noise(1, n, 3.0), noise(2, n, 1.0));
            let mut out = vec![0.0; n];
            rms_norm(Level::detect(), &x, &w, 1e-5, &mut out);
            let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n as f64;
            for i in 0..n {
                let want = f64::from(x[i]) * f64::from(w[i]) / (mean + 1e-5).sqrt();
                assert!((f64::from(out[i]) - want).abs() <= 1e-6 * (1.0 + want.abs()), "{n} {i}");
            }
        }
    }

    #[test]
    fn softmax_sums_to_its_weights() {
        let scores = noise(3, 77, 4.0);
        let mut weights = scores.clone();
        let (top, total) = softmax_weights(Level::detect(), &mut weights, 0.5);
        assert_eq!(top, scores.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let max = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(f64::from(*s)));
        let want: Vec<f64> = scores.iter().map(|s| (0.5 * (f64::from(*s) - max)).exp()).collect();
        assert!((f64::from(total) / want.iter().sum::<f64>() - 1.0).abs() < 1e-6);
        assert!(weights.iter().zip(&want).all(|(g, w)| (f64::from(*g) - w).abs() < 1e-6));
    }

    #[test]
    fn chunks_join_to_the_softmax_of_all() {
        let (scores, values) = (noise(6, 60, 9.0), noise(7, 60, 1.0));
        let chunk = |range: std::ops::Range<usize>| {
            let mut weights = scores[range.clone()].to_vec();
            let (max, total) = softmax_weights(Level::detect(), &mut weights, 0.5);
            let sum: f32 = weights.iter().zip(&values[range]).map(|(w, v)| w * v).sum();
            ([sum], [max, total])
        };
        let (all, of_all) = chunk(0..60);
        let (mut sums, mut of) = chunk(0..20);
        for (sum, of_chunk) in [chunk(20..50), chunk(50..60)] {
            join_chunk(Level::detect(), &mut sums, &mut of, &sum, of_chunk, 0.5);
        }
        assert_eq!(of[0], of_all[0]);
        assert!((sums[0] / of[1] - all[0] / of_all[1]).abs() < 1e-6, "{sums:?} {of:?}, {all:?} {of_all:?}");
    }

    #[test]
    fn rotation_keeps_length_and_turns_by_the_angle() {
        let mut row = vec![1.0, 0.0, 0.0, 2.0, 5.0, 6.0];
        let angle = [0.3f32, 1.1];
        let (cos, sin) = (angle.map(f32::cos), angle.map(f32::sin));
        rotate(Level::detect(), &mut row, 6, RopeLayout::Interleaved, &cos, &sin);
        let want = [cos[0], sin[0], -2.0 * sin[1], 2.0 * cos[1], 5.0, 6.0];
        assert!(row.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-6), "{row:?}");
    }

    #[test]
    fn every_level_gives_the_same_bits() {
        for n in [1, 15, 16, 31, 64, 577] {
            let run = |level| {
                let (x, w) = (noise(4, n, 2.0), noise(5, n, 1.0));
                let (mut norm, mut act, mut soft) = (vec![0.0; n], x.clone(), x.clone());
                rms_norm(level, &x, &w, 1e-5, &mut norm);
                silu_mul(level, &mut act, &w);
                let (max, total) = softmax_weights(level, &mut soft, 0.125);
                let (mut sums, mut of) = (x.clone(), [max, total]);
                join_chunk(level, &mut sums, &mut of, &w, [0.5, 2.0], 0.125);
                let values = norm.into_iter().chain(act).chain(soft).chain(sums).chain(of);
                values.map(f32::to_bits).collect::<Vec<_>>()
            };
            let truth = run(Level::Scalar);
            Level::ALL.into_iter().for_each(|level| assert_eq!(run(level), truth, "{n} values at {}", level.name()));
        }
    }
}
