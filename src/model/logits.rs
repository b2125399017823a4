//! What a step leaves of the rows that are asked for.

use crate::backend::Likely;

/// The logits of the rows in [`crate::backend::Batch::outputs`], or the likeliest of their tokens alone.
#[derive(Debug, Default)]
pub struct Logits {
    /// How many of the likeliest tokens of a row are enough; 0 asks for every logit.
    pub enough: usize,
    /// `[outputs, vocab]`; empty where the likeliest were found instead.
    pub all: Vec<f32>,
    /// `[outputs, enough]`, by falling logit; empty unless so many are enough and the backend found them.
    pub likeliest: Vec<Likely>,
}

impl Logits {
    /// Asks for every logit.
    pub fn every() -> Self {
        Self::default()
    }
}
