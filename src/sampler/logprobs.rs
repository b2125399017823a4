//! Log-probabilities of the model's own distribution.

use super::candidates::Candidates;

/// How likely the model found the drawn token, and the likeliest, before any stage of the sampler.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Natural logarithm of the drawn token's probability; −∞ if it was impossible.
    pub token: f32,
    /// The likeliest tokens with theirs, the likeliest first.
    pub top: Vec<(u32, f32)>,
}

impl Logprobs {
    pub(super) fn new(logits: &[f32], token: u32, top: usize) -> Self {
        let total = log_sum_exp(logits);
        let logprob = |logit: f32| match (f64::from(logit.min(f32::MAX)) - total) as f32 {
            value if value.is_nan() || logit.is_nan() => f32::NEG_INFINITY,
            value => value,
        };
        let mut likeliest = Candidates::default();
        if top > 0 {
            likeliest.collect(logits, f32::NEG_INFINITY, top.min(logits.len()));
        }
        let top = likeliest.list.iter().map(|c| (c.token, logprob(c.logit))).collect();
        Self { token: logits.get(token as usize).map_or(f32::NEG_INFINITY, |l| logprob(*l)), top }
    }
}

/// ln Σ exp(logit) over the possible tokens.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let possible = || logits.iter().filter(|l| **l > f32::NEG_INFINITY).map(|l| l.min(f32::MAX));
    let best = possible().fold(f32::NEG_INFINITY, f32::max);
    f64::from(best) + possible().map(|l| f64::from((l - best).exp())).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_logarithms_of_the_softmax() {
        let p = [0.1f32, 0.5, 0.15, 0.25];
        let logits = p.map(|p| p.ln() + 3.0);
        let found = Logprobs::new(&logits, 2, 3);
        let near = |a: f32, b: f32| (a - b).abs() < 1e-6;
        assert!(near(found.token, p[2].ln()), "{found:?}");
        assert_eq!(found.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3, 2]);
        assert!(found.top.iter().all(|(t, l)| near(*l, p[*t as usize].ln())), "{found:?}");
        assert_eq!(Logprobs::new(&logits, 0, 0).top, []);
        assert_eq!(Logprobs::new(&logits, 0, 99).top.len(), 4);
    }

    #[test]
    fn strange_logits_give_numbers() {
        for logits in [[f32::NAN; 3], [f32::NEG_INFINITY; 3], [f32::INFINITY, 1.0, f32::NAN]] {
            for token in 0..3 {
                let found = Logprobs::new(&logits, token, 2);
                assert!(!found.token.is_nan() && found.top.iter().all(|t| !t.1.is_nan()), "{logits:?} {found:?}");
            }
        }
    }
}
