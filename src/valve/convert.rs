//! Adapters from one form into the other: PEFT folders and GGUF files.

use super::load::{Adapter, Pair};
use super::peft::{self, Notes};
use super::recode;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::gguf::write::Writer;
use crate::model::Config;
use crate::tensor::TensorType;
use std::path::Path;

/// An adapter with all that its file says beside its terms.
pub struct Source {
    adapter: Adapter,
    notes: Notes,
}

/// What a conversion did.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversion {
    /// Pairs written.
    pub pairs: usize,
    /// The `lora_alpha` that gives every pair its scale. `None`: in GGUF the scales are in the values of B, in
    /// PEFT in `alpha_pattern`.
    pub alpha: Option<f32>,
    /// Tensors that are f16 because their rows are no whole blocks of the type that was asked for.
    pub unblocked: Vec<String>,
}

/// Types that a GGUF adapter's matrices can have.
pub const ADAPTER_TYPES: [TensorType; 4] = [TensorType::F32, TensorType::F16, TensorType::BF16, TensorType::Q8_0];

/// Keys that a file's form decides, or that describe its bytes.
const FORMAL: [&str; 5] =
    ["general.architecture", "general.type", "general.alignment", "general.file_type", "general.quantization_version"];

fn is_note(key: &str) -> bool {
    !FORMAL.contains(&key) && !key.starts_with("adapter.") && !key.starts_with("split.")
}

impl Source {
    /// Opens a GGUF adapter or a PEFT folder for the model of `config`; see [`Adapter::open`].
    ///
    /// # Errors
    /// Those of [`Adapter::open`]; [`Error::Malformed`] for a `valve.json` that is not as we write it.
    pub fn open(path: &Path, config: &Config, has_output: bool) -> Result<Self> {
        if path.is_dir() {
            let adapter = Adapter::open(path, config, has_output)?;
            let notes = peft::notes(path)?.into_iter().filter(|(key, _)| is_note(key)).collect();
            return Ok(Self { adapter, notes });
        }
        let gguf = Gguf::open(path)?;
        let adapter = Adapter::read(&gguf, config, has_output)?;
        let notes = gguf.metadata().iter().filter(|(key, _)| is_note(key)).cloned().collect();
        Ok(Self { adapter, notes })
    }

    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// Writes a GGUF adapter, as llama.cpp reads it too: what is applied stays the same. Where one `lora_alpha`
    /// gives every pair its scale it is kept, and the values of both matrices with it; otherwise the scales are
    /// multiplied into B, and `lora_alpha` is 0, which stands for a scale of 1.
    ///
    /// A matrix whose rows are no whole blocks of `ty` is written as f16, as llama.cpp's converter does.
    ///
    /// # Errors
    /// [`Error::Argument`] for a type that is not in [`ADAPTER_TYPES`] and for values
    /// out of its range; [`Error::Io`]. The file is then as it was.
    pub fn write_gguf(&self, config: &Config, ty: TensorType, out: &Path) -> Result<Conversion> {
        if !ADAPTER_TYPES.contains(&ty) {
            return Err(Error::argument("type", format!("{ty}; adapters are f32, f16, bf16 or q8_0")));
        }
        let pairs = self.adapter.pairs();
        let alpha = uniform_alpha(pairs);
        let mut writer = Writer::new();
        self.notes.iter().try_for_each(|(key, value)| writer.set(key, value.clone()))?;
        writer.set("general.type", "adapter")?;
        writer.set("general.architecture", config.architecture.name)?;
        writer.set("adapter.type", "lora")?;
        writer.set("adapter.lora.alpha", alpha.unwrap_or(0.0))?;
        let mut unblocked = Vec::new();
        for pair in pairs {
            let b_scale = if alpha.is_some() { 1.0 } else { pair.scale };
            for (tensor, scale) in [(&pair.a, 1.0), (&pair.b, b_scale)] {
                let blocks = ty.row_bytes(tensor.cols()).is_some();
                let ty = if blocks { ty } else { TensorType::F16 };
                if !blocks {
                    unblocked.push(tensor.name.clone());
                }
                writer.tensor(&tensor.name, ty as u32, &tensor.dims, recode::scaled(tensor, scale, ty)?)?;
            }
        }
        writer.write(out)?;
        Ok(Conversion { pairs: pairs.len(), alpha, unblocked })
    }

    /// Writes a PEFT folder: what is applied stays the same, to the bit where `ty` holds the values. Scales that
    /// differ become `rank_pattern` and `alpha_pattern`. GGUF metadata that PEFT has no place for goes to
    /// `valve.json` in the folder.
    ///
    /// # Errors
    /// [`Error::Argument`] for another type than F32, F16 and BF16 and for values out of its range; [`Error::Io`].
    pub fn write_peft(&self, config: &Config, ty: TensorType, out: &Path) -> Result<Conversion> {
        let pairs = self.adapter.pairs();
        let alpha = uniform_alpha(pairs);
        peft::write(&peft::Terms { pairs, alpha }, &self.notes, config, ty, out)?;
        Ok(Conversion { pairs: pairs.len(), alpha, unblocked: Vec::new() })
    }
}

/// The `lora_alpha` that, divided by its rank, is every pair's scale to the bit.
fn uniform_alpha(pairs: &[Pair]) -> Option<f32> {
    let rank = |pair: &Pair| pair.b.cols() as f32;
    let near = pairs.first().map(|pair| (f64::from(pair.scale) * f64::from(rank(pair))) as f32)?;
    // The quotient of a rounded product may be a neighbour of the scale.
    let candidates = [near, near.next_up(), near.next_down()];
    let fits = |alpha: &f32| *alpha != 0.0 && pairs.iter().all(|pair| alpha / rank(pair) == pair.scale);
    candidates.into_iter().find(fits)
}
