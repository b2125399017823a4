//! Penalties on tokens that occur in the last part of the timeline.

use super::settings::Sampling;

/// Room that is set aside for recent tokens at once; more is taken when it is first needed.
const ROOM: usize = 4096;

/// Counts recent tokens.
#[derive(Debug, Default)]
pub(super) struct Penalties {
    recent: Vec<u32>,
}

impl Penalties {
    pub fn new(sampling: &Sampling) -> Self {
        let room = if sampling.has_penalties() { sampling.repeat_last_n.min(ROOM) } else { 0 };
        Self { recent: Vec::with_capacity(room) }
    }

    /// Lowers the logits of the last tokens of `timeline`: by the repeat penalty (Keskar et al. 2019, with negative
    /// logits multiplied), and by OpenAI's frequency and presence penalties.
    pub fn apply(&mut self, logits: &mut [f32], timeline: &[u32], sampling: &Sampling) {
        if !sampling.has_penalties() {
            return;
        }
        let from = timeline.len().saturating_sub(sampling.repeat_last_n);
        self.recent.clear();
        self.recent.extend_from_slice(&timeline[from..]);
        self.recent.sort_unstable();
        for run in self.recent.chunk_by(|a, b| a == b) {
            let Some(logit) = logits.get_mut(run[0] as usize) else { continue };
            if *logit <= 0.0 {
                *logit *= sampling.repeat_penalty;
            } else {
                *logit /= sampling.repeat_penalty;
            }
            *logit -= run.len() as f32 * sampling.frequency_penalty + sampling.presence_penalty;
        }
    }
}
