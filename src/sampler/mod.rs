//! Logits to a token.
//!
//! The stages and their order are those of [`Sampling`]. Given the same logits, timeline and seed they draw the same
//! token: nothing depends on time, threads or other sequences.

mod candidates;
mod dry;
mod fields;
mod filters;
#[cfg(feature = "grammar")]
mod gbnf;
#[cfg(feature = "grammar")]
mod grammar;
#[cfg(not(feature = "grammar"))]
#[path = "no_grammar.rs"]
mod grammar;
mod logprobs;
mod penalties;
mod settings;
mod stop;
mod temperature;

pub use fields::Field;
pub use grammar::Grammars;
pub use logprobs::Logprobs;
pub use settings::{Grammar, Sampling};
pub use stop::Stops;

use crate::backend::Likely;
use crate::error::{Error, Result};
use crate::rng::Rng;
use crate::tokenizer::Tokenizer;
use candidates::Candidates;
use dry::Dry;
use penalties::Penalties;
use temperature::Mirostat;

/// A drawn token.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    pub token: u32,
    /// Where [`Sampling::logprobs`] asks for them.
    pub logprobs: Option<Logprobs>,
}

/// A sampler of one sequence: its settings, its generator and room to work in.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: Rng,
    /// The logits as the first stages change them.
    work: Vec<f32>,
    candidates: Candidates,
    /// Added to logits: [`Sampling::logit_bias`], and −∞ for the ends that [`Sampling::ignore_eos`] forbids.
    bias: Vec<(u32, f32)>,
    penalties: Penalties,
    dry: Option<Dry>,
    mirostat: Option<Mirostat>,
    grammar: Option<grammar::Matcher>,
}

impl Sampler {
    /// A sampler of tokens of `tokenizer`; `grammars` is what the samplers of one tokenizer share.
    ///
    /// # Errors
    /// Those of [`Sampling::check`]; [`Error::Argument`] for a bias of a token that there is not, and a grammar that
    /// is malformed or too large.
    pub fn new(sampling: &Sampling, tokenizer: &Tokenizer, grammars: &Grammars) -> Result<Self> {
        sampling.check()?;
        let tokens = tokenizer.vocab_size();
        if let Some((token, _)) = sampling.logit_bias.iter().find(|(token, _)| *token as usize >= tokens) {
            return Err(Error::argument("logit_bias", format!("token {token} is not in the vocabulary of {tokens}")));
        }
        let ends = (0..tokens as u32).filter(|id| sampling.ignore_eos && tokenizer.is_end(*id));
        let bias: Vec<_> = sampling.logit_bias.iter().copied().chain(ends.map(|id| (id, f32::NEG_INFINITY))).collect();
        let mirostat = (sampling.mirostat == 2).then(|| Mirostat::new(sampling.mirostat_tau, sampling.mirostat_eta));
        let repeats = mirostat.is_none() && sampling.has_dry();
        Ok(Self {
            rng: Rng::new(sampling.seed),
            work: Vec::with_capacity(tokens),
            candidates: Candidates::with_room(if mirostat.is_some() { 0 } else { sampling.top_k }, tokens),
            bias,
            penalties: Penalties::new(sampling),
            dry: repeats.then(|| Dry::new(sampling, tokenizer)).transpose()?,
            mirostat,
            grammar: grammars.matcher(sampling, tokenizer)?,
            sampling: sampling.clone(),
        })
    }

    /// The next token after `timeline`. NaN counts as impossible; equal logits favour the lower id; where all are
    /// impossible it is the lowest id that bias and grammar allow.
    ///
    /// # Errors
    /// [`Error::Argument`] if the grammar is too complex to go on with.
    pub fn next(&mut self, logits: &[f32], timeline: &[u32]) -> Result<Drawn> {
        let mut work = std::mem::take(&mut self.work);
        work.clear();
        work.extend_from_slice(logits);
        let token = self.draw(&mut work, timeline);
        self.work = work;
        let token = token?;
        if let Some(grammar) = &mut self.grammar {
            grammar.accept(token)?;
        }
        let logprobs = self.sampling.logprobs.map(|top| Logprobs::new(logits, token, top));
        Ok(Drawn { token, logprobs })
    }

    /// How many of a row's likeliest tokens are all that it looks at; `None` if it has to see every logit.
    pub fn enough(&self) -> Option<usize> {
        let s = &self.sampling;
        let changes = self.grammar.is_some() || !self.bias.is_empty() || s.has_penalties() || self.dry.is_some();
        let sees_all = changes || self.mirostat.is_some() || s.logprobs.is_some();
        match s.top_k {
            _ if sees_all => None,
            _ if self.takes_likeliest() => Some(1),
            0 => None,
            k => (s.top_n_sigma <= 0.0).then_some(k),
        }
    }

    /// [`Sampler::next`] after logits of which `likeliest` are the likeliest, by falling logit, equal ones by rising
    /// token: at least one, and at least as many as [`Sampler::enough`] says or all that there are.
    ///
    /// # Panics
    /// If there is none.
    pub fn next_of(&mut self, likeliest: &[Likely]) -> Drawn {
        let k = if self.takes_likeliest() { 1 } else { self.sampling.top_k };
        self.candidates.take(&likeliest[..k.min(likeliest.len())]);
        let token = self.choose().unwrap_or(likeliest[0].token);
        Drawn { token, logprobs: None }
    }

    /// What the last token was drawn from: tokens and their probabilities after all stages.
    pub fn kept(&self) -> impl Iterator<Item = (u32, f32)> {
        self.candidates.list.iter().map(|c| (c.token, c.p))
    }

    /// Whether no stage draws and none but the last can take the likeliest away.
    fn takes_likeliest(&self) -> bool {
        let s = &self.sampling;
        let likeliest_stays = s.mirostat == 2 || s.typical_p >= 1.0 && s.xtc_probability <= 0.0;
        s.temperature == 0.0 && s.dynatemp_range == 0.0 && likeliest_stays
    }

    fn draw(&mut self, logits: &mut [f32], timeline: &[u32]) -> Result<u32> {
        let s = &self.sampling;
        if let Some(grammar) = &mut self.grammar {
            grammar.mask(logits)?;
        }
        for (token, bias) in &self.bias {
            let logit = &mut logits[*token as usize];
            *logit = if *bias == f32::NEG_INFINITY { *bias } else { *logit + bias };
        }
        if self.mirostat.is_none() {
            self.penalties.apply(logits, timeline, s);
            self.dry.iter_mut().for_each(|dry| dry.apply(logits, timeline));
        }
        if self.takes_likeliest() {
            self.candidates.collect(logits, f32::NEG_INFINITY, 1);
        } else if self.mirostat.is_some() {
            self.candidates.collect(logits, f32::NEG_INFINITY, 0);
        } else {
            self.candidates.collect(logits, filters::sigma_floor(logits, s.top_n_sigma), s.top_k);
        }
        Ok(self.choose().unwrap_or_else(|| lowest_possible(logits)))
    }

    /// One of the candidates, after the stages that look at no others; none if there is none.
    fn choose(&mut self) -> Option<u32> {
        if self.takes_likeliest() {
            self.candidates.softmax();
            return self.candidates.list.first().map(|best| best.token);
        }
        let Self { sampling: s, candidates, rng, .. } = self;
        if let Some(mirostat) = &mut self.mirostat {
            temperature::scale(candidates, s.temperature);
            mirostat.limit(candidates);
        } else {
            filters::typical_p(candidates, s.typical_p, s.min_keep);
            filters::top_p(candidates, s.top_p, s.min_keep);
            filters::min_p(candidates, s.min_p, s.min_keep);
            filters::xtc(candidates, s.xtc_probability, s.xtc_threshold, s.min_keep, rng);
            let at = temperature::dynamic(candidates, s.temperature, s.dynatemp_range, s.dynatemp_exponent);
            temperature::scale(candidates, at);
        }
        let drawn = draw(candidates, rng)?;
        let chosen = candidates.list[drawn];
        self.mirostat.iter_mut().for_each(|mirostat| mirostat.learn(chosen.p));
        Some(chosen.token)
    }
}

/// Draws one by its probability; its index.
fn draw(candidates: &mut Candidates, rng: &mut Rng) -> Option<usize> {
    candidates.softmax();
    let drawn = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let mut sum = 0.0;
    let reached = candidates.list.iter().position(|c| {
        sum += f64::from(c.p);
        sum > drawn
    });
    // Probabilities may sum to a little less than 1.
    reached.or_else(|| candidates.list.iter().rposition(|c| c.p > 0.0))
}

/// The lowest id that is not forbidden, where no logit is a number; 0 if all are.
fn lowest_possible(logits: &[f32]) -> u32 {
    logits.iter().position(|l| *l != f32::NEG_INFINITY).unwrap_or(0) as u32
}

#[cfg(test)]
mod tests;
