//! Arguments that several subcommands share, and what they make.

use super::alpha::AlphaArgs;
use super::dial::{PartDials, parse_lora, parse_valve};
use super::{override_kv, pull};
use clap::Args;
use cotvalve::backend::Precision;
use cotvalve::engine::{Device, Engine, EngineOptions, Overflow, Valve};
use cotvalve::error::{Error, Result};
use cotvalve::model::Model;
use cotvalve::tensor::TensorType;
use cotvalve::valve::{Dial, Scope};
use std::path::PathBuf;

/// The model that is taken when none is named.
pub const DEFAULT_MODEL: &str = "smollm2";

#[derive(Args)]
pub struct ModelArgs {
    /// Model file (GGUF); without it the default model is pulled once and used with its bundled valve
    #[arg(short, long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Sets a key of the model file; TYPE is int, float, bool or str; repeatable
    #[arg(long, value_name = "KEY=TYPE:VALUE")]
    override_kv: Vec<String>,
    /// Adapter that stays as it is, at SCALE (1 if not given); repeatable
    #[arg(long, value_name = "FILE[:SCALE]")]
    lora: Vec<String>,
    /// Adapter that --alpha turns, or an ALPHA of its own; repeatable
    #[arg(long, value_name = "FILE[:ALPHA]")]
    valve: Vec<String>,
    #[command(flatten)]
    alpha: AlphaArgs,
    /// Which tokens the valves act on
    #[arg(long, value_enum, default_value = "all")]
    scope: ScopeArg,
    /// Where the model runs: cpu, cuda, cuda:N, cuda:N,N with the layers shared, or auto: cuda where that serves
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: Device,
    /// Layers on the device, from the output down; the CPU has the others. All if not given
    #[arg(long, visible_aliases = ["ngl", "gpu-layers"], value_name = "N")]
    n_gpu_layers: Option<usize>,
    /// Threads
    #[arg(short, long, value_name = "N", default_value_t = EngineOptions::default().threads)]
    pub threads: usize,
    /// Context in tokens; 0 takes the model's own
    #[arg(short = 'c', long = "ctx-size", value_name = "N", default_value_t = 4096)]
    pub context: usize,
    /// Go on when the context is full: forget the older half of all tokens but the kept ones
    #[arg(long)]
    context_shift: bool,
    /// With --context-shift: how many tokens at the start stay; -1 keeps the prompt
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    keep: i64,
    /// Prompt tokens computed at once
    #[arg(short, long = "batch-size", value_name = "N", default_value_t = EngineOptions::default().batch)]
    pub batch: usize,
    /// Type of cached keys and values, both the same
    #[arg(long = "cache-type", visible_aliases = ["kv", "ctk", "ctv"], value_enum)]
    kv: Vec<KvArg>,
    /// How weights meet activations: int8 is fast, float is the truth
    #[arg(long, value_enum, default_value = "int8")]
    precision: PrecisionArg,
}

/// A [`Scope`], by name.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum ScopeArg {
    All,
    Generation,
    Think,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum KvArg {
    F16,
    F32,
    #[value(name = "q8_0")]
    Q8_0,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum PrecisionArg {
    Int8,
    Float,
}

impl ScopeArg {
    pub fn scope(self) -> Scope {
        match self {
            Self::All => Scope::All,
            Self::Generation => Scope::Generation,
            Self::Think => Scope::Think,
        }
    }
}

/// An engine with its adapters, and how the dials stand.
pub struct Loaded {
    pub engine: Engine,
    /// Adapters that stay, with their scales.
    pub loras: Vec<(Valve, f32)>,
    /// Adapters that α turns.
    pub valves: Vec<Valve>,
    /// Turns the valves, but for those with a dial of their own and for parts.
    pub dial: Dial,
    /// A valve's own dial, if it has one.
    pub own: Vec<Option<Dial>>,
    /// Dials of parts of every valve.
    pub parts: PartDials,
    pub scope: Scope,
    /// What a full context does.
    pub overflow: Overflow,
}

impl ModelArgs {
    /// Opens the model, pulling the default one if none is named, and attaches the adapters.
    pub fn load(&self) -> Result<Loaded> {
        self.load_for(self.context, 1)
    }

    /// The same for `sessions` of `context` tokens at a time.
    pub fn load_for(&self, context: usize, sessions: usize) -> Result<Loaded> {
        let (dial, parts) = self.alpha.parse()?;
        let overflow = self.overflow()?;
        let mut loras = self.lora.iter().map(|s| parse_lora(s)).collect::<Result<Vec<_>>>()?;
        let mut valves: Vec<_> = self.valve.iter().map(|s| parse_valve(s)).collect();
        let path = match &self.model {
            Some(path) => path.clone(),
            None => {
                let pulled = pull::ensure(DEFAULT_MODEL, false)?;
                if loras.is_empty() && valves.is_empty() {
                    loras = pulled.loras;
                    valves = pulled.valves.into_iter().map(|path| (path, None)).collect();
                }
                pulled.path
            }
        };
        let model = Model::new(override_kv::open(&path, &self.override_kv)?)?;
        let engine = Engine::new(model, &EngineOptions { context, sessions, ..self.options()? })?;
        if self.device == Device::Cpu && self.n_gpu_layers.is_some_and(|layers| layers > 0) {
            eprintln!("valve: --n-gpu-layers has no effect without --device");
        }
        if let Some(why) = engine.fallback() {
            eprintln!("valve: {why}; running on the CPU");
        }
        let attach = |path: &PathBuf| {
            let valve = engine.attach(path)?;
            for name in valve.adapter().ignored() {
                eprintln!("valve: {}: {name} has no effect", path.display());
            }
            Ok::<_, Error>(valve)
        };
        let loras = loras.iter().map(|(path, scale)| Ok((attach(path)?, *scale))).collect::<Result<_>>()?;
        let own = valves.iter().map(|(_, dial)| dial.clone()).collect();
        let valves = valves.iter().map(|(path, _)| attach(path)).collect::<Result<_>>()?;
        let scope = self.scope.scope();
        let loaded = Loaded { engine, loras, valves, dial, own, parts, scope, overflow };
        loaded.check_parts()?;
        Ok(loaded)
    }

    fn overflow(&self) -> Result<Overflow> {
        let keep = match self.keep {
            -1 => None,
            keep => Some(usize::try_from(keep).map_err(|_| Error::Argument {
                name: "keep",
                reason: format!("{keep} is neither a number of tokens nor -1"),
            })?),
        };
        Ok(if self.context_shift { Overflow::Shift { keep } } else { Overflow::Fail })
    }

    fn options(&self) -> Result<EngineOptions> {
        Ok(EngineOptions {
            device: self.device.clone(),
            gpu_layers: self.n_gpu_layers,
            threads: self.threads,
            context: self.context,
            sessions: 1,
            batch: self.batch,
            kv_type: self.kv_type()?,
            precision: match self.precision {
                PrecisionArg::Int8 => Precision::Int8,
                PrecisionArg::Float => Precision::Float,
            },
        })
    }

    /// The type that -ctk and -ctv agree on.
    fn kv_type(&self) -> Result<TensorType> {
        let types = self.kv.iter().map(|kv| match kv {
            KvArg::F16 => TensorType::F16,
            KvArg::F32 => TensorType::F32,
            KvArg::Q8_0 => TensorType::Q8_0,
        });
        let first = types.clone().next().unwrap_or(EngineOptions::default().kv_type);
        if types.into_iter().any(|ty| ty != first) {
            return Err(Error::Argument { name: "cache-type", reason: "keys and values are of one type".into() });
        }
        Ok(first)
    }
}

impl Loaded {
    /// Tokens that a timeline can come to have in all.
    pub fn longest(&self) -> usize {
        if self.overflow == Overflow::Fail { self.engine.context() } else { usize::MAX }
    }
}
