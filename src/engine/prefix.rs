//! What of a timeline is in the cache already, and what becomes of it when the timeline changes.

use super::core::{Core, SequenceId};
use super::sequence::Sequence;
use super::session::Overflow;
use crate::backend::PageId;
use crate::error::{Error, Result};
use crate::kv::{Block, Entry, Fingerprints, PAGE_LEN, Pages};
use std::borrow::Cow;

impl Core {
    /// Makes the timeline of `id` the prompt `tokens`; returns how many of them are in the cache already: in the
    /// sequence's own prefix, or in pages that can be found, whichever reaches further.
    pub fn prompt(&mut self, id: SequenceId, tokens: &[u32]) -> Result<usize> {
        if tokens.is_empty() {
            return Err(Error::argument("prompt", "it has no tokens"));
        }
        tokens.iter().try_for_each(|token| self.check_token(*token))?;
        let tokens = shortened(tokens, self.sequence(id).overflow, self.limits.context)?;
        let Self { sequences, pages, prints, thoughts, .. } = self;
        let s = sequences[id].as_mut().expect("a session outlived its sequence");
        if let Some(thoughts) = thoughts {
            thoughts.begin(s, &tokens);
        }
        s.replace(&tokens);
        let found = find(s, pages, prints);
        if found.len() * PAGE_LEN > s.computed {
            pages.adopt(&mut s.pages, &found);
            // At least the last token is computed anew, for its logits.
            s.found((found.len() * PAGE_LEN).min(tokens.len() - 1));
            (s.published, s.private) = (found.len(), false);
        }
        let kept = s.computed;
        self.cut(id, kept)?;
        Ok(self.sequence(id).computed)
    }

    /// Forgets what `id` has in the cache from `positions` on, so that the next may be written. Less may stay where
    /// there is no page for a copy.
    ///
    /// # Errors
    /// A device's; whole pages are then left.
    fn cut(&mut self, id: SequenceId, positions: usize) -> Result<()> {
        let Self { sequences, pages, stage, .. } = self;
        let s = sequences[id].as_mut().expect("a session outlived its sequence");
        let cut = pages.cut(&mut s.pages, positions);
        s.keep(cut.kept);
        let copied = cut.copy.map_or(Ok(()), |(from, to)| stage.copy_page(from, to));
        if copied.is_err() {
            let whole = cut.kept / PAGE_LEN;
            pages.shrink(&mut s.pages, whole);
            s.keep(whole * PAGE_LEN);
        }
        copied
    }

    /// Makes room in the sequences that wait and have outgrown the context, where they are set to go on without a
    /// part of their tokens.
    pub(super) fn shift_full(&mut self) {
        for id in 0..self.sequences.len() {
            let context = self.limits.context;
            let Some(s) = self.sequences[id].as_mut().filter(|s| s.wanted && s.tokens.len() > context) else {
                continue;
            };
            let Overflow::Shift { keep } = s.overflow else { continue };
            let keep = keep.unwrap_or(s.origins.generation as usize);
            // A prompt that fills the context leaves nothing to forget: that is then the error of the step.
            if keep >= context {
                continue;
            }
            s.forget_middle(keep, (s.tokens.len() - keep) / 2);
            if let Err(error) = self.cut(id, keep) {
                self.sequence(id).fail(error);
            }
        }
    }
}

/// A prompt that fits the context.
fn shortened(tokens: &[u32], overflow: Overflow, context: usize) -> Result<Cow<'_, [u32]>> {
    if tokens.len() <= context {
        return Ok(Cow::Borrowed(tokens));
    }
    match overflow {
        Overflow::Shift { keep: Some(keep) } if keep < context => {
            let last = (context - keep).div_ceil(2);
            Ok(Cow::Owned([&tokens[..keep], &tokens[tokens.len() - last..]].concat()))
        }
        _ => Err(Error::ContextFull { needed: tokens.len(), capacity: context }),
    }
}

/// The pages that hold a timeline from its start on, computed as its settings propose; none if its own prefix
/// reaches as far as any page could.
fn find(s: &Sequence, pages: &Pages, prints: &mut Fingerprints) -> Vec<PageId> {
    let whole = s.tokens.len() / PAGE_LEN;
    if s.computed >= whole * PAGE_LEN {
        return Vec::new();
    }
    let (mut alphas, mut row) = (Vec::new(), Vec::new());
    pages.find((0..whole).map(|page| {
        std::array::from_fn(|i| {
            let position = page * PAGE_LEN + i;
            row.clear();
            s.propose(position, &mut alphas, &mut row);
            Entry { token: s.tokens[position], openings: prints.of(&row) }
        })
    }))
}

/// Makes the pages that a sequence has filled known by what they hold.
pub(super) fn publish(s: &mut Sequence, pages: &mut Pages, prints: &mut Fingerprints) {
    while !s.private && (s.published + 1) * PAGE_LEN <= s.computed {
        let block: Block = std::array::from_fn(|i| {
            let position = s.published * PAGE_LEN + i;
            Entry { token: s.tokens[position], openings: prints.of(s.used.row(position)) }
        });
        if pages.publish(&mut s.pages, s.published, &block) {
            s.published += 1;
        } else {
            s.private = true;
        }
    }
}
