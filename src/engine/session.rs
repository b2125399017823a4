//! A session: one timeline of an engine, and the iterator that extends it.

use super::core::{Core, SequenceId};
use super::{Engine, Valve};
use crate::error::{Error, Result};
use crate::sampler::{Drawn, Logprobs, Sampling, Stops};
use crate::tokenizer::Decoder;
use crate::valve::{Dial, Part, Scope, Setting};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Stops the generation of a session from any thread.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// The running generation, or else the next, ends with [`Error::Cancelled`] before its next step, in
    /// mid-prompt too.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Takes back a cancellation that no generation has ended by yet.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether a cancellation waits; it then does no more.
    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// What becomes of a timeline that reaches the end of the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The generation ends with [`Error::ContextFull`].
    #[default]
    Fail,
    /// The first `keep` tokens stay (the prompt's, if `None`), the older half of the others is forgotten, and what
    /// is left is computed again at its new positions, each token with the openings it had. So the answer goes on
    /// as if the timeline had always been what it is then, and the cache is what its record says. (llama.cpp keeps
    /// the old keys and values and turns the keys to their new positions; but these were computed from the tokens
    /// that are forgotten, which no prompt could reproduce.) A dial goes on where it was.
    ///
    /// A prompt that is longer than the context loses its middle too: with `keep` given, its first `keep` tokens
    /// stay and as many of its last as fill half of the other room.
    Shift { keep: Option<usize> },
}

/// A timeline of tokens in an engine: a prompt and what was generated after it. Closed when dropped.
pub struct Session {
    engine: Engine,
    id: SequenceId,
    cancel: Cancel,
}

impl Session {
    pub(super) fn new(engine: Engine) -> Self {
        let mut core = engine.lock();
        let id = core.open();
        let cancel = core.sequence(id).cancel.clone();
        drop(core);
        Self { engine, id, cancel }
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn id(&self) -> SequenceId {
        self.id
    }

    /// Sets one dial for all parts of an attached adapter. It acts from the next row on, in mid-answer too; what is
    /// in the cache stays until the next [`Session::prompt`].
    ///
    /// # Errors
    /// Those of [`Session::set_with`].
    pub fn set(&mut self, valve: &Valve, dial: Dial, scope: Scope) -> Result<()> {
        self.set_with(valve, Setting::uniform(dial, scope))
    }

    /// The same with dials for parts: groups of projections, ranges of layers.
    ///
    /// # Errors
    /// Those of [`Setting::check`]; [`Error::Argument`] for a valve of another engine, or for the scope `think` with a
    /// model whose chat template has no thought tag.
    pub fn set_with(&mut self, valve: &Valve, setting: Setting) -> Result<()> {
        setting.check(self.engine.model().config().layers)?;
        let mut core = self.engine.lock();
        if !valve.is_of(&core) {
            return Err(Error::argument("valve", "it is attached to another engine"));
        }
        if setting.scope == Scope::Think && !core.knows_thoughts() {
            let path = self.engine.model().path().display();
            return Err(Error::argument("scope", format!("think: {path}: its chat template has no thought tag")));
        }
        core.turn(self.id, valve.index, setting);
        Ok(())
    }

    /// Says what happens at the end of the context.
    ///
    /// # Errors
    /// [`Error::Argument`] if no token but the kept ones would fit.
    pub fn set_overflow(&mut self, overflow: Overflow) -> Result<()> {
        let mut core = self.engine.lock();
        let context = core.limits.context;
        if let Overflow::Shift { keep: Some(keep) } = overflow
            && keep >= context
        {
            return Err(Error::argument("keep", format!("{keep} tokens of a context of {context}")));
        }
        core.sequence(self.id).overflow = overflow;
        Ok(())
    }

    /// Makes the timeline `tokens`, and keeps what is in the cache of a prefix that has the same tokens and was
    /// computed with the openings the dials now propose: this session's own, or whole pages of any other's, also of
    /// sessions that are closed. Returns the number of tokens kept; the others are computed by the next generation.
    ///
    /// # Errors
    /// [`Error::Argument`] for no tokens or one outside the vocabulary; [`Error::ContextFull`], unless
    /// [`Overflow::Shift`] is set. The timeline is then unchanged.
    pub fn prompt(&mut self, tokens: &[u32]) -> Result<usize> {
        self.engine.lock().prompt(self.id, tokens)
    }

    /// Draws at most `limit` tokens after the timeline. Tokens of the model's end set end it, and so does a text of
    /// [`Sampling::stop`]; the tokens of both are part of the timeline.
    ///
    /// # Errors
    /// [`Error::Argument`] naming a sampling field out of range, or for a session without a prompt.
    pub fn generate(&mut self, sampling: &Sampling, limit: usize) -> Result<Generation<'_>> {
        let sampler = self.engine.sampler(sampling)?;
        let mut core = self.engine.lock();
        let sequence = core.sequence(self.id);
        if sequence.pending() == 0 {
            return Err(Error::argument("prompt", "everything is computed already; set a prompt before generating"));
        }
        sequence.forget();
        sequence.sampler = Some(sampler);
        drop(core);
        let (decoder, stops) = (Decoder::new(), Stops::new(&sampling.stop));
        Ok(Generation { session: self, left: limit, done: false, decoder, stops })
    }

    /// Adds `tokens` to the timeline as if they had been drawn, so that the scopes `generation` and `think` see an
    /// answer in them. They are computed by what comes next.
    ///
    /// # Errors
    /// [`Error::Argument`] for a token outside the vocabulary, [`Error::ContextFull`]; the tokens before it are added.
    pub fn append(&mut self, tokens: &[u32]) -> Result<()> {
        let mut core = self.engine.lock();
        tokens.iter().try_for_each(|token| core.append(self.id, *token))
    }

    /// Computes the prompt, then adds `tokens` one row at a time as if they had been drawn; logits are computed
    /// at every step and dropped. What a benchmark of decoding wants.
    ///
    /// # Errors
    /// [`Error::Argument`] for a token outside the vocabulary, [`Error::ContextFull`], [`Error::Cancelled`] or a
    /// device's error.
    pub fn extend(&mut self, tokens: &[u32]) -> Result<()> {
        self.engine.lock().extend(&[(self.id, tokens)])
    }

    /// Logits after every token of the prompt, in order: `each(position, [vocab])`. Only positions that
    /// [`Session::prompt`] did not keep are computed. `each` may use the engine and its other sessions.
    ///
    /// # Errors
    /// [`Error::ContextFull`], a device's error, and whatever `each` returns.
    pub fn score(&mut self, mut each: impl FnMut(usize, &[f32]) -> Result<()>) -> Result<()> {
        let (engine, vocab) = (self.engine.clone(), self.engine.model().config().vocab);
        engine.score(std::slice::from_mut(self), 0, |_, first, logits| {
            logits.chunks_exact(vocab).enumerate().try_for_each(|(i, row)| each(first + i, row))
        })
    }

    /// The timeline.
    pub fn tokens(&self) -> Vec<u32> {
        self.engine.lock().sequence(self.id).tokens.clone()
    }

    /// The openings of `valve` as used, one for every token that is in the cache; none for a valve of another engine.
    /// Of a valve whose parts have dials of their own these are the first part's: [`Session::openings_of`] gives each.
    pub fn openings(&self, valve: &Valve) -> Vec<f32> {
        self.openings_of(valve, valve.adapter().parts()[0])
    }

    /// The openings of one part of `valve`; none where the adapter has no such part.
    pub fn openings_of(&self, valve: &Valve, part: Part) -> Vec<f32> {
        let mut core = self.engine.lock();
        let Some(slot) = valve.adapter().slot(part).filter(|_| valve.is_of(&core)) else { return Vec::new() };
        let used = &core.sequence(self.id).used;
        (0..used.len()).map(|position| used.row(position)[valve.first_slot + slot]).collect()
    }

    /// A handle that stops the generation.
    pub fn cancel_handle(&self) -> Cancel {
        self.cancel.clone()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.engine.lock().close(self.id);
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model drew a token of its end set.
    End,
    /// The limit was reached.
    Limit,
    /// A text of [`Sampling::stop`] is complete.
    Text,
}

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub token: u32,
    /// The text that is certain with this token: empty while a character is incomplete or a stop text may be
    /// beginning, and for control tokens.
    pub text: String,
    /// Where [`Sampling::logprobs`] asks for them.
    pub logprobs: Option<Logprobs>,
    /// Set with the last token.
    pub stop: Option<Stop>,
}

/// An iterator over generated tokens. It computes when asked; dropping it stops.
///
/// It yields [`Error::Cancelled`], [`Error::ContextFull`] or a device's error once, then ends; the timeline
/// holds what was generated before.
pub struct Generation<'a> {
    session: &'a mut Session,
    left: usize,
    done: bool,
    decoder: Decoder,
    stops: Stops,
}

impl Generation<'_> {
    /// The session that grows.
    pub fn session(&self) -> &Session {
        self.session
    }

    /// Sets a dial in mid-answer; see [`Session::set`].
    ///
    /// # Errors
    /// Those of [`Session::set`].
    pub fn set(&mut self, valve: &Valve, dial: Dial, scope: Scope) -> Result<()> {
        self.session.set(valve, dial, scope)
    }

    /// Sets dials in mid-answer; see [`Session::set_with`].
    ///
    /// # Errors
    /// Those of [`Session::set_with`].
    pub fn set_with(&mut self, valve: &Valve, setting: Setting) -> Result<()> {
        self.session.set_with(valve, setting)
    }

    /// Asks for a token unless one waits, or an error, or the generation is over.
    pub(super) fn request(&self, core: &mut Core) {
        let sequence = core.sequence(self.session.id);
        let over = self.done || self.left == 0 || sequence.failed.is_some();
        if !over && sequence.mailbox.is_empty() {
            sequence.wanted = true;
        }
    }

    fn drawn(&self) -> Result<Drawn> {
        loop {
            let mut core = self.session.engine.lock();
            let sequence = core.sequence(self.session.id);
            if let Some(drawn) = sequence.mailbox.pop_front() {
                return Ok(drawn);
            }
            if let Some(error) = sequence.failed.take() {
                return Err(error);
            }
            sequence.wanted = true;
            core.step()?;
        }
    }
}

impl Generation<'_> {
    /// What a drawn token adds to the answer.
    fn event(&mut self, drawn: Drawn) -> Result<Event> {
        let Drawn { token, logprobs } = drawn;
        let tokenizer = self.session.engine.model().tokenizer();
        let end = tokenizer.is_end(token);
        let mut stop = if end { Some(Stop::End) } else { (self.left == 0).then_some(Stop::Limit) };
        let bytes = if end || tokenizer.is_control(token) { &[][..] } else { tokenizer.token_bytes(token)? };
        let mut certain = self.decoder.push(bytes);
        if stop.is_some() {
            certain.push_str(&self.decoder.flush());
        }
        let (mut text, stopped) = self.stops.push(certain);
        if stopped {
            stop = Some(Stop::Text);
        } else if stop.is_some() {
            text.push_str(&self.stops.flush());
        }
        self.done = stop.is_some();
        Ok(Event { token, text, logprobs, stop })
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        if self.done || self.left == 0 {
            return None;
        }
        let drawn = match self.drawn() {
            Ok(drawn) => drawn,
            Err(error) => {
                self.done = true;
                return Some(Err(error));
            }
        };
        self.left -= 1;
        Some(self.event(drawn))
    }
}

impl Drop for Generation<'_> {
    fn drop(&mut self) {
        let mut core = self.session.engine.lock();
        core.sequence(self.session.id).forget();
    }
}
