//! `valve synth`: a model of random weights, and an adapter for it.

use super::merge::check_free;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use cotvalve::error::{Error, Result};
use cotvalve::gguf::Gguf;
use cotvalve::gguf::write::Writer;
use cotvalve::model::ARCHITECTURES;
use cotvalve::model::quantize::FileType;
use cotvalve::model::synth::{Recipe, Shape, adapter, linears};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Args)]
pub struct Synth {
    /// Architecture
    #[arg(long, value_name = "NAME", value_parser = ARCHITECTURES.iter().map(|a| a.name).collect::<Vec<_>>(),
          default_value = "llama")]
    arch: String,
    /// Whose shape: 135M SmolLM2's, 1B and 3B Llama 3.2's, 8B Llama 3's, 32B Qwen2.5's
    #[arg(long, value_parser = sizes(), default_value = "1B", ignore_case = true)]
    size: Shape,
    /// Type of the weights, as llama-quantize names it, with its mixes
    #[arg(long = "type", value_name = "TYPE", value_parser = file_type, default_value = "q4_k_m")]
    ty: FileType,
    /// All matrices have one type, without a mix
    #[arg(long)]
    pure: bool,
    /// Write an adapter of this rank on all linears beside the model
    #[arg(long, value_name = "N")]
    rank: Option<usize>,
    /// Write only the adapter
    #[arg(long, requires = "rank")]
    adapter_only: bool,
    /// The model (GGUF) that the adapter fits; else one of --size
    #[arg(short, long, value_name = "FILE", requires = "adapter_only")]
    model: Option<PathBuf>,
    /// The same arguments with the same seed give the same files everywhere
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Positions that the file says the model was trained on; the size's own if not given
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    ctx: Option<u32>,
    /// What to write; the adapter's name gets -rankN [default: synth-SIZE-TYPE.gguf]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write over what is there
    #[arg(long)]
    force: bool,
}

impl Synth {
    pub fn run(self) -> Result<()> {
        debug_assert_eq!(self.arch, ARCHITECTURES[0].name);
        let recipe = Recipe {
            shape: self.size,
            file_type: self.ty,
            pure: self.pure,
            seed: self.seed,
            context: self.ctx.map(|n| n as usize),
        };
        let name = format!("synth-{}-{}.gguf", self.size.name, self.ty.name().to_lowercase());
        let out = self.out.unwrap_or_else(|| name.into());
        let mut files = Vec::new();
        if !self.adapter_only {
            files.push((out.clone(), recipe.model()?));
        }
        if let Some(rank) = self.rank {
            let writer = match &self.model {
                Some(model) => adapter(&linears(&Gguf::open(model)?)?, rank, self.seed)?,
                None => recipe.adapter(rank)?,
            };
            let beside = if self.adapter_only { out } else { beside(&out, rank)? };
            files.push((beside, writer));
        }
        files.iter().try_for_each(|(path, _)| check_free(path, self.force))?;
        files.into_iter().try_for_each(|(path, writer)| write(&path, writer))
    }
}

/// The adapter's file beside the model's.
fn beside(model: &Path, rank: usize) -> Result<PathBuf> {
    let stem = model.file_stem().and_then(|stem| stem.to_str());
    let stem = stem.ok_or_else(|| Error::Argument {
        name: "--out",
        reason: format!("{} does not name a file", model.display()),
    })?;
    Ok(model.with_file_name(format!("{stem}-rank{rank}.gguf")))
}

fn write(path: &Path, writer: Writer<'_>) -> Result<()> {
    let start = Instant::now();
    writer.write(path)?;
    let bytes = std::fs::metadata(path).map_err(|source| Error::Io { path: path.into(), source })?.len();
    let (mb, seconds) = (bytes as f64 / 1e6, start.elapsed().as_secs_f64());
    eprintln!("valve: {}: {mb:.1} MB, {:.0} MB/s", path.display(), mb / seconds.max(1e-9));
    Ok(())
}

/// Reads the name of a shape; the one for tests is not shown.
fn sizes() -> impl TypedValueParser<Value = Shape> {
    use clap::builder::PossibleValue;
    let value = |shape: Shape| PossibleValue::new(shape.name).help(shape.about).hide(shape.name == "tiny");
    let named = |name: String| Shape::named(&name).expect("it is one of the names");
    PossibleValuesParser::new(Shape::ALL.map(value)).map(named)
}

fn file_type(text: &str) -> std::result::Result<FileType, String> {
    FileType::parse(text).ok_or_else(|| format!("{text:?} is no type that llama-quantize knows"))
}
