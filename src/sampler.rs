//! Logits to a token.
//!
//! The steps run in llama.cpp's order: top-k, top-p, min-p, then temperature, then one draw.

use crate::error::{Error, Result};
use crate::rng::Rng;

/// How the next token is drawn. The defaults are llama.cpp's.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token, whatever the other fields say.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the fewest most likely tokens whose probabilities sum to at least this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this fraction as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Same seed, same text.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, seed: 0 }
    }
}

impl Sampling {
    /// The most likely token every time.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// # Errors
    /// [`Error::Argument`] naming the field that is out of range.
    pub fn check(&self) -> Result<()> {
        let range = |name, value: f32, top: f32| {
            if (0.0..=top).contains(&value) {
                Ok(())
            } else {
                Err(Error::argument(name, format!("{value} is not between 0 and {top}")))
            }
        };
        range("temperature", self.temperature, 1e6)?;
        range("top_p", self.top_p, 1.0)?;
        range("min_p", self.min_p, 1.0)
    }
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    logit: f32,
    token: u32,
}

/// A sampler of one sequence: its settings, its generator and room to work in.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: Rng,
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// # Errors
    /// Those of [`Sampling::check`].
    pub fn new(sampling: Sampling, vocab: usize) -> Result<Self> {
        sampling.check()?;
        let rng = Rng::new(sampling.seed);
        Ok(Self { sampling, rng, candidates: Vec::with_capacity(vocab) })
    }

    /// The next token. NaN counts as impossible; equal logits favour the lower id.
    pub fn next(&mut self, logits: &[f32]) -> u32 {
        if self.sampling.temperature == 0.0 {
            return argmax(logits);
        }
        self.candidates.clear();
        let possible = logits.iter().zip(0..).filter(|(l, _)| **l > f32::NEG_INFINITY);
        self.candidates.extend(possible.map(|(logit, token)| Candidate { logit: *logit, token }));
        self.keep_top_k();
        let Some(best) = self.candidates.first().filter(|c| c.logit.is_finite()) else {
            return argmax(logits);
        };
        let best = best.logit;
        self.keep_top_p(best);
        self.keep_min_p(best);
        self.draw(best)
    }

    /// Sorts by falling logit and keeps the first k.
    fn keep_top_k(&mut self) {
        let order = |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token));
        let k = self.sampling.top_k;
        if k > 0 && k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, order);
            self.candidates.truncate(k);
        }
        self.candidates.sort_unstable_by(order);
    }

    fn keep_top_p(&mut self, best: f32) {
        if self.sampling.top_p >= 1.0 {
            return;
        }
        let total: f32 = self.candidates.iter().map(|c| (c.logit - best).exp()).sum();
        let mut sum = 0.0;
        let enough = self.candidates.iter().position(|c| {
            sum += (c.logit - best).exp() / total;
            sum >= self.sampling.top_p
        });
        self.candidates.truncate(enough.map_or(self.candidates.len(), |i| i + 1));
    }

    fn keep_min_p(&mut self, best: f32) {
        let least = best + self.sampling.min_p.ln();
        let kept = self.candidates.partition_point(|c| c.logit >= least);
        self.candidates.truncate(kept.max(1));
    }

    fn draw(&mut self, best: f32) -> u32 {
        let weight = |c: &Candidate| ((c.logit - best) / self.sampling.temperature).exp();
        let total: f32 = self.candidates.iter().map(weight).sum();
        let mut left = self.rng.uniform() * total;
        for c in &self.candidates {
            left -= weight(c);
            if left < 0.0 {
                return c.token;
            }
        }
        self.candidates[self.candidates.len() - 1].token
    }
}

/// The index of the largest logit, the first of equals; NaN never wins.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (logit, token) in logits.iter().zip(0..) {
        if *logit > best.0 {
            best = (*logit, token);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(sampling: Sampling, logits: &[f32]) -> Vec<f32> {
        let mut sampler = Sampler::new(sampling, logits.len()).unwrap();
        let mut counts = vec![0.0; logits.len()];
        let draws = 20_000;
        (0..draws).for_each(|_| counts[sampler.next(logits) as usize] += 1.0 / draws as f32);
        counts
    }

    fn open() -> Sampling {
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 7 }
    }

    #[test]
    fn draws_follow_the_softmax() {
        let p = [0.5f32, 0.25, 0.15, 0.1];
        let logits = p.map(f32::ln);
        for (share, p) in shares(open(), &logits).iter().zip(p) {
            assert!((share - p).abs() < 0.015, "{share} for {p}");
        }
    }

    #[test]
    fn temperature_sharpens() {
        let logits = [0.8f32.ln(), 0.2f32.ln()];
        let share = shares(Sampling { temperature: 0.5, ..open() }, &logits)[0];
        assert!((share - 0.64 / 0.68).abs() < 0.015, "{share}");
    }

    #[test]
    fn each_filter_cuts_where_it_says() {
        let logits = [0.1f32, 0.5, 0.15, 0.25].map(f32::ln);
        let kept = |s| shares(s, &logits).iter().map(|p| *p > 0.0).collect::<Vec<_>>();
        assert_eq!(kept(Sampling { top_k: 2, ..open() }), [false, true, false, true]);
        assert_eq!(kept(Sampling { top_p: 0.76, ..open() }), [false, true, true, true]);
        assert_eq!(kept(Sampling { top_p: 0.7, ..open() }), [false, true, false, true]);
        assert_eq!(kept(Sampling { min_p: 0.4, ..open() }), [false, true, false, true]);
        assert_eq!(kept(Sampling { min_p: 1.0, ..open() }), [false, true, false, false]);
    }

    #[test]
    fn the_seed_decides() {
        let logits: Vec<f32> = (0..100).map(|i| (i % 17) as f32 / 4.0).collect();
        let text = |seed| {
            let mut sampler = Sampler::new(Sampling { seed, ..Sampling::default() }, 100).unwrap();
            (0..50).map(|_| sampler.next(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(text(3), text(3));
        assert_ne!(text(3), text(4));
    }

    #[test]
    fn strange_logits_give_a_token() {
        let strange = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0];
        for sampling in [Sampling::greedy(), Sampling::default()] {
            let mut sampler = Sampler::new(sampling, 4).unwrap();
            assert_eq!(sampler.next(&strange), 1);
            assert_eq!(sampler.next(&[f32::NAN; 4]), 0);
            assert_eq!(sampler.next(&[f32::NEG_INFINITY, 2.0, f32::NAN, f32::NAN]), 1);
        }
        assert_eq!(argmax(&[1.0, 2.0, 2.0, f32::NAN]), 1);
    }

    #[test]
    fn out_of_range_settings_are_named() {
        let bad = Sampling { top_p: 1.5, ..Sampling::default() };
        assert_eq!(bad.check().unwrap_err().to_string(), "top_p: 1.5 is not between 0 and 1");
        assert!(Sampling { temperature: f32::NAN, ..Sampling::default() }.check().is_err());
    }
}
