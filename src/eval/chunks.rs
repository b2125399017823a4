//! A text as it is read: in chunks, each from an empty cache.

use super::base_file::BaseFile;
use crate::error::{Error, Result};
use crate::model::Model;
use std::ops::Range;

/// How a text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Tokens of a chunk.
    pub context: usize,
    /// Tokens from the beginning of one chunk to that of the next, of which all are scored; without it chunks follow
    /// each other, and the second half of each is scored.
    pub stride: Option<usize>,
    /// Chunks at most.
    pub chunks: Option<usize>,
}

/// A text, cut.
#[derive(Clone, Debug)]
pub struct Chunks {
    tokens: Vec<u32>,
    context: usize,
    /// From the beginning of a chunk to that of the next.
    step: usize,
    /// The first position of a chunk whose prediction is scored. The last position's is not: what follows it is in
    /// the next chunk.
    first: usize,
    count: usize,
    /// What is read in place of a chunk's first token.
    bos: Option<u32>,
}

/// Fewest tokens of a chunk: one to read, one whose prediction is scored, one that it is scored by.
const CONTEXT_MIN: usize = 3;

impl Chunks {
    /// Cuts `text` as the model's tokenizer has it. A model that begins its texts with a token of its own reads that
    /// in place of every chunk's first; with strides only the text's own beginning has it, as in llama.cpp.
    ///
    /// # Errors
    /// [`Error::Argument`] for a `context` or `stride` out of range and a text of less than two chunks, with strides of
    /// one; [`Error::Unsupported`] for a model that ends its texts with a token of its own.
    pub fn new(model: &Model, text: &str, cut: Cut) -> Result<Self> {
        let Cut { context, stride, chunks } = cut;
        if context < CONTEXT_MIN {
            return Err(Error::argument("ctx-size", format!("{context} tokens; {CONTEXT_MIN} are the least")));
        }
        if let Some(stride) = stride.filter(|stride| *stride == 0 || *stride >= context) {
            return Err(Error::argument("ppl-stride", format!("{stride} is not between 0 and a chunk's {context}")));
        }
        if chunks == Some(0) {
            return Err(Error::argument("chunks", "must be at least 1"));
        }
        let (bos, eos) = model.tokenizer().added();
        if eos.is_some() {
            return Err(Error::unsupported(model.path(), "perplexity of a model that ends every text with a token"));
        }
        let tokens = model.tokenizer().encode(text, false, true)?;
        // With strides the last chunk begins before the text's last `context` tokens.
        let least = if stride.is_some() { context.saturating_add(1) } else { context.saturating_mul(2) };
        if tokens.len() < least {
            let reason = format!("{} tokens; {least} are the least for chunks of {context}", tokens.len());
            return Err(Error::argument("file", reason));
        }
        let (step, first, bos) = match stride {
            Some(stride) => (stride, context - stride - 1, None),
            None => (context, context / 2, bos),
        };
        let whole = match stride {
            Some(stride) => (tokens.len() - context).div_ceil(stride),
            None => tokens.len() / context,
        };
        let count = whole.min(chunks.unwrap_or(whole));
        Ok(Self { tokens, context, step, first, count, bos })
    }

    /// The chunks of a file of log-probabilities: all of its tokens.
    pub(super) fn of_base(tokens: Vec<u32>, context: usize) -> Self {
        let count = tokens.len() / context;
        Self { tokens, context, step: context, first: context / 2, count, bos: None }
    }

    /// The same text as `file` has it, read as `model` begins its texts.
    ///
    /// # Errors
    /// [`Error::Argument`] for `chunks` of 0; [`Error::Malformed`] if the file was made with another vocabulary.
    pub fn from_file(model: &Model, file: &BaseFile, chunks: Option<usize>) -> Result<Self> {
        file.check_vocab(model.config().vocab)?;
        if chunks == Some(0) {
            return Err(Error::argument("chunks", "must be at least 1"));
        }
        let (all, bos) = (file.chunks().clone(), model.tokenizer().added().0);
        Ok(Self { count: all.count.min(chunks.unwrap_or(all.count)), bos, ..all })
    }

    /// Tokens of a chunk.
    pub fn context(&self) -> usize {
        self.context
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether they overlap.
    pub fn is_strided(&self) -> bool {
        self.step != self.context
    }

    /// Tokens from the beginning of one chunk to that of the next.
    pub fn step(&self) -> usize {
        self.step
    }

    /// The positions of a chunk whose predictions are scored.
    pub fn scored(&self) -> Range<usize> {
        self.first..self.context - 1
    }

    /// The text's tokens in chunks that follow each other, as they are before any gives way to the model's own.
    pub fn read_tokens(&self) -> &[u32] {
        &self.tokens[..self.count * self.context]
    }

    /// What is read of a chunk: the positions that lead up to the scored ones, and those themselves.
    pub fn read(&self, chunk: usize) -> (Vec<u32>, &[u32]) {
        let tokens = &self.tokens[chunk * self.step..][..self.context - 1];
        let (lead, scored) = tokens.split_at(self.first.max(1));
        let mut lead = lead.to_vec();
        if let Some(bos) = self.bos {
            lead[0] = bos;
        }
        (lead, scored)
    }

    /// What each scored position should have predicted.
    pub fn targets(&self, chunk: usize) -> &[u32] {
        &self.tokens[chunk * self.step..][self.first + 1..self.context]
    }
}
