//! Means and how sure they are.

/// A mean and its standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    pub value: f64,
    pub error: f64,
}

impl Estimate {
    /// The same quantity times a number, as to show a share in per cent.
    pub fn scaled(self, by: f64) -> Self {
        Self { value: self.value * by, error: self.error * by.abs() }
    }

    /// Of `exp` of it, to first order.
    pub fn exp(self) -> Self {
        let value = self.value.exp();
        Self { value, error: value * self.error }
    }

    /// Of its square root, to first order; no error where it is 0.
    pub fn sqrt(self) -> Self {
        let value = self.value.max(0.0).sqrt();
        Self { value, error: if value > 0.0 { 0.5 / value * self.error } else { 0.0 } }
    }
}

/// Sums from which a mean and its error come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moments {
    pub count: usize,
    pub sum: f64,
    pub squares: f64,
}

impl Moments {
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        self.squares += value * value;
    }

    /// The mean, and the standard error of independent values; 0 without two of them.
    pub fn mean(&self) -> Estimate {
        if self.count == 0 {
            return Estimate::default();
        }
        let count = self.count as f64;
        let value = self.sum / count;
        let variance = self.squares / count - value * value;
        let error = if variance > 0.0 && self.count > 1 { (variance / (count - 1.0)).sqrt() } else { 0.0 };
        Estimate { value, error }
    }
}

/// The covariance of two means, from the sum of the products of their values; 0 without two of them.
pub fn covariance(x: &Moments, y: &Moments, products: f64) -> f64 {
    if x.count < 2 {
        return 0.0;
    }
    let count = x.count as f64;
    (products / count - (x.sum / count) * (y.sum / count)) / (count - 1.0)
}

/// The value below which `share` of `sorted` lies, between two of them by their distance; 0 of nothing.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let below = place as usize;
    let part = place - below as f64;
    (1.0 - part) * sorted[below] + part * sorted[(below + 1).min(last)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_have_their_errors() {
        let mut moments = Moments::default();
        assert_eq!(moments.mean(), Estimate::default());
        [1.0, 2.0, 3.0, 6.0].into_iter().for_each(|v| moments.add(v));
        let mean = moments.mean();
        // The variance is 3.5, and three degrees of freedom are left.
        assert!((mean.value - 3.0).abs() < 1e-12 && (mean.error - (3.5_f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!((mean.exp().error - 3_f64.exp() * mean.error).abs() < 1e-12);
        assert!((covariance(&moments, &moments, moments.squares) - mean.error.powi(2)).abs() < 1e-12);
        let root = mean.sqrt();
        assert!((root.value.powi(2) - 3.0).abs() < 1e-12 && (2.0 * root.value * root.error - mean.error).abs() < 1e-12);
        assert_eq!(mean.scaled(-2.0), Estimate { value: -6.0, error: 2.0 * mean.error });
    }

    #[test]
    fn percentiles_lie_between_values() {
        let sorted = [0.0, 1.0, 4.0];
        let found = [0.0, 0.25, 0.5, 0.75, 1.0].map(|share| percentile(&sorted, share));
        assert_eq!(found, [0.0, 0.5, 1.0, 2.5, 4.0]);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
