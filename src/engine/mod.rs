//! The engine: one model on one device, stepping all its sessions together.

mod core;
mod device;
mod openings;
mod prefix;
mod save;
mod sequence;
mod session;
mod thoughts;

pub use crate::kv::CacheUse;
pub use device::Device;
pub use session::{Cancel, Event, Generation, Overflow, Session, Stop};

use self::core::{Core, Limits, SequenceId};
use self::device::Placed;
use self::thoughts::Thoughts;
use crate::backend::Precision;
use crate::error::{Error, Result};
use crate::kv::{PAGE_LEN, Pages};
use crate::model::{Model, StageSpec};
use crate::sampler::{Grammars, Sampler, Sampling};
use crate::tensor::TensorType;
use crate::valve::Adapter;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// How an engine is made.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    pub device: Device,
    /// Threads of the processor; all of it by default.
    pub threads: usize,
    /// Tokens of one session, prompt and answer together; 0 takes what the model was trained on.
    pub context: usize,
    /// Sessions whose caches must fit at the same time.
    pub sessions: usize,
    /// Rows of a step: how much of a prompt is computed at once.
    pub batch: usize,
    /// Type of cached keys and values: F16, F32, or Q8_0 for models whose head size is a multiple of 32.
    pub kv_type: TensorType,
    pub precision: Precision,
}

impl Default for EngineOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let kv_type = TensorType::F16;
        Self {
            device: Device::default(),
            threads,
            context: 0,
            sessions: 1,
            batch: 512,
            kv_type,
            precision: Precision::default(),
        }
    }
}

/// Rows whose logits a step can return, if more are wanted than there are sessions.
const MIN_OUTPUTS: usize = 64;

/// A model loaded on a device. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Engine {
    model: Arc<Model>,
    grammars: Arc<Grammars>,
    core: Arc<Mutex<Core>>,
    device: Arc<str>,
    fallback: Option<Arc<str>>,
}

/// An attached adapter: which openings turn it.
#[derive(Clone, Debug)]
pub struct Valve {
    /// Its place among the attached adapters.
    index: usize,
    /// The slot of its first part; those of the others follow.
    first_slot: usize,
    adapter: Arc<Adapter>,
}

impl Valve {
    /// What the file holds.
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// Whether it is attached to the engine of `core`.
    fn is_of(&self, core: &Core) -> bool {
        core.adapters().get(self.index).is_some_and(|adapter| Arc::ptr_eq(adapter, &self.adapter))
    }
}

impl Engine {
    /// Loads `model` on the device that `options` name.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the option that is out of range; [`Error::Device`] for a device that is not there,
    /// does not run the model or has too little memory; the errors of [`Weights::load`](crate::model::Weights::load).
    pub fn new(model: Arc<Model>, options: &EngineOptions) -> Result<Self> {
        Self::with_progress(model, options, &mut |_| true)
    }

    /// The same; `progress` hears the fraction done and returns whether to go on.
    ///
    /// # Errors
    /// Those of [`Engine::new`], and [`Error::Cancelled`].
    pub fn with_progress(
        model: Arc<Model>,
        options: &EngineOptions,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Self> {
        let positive = |name, value| {
            if value == 0 { Err(Error::argument(name, "must be at least 1")) } else { Ok(()) }
        };
        positive("sessions", options.sessions)?;
        positive("batch", options.batch)?;
        let config = model.config();
        let context = if options.context == 0 { config.context } else { options.context };
        let pages = Pages::needed(context).checked_mul(options.sessions);
        let pages = pages.filter(|p| u32::try_from(*p).is_ok());
        let Some(pages) = pages else {
            return Err(Error::argument("context", format!("{context} tokens in {} sessions", options.sessions)));
        };
        let rows = options.batch.min(context.saturating_mul(options.sessions)).max(options.sessions);
        let outputs = options.sessions.max(MIN_OUTPUTS.min(rows));
        let spec = StageSpec { rows, outputs, pages, page_len: PAGE_LEN, kv_type: options.kv_type };
        let Placed { stage, device, fallback } = Placed::new(&model, options, spec, progress)?;
        let EngineOptions { kv_type, precision, .. } = *options;
        let limits = Limits { context, rows, outputs, vocab: config.vocab, kv_type, precision };
        let core = Arc::new(Mutex::new(Core::new(stage, pages, limits, Thoughts::of(&model))));
        Ok(Self { model, grammars: Arc::default(), core, device: device.into(), fallback: fallback.map(Into::into) })
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The name of the device: `cpu`, or as its driver has it.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Why [`Device::Auto`] became the processor, in words, if it did.
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Tokens that fit one session.
    pub fn context(&self) -> usize {
        self.lock().limits.context
    }

    /// Attaches an adapter, closed in every session until a dial opens it. Sessions keep their caches.
    ///
    /// # Errors
    /// Those of [`Adapter::open`].
    pub fn attach(&self, path: impl AsRef<Path>) -> Result<Valve> {
        let adapter = Adapter::open(path.as_ref(), self.model.config(), self.model.has_output())?;
        self.attach_adapter(adapter)
    }

    /// The same, of an adapter already read.
    ///
    /// # Errors
    /// Those of [`Adapter::check`].
    pub fn attach_adapter(&self, adapter: Adapter) -> Result<Valve> {
        adapter.check(self.model.config(), self.model.has_output())?;
        let adapter = Arc::new(adapter);
        let (index, first_slot) = self.lock().attach(adapter.clone())?;
        Ok(Valve { index, first_slot, adapter })
    }

    /// Files attached so far, in order.
    pub fn adapters(&self) -> Vec<Arc<Adapter>> {
        self.lock().adapters().to_vec()
    }

    /// # Errors
    /// Those of [`Sampler::new`].
    fn sampler(&self, sampling: &Sampling) -> Result<Sampler> {
        Sampler::new(sampling, self.model.tokenizer(), &self.grammars)
    }

    /// What the pages of the cache are in use for.
    pub fn cache_use(&self) -> CacheUse {
        self.lock().pages.usage()
    }

    /// Checks the cache's books: that every page is held as often as it is counted, is in one place, and can be
    /// found exactly where it should. For tests; it takes a look at every page.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check_cache(&self) -> std::result::Result<(), String> {
        let core = self.lock();
        core.pages.audit(core.sequences.iter().flatten().map(|s| &s.pages[..]))
    }

    /// An empty timeline.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }

    /// Brings every one of `generations` to its next token in shared steps: their rows read the weights once.
    /// The tokens are then delivered by `next`, without further work. One that is over stays as it is; one that
    /// is cancelled or whose context is full does not hold up the others, and its own `next` yields the error.
    ///
    /// # Errors
    /// [`Error::Argument`] for a generation of another engine; a device's error.
    pub fn advance<'a, 'b: 'a>(&self, generations: impl IntoIterator<Item = &'a mut Generation<'b>>) -> Result<()> {
        for generation in generations {
            if !Arc::ptr_eq(&generation.session().engine().core, &self.core) {
                return Err(Error::argument("generations", "one is of another engine"));
            }
            generation.request(&mut self.lock());
        }
        let mut core = self.lock();
        while core.any_wanted() {
            core.step()?;
        }
        Ok(())
    }

    /// [`Session::extend`] of several sessions in shared steps: their rows read the weights once.
    ///
    /// # Errors
    /// Those of [`Session::extend`]; [`Error::Argument`] for a session of another engine.
    pub fn extend<'a>(&self, sessions: impl IntoIterator<Item = (&'a mut Session, &'a [u32])>) -> Result<()> {
        let member = |(session, tokens): (&'a mut Session, &'a [u32])| Ok((self.id_of(session)?, tokens));
        let members = sessions.into_iter().map(member).collect::<Result<Vec<_>>>()?;
        self.lock().extend(&members)
    }

    /// Computes what is pending in `sessions` in shared steps, and hands out the logits after every token at the
    /// positions from `from` on: `each(index of the session, first position, [rows, vocab])`, each session's in order.
    /// Rows before `from` cost no logits. `each` may use the engine.
    ///
    /// # Errors
    /// [`Error::Argument`] for a session of another engine, [`Error::ContextFull`], [`Error::CacheFull`], a device's
    /// error, and whatever `each` returns.
    pub fn score(
        &self,
        sessions: &mut [Session],
        from: usize,
        mut each: impl FnMut(usize, usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let ids = sessions.iter().map(|session| self.id_of(session)).collect::<Result<Vec<_>>>()?;
        let (vocab, mut logits) = (self.model.config().vocab, Vec::new());
        loop {
            let step = self.lock().score(&ids, from, &mut logits)?;
            let Some(scored) = step else { return Ok(()) };
            let mut rest = &logits[..];
            for rows in scored {
                let (own, others) = rest.split_at(rows.positions.len() * vocab);
                each(rows.index, rows.positions.start, own)?;
                rest = others;
            }
        }
    }

    /// The core's name of a session, which must be this engine's.
    fn id_of(&self, session: &Session) -> Result<SequenceId> {
        let ours = Arc::ptr_eq(&session.engine().core, &self.core);
        if ours { Ok(session.id()) } else { Err(Error::argument("sessions", "one is of another engine")) }
    }

    /// A panic inside a step leaves the core as the step found it but for rows already in the cache, which are
    /// not counted as computed; so a poisoned lock is taken as it is.
    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(|e| e.into_inner())
    }
}
