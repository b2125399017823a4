//! Stands for `grammar` in a build without that feature: no sampler can follow a grammar.

use super::settings::Sampling;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// What the samplers of one tokenizer share.
#[derive(Debug, Default)]
pub struct Grammars(());

impl Grammars {
    /// # Errors
    /// [`Error::Argument`] if a grammar is asked for.
    pub(super) fn matcher(&self, sampling: &Sampling, _tokenizer: &Tokenizer) -> Result<Option<Matcher>> {
        match sampling.grammar {
            None => Ok(None),
            Some(_) => Err(Error::argument("grammar", "this build is without the feature `grammar`")),
        }
    }
}

/// There is none.
#[derive(Debug)]
pub(super) enum Matcher {}

impl Matcher {
    pub fn mask(&mut self, _logits: &mut [f32]) -> Result<()> {
        match *self {}
    }

    pub fn accept(&mut self, _token: u32) -> Result<()> {
        match *self {}
    }
}
