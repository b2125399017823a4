//! How tokens are drawn, as plain data.

use crate::error::{Error, Result};

/// Most bytes of a DRY breaker.
const BREAKER_BYTES_MAX: usize = 40;
/// Most strings that stop a generation, and most bytes of one.
const STOPS_MAX: usize = 64;
const STOP_BYTES_MAX: usize = 1024;

/// What an answer must follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// A JSON schema: the answer is a JSON document that it describes.
    JsonSchema(String),
    /// llama.cpp's grammar format; the rule `root` describes the answer.
    Gbnf(String),
    /// A Lark grammar as llguidance reads it; the rule `start` describes the answer.
    Lark(String),
}

/// How the next token is drawn. Names, meanings and defaults are llama.cpp's.
///
/// The stages run in its order: grammar, logit bias, penalties, DRY, top-n-sigma, top-k, typical-p, top-p, min-p,
/// XTC, temperature, then one draw. With `mirostat` 2 only grammar, logit bias and temperature run before it, as
/// there.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Same seed, same text.
    pub seed: u64,
    /// Divides the logits; 0 takes the most likely of the tokens that the other stages keep.
    pub temperature: f32,
    /// How far the temperature moves both ways with the entropy of the candidates; 0 keeps it fixed.
    pub dynatemp_range: f32,
    /// Power of the normalized entropy by which it moves.
    pub dynatemp_exponent: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the fewest most likely tokens whose probabilities sum to at least this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this fraction as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Keep tokens whose surprise is nearest to the entropy, until their probabilities sum to more than this; 1
    /// keeps all (locally typical sampling, Meister et al. 2022).
    pub typical_p: f32,
    /// Keep tokens whose logit is at most this many standard deviations below the highest; 0 and below keep all.
    pub top_n_sigma: f32,
    /// Tokens that top-p, min-p, typical-p and XTC leave at least.
    pub min_keep: usize,
    /// How often XTC acts.
    pub xtc_probability: f32,
    /// XTC takes out all tokens at least this likely, but for the least likely of them; above 0.5 it does nothing.
    pub xtc_threshold: f32,
    /// Divides positive logits of recent tokens, multiplies negative ones; 1 does nothing.
    pub repeat_penalty: f32,
    /// Tokens of the timeline, prompt and answer, that count as recent; 0 turns the penalties off.
    pub repeat_last_n: usize,
    /// Taken from a recent token's logit for each time it occurs.
    pub frequency_penalty: f32,
    /// Taken from a recent token's logit once.
    pub presence_penalty: f32,
    /// Taken from the logit of a token that would go on with a repetition, times `dry_base` to the power of the
    /// repetition's length beyond `dry_allowed_length`; 0 turns DRY off.
    pub dry_multiplier: f32,
    pub dry_base: f32,
    /// Tokens that may be repeated at no cost.
    pub dry_allowed_length: usize,
    /// Tokens of the timeline that are searched for repetitions; 0 turns DRY off.
    pub dry_last_n: usize,
    /// Texts at which a repetition starts anew.
    pub dry_breakers: Vec<String>,
    /// 0, or 2 for Mirostat 2.0 (Basu et al. 2021).
    pub mirostat: u8,
    /// Surprise that Mirostat aims at, in bits.
    pub mirostat_tau: f32,
    /// Its learning rate.
    pub mirostat_eta: f32,
    /// Added to the logits of tokens; −∞ forbids one.
    pub logit_bias: Vec<(u32, f32)>,
    /// Forbids the tokens that end a generation.
    pub ignore_eos: bool,
    /// Texts that end the generation where the first of them is complete; they are no part of its text.
    pub stop: Vec<String>,
    /// How many of the most likely tokens are reported beside the drawn one, each with its log-probability in the
    /// model's own distribution, before any stage; none reports nothing.
    pub logprobs: Option<usize>,
    /// What the answer must follow.
    pub grammar: Option<Grammar>,
    /// Text that the answer is free until: the grammar holds from the token after the one that completes it on, as
    /// for an answer after a thought. Empty: from the first token.
    pub grammar_after: String,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            seed: 0,
            temperature: 0.8,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            top_n_sigma: -1.0,
            min_keep: 0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_last_n: 64,
            dry_breakers: ["\n", ":", "\"", "*"].map(String::from).to_vec(),
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            logit_bias: Vec::new(),
            ignore_eos: false,
            stop: Vec::new(),
            logprobs: None,
            grammar: None,
            grammar_after: String::new(),
        }
    }
}

impl Sampling {
    /// The most likely token every time.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// # Errors
    /// [`Error::Argument`] naming the field that is out of range.
    pub fn check(&self) -> Result<()> {
        range("temperature", self.temperature, 0.0, 1e6)?;
        range("dynatemp_range", self.dynatemp_range, 0.0, 1e6)?;
        range("dynatemp_exponent", self.dynatemp_exponent, 0.0, 1e6)?;
        range("top_p", self.top_p, 0.0, 1.0)?;
        range("min_p", self.min_p, 0.0, 1.0)?;
        range("typical_p", self.typical_p, 0.0, 1.0)?;
        range("top_n_sigma", self.top_n_sigma, -1e6, 1e6)?;
        range("xtc_probability", self.xtc_probability, 0.0, 1.0)?;
        range("xtc_threshold", self.xtc_threshold, 0.0, 1.0)?;
        range("repeat_penalty", self.repeat_penalty, 1e-6, 1e6)?;
        range("frequency_penalty", self.frequency_penalty, -1e6, 1e6)?;
        range("presence_penalty", self.presence_penalty, -1e6, 1e6)?;
        range("dry_multiplier", self.dry_multiplier, -1e6, 1e6)?;
        range("dry_base", self.dry_base, 1.0, 1e6)?;
        range("mirostat_tau", self.mirostat_tau, 0.0, 1e6)?;
        range("mirostat_eta", self.mirostat_eta, 0.0, 1e6)?;
        if !matches!(self.mirostat, 0 | 2) {
            return Err(Error::argument("mirostat", format!("{} is neither 0 nor 2", self.mirostat)));
        }
        if let Some((token, _)) = self.logit_bias.iter().find(|(_, bias)| bias.is_nan()) {
            return Err(Error::argument("logit_bias", format!("that of token {token} is no number")));
        }
        texts("dry_breakers", &self.dry_breakers, usize::MAX, BREAKER_BYTES_MAX)?;
        texts("stop", &self.stop, STOPS_MAX, STOP_BYTES_MAX)?;
        if self.grammar.is_some() && self.ignore_eos {
            return Err(Error::argument("ignore_eos", "an answer that follows a grammar ends with an end token"));
        }
        if self.grammar_after.len() > STOP_BYTES_MAX {
            return Err(Error::argument("grammar_after", format!("a text of {} bytes", self.grammar_after.len())));
        }
        Ok(())
    }

    /// Whether DRY changes anything.
    pub(super) fn has_dry(&self) -> bool {
        self.dry_multiplier != 0.0 && self.dry_last_n > 0
    }

    /// Whether the penalties change anything.
    pub(super) fn has_penalties(&self) -> bool {
        let none = self.repeat_penalty == 1.0 && self.frequency_penalty == 0.0 && self.presence_penalty == 0.0;
        !none && self.repeat_last_n > 0
    }
}

fn range(name: &'static str, value: f32, least: f32, most: f32) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::argument(name, format!("{value} is not between {least} and {most}")))
}

/// Checks a list of texts that must not be empty.
fn texts(name: &'static str, texts: &[String], count: usize, bytes: usize) -> Result<()> {
    if texts.len() > count {
        return Err(Error::argument(name, format!("{} texts; {count} are allowed", texts.len())));
    }
    if let Some(text) = texts.iter().find(|text| text.is_empty() || text.len() > bytes) {
        return Err(Error::argument(name, format!("a text of {} bytes; 1 to {bytes} are allowed", text.len())));
    }
    Ok(())
}
