//! One timeline: its tokens, what of them is in the cache, and the openings they were computed with.

use super::session::Cancel;
use crate::backend::PageId;
use crate::error::Error;
use crate::sampler::{Drawn, Sampler};
use crate::valve::Setting;
use std::collections::VecDeque;

/// A sequence of tokens and its place in the cache.
#[derive(Debug)]
pub(super) struct Sequence {
    pub tokens: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    pub computed: usize,
    /// `[computed, slots]`: the openings as used, not as planned.
    pub used: Vec<f32>,
    /// How many tokens the prompt had: where the scope `generation` starts.
    pub generated_from: u32,
    pub pages: Vec<PageId>,
    /// One for each slot.
    pub settings: Vec<Setting>,
    pub sampler: Option<Sampler>,
    /// Whether its owner waits for a token.
    pub wanted: bool,
    /// Tokens drawn and not yet fetched.
    pub mailbox: VecDeque<Drawn>,
    /// Why it cannot go on, until its owner hears it.
    pub failed: Option<Error>,
    pub cancel: Cancel,
}

impl Sequence {
    /// An empty timeline that never reallocates below `context` tokens.
    pub fn new(slots: usize, context: usize) -> Self {
        Self {
            tokens: Vec::with_capacity(context + 1),
            computed: 0,
            used: Vec::with_capacity(context * slots),
            generated_from: 0,
            pages: Vec::with_capacity(crate::kv::Pages::needed(context)),
            settings: vec![Setting::default(); slots],
            sampler: None,
            wanted: false,
            mailbox: VecDeque::with_capacity(4),
            failed: None,
            cancel: Cancel::default(),
        }
    }

    /// Tokens whose rows must still be computed.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Stops waiting; the owner will hear why. The other sequences go on.
    pub fn fail(&mut self, error: Error) {
        self.wanted = false;
        self.failed = Some(error);
    }

    /// Takes back what a generation left that ended before its owner fetched all.
    pub fn forget(&mut self) {
        self.wanted = false;
        self.failed = None;
        self.mailbox.clear();
    }

    /// The opening of `slot` that the settings propose for `position`.
    pub fn proposed(&self, slot: usize, position: usize) -> f32 {
        self.settings[slot].opening(position as u32, self.generated_from)
    }

    /// Makes room for one more slot, closed for all that is computed.
    pub fn add_slot(&mut self) {
        let slots = self.settings.len();
        self.settings.push(Setting::default());
        let mut wider = Vec::with_capacity(self.tokens.capacity() * (slots + 1));
        for row in 0..self.computed {
            wider.extend_from_slice(&self.used[row * slots..][..slots]);
            wider.push(0.0);
        }
        self.used = wider;
    }

    /// Makes the timeline `tokens`, all of them prompt, and keeps of the cache the longest prefix that has the
    /// same tokens, computed with the openings the settings now propose. At least the last token is computed
    /// anew, for its logits.
    pub fn replace(&mut self, tokens: &[u32]) {
        self.generated_from = tokens.len() as u32;
        let slots = self.settings.len();
        let limit = self.computed.min(tokens.len().saturating_sub(1));
        let same = |i: &usize| {
            let opened = (0..slots).all(|slot| self.used[i * slots + slot] == self.proposed(slot, *i));
            tokens[*i] == self.tokens[*i] && opened
        };
        self.computed = (0..limit).take_while(same).count();
        self.used.truncate(self.computed * slots);
        self.tokens.clear();
        self.tokens.extend_from_slice(tokens);
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::valve::{Dial, Scope};

    /// As if every token had been computed with the settings' openings.
    fn compute_all(s: &mut Sequence) {
        for position in s.computed..s.tokens.len() {
            let row: Vec<f32> = (0..s.settings.len()).map(|slot| s.proposed(slot, position)).collect();
            s.used.extend(row);
        }
        s.computed = s.tokens.len();
    }

    fn constant(alpha: f32, scope: Scope) -> Setting {
        Setting { dial: Dial::constant(alpha).unwrap(), scope }
    }

    #[test]
    fn a_prefix_is_kept_when_tokens_and_openings_agree() {
        let mut s = Sequence::new(1, 64);
        s.settings[0] = constant(0.5, Scope::All);
        s.replace(&[1, 2, 3, 4]);
        compute_all(&mut s);
        s.replace(&[1, 2, 9, 4, 5]);
        assert_eq!((s.computed, s.pending()), (2, 3));
        compute_all(&mut s);
        s.replace(&[1, 2, 9, 4, 5]);
        assert_eq!(s.computed, 4, "the last token is computed again");
    }

    #[test]
    fn another_opening_keeps_nothing_and_signed_zeros_are_one() {
        let mut s = Sequence::new(1, 64);
        s.settings[0] = constant(-0.0, Scope::All);
        s.replace(&[1, 2, 3]);
        compute_all(&mut s);
        s.settings[0] = constant(0.0, Scope::All);
        s.replace(&[1, 2, 3, 4]);
        assert_eq!(s.computed, 3);
        s.settings[0] = constant(0.25, Scope::All);
        s.replace(&[1, 2, 3, 4]);
        assert_eq!(s.computed, 0);
    }

    #[test]
    fn with_scope_generation_prompts_share_the_closed_prefix() {
        let mut s = Sequence::new(1, 64);
        s.settings[0] = constant(1.0, Scope::Generation);
        s.replace(&[1, 2, 3]);
        s.tokens.extend([4, 5]);
        compute_all(&mut s);
        assert_eq!(s.used, [0.0, 0.0, 0.0, 1.0, 1.0]);
        s.settings[0] = constant(0.3, Scope::Generation);
        s.replace(&[1, 2, 3, 4, 5, 6]);
        assert_eq!(s.computed, 3, "what was generated open is prompt now, and prompts are closed");
    }

    #[test]
    fn a_slot_added_later_was_closed_before() {
        let mut s = Sequence::new(1, 64);
        s.settings[0] = constant(1.0, Scope::All);
        s.replace(&[1, 2, 3]);
        compute_all(&mut s);
        s.add_slot();
        assert_eq!(s.used, [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
        s.replace(&[1, 2, 3, 4]);
        assert_eq!(s.computed, 3);
    }
}
