//! One timeline: its tokens, what of them is in the cache, and the openings they were computed with.

use super::openings::Openings;
use super::session::{Cancel, Overflow};
use crate::backend::PageId;
use crate::chat::ThoughtScanner;
use crate::error::Error;
use crate::kv::PAGE_LEN;
use crate::sampler::{Drawn, Sampler};
use crate::valve::{Adapter, Origins, Part, Setting};
use std::collections::VecDeque;
use std::sync::Arc;

/// A sequence of tokens and its place in the cache.
#[derive(Debug)]
pub(super) struct Sequence {
    pub tokens: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    pub computed: usize,
    /// Of every computed token: the openings as used, not as planned.
    pub used: Openings,
    pub origins: Origins,
    /// Openings of the first positions, computed or not, where they are settled already: what was computed before a
    /// part of the timeline was forgotten is computed again as it was.
    pub settled: Openings,
    /// Tokens that were forgotten to make room: how much older the timeline is than its positions say.
    pub forgotten: usize,
    pub overflow: Overflow,
    /// Follows the answer; none if the model's chat template knows no thought.
    pub scanner: Option<ThoughtScanner>,
    pub pages: Vec<PageId>,
    /// How many of the pages, from the first on, can be found by other sequences.
    pub published: usize,
    /// Whether the pages after those must not be found: they came from a file, which may lie.
    pub private: bool,
    /// One for each attached adapter, in the order of their slots.
    turns: Vec<Turn>,
    pub sampler: Option<Sampler>,
    /// Whether its owner waits for a token.
    pub wanted: bool,
    /// Tokens drawn and not yet fetched.
    pub mailbox: VecDeque<Drawn>,
    /// Why it cannot go on, until its owner hears it.
    pub failed: Option<Error>,
    pub cancel: Cancel,
}

/// How one adapter is turned.
#[derive(Debug)]
struct Turn {
    setting: Setting,
    /// For each slot of the adapter, which of the setting's dials turns it.
    choices: Vec<usize>,
}

impl Turn {
    fn new(setting: Setting, parts: &[Part]) -> Self {
        Self { choices: setting.choices(parts), setting }
    }
}

impl Sequence {
    /// An empty timeline, closed for all `adapters`, that never reallocates below `context` tokens.
    pub fn new(adapters: &[Arc<Adapter>], context: usize) -> Self {
        let closed = |adapter: &Arc<Adapter>| Turn::new(Setting::default(), adapter.parts());
        let slots = adapters.iter().map(|adapter| adapter.parts().len()).sum();
        Self {
            tokens: Vec::with_capacity(context + 1),
            computed: 0,
            used: Openings::new(slots, context),
            origins: Origins::default(),
            settled: Openings::new(slots, 0),
            forgotten: 0,
            overflow: Overflow::default(),
            published: 0,
            private: false,
            scanner: None,
            pages: Vec::with_capacity(crate::kv::Pages::needed(context)),
            turns: adapters.iter().map(closed).collect(),
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

    /// Turns the adapter `index`, whose parts are `parts`.
    pub fn turn(&mut self, index: usize, parts: &[Part], setting: Setting) {
        self.turns[index] = Turn::new(setting, parts);
    }

    /// Adds to `row` the openings, one a slot, that are settled for `position`, or else those that the settings
    /// propose; `alphas` is room to work in.
    pub fn propose(&self, position: usize, alphas: &mut Vec<f32>, row: &mut Vec<f32>) {
        if position < self.settled.len() {
            row.extend_from_slice(self.settled.row(position));
            return;
        }
        for Turn { setting, choices } in &self.turns {
            setting.openings((position + self.forgotten) as u32, self.origins, alphas);
            row.extend(choices.iter().map(|choice| alphas[*choice]));
        }
    }

    /// Makes room for one more adapter, closed for all that is computed.
    pub fn add_adapter(&mut self, adapter: &Adapter) {
        self.turns.push(Turn::new(Setting::default(), adapter.parts()));
        self.used.add_slots(adapter.parts().len());
        self.settled.add_slots(adapter.parts().len());
    }

    /// The openings of `position` as used, or as settled for when it is computed.
    pub fn known_row(&self, position: usize) -> Option<&[f32]> {
        let record = [&self.used, &self.settled].into_iter().find(|record| position < record.len());
        record.map(|record| record.row(position))
    }

    /// Counts the first `positions` tokens as computed, as the settings propose.
    pub fn found(&mut self, positions: usize) {
        let (mut alphas, mut row) = (Vec::new(), Vec::new());
        for position in self.used.len()..positions {
            row.clear();
            self.propose(position, &mut alphas, &mut row);
            self.used.push(&row);
        }
        self.computed = positions;
    }

    /// Counts no more than the first `positions` tokens as computed.
    pub fn keep(&mut self, positions: usize) {
        self.computed = positions;
        self.used.truncate(positions);
        self.published = self.published.min(positions / PAGE_LEN);
        self.private &= positions > self.published * PAGE_LEN;
    }

    /// Forgets the `count` tokens after the first `keep`; what follows them is to be computed again, with the
    /// openings it had.
    pub fn forget_middle(&mut self, keep: usize, count: usize) {
        let mut settled = Openings::new(self.used.slots(), self.tokens.len());
        let rest = keep + count..self.used.len().max(self.settled.len());
        (0..keep).chain(rest).filter_map(|position| self.known_row(position)).for_each(|row| settled.push(row));
        self.settled = settled;
        self.tokens.drain(keep..keep + count);
        self.forgotten += count;
    }

    /// Makes the timeline `tokens`, all of them prompt, and keeps of the cache the longest prefix that has the
    /// same tokens, computed with the openings the settings now propose. At least the last token is computed
    /// anew, for its logits.
    pub fn replace(&mut self, tokens: &[u32]) {
        self.origins.generation = tokens.len() as u32;
        self.settled.truncate(0);
        self.forgotten = 0;
        let limit = self.computed.min(tokens.len().saturating_sub(1));
        let (mut alphas, mut row) = (Vec::new(), Vec::new());
        let same = |i: &usize| {
            row.clear();
            self.propose(*i, &mut alphas, &mut row);
            tokens[*i] == self.tokens[*i] && self.used.row(*i) == row
        };
        let same = (0..limit).take_while(same).count();
        self.keep(same);
        self.tokens.clear();
        self.tokens.extend_from_slice(tokens);
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::valve::{Dial, Group, Scope, Selector};

    const PARTS: [Part; 2] =
        [Part { layer: Some(0), group: Group::Attention }, Part { layer: Some(1), group: Group::Mlp }];

    /// A sequence with one adapter of two parts.
    fn sequence(setting: Setting) -> Sequence {
        let mut s = Sequence::new(&[], 64);
        s.turns.push(Turn::new(setting, &PARTS));
        s.used.add_slots(PARTS.len());
        s
    }

    /// As if every token had been computed with the settings' openings.
    fn compute_all(s: &mut Sequence) {
        for position in s.computed..s.tokens.len() {
            let mut row = Vec::new();
            s.propose(position, &mut Vec::new(), &mut row);
            s.used.push(&row);
        }
        s.computed = s.tokens.len();
    }

    fn constant(alpha: f32, scope: Scope) -> Setting {
        Setting::uniform(Dial::constant(alpha).unwrap(), scope)
    }

    fn used(s: &Sequence) -> Vec<&[f32]> {
        (0..s.used.len()).map(|i| s.used.row(i)).collect()
    }

    #[test]
    fn a_prefix_is_kept_when_tokens_and_openings_agree() {
        let mut s = sequence(constant(0.5, Scope::All));
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
        let mut s = sequence(constant(-0.0, Scope::All));
        s.replace(&[1, 2, 3]);
        compute_all(&mut s);
        s.turn(0, &PARTS, constant(0.0, Scope::All));
        s.replace(&[1, 2, 3, 4]);
        assert_eq!(s.computed, 3);
        s.turn(0, &PARTS, constant(0.25, Scope::All));
        s.replace(&[1, 2, 3, 4]);
        assert_eq!(s.computed, 0);
    }

    #[test]
    fn a_turn_of_one_part_keeps_only_what_that_part_had_alike() {
        let steps = |steps: &[(u32, f32)]| Dial::steps(steps.to_vec()).unwrap();
        let with = |dial| Setting { parts: vec![(Selector::group(Group::Mlp), dial)], ..constant(1.0, Scope::All) };
        let mut s = sequence(with(steps(&[(0, 0.5), (2, 2.0)])));
        s.replace(&[1, 2, 3, 4]);
        compute_all(&mut s);
        assert_eq!(used(&s), [[1.0, 0.5], [1.0, 0.5], [1.0, 2.0], [1.0, 2.0]]);
        s.turn(0, &PARTS, with(steps(&[(0, 0.5), (3, 2.0)])));
        s.replace(&[1, 2, 3, 4]);
        assert_eq!(s.computed, 2, "token 2 is to be computed at 0.5");
        compute_all(&mut s);
        s.turn(0, &PARTS, constant(1.0, Scope::All));
        s.replace(&[1, 2, 3, 4]);
        assert_eq!(s.computed, 0);
    }

    #[test]
    fn with_scope_generation_prompts_share_the_closed_prefix() {
        let mut s = sequence(constant(1.0, Scope::Generation));
        s.replace(&[1, 2, 3]);
        s.tokens.extend([4, 5]);
        compute_all(&mut s);
        assert_eq!(used(&s), [[0.0; 2], [0.0; 2], [0.0; 2], [1.0; 2], [1.0; 2]]);
        s.turn(0, &PARTS, constant(0.3, Scope::Generation));
        s.replace(&[1, 2, 3, 4, 5, 6]);
        assert_eq!(s.computed, 3, "what was generated open is prompt now, and prompts are closed");
    }

    #[test]
    fn an_adapter_added_later_was_closed_before() {
        let mut s = sequence(constant(1.0, Scope::All));
        s.replace(&[1, 2, 3]);
        compute_all(&mut s);
        s.turns.push(Turn::new(Setting::default(), &PARTS[..1]));
        s.used.add_slots(1);
        assert_eq!(used(&s), [[1.0, 1.0, 0.0]; 3]);
        s.replace(&[1, 2, 3, 4]);
        assert_eq!(s.computed, 3);
    }
}
