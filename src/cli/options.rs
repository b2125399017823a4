//! Arguments that several subcommands share, and what they make.

use super::dial::{parse_dial, parse_lora};
use super::{override_kv, pull};
use clap::Args;
use cotvalve::backend::Precision;
use cotvalve::engine::{Engine, EngineOptions, Session, Valve};
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
    /// Adapter that --alpha turns; repeatable
    #[arg(long, value_name = "FILE")]
    valve: Vec<PathBuf>,
    /// Opening of the valves: a number (0 = base model, 1 = as trained), or steps `TOKEN=ALPHA,...`
    #[arg(long, value_name = "ALPHA", default_value = "0", allow_hyphen_values = true)]
    alpha: String,
    /// Which tokens the valves act on
    #[arg(long, value_enum, default_value = "all")]
    scope: ScopeArg,
    /// Threads
    #[arg(short, long, value_name = "N", default_value_t = EngineOptions::default().threads)]
    threads: usize,
    /// Context in tokens; 0 takes the model's own
    #[arg(short = 'c', long = "ctx-size", value_name = "N", default_value_t = 4096)]
    context: usize,
    /// Prompt tokens computed at once
    #[arg(short, long = "batch-size", value_name = "N", default_value_t = EngineOptions::default().batch)]
    batch: usize,
    /// Type of cached keys and values
    #[arg(long = "cache-type", visible_alias = "kv", value_enum, default_value = "f16")]
    kv: KvArg,
    /// How weights meet activations: int8 is fast, float is the truth
    #[arg(long, value_enum, default_value = "int8")]
    precision: PrecisionArg,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum ScopeArg {
    All,
    Generation,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum KvArg {
    F16,
    F32,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum PrecisionArg {
    Int8,
    Float,
}

/// An engine with its adapters, and how the dials stand.
pub struct Loaded {
    pub engine: Engine,
    /// Adapters that stay, with their scales.
    loras: Vec<(Valve, f32)>,
    /// Adapters that α turns.
    pub valves: Vec<Valve>,
    pub dial: Dial,
    pub scope: Scope,
}

impl ModelArgs {
    /// Opens the model, pulling the default one if none is named, and attaches the adapters.
    pub fn load(&self) -> Result<Loaded> {
        let dial = parse_dial(&self.alpha)?;
        let mut loras = self.lora.iter().map(|s| parse_lora(s)).collect::<Result<Vec<_>>>()?;
        let mut valves = self.valve.clone();
        let path = match &self.model {
            Some(path) => path.clone(),
            None => {
                let pulled = pull::ensure(DEFAULT_MODEL, false)?;
                if loras.is_empty() && valves.is_empty() {
                    (loras, valves) = (pulled.loras, pulled.valves);
                }
                pulled.path
            }
        };
        let model = Model::new(override_kv::open(&path, &self.override_kv)?)?;
        let engine = Engine::new(model, &self.options())?;
        let attach = |path: &PathBuf| {
            let valve = engine.attach(path)?;
            for name in valve.adapter().ignored() {
                eprintln!("valve: {}: {name} has no effect", path.display());
            }
            Ok::<_, Error>(valve)
        };
        let loras = loras.iter().map(|(path, scale)| Ok((attach(path)?, *scale))).collect::<Result<_>>()?;
        let valves = valves.iter().map(attach).collect::<Result<_>>()?;
        let scope = match self.scope {
            ScopeArg::All => Scope::All,
            ScopeArg::Generation => Scope::Generation,
        };
        Ok(Loaded { engine, loras, valves, dial, scope })
    }

    fn options(&self) -> EngineOptions {
        EngineOptions {
            threads: self.threads,
            context: self.context,
            sessions: 1,
            batch: self.batch,
            kv_type: match self.kv {
                KvArg::F16 => TensorType::F16,
                KvArg::F32 => TensorType::F32,
            },
            precision: match self.precision {
                PrecisionArg::Int8 => Precision::Int8,
                PrecisionArg::Float => Precision::Float,
            },
        }
    }
}

impl Loaded {
    /// A session with every dial set.
    pub fn session(&self) -> Result<Session> {
        let mut session = self.engine.session();
        for (lora, scale) in &self.loras {
            session.set(lora, Dial::constant(*scale)?, Scope::All)?;
        }
        self.turn(&mut session)?;
        Ok(session)
    }

    /// Sets the valves' dials to where they stand now.
    pub fn turn(&self, session: &mut Session) -> Result<()> {
        self.valves.iter().try_for_each(|valve| session.set(valve, self.dial.clone(), self.scope))
    }
}
