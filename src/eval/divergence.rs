//! How far a model's predictions lie from another's over a text.

use super::statistics::{Estimate, Moments, covariance, percentile};

/// One position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowDivergence {
    /// −ln of the probability of the text's next token: ours, and the base's.
    pub nll: f64,
    pub base_nll: f64,
    /// KL(base ‖ ours), in nats.
    pub divergence: f64,
    /// Our probability of the next token less the base's.
    pub p_diff: f64,
    /// Whether both find the same token likeliest.
    pub same_top: bool,
}

/// The sums of many positions. Its estimates are first-order, of positions taken as independent.
#[derive(Clone, Debug, Default)]
pub struct Divergence {
    nll: Moments,
    base_nll: Moments,
    nll_products: f64,
    divergence: Moments,
    p_diff: Moments,
    p_diff_squares: Moments,
    same_top: usize,
    divergences: Vec<f64>,
    p_diffs: Vec<f64>,
}

/// Values in order, to ask for those below which a share lies.
pub struct Percentiles(Vec<f64>);

impl Percentiles {
    fn new(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self(sorted)
    }

    /// The value below which `share` (0 to 1) of all lies: 0.5 is the median, 1 the largest.
    pub fn at(&self, share: f64) -> f64 {
        percentile(&self.0, share)
    }
}

impl Divergence {
    pub fn add(&mut self, row: &RowDivergence) {
        self.nll.add(row.nll);
        self.base_nll.add(row.base_nll);
        self.nll_products += row.nll * row.base_nll;
        self.divergence.add(row.divergence);
        self.p_diff.add(row.p_diff);
        self.p_diff_squares.add(row.p_diff * row.p_diff);
        self.same_top += usize::from(row.same_top);
        self.divergences.push(row.divergence);
        self.p_diffs.push(row.p_diff);
    }

    /// Positions so far.
    pub fn count(&self) -> usize {
        self.nll.count
    }

    /// Our perplexity.
    pub fn ppl(&self) -> Estimate {
        self.nll.mean().exp()
    }

    /// The base's perplexity.
    pub fn base_ppl(&self) -> Estimate {
        self.base_nll.mean().exp()
    }

    /// The logarithm of our perplexity over the base's.
    pub fn ln_ppl_ratio(&self) -> Estimate {
        let (ours, base) = (self.nll.mean(), self.base_nll.mean());
        let variance = ours.error.powi(2) + base.error.powi(2) - 2.0 * self.covariance();
        Estimate { value: ours.value - base.value, error: variance.max(0.0).sqrt() }
    }

    /// Our perplexity less the base's.
    pub fn ppl_difference(&self) -> Estimate {
        let (ours, base) = (self.ppl(), self.base_ppl());
        let covariance = ours.value * base.value * self.covariance();
        let variance = ours.error.powi(2) + base.error.powi(2) - 2.0 * covariance;
        Estimate { value: ours.value - base.value, error: variance.max(0.0).sqrt() }
    }

    /// How far the logarithms of both perplexities go together: 1 if one tells the other.
    pub fn correlation(&self) -> f64 {
        let both = self.nll.mean().error * self.base_nll.mean().error;
        if both > 0.0 { self.covariance() / both } else { 0.0 }
    }

    /// KL(base ‖ ours) a position, in nats.
    pub fn kld(&self) -> Estimate {
        self.divergence.mean()
    }

    /// Change of the next token's probability.
    pub fn p_diff(&self) -> Estimate {
        self.p_diff.mean()
    }

    /// Its root mean square.
    pub fn p_diff_rms(&self) -> Estimate {
        self.p_diff_squares.mean().sqrt()
    }

    /// The share of positions where both find the same token likeliest.
    pub fn same_top(&self) -> Estimate {
        let count = self.count().max(1) as f64;
        let value = self.same_top as f64 / count;
        Estimate { value, error: (value * (1.0 - value) / (count - 1.0).max(1.0)).sqrt() }
    }

    /// KL(base ‖ ours) of all positions.
    pub fn klds(&self) -> Percentiles {
        Percentiles::new(&self.divergences)
    }

    /// Changes of the next token's probability of all positions.
    pub fn p_diffs(&self) -> Percentiles {
        Percentiles::new(&self.p_diffs)
    }

    fn covariance(&self) -> f64 {
        covariance(&self.nll, &self.base_nll, self.nll_products)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(nll: f64, base_nll: f64) -> RowDivergence {
        let p_diff = (-nll).exp() - (-base_nll).exp();
        RowDivergence { nll, base_nll, divergence: nll * nll, p_diff, same_top: nll < 1.0 }
    }

    #[test]
    fn estimates_of_pairs_know_that_they_go_together() {
        let mut sums = Divergence::default();
        // Ours is the base's and a constant: the ratio is certain, and both go together wholly.
        (0..40).map(|i| 0.1 * f64::from(i % 7)).for_each(|base| sums.add(&row(base + 0.25, base)));
        let ratio = sums.ln_ppl_ratio();
        assert!((ratio.value - 0.25).abs() < 1e-12 && ratio.error < 1e-7, "{ratio:?}");
        assert!((sums.correlation() - 1.0).abs() < 1e-9);
        let (ours, base) = (sums.ppl(), sums.base_ppl());
        assert!((ours.value / base.value - 0.25_f64.exp()).abs() < 1e-12);
        assert!((sums.ppl_difference().value - (ours.value - base.value)).abs() < 1e-12);
        assert_eq!(sums.count(), 40);
    }

    #[test]
    fn shares_and_percentiles_are_those_of_the_rows() {
        let mut sums = Divergence::default();
        [0.5, 2.0, 0.25, 3.0].into_iter().for_each(|nll| sums.add(&row(nll, 1.0)));
        let top = sums.same_top();
        assert!(top.value == 0.5 && (top.error - (0.25_f64 / 3.0).sqrt()).abs() < 1e-12);
        let klds = sums.klds();
        assert_eq!([0.0, 0.5, 1.0].map(|share| klds.at(share)), [0.0625, 2.125, 9.0]);
        let squares: f64 = [0.5_f64, 2.0, 0.25, 3.0].map(|nll| ((-nll).exp() - (-1.0_f64).exp()).powi(2)).iter().sum();
        assert!((sums.p_diff_rms().value - (squares / 4.0).sqrt()).abs() < 1e-12);
    }
}
