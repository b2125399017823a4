//! Searches for the step of a block that leaves the least weighted squared error.
//!
//! A weight is what an error of a value counts. With an importance matrix, the mean square of the activations that meet
//! a column, it is the importance times a term that favours large values: ggml's choice, which serves a model's output
//! better than the importance alone.

use super::BLOCK;
use super::float::{put_scale, scale};

/// Candidates for an affine step beside the plain one, and the distance between them in levels.
const CANDIDATES: usize = 20;
const CANDIDATE_STEP: f32 = 0.1;
/// Below this magnitude the squares of values are no numbers any more.
const SMALLEST: f32 = 1e-15;

/// Mean of x².
pub(super) fn mean_square(x: &[f32]) -> f32 {
    x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32
}

/// importance · √(`spread` + x²), where `spread` is the mean of x² that the format takes. Importances count relative
/// to the largest of the block, so that neither tiny nor huge ones leave the range of f32; where all are 0, all count
/// alike.
pub(super) fn weights<const N: usize>(x: &[f32; N], importance: &[f32; N], spread: f32) -> [f32; N] {
    let relative = relative(importance);
    std::array::from_fn(|i| relative[i] * (spread + x[i] * x[i]).sqrt())
}

/// Importances relative to their largest; all 1 where that is 0.
pub(super) fn relative<const N: usize>(importance: &[f32; N]) -> [f32; N] {
    let largest = importance.iter().fold(0.0f32, |m, v| m.max(*v));
    importance.map(|v| if largest > 0.0 { v / largest } else { 1.0 })
}

/// s for x ≈ s·q with integers q in −`half`..`half`, by weighted least squares over a range of candidates. Its sign is
/// that which gives the value of the largest magnitude the level −`half`.
pub(super) fn symmetric(x: &[f32], weights: &[f32], half: f32) -> f32 {
    let peak = x.iter().fold(0.0f32, |peak, &v| if v.abs() > peak.abs() { v } else { peak });
    if peak.abs() < SMALLEST {
        return 0.0;
    }
    let mut best = (0.0, 0.0);
    for candidate in -9..=9 {
        let inverse = -(half + 0.1 * candidate as f32) / peak;
        let (mut xq, mut qq) = (0.0f32, 0.0f32);
        for (v, weight) in x.iter().zip(weights) {
            let q = (v * inverse).round().clamp(-half, half - 1.0);
            xq += weight * v * q;
            qq += weight * q * q;
        }
        // What is left of the squared error is a constant less xq²/qq.
        if qq > 0.0 && xq * xq / qq > best.0 {
            best = (xq * xq / qq, xq / qq);
        }
    }
    best.1
}

/// s ≥ 0 for x ≈ s·q with integers q in 0..=`levels` and x ≥ 0: the scale of scales.
pub(super) fn positive(x: &[f32], weights: &[f32], levels: f32) -> f32 {
    let largest = x.iter().fold(0.0f32, |m, v| m.max(*v));
    if largest < SMALLEST {
        return 0.0;
    }
    let mut best = (0.0, largest / levels);
    for candidate in -9..=9 {
        let inverse = (levels + 0.1 * candidate as f32) / largest;
        let (mut xq, mut qq) = (0.0f32, 0.0f32);
        for (v, weight) in x.iter().zip(weights) {
            let q = (v * inverse).round().min(levels);
            xq += weight * v * q;
            qq += weight * q * q;
        }
        if qq > 0.0 && xq * xq / qq > best.0 {
            best = (xq * xq / qq, xq / qq);
        }
    }
    best.1
}

/// What a format can take off all values of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Minimum {
    /// A number of either sign.
    Signed,
    /// A number that is not negative, so that 0 stays within the levels.
    NotNegative,
}

/// `(s, m)` for x ≈ s·q − m with integers q in 0..=`levels` and s ≥ 0.
pub(super) fn affine<const N: usize>(x: &[f32; N], weights: &[f32; N], levels: u8, minimum: Minimum) -> (f32, f32) {
    let levels = f32::from(levels);
    let start = if minimum == Minimum::Signed { f32::MAX } else { 0.0 };
    let low = x.iter().fold(start, |m, v| m.min(*v));
    let high = x.iter().fold(f32::MIN, |m, v| m.max(*v));
    if high <= low {
        return (0.0, -low);
    }
    let mut best = (f32::INFINITY, 0.0, -low);
    for candidate in 0..=CANDIDATES {
        // From one level fewer to one more than the plain spread of the values over the levels.
        let inverse = (levels + CANDIDATE_STEP * candidate as f32 - 1.0) / (high - low);
        let quants = x.map(|v| ((v - low) * inverse).round().clamp(0.0, levels));
        let (s, m) = solve(x, &quants, weights, minimum);
        let error = |i: usize| weights[i] * (s * quants[i] - m - x[i]).powi(2);
        let error: f32 = (0..N).map(error).sum();
        if error < best.0 {
            best = (error, s, m);
        }
    }
    (best.1, best.2)
}

/// The weighted least squares of s·q − m − x.
fn solve<const N: usize>(x: &[f32; N], quants: &[f32; N], weights: &[f32; N], minimum: Minimum) -> (f32, f32) {
    let (mut w, mut wq, mut wqq, mut wx, mut wqx) = (0.0f32, 0.0, 0.0, 0.0, 0.0);
    for i in 0..N {
        let (x, q, weight) = (x[i], quants[i], weights[i]);
        w += weight;
        wq += weight * q;
        wqq += weight * q * q;
        wx += weight * x;
        wqx += weight * q * x;
    }
    let determinant = w * wqq - wq * wq;
    let (s, m) = if determinant > 0.0 {
        ((w * wqx - wq * wx) / determinant, (wq * wqx - wqq * wx) / determinant)
    } else {
        (0.0, -wx / w)
    };
    let least = if minimum == Minimum::Signed { f32::MIN } else { 0.0 };
    let (s, m) = if m < least { (wqx / wqq, 0.0) } else { (s, m) };
    if s.is_finite() && s >= 0.0 { (s, m) } else { (0.0, m.max(least)) }
}

/// Encodes a row by its importance in blocks `{ f16 d; quants }` of `BYTES` bytes, value = d·(q − `half`); `put` writes
/// the quants.
pub(super) fn symmetric_blocks<const BYTES: usize>(
    src: &[f32],
    importance: &[f32],
    half: f32,
    dst: &mut [u8],
    put: fn([u8; BLOCK], &mut [u8]),
) {
    let spread = mean_square(src);
    let blocks = src.as_chunks().0.iter().zip(importance.as_chunks().0).zip(dst.as_chunks_mut::<BYTES>().0);
    for ((x, importance), block) in blocks {
        put_scale(symmetric(x, &weights(x, importance, spread), half), block);
        let d = scale(block);
        let q = |v: f32| if d == 0.0 { half } else { (v / d).round().clamp(-half, half - 1.0) + half };
        put(x.map(|v| q(v) as u8), &mut block[2..]);
    }
}

/// The same in blocks `{ f16 d; f16 m; quants }`, value = d·q + m with q in 0..=`levels`.
pub(super) fn affine_blocks<const BYTES: usize>(
    src: &[f32],
    importance: &[f32],
    levels: u8,
    dst: &mut [u8],
    put: fn([u8; BLOCK], &mut [u8]),
) {
    let spread = mean_square(src);
    let blocks = src.as_chunks().0.iter().zip(importance.as_chunks().0).zip(dst.as_chunks_mut::<BYTES>().0);
    for ((x, importance), block) in blocks {
        let (d, m) = affine(x, &weights(x, importance, spread), levels, Minimum::Signed);
        put_scale(d, block);
        put_scale(-m, &mut block[2..]);
        let (d, m) = (scale(block), scale(&block[2..]));
        let q = |v: f32| if d == 0.0 { 0.0 } else { ((v - m) / d).round().clamp(0.0, f32::from(levels)) };
        put(x.map(|v| q(v) as u8), &mut block[4..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_on_levels_is_fitted_exactly() {
        let x: [f32; 32] = std::array::from_fn(|i| 0.5 * (i % 16) as f32 - 2.0);
        let fit = |x: &[f32; 32], minimum| affine(x, &[1.0; 32], 15, minimum);
        let (s, m) = fit(&x, Minimum::NotNegative);
        assert!((s - 0.5).abs() < 1e-4 && (m - 2.0).abs() < 1e-3, "{s} {m}");
        let up = x.map(|v| v + 3.0);
        // Nothing below zero, so nothing to take off but what a fit may gain by it.
        let (s, m) = fit(&up, Minimum::NotNegative);
        assert!((0.0..0.3).contains(&m) && s > 0.5, "{s} {m}");
        let (s, m) = fit(&up, Minimum::Signed);
        assert!((s - 0.5).abs() < 1e-4 && (m + 1.0).abs() < 1e-3, "{s} {m}");
        assert_eq!(fit(&[0.0; 32], Minimum::NotNegative), (0.0, 0.0));
        assert_eq!(fit(&[-1.5; 32], Minimum::NotNegative).1, 1.5);
        assert_eq!(fit(&[1.5; 32], Minimum::Signed), (0.0, -1.5));
        let x: [f32; 32] = std::array::from_fn(|i| 0.25 * (16.0 - i as f32));
        assert!((symmetric(&x, &[1.0; 32], 16.0) + 0.25).abs() < 1e-6);
        assert_eq!(positive(&[0.0, 6.3, 3.0], &[1.0; 3], 63.0), 0.1);
    }

    #[test]
    fn what_weighs_more_is_closer() {
        let x: [f32; 32] = std::array::from_fn(|i| (i as f32 * 0.7).sin());
        let error = |heavy: usize, at: usize| {
            let mut weights = [1.0; 32];
            weights[heavy] = 1000.0;
            let (s, m) = affine(&x, &weights, 3, Minimum::NotNegative);
            (s * ((x[at] + m) / s).round().clamp(0.0, 3.0) - m - x[at]).abs()
        };
        for heavy in [1, 8, 17] {
            assert!(error(heavy, heavy) < 0.2 * error(heavy + 3, heavy).max(0.01), "value {heavy}");
        }
    }

    #[test]
    fn importances_of_any_size_give_the_same_weights() {
        let x: [f32; 4] = [0.0, 1.0, -2.0, 3.0];
        let importance = [1.0, 2.0, 4.0, 0.0];
        let plain = weights(&x, &importance, 3.5);
        assert_eq!(plain[3], 0.0);
        for scale in [2f32.powi(-120), 2f32.powi(120)] {
            assert_eq!(weights(&x, &importance.map(|v| v * scale), 3.5), plain);
        }
        assert_eq!(relative(&[0.0; 4]), [1.0; 4]);
    }
}
