//! The measuring loop: runs a test again and again, and hashes what it computes.

use super::product::{Case, Setup};
use super::work::{Costs, Work};
use cotvalve::engine::{Cancel, Engine, EngineOptions, Session, Valve};
use cotvalve::error::{Error, Result};
use cotvalve::model::Model;
use cotvalve::rng::Rng;
use cotvalve::valve::{Dial, Scope};
use sha2::{Digest, Sha256};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Hexadecimal digits of a hash that are kept.
const HASH_DIGITS: usize = 12;

/// How often a test is run, and what is said and waited for.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub repetitions: usize,
    /// Before each test.
    pub delay: Duration,
    pub warmup: bool,
}

/// What a test came to.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Time of each repetition, in nanoseconds.
    pub samples_ns: Vec<u64>,
    /// Of the logits after the last token of every sequence; empty if the test was stopped before them.
    pub hash: String,
    /// What a repetition takes.
    pub work: Work,
    /// Bytes of weights that a step of one token reads.
    pub weight_bytes: usize,
}

/// Stops a measurement from any thread.
#[derive(Clone, Default)]
pub struct Stopper(Arc<Mutex<Stopping>>);

#[derive(Default)]
struct Stopping {
    stopped: bool,
    sessions: Vec<Cancel>,
}

impl Stopper {
    pub fn stop(&self) {
        let mut stopping = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stopping.stopped = true;
        stopping.sessions.iter().for_each(Cancel::cancel);
    }

    pub fn is_stopped(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).stopped
    }

    /// From here on it stops these.
    fn watch(&self, sessions: &[Session]) {
        let mut stopping = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stopping.sessions = sessions.iter().map(Session::cancel_handle).collect();
        if stopping.stopped {
            stopping.sessions.iter().for_each(Cancel::cancel);
        }
    }
}

/// An engine with its sessions, for the tests of one setup.
pub struct Rig {
    engine: Engine,
    sessions: Vec<Session>,
    valve: Option<Valve>,
    /// Makes the tokens of repetitions: none is like another, so that none finds its pages in the cache.
    rng: Rng,
    stopper: Stopper,
}

impl Rig {
    /// Loads the weights with room for every one of `cases`, which share `setup`.
    ///
    /// # Errors
    /// Those of [`Engine::new`] and [`Engine::attach`].
    pub fn new(model: Arc<Model>, setup: &Setup, cases: &[Case], stopper: &Stopper) -> Result<Self> {
        let most = |count: fn(&Case) -> usize| cases.iter().map(count).max().unwrap_or(1);
        let options = EngineOptions {
            threads: setup.threads,
            context: most(Case::tokens),
            sessions: most(|case| case.batch),
            batch: setup.rows(),
            kv_type: setup.kv_type,
            ..EngineOptions::default()
        };
        let engine = Engine::new(model, &options)?;
        let valve = setup.valve.as_ref().map(|path| engine.attach(path)).transpose()?;
        let sessions: Vec<Session> = (0..options.sessions).map(|_| engine.session()).collect();
        stopper.watch(&sessions);
        Ok(Self { engine, sessions, valve, rng: Rng::new(1), stopper: stopper.clone() })
    }

    pub fn model(&self) -> &Model {
        self.engine.model()
    }

    pub fn valve(&self) -> Option<&Valve> {
        self.valve.as_ref()
    }

    /// Runs a test. `say` hears what is about to happen. A test that is stopped has the repetitions until then.
    ///
    /// # Errors
    /// [`Error::Argument`] or a device's error.
    pub fn measure(&mut self, case: &Case, schedule: Schedule, say: &mut dyn FnMut(&str)) -> Result<Measured> {
        let dials = self.turn(case)?;
        let costs = Costs::new(self.model(), case, self.valve());
        let (work, weight_bytes) = (costs.of(case, &dials), costs.weight_bytes());
        let mut measured = Measured { work, weight_bytes, ..Measured::default() };
        match self.repeat(case, schedule, &mut measured, say) {
            Err(Error::Cancelled) if self.stopper.is_stopped() => Ok(measured),
            result => result.map(|()| measured),
        }
    }

    /// The pass that is hashed warms up the caches too, so it comes first, if that is wanted.
    fn repeat(
        &mut self,
        case: &Case,
        schedule: Schedule,
        measured: &mut Measured,
        say: &mut dyn FnMut(&str),
    ) -> Result<()> {
        std::thread::sleep(schedule.delay);
        if schedule.warmup {
            say("warmup and hash");
            measured.hash = self.hash(case)?;
        }
        let vocab = self.model().config().vocab;
        let mut prompts: Vec<_> = (0..case.batch).map(|i| fixed_tokens(vocab, i, case.tokens())).collect();
        for i in 0..schedule.repetitions {
            say(&format!("repetition {}/{}", i + 1, schedule.repetitions));
            // The tokens of the depth stay, so that they are computed once.
            prompts.iter_mut().flat_map(|p| &mut p[case.depth..]).for_each(|t| *t = self.rng.below(vocab) as u32);
            let time = self.play(case, &prompts)?;
            measured.samples_ns.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1));
        }
        if !schedule.warmup {
            say("hash");
            measured.hash = self.hash(case)?;
        }
        Ok(())
    }

    /// Sets the dials of a test; returns that of each sequence, none without a valve.
    fn turn(&mut self, case: &Case) -> Result<Vec<Dial>> {
        let Some(valve) = &self.valve else { return Ok(Vec::new()) };
        let mut dials = Vec::with_capacity(case.batch);
        for (i, session) in self.sessions.iter_mut().enumerate().take(case.batch) {
            let dial = case.opening.dial(i, case.tokens())?;
            session.set(valve, dial.clone(), Scope::All)?;
            dials.push(dial);
        }
        Ok(dials)
    }

    /// Computes `timelines`, one a sequence, and returns the time it took beyond the depth.
    fn play(&mut self, case: &Case, timelines: &[Vec<u32>]) -> Result<Duration> {
        let Self { engine, sessions, .. } = self;
        if case.depth > 0 {
            prefill(engine, sessions, timelines, case.depth)?;
        }
        // A test of decoding alone starts with a step too.
        let first = case.depth + case.prompt.max(1);
        let started = Instant::now();
        prefill(engine, sessions, timelines, first)?;
        engine.extend(sessions.iter_mut().zip(timelines).map(|(session, tokens)| (session, &tokens[first..])))?;
        Ok(started.elapsed())
    }

    /// SHA-256 of the bits of the logits after the last token, of every sequence in turn, of timelines that depend on
    /// the vocabulary, the number of tokens and the place in the batch alone. The first digits of it.
    fn hash(&mut self, case: &Case) -> Result<String> {
        let vocab = self.model().config().vocab;
        let timelines: Vec<_> = (0..case.batch).map(|i| fixed_tokens(vocab, i, case.tokens())).collect();
        self.play(case, &timelines)?;
        let mut hash = Sha256::new();
        for (session, tokens) in self.sessions.iter_mut().zip(&timelines) {
            // All but the last token is in the cache.
            session.prompt(tokens)?;
            session.score(|position, logits| {
                if position + 1 == tokens.len() {
                    logits.iter().for_each(|logit| hash.update(logit.to_bits().to_le_bytes()));
                }
                Ok(())
            })?;
        }
        let digits = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Ok(digits[..HASH_DIGITS].into())
    }
}

/// Computes the first `tokens` tokens of every timeline.
fn prefill(engine: &Engine, sessions: &mut [Session], timelines: &[Vec<u32>], tokens: usize) -> Result<()> {
    for (session, timeline) in sessions.iter_mut().zip(timelines) {
        session.prompt(&timeline[..tokens])?;
    }
    engine.extend(sessions.iter_mut().zip(timelines).map(|(session, _)| (session, &[][..])))
}

/// The tokens that are hashed: the same on every machine.
fn fixed_tokens(vocab: usize, sequence: usize, tokens: usize) -> Vec<u32> {
    let mut rng = Rng::new(0x636f_7476 + sequence as u64);
    (0..tokens).map(|_| rng.below(vocab) as u32).collect()
}
