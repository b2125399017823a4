//! Arguments that several subcommands share, and what they make.

use super::pull;
use clap::Args;
use cotvalve::backend::Precision;
use cotvalve::engine::{Engine, EngineOptions, Session, Valve};
use cotvalve::error::{Error, Result};
use cotvalve::model::Model;
use cotvalve::sampler::Sampling;
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
        let engine = Engine::new(Model::open(path)?, &self.options())?;
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

/// `0.5`, or `0=0.2,64=0.9`: α from these tokens of the scope on.
pub fn parse_dial(text: &str) -> Result<Dial> {
    let bad = || Error::Argument { name: "alpha", reason: format!("{text:?} is neither a number nor TOKEN=ALPHA,...") };
    let number = |s: &str| s.trim().parse::<f32>().map_err(|_| bad());
    if !text.contains('=') {
        return Dial::constant(number(text)?);
    }
    let step = |part: &str| {
        let (since, alpha) = part.split_once('=').ok_or_else(bad)?;
        Ok((since.trim().parse().map_err(|_| bad())?, number(alpha)?))
    };
    Dial::steps(text.split(',').map(step).collect::<Result<_>>()?)
}

/// `FILE` or `FILE:SCALE`; a colon whose tail is no number belongs to the file's name.
fn parse_lora(text: &str) -> Result<(PathBuf, f32)> {
    let split = text.rsplit_once(':').and_then(|(file, scale)| Some((file, scale.parse::<f32>().ok()?)));
    let (file, scale) = split.unwrap_or((text, 1.0));
    if !scale.is_finite() {
        return Err(Error::Argument { name: "lora", reason: format!("the scale in {text:?} is not finite") });
    }
    Ok((file.into(), scale))
}

#[derive(Args)]
pub struct SamplingArgs {
    /// Most tokens to generate; -1 goes on until the model ends or the context is full
    #[arg(short = 'n', long = "n-predict", value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    limit: i64,
    /// Temperature; 0 takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = Sampling::default().temperature, allow_negative_numbers = true)]
    temp: f32,
    /// Keep the K likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = Sampling::default().top_k)]
    top_k: usize,
    /// Keep the fewest tokens whose probabilities reach P
    #[arg(long, value_name = "P", default_value_t = Sampling::default().top_p, allow_negative_numbers = true)]
    top_p: f32,
    /// Keep tokens at least P times as likely as the likeliest
    #[arg(long, value_name = "P", default_value_t = Sampling::default().min_p, allow_negative_numbers = true)]
    min_p: f32,
    /// Same seed, same text; -1 draws one from the clock
    #[arg(short, long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    seed: i64,
}

impl SamplingArgs {
    pub fn sampling(&self) -> Sampling {
        let clock = || std::time::UNIX_EPOCH.elapsed().map_or(0, |t| u64::from(t.subsec_nanos()) ^ t.as_secs());
        Sampling {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            seed: u64::try_from(self.seed).unwrap_or_else(|_| clock()),
        }
    }

    /// Tokens that may follow `prompt` tokens in a context of `context`.
    ///
    /// # Errors
    /// [`Error::ContextFull`] if some are wanted and there is no room for one.
    pub fn limit(&self, prompt: usize, context: usize) -> Result<usize> {
        let room = context.saturating_sub(prompt);
        if room == 0 && self.limit != 0 {
            return Err(Error::ContextFull { needed: prompt + 1, capacity: context });
        }
        Ok(usize::try_from(self.limit).map_or(room, |n| n.min(room)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dials_parse() {
        assert_eq!(parse_dial("0.5").unwrap(), Dial::Constant(0.5));
        assert_eq!(parse_dial("-1").unwrap(), Dial::Constant(-1.0));
        assert_eq!(parse_dial("0=0.25, 64=1").unwrap(), Dial::Steps(vec![(0, 0.25), (64, 1.0)]));
        for bad in ["", "x", "nan", "inf", "1=", "5=0.1,2=0.3", "a=1"] {
            assert!(parse_dial(bad).unwrap_err().to_string().starts_with("alpha: "), "{bad}");
        }
    }

    #[test]
    fn loras_parse() {
        assert_eq!(parse_lora("a.gguf").unwrap(), ("a.gguf".into(), 1.0));
        assert_eq!(parse_lora("a.gguf:0.5").unwrap(), ("a.gguf".into(), 0.5));
        assert_eq!(parse_lora("c:/a.gguf").unwrap(), ("c:/a.gguf".into(), 1.0));
        assert!(parse_lora("a.gguf:inf").is_err());
    }
}
