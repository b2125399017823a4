//! Stages that take candidates away. Each leaves at least one.

use super::candidates::Candidates;
use crate::rng::Rng;

/// The lowest logit that top-n-sigma keeps: the highest less `n` standard deviations of all that are possible
/// (Tang et al. 2024, "Top-nσ").
pub(super) fn sigma_floor(logits: &[f32], n: f32) -> f32 {
    if n <= 0.0 {
        return f32::NEG_INFINITY;
    }
    let possible = || logits.iter().filter(|l| **l > f32::NEG_INFINITY).map(|l| f64::from(l.min(f32::MAX)));
    let (mut count, mut sum, mut best) = (0.0, 0.0, f64::NEG_INFINITY);
    for logit in possible() {
        (count, sum, best) = (count + 1.0, sum + logit, best.max(logit));
    }
    let mean = sum / count;
    let deviation = (possible().map(|l| (l - mean).powi(2)).sum::<f64>() / count).sqrt();
    (best - f64::from(n) * deviation) as f32
}

/// Keeps the fewest most likely whose probabilities reach `p` (Holtzman et al. 2020).
pub(super) fn top_p(candidates: &mut Candidates, p: f32, min_keep: usize) {
    if p >= 1.0 {
        return;
    }
    candidates.softmax();
    let mut sum = 0.0;
    candidates.keep_until(|i, c| {
        sum += c.p;
        sum >= p && i + 1 >= min_keep
    });
}

/// Keeps those at least `p` times as likely as the likeliest (Nguyen et al. 2024).
pub(super) fn min_p(candidates: &mut Candidates, p: f32, min_keep: usize) {
    let Some(best) = candidates.best().filter(|_| p > 0.0) else { return };
    let least = best + p.ln();
    let count = candidates.list.iter().filter(|c| c.logit >= least).count();
    if count < min_keep {
        candidates.keep_best(min_keep);
    } else {
        candidates.retain(|c| c.logit >= least);
    }
}

/// Keeps those whose surprise is nearest to the entropy until their probabilities exceed `p` (Meister et al. 2022).
pub(super) fn typical_p(candidates: &mut Candidates, p: f32, min_keep: usize) {
    if p >= 1.0 {
        return;
    }
    candidates.softmax();
    let entropy = candidates.entropy();
    candidates.list.iter_mut().for_each(|c| c.score = (-c.p.ln() - entropy).abs());
    let mut sum = 0.0;
    candidates.keep_until_by_score(|i, c| {
        sum += c.p;
        sum > p && i + 1 >= min_keep
    });
}

/// With the probability `chance`, takes out all tokens of probability `threshold` and more but for the least likely
/// of them ("Exclude Top Choices").
pub(super) fn xtc(candidates: &mut Candidates, chance: f32, threshold: f32, min_keep: usize, rng: &mut Rng) {
    if chance <= 0.0 || threshold > 0.5 || candidates.list.len() < 2 || rng.uniform() > chance {
        return;
    }
    candidates.softmax();
    candidates.sort();
    let likely = candidates.list.partition_point(|c| c.p >= threshold);
    let gone = likely.saturating_sub(1);
    if candidates.list.len() - gone >= min_keep {
        candidates.list.drain(..gone);
    }
}
