//! What the IQ4 types share: sixteen levels that lie closer together where weights are dense, and the search for the
//! scale of 32 values. The encoders weigh errors as ggml's do, with and without an importance matrix; they do not
//! write ggml's bytes, and err no more (`tests/ggml_oracle.rs`).

use super::BLOCK;
use super::search::{mean_square, weights};

/// The levels, ascending: ggml's `kvalues_iq4nl`.
pub(crate) const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The level that the value of the largest magnitude is to have, or one nearby.
const PEAK: f32 = LEVELS[0] as f32;
/// Candidates on both sides of it.
const CANDIDATES: i32 = 7;

/// The place in [`LEVELS`] of the level nearest to `v`, of two equally near ones the higher.
fn nearest(v: f32) -> u8 {
    LEVELS.windows(2).map(|pair| u8::from(v >= f32::from(pair[0]).midpoint(f32::from(pair[1])))).sum()
}

/// The places of the levels nearest to `x` / `step`.
pub(super) fn places(x: &[f32; BLOCK], step: f32) -> [u8; BLOCK] {
    let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
    x.map(|v| nearest(v * inverse))
}

/// The value of the largest magnitude.
fn peak(x: &[f32]) -> f32 {
    x.iter().fold(0.0f32, |peak, &v| if v.abs() > peak.abs() { v } else { peak })
}

/// For each 32 of the values `x` of a block the s of x ≈ s·level, by least squares. The error of a value weighs x², or
/// with an importance i of each value i·√(2·mean(x²) + x²), where the mean is the block's.
pub(super) fn fit_scales<const N: usize>(x: &[f32], importance: Option<&[f32]>) -> [f32; N] {
    let unit = peak(x);
    if unit == 0.0 {
        return [0.0; N];
    }
    // In units of the largest value, so that weights neither vanish nor overflow.
    let x: Vec<f32> = x.iter().map(|v| v / unit).collect();
    let spread = 2.0 * mean_square(&x);
    let subs = x.as_chunks::<BLOCK>().0;
    std::array::from_fn(|s| {
        let importance = importance.and_then(|i| i.as_chunks::<BLOCK>().0.get(s));
        unit * fit_scale(&subs[s], importance, spread)
    })
}

/// The s of x ≈ s·level for values of at most 1 that lie in a block of this `spread`.
fn fit_scale(x: &[f32; BLOCK], importance: Option<&[f32; BLOCK]>, spread: f32) -> f32 {
    let unit = peak(x);
    if unit == 0.0 {
        return 0.0;
    }
    let units = x.map(|v| v / unit);
    let weights = match importance {
        Some(importance) => weights(x, importance, spread),
        None => units.map(|v| v * v),
    };
    let mut best = (0.0, 0.0);
    let near_peak = (-CANDIDATES..=CANDIDATES).map(|c| PEAK + c as f32);
    for inverse in near_peak.chain([-PEAK]) {
        let (mut xl, mut ll) = (0.0f32, 0.0f32);
        for (v, w) in units.iter().zip(&weights) {
            let level = f32::from(LEVELS[usize::from(nearest(v * inverse))]);
            xl += w * v * level;
            ll += w * level * level;
        }
        // What is left of the squared error is a constant less xl²/ll.
        if ll > 0.0 && xl * xl / ll > best.0 {
            best = (xl * xl / ll, xl / ll);
        }
    }
    best.1 * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_their_own_nearest_and_ties_go_up() {
        for (place, level) in LEVELS.iter().enumerate() {
            assert_eq!(usize::from(nearest(f32::from(*level))), place);
        }
        assert_eq!((nearest(7.0), nearest(6.9), nearest(-4.5), nearest(-4.6)), (9, 8, 8, 7));
        assert_eq!((nearest(f32::NEG_INFINITY), nearest(f32::INFINITY)), (0, 15));
    }

    #[test]
    fn what_lies_on_levels_is_fitted_exactly_whatever_its_size() {
        let x: [f32; BLOCK] = std::array::from_fn(|i| f32::from(LEVELS[i % 16]));
        for size in [1e-36, 1e-3, -1.0, 1e30] {
            for importance in [None, Some([1e-30; BLOCK]), Some([1e30; BLOCK]), Some([0.0; BLOCK])] {
                let [s] = fit_scales(&x.map(|v| v * size), importance.as_ref().map(|i| i.as_slice()));
                assert!((s / size - 1.0).abs() < 1e-5, "{s} for {size}");
            }
        }
        assert_eq!(fit_scales(&[0.0; 64], None), [0.0; 2]);
    }

    #[test]
    fn values_without_importance_do_not_count() {
        let mut x: [f32; BLOCK] = std::array::from_fn(|i| f32::from(LEVELS[i % 16]));
        let mut importance = [1.0; BLOCK];
        (x[3], importance[3]) = (-120.0, 0.0);
        let [s] = fit_scales(&x, Some(&importance));
        assert!((s - 1.0).abs() < 1e-5, "{s}");
    }
}
