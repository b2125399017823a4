//! `valve merge`: a model with adapters in its weights.

use super::dial::parse_lora;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use cotvalve::engine::EngineOptions;
use cotvalve::error::{Error, Result};
use cotvalve::gguf::Gguf;
use cotvalve::model::Config;
use cotvalve::tensor::TensorType;
use cotvalve::valve::{Adapter, MergeOptions, merge};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Merge {
    /// The base model (GGUF)
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// Adapter, a GGUF file or a PEFT folder, and its opening (1 if not given); repeatable
    #[arg(long, value_name = "FILE[:ALPHA]", required = true)]
    valve: Vec<String>,
    /// The model to write (GGUF)
    output: PathBuf,
    /// Type of the weights that change; the others stay as they are
    #[arg(long = "type", value_name = "TYPE", value_parser = type_of(&TensorType::ALL), default_value = "f16")]
    ty: TensorType,
    /// Threads
    #[arg(short, long, value_name = "N", default_value_t = EngineOptions::default().threads)]
    threads: usize,
    /// Write over what is there
    #[arg(long)]
    force: bool,
}

impl Merge {
    pub fn run(self) -> Result<()> {
        check_free(&self.output, self.force)?;
        let (base, config) = open_model(&self.model)?;
        let mut adapters = Vec::with_capacity(self.valve.len());
        for text in &self.valve {
            let (path, alpha) = parse_lora(text)?;
            let adapter = Adapter::open(&path, &config, base.info("output.weight").is_some())?;
            for name in adapter.ignored() {
                eprintln!("valve: {}: {name} has no effect", path.display());
            }
            adapters.push((adapter, alpha));
        }
        let options = MergeOptions { ty: self.ty, threads: self.threads };
        let shown = std::io::stderr().is_terminal();
        let mut progress = |done: f32| {
            if shown {
                eprint!("\r{:3.0} %", 100.0 * done);
            }
            true
        };
        let merged = merge(&base, &adapters, options, &self.output, &mut progress);
        if shown {
            eprint!("\r\x1b[K");
        }
        let merged = merged?;
        let (out, ty) = (self.output.display(), options.ty);
        eprintln!("valve: {out}: {} tensors merged as {ty}, {} as they were", merged.merged, merged.copied);
        Ok(())
    }
}

/// Reads the name of one of `types`.
pub fn type_of(types: &'static [TensorType]) -> impl TypedValueParser<Value = TensorType> {
    let named = |name: String| types.iter().copied().find(|ty| ty.name() == name).expect("it is one of the names");
    PossibleValuesParser::new(types.iter().map(|ty| ty.name())).map(named)
}

/// A model's file and shape, without its tokenizer.
pub fn open_model(path: &Path) -> Result<(Gguf, Config)> {
    let gguf = Gguf::open(path)?;
    let config = Config::read(&gguf)?;
    Ok((gguf, config))
}

/// Refuses to write over what is there unless that is asked for.
pub fn check_free(path: &Path, force: bool) -> Result<()> {
    if !force && path.exists() {
        let reason = format!("{} is there already; --force writes over it", path.display());
        return Err(Error::Argument { name: "output", reason });
    }
    Ok(())
}
