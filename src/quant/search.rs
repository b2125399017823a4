//! The search for scales by weighted least squares that the encoders of our own share.
//!
//! Every search tries a range of candidates for the inverse of the step, rounds the values to levels by each, and
//! keeps the one whose best step leaves the least of Σ w·(x − step·level)².

use std::ops::RangeInclusive;

/// A peak below this leaves nothing in an F16 step, and its powers would not be numbers.
const TINY: f32 = 1e-15;
/// Candidates on each side of the plain one for a scale without minimum, and in all beside it for one with.
const SIDE: i32 = 9;
const CANDIDATES: usize = 20;
/// The distance between candidates in levels.
const CANDIDATE_STEP: f32 = 0.1;
/// What an importance counts for at least, as a share of the largest beside it: a column that no text has used still
/// has a value.
const LEAST_IMPORTANCE: f32 = 1e-6;

/// s for x ≈ s·q with q in `levels`. Its sign is that which gives the value of the largest magnitude the level of the
/// largest magnitude.
pub(super) fn scale<const N: usize>(x: &[f32; N], weights: &[f32; N], levels: RangeInclusive<i8>) -> f32 {
    let peak = x.iter().fold(0.0f32, |peak, &v| if v.abs() > peak.abs() { v } else { peak });
    if peak.abs() < TINY {
        return 0.0;
    }
    let (low, high) = (f32::from(*levels.start()), f32::from(*levels.end()));
    let end = if -low > high { low } else { high };
    let mut best = (0.0, 0.0);
    for candidate in -SIDE..=SIDE {
        let inverse = (end.abs() + CANDIDATE_STEP * candidate as f32).copysign(end) / peak;
        let (mut xq, mut qq) = (0.0f32, 0.0f32);
        for (v, w) in x.iter().zip(weights) {
            let q = (v * inverse).round().clamp(low, high);
            xq += w * v * q;
            qq += w * q * q;
        }
        // What is left of the squared error is a constant less xq²/qq.
        if qq > 0.0 && xq * xq / qq > best.0 {
            best = (xq * xq / qq, xq / qq);
        }
    }
    best.1
}

/// `(s, m)` for x ≈ s·q − m with q in 0..=`levels` and s, m ≥ 0.
pub(super) fn affine<const N: usize>(x: &[f32; N], weights: &[f32; N], levels: u8) -> (f32, f32) {
    let levels = f32::from(levels);
    let low = x.iter().fold(0.0f32, |m, v| m.min(*v));
    let high = x.iter().fold(f32::MIN, |m, v| m.max(*v));
    if high <= low {
        return (0.0, -low);
    }
    let mut best = (f32::INFINITY, 0.0, -low);
    for candidate in 0..=CANDIDATES {
        // From one level fewer to one more than the plain spread of the values over the levels.
        let inverse = (levels + CANDIDATE_STEP * candidate as f32 - 1.0) / (high - low);
        let quants = x.map(|v| ((v - low) * inverse).round().clamp(0.0, levels));
        let (s, m) = solve_affine(x, weights, &quants);
        let values = x.iter().zip(weights).zip(&quants);
        let error: f32 = values.map(|((v, w), q)| w * (s * q - m - v).powi(2)).sum();
        if error < best.0 {
            best = (error, s, m);
        }
    }
    (best.1, best.2)
}

/// The weighted least squares of s·q − m − x over m ≥ 0.
fn solve_affine<const N: usize>(x: &[f32; N], weights: &[f32; N], quants: &[f32; N]) -> (f32, f32) {
    let (mut w, mut wq, mut wqq, mut wx, mut wqx) = (0.0f32, 0.0, 0.0, 0.0, 0.0);
    for ((x, weight), q) in x.iter().zip(weights).zip(quants) {
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
    let (s, m) = if m < 0.0 { (wqx / wqq, 0.0) } else { (s, m) };
    if s.is_finite() && s >= 0.0 { (s, m) } else { (0.0, m.max(0.0)) }
}

/// What an error of every value counts for where the columns have an importance: that times √(`spread`·mean x² + x²),
/// as in ggml. `None` where the importance says nothing: none is given, or all of it is zero or no number.
pub(super) fn weights<const N: usize>(x: &[f32; N], importance: Option<&[f32; N]>, spread: f32) -> Option<[f32; N]> {
    let importance = importance?;
    let largest = importance.iter().fold(0.0f32, |m, v| m.max(*v));
    if !(largest.is_normal() && importance.iter().all(|v| *v >= 0.0)) {
        return None;
    }
    let base = spread * mean_square(x);
    let weight = |i: usize| (importance[i] / largest).max(LEAST_IMPORTANCE) * (base + x[i] * x[i]).sqrt();
    Some(std::array::from_fn(weight))
}

/// The mean of x².
pub(super) fn mean_square<const N: usize>(x: &[f32; N]) -> f32 {
    x.iter().map(|v| v * v).sum::<f32>() / N as f32
}

/// The weights √(mean x²) + |x|: large values count for more, and small ones for something.
pub(super) fn plain_weights<const N: usize>(x: &[f32; N]) -> [f32; N] {
    let mean = mean_square(x).sqrt();
    x.map(|v| mean + v.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_on_levels_is_fitted_exactly() {
        let x: [f32; 32] = std::array::from_fn(|i| 0.5 * (i % 16) as f32 - 2.0);
        let (s, m) = affine(&x, &plain_weights(&x), 15);
        assert!((s - 0.5).abs() < 1e-4 && (m - 2.0).abs() < 1e-3, "{s} {m}");
        // Nothing below zero, so nothing to take off but what a fit may gain by it.
        let raised = x.map(|v| v + 3.0);
        let (s, m) = affine(&raised, &plain_weights(&raised), 15);
        assert!((0.0..0.3).contains(&m) && s > 0.5, "{s} {m}");
        assert_eq!(affine(&[0.0; 32], &[0.0; 32], 15), (0.0, 0.0));
        assert_eq!(affine(&[-1.5; 32], &[3.0; 32], 15).1, 1.5);
        let x: [f32; 16] = std::array::from_fn(|i| 0.25 * (i as f32 % 8.0 - 4.0));
        for sign in [1.0, -1.0] {
            assert!((scale(&x.map(|v| v * sign), &[1.0; 16], -4..=3) - 0.25 * sign).abs() < 1e-6);
        }
        assert_eq!(scale(&[0.0; 16], &[0.0; 16], -4..=3), 0.0);
    }

    #[test]
    fn what_counts_more_is_fitted_closer() {
        let x: [f32; 16] = std::array::from_fn(|i| if i == 3 { 1.3 } else { i as f32 - 8.0 });
        let mut heavy = [1.0; 16];
        heavy[3] = 1e6;
        let error = |s: f32| (s * (1.3 / s).round() - 1.3).abs();
        assert!(error(scale(&x, &heavy, -4..=3)) < 0.01 && error(scale(&x, &[1.0; 16], -4..=3)) > 0.3);
    }

    #[test]
    fn importance_that_says_nothing_is_none() {
        let x = [1.0; 16];
        assert_eq!(weights(&x, None, 1.0), None);
        for nothing in [0.0, f32::NAN, f32::INFINITY, -1.0] {
            assert_eq!(weights(&x, Some(&[nothing; 16]), 1.0), None);
        }
        let (mut one, mut many) = ([1.0; 16], [1e30; 16]);
        (one[2], many[2]) = (0.0, 0.0);
        assert_eq!(weights(&x, Some(&one), 1.0), weights(&x, Some(&many), 1.0));
        assert!(weights(&x, Some(&one), 1.0).unwrap().iter().all(|w| *w > 0.0));
    }
}
