//! Where the thought of an answer begins and ends, in tokens: what the scope `think` goes by.

use super::sequence::Sequence;
use crate::chat::{ThoughtScanner, ThoughtTag, ThoughtTags};
use crate::model::Model;
use std::sync::Arc;

/// The thought tags of a model whose chat template has some.
pub(super) struct Thoughts {
    model: Arc<Model>,
    tags: ThoughtTags,
}

impl Thoughts {
    pub fn of(model: &Arc<Model>) -> Option<Self> {
        model.thought_tags().map(|tags| Self { model: model.clone(), tags })
    }

    /// What follows an answer of a sequence.
    pub fn scanner(&self) -> ThoughtScanner {
        ThoughtScanner::new(self.tags.clone(), false)
    }

    /// Makes `tokens` the prompt that a sequence is about to get: whether it ends in an opened thought, and where.
    pub fn begin(&self, sequence: &mut Sequence, tokens: &[u32]) {
        let bytes = |token: &u32| self.model.tokenizer().token_bytes(*token).unwrap_or_default();
        let opened = self.tags.opened_by_tokens(tokens.iter().map(bytes));
        sequence.origins.thought = opened.map_or((0, 0), |from| (from as u32, u32::MAX));
        if let Some(scanner) = &mut sequence.scanner {
            scanner.restart(opened.is_some());
        }
    }

    /// Takes up the answer of a sequence that came from a file, behind the last tag on its record.
    pub fn resume(&self, sequence: &mut Sequence) {
        let Some(scanner) = &mut sequence.scanner else { return };
        let (from, until) = sequence.origins.thought;
        let open = until == u32::MAX;
        let last = if open { from.saturating_add(1) } else { until };
        let behind = last.max(sequence.origins.generation) as usize;
        scanner.restart(open);
        let tokenizer = self.model.tokenizer();
        for token in sequence.tokens.iter().skip(behind.saturating_sub(sequence.forgotten)) {
            scanner.push(tokenizer.token_bytes(*token).unwrap_or_default(), tokenizer.is_control(*token));
        }
    }

    /// Records what the last token of a sequence, just drawn, opens or closes.
    pub fn drawn(&self, sequence: &mut Sequence) {
        let (Some(scanner), Some(token)) = (&mut sequence.scanner, sequence.tokens.last()) else { return };
        let tokenizer = self.model.tokenizer();
        let bytes = tokenizer.token_bytes(*token).unwrap_or_default();
        let position = (sequence.forgotten + sequence.tokens.len()) as u32 - 1;
        let thought = &mut sequence.origins.thought;
        match scanner.push(bytes, tokenizer.is_control(*token)) {
            Some(ThoughtTag::Open) => *thought = (position, u32::MAX),
            Some(ThoughtTag::Close) => thought.1 = position + 1,
            None => {}
        }
    }
}
