//! Stages that change how likely candidates are.

use super::candidates::Candidates;

/// Divides the logits by `temperature`, with the highest as 0; at 0 the likeliest stays alone.
pub(super) fn scale(candidates: &mut Candidates, temperature: f32) {
    let Some(best) = candidates.best() else { return };
    if temperature <= 0.0 {
        candidates.keep_best(1);
        return;
    }
    // Taking the highest away first changes no probability, and nothing overflows.
    candidates.list.iter_mut().for_each(|c| c.logit = ((c.logit - best) / temperature).max(f32::MIN));
}

/// The temperature that entropy asks for: `temperature` ± `range`, at the lower end where one candidate is certain
/// and at the upper where all are equal.
pub(super) fn dynamic(candidates: &mut Candidates, temperature: f32, range: f32, exponent: f32) -> f32 {
    let count = candidates.list.len();
    if range <= 0.0 {
        return temperature;
    }
    if count <= 1 {
        return 1.0;
    }
    candidates.softmax();
    let normalized = (candidates.entropy() / (count as f32).ln()).clamp(0.0, 1.0);
    let least = (temperature - range).max(0.0);
    least + (temperature + range - least) * normalized.powf(exponent)
}

/// Mirostat 2.0 (Basu et al. 2021): keeps surprise near a target by moving a limit on it.
#[derive(Debug)]
pub(super) struct Mirostat {
    tau: f32,
    eta: f32,
    /// The limit, in bits.
    mu: f32,
}

impl Mirostat {
    pub fn new(tau: f32, eta: f32) -> Self {
        Self { tau, eta, mu: 2.0 * tau }
    }

    /// Keeps the candidates whose surprise is within the limit, or else the likeliest.
    pub fn limit(&self, candidates: &mut Candidates) {
        candidates.softmax();
        let within = |p: f32| -p.log2() <= self.mu;
        if candidates.list.iter().any(|c| within(c.p)) {
            candidates.retain(|c| within(c.p));
            candidates.sort();
        } else {
            candidates.keep_best(1);
        }
    }

    /// Moves the limit by the surprise of the drawn token, whose probability among those kept is `p`.
    pub fn learn(&mut self, p: f32) {
        self.mu -= self.eta * (-p.log2() - self.tau);
    }
}
