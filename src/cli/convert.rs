//! `valve convert`: an adapter as a GGUF file or as a PEFT folder.

use super::merge::{check_free, open_model, type_of};
use clap::Args;
use cotvalve::error::Result;
use cotvalve::tensor::TensorType;
use cotvalve::valve::{ADAPTER_TYPES, Source};
use std::path::PathBuf;

#[derive(Args)]
pub struct Convert {
    /// Adapter: a GGUF file, or a folder that PEFT saved
    input: PathBuf,
    /// What to write: a GGUF adapter where the name ends in .gguf, else a PEFT folder
    output: PathBuf,
    /// The model it was made for (GGUF); only its metadata is read
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// Type of the matrices
    #[arg(long = "type", visible_alias = "outtype", value_name = "TYPE", value_parser = type_of(&ADAPTER_TYPES),
          default_value = "f32")]
    ty: TensorType,
    /// Write over what is there
    #[arg(long)]
    force: bool,
}

impl Convert {
    pub fn run(self) -> Result<()> {
        let ty = self.ty;
        check_free(&self.output, self.force)?;
        let (gguf, config) = open_model(&self.model)?;
        let source = Source::open(&self.input, &config, gguf.info("output.weight").is_some())?;
        for name in source.adapter().ignored() {
            eprintln!("valve: {name} has no effect and is left out");
        }
        let done = if self.output.extension().is_some_and(|e| e == "gguf") {
            source.write_gguf(&config, ty, &self.output)?
        } else {
            source.write_peft(&config, ty, &self.output)?
        };
        for name in &done.unblocked {
            eprintln!("valve: {name} is f16: its rows are no whole blocks of {ty}");
        }
        let scale = match done.alpha {
            Some(alpha) => format!("lora_alpha {alpha}"),
            None => "scales by module".into(),
        };
        eprintln!("valve: {}: {} pairs, {scale}", self.output.display(), done.pairs);
        Ok(())
    }
}
