//! Models and adapters of random weights in the shapes of real ones: to measure with, where the weights do not matter
//! and a download would.
//!
//! The same arguments give the same bytes on every machine. `benches/synth/synth.cpp` writes them too.

mod draw;
mod shape;
mod vocab;

pub use shape::{Linear, Shape};

use super::ARCHITECTURES;
use super::quantize::{Facts, FileType, PlanOptions, plan, stored};
use crate::error::{Error, Result};
use crate::gguf::write::{Data, Writer};
use crate::gguf::{Gguf, StoredType};

/// Added to the mean square in every RMS norm, as in Llama.
const NORM_EPS: f32 = 1e-5;

/// How much a matrix adds, as a power of two: an output has half to all of that times the root mean square of its
/// input. Logits are to be spread.
const LAYER_GAIN: i32 = 1;
/// What is added to the residual stream outweighs the embedding there: a tied output would else choose the token it
/// was given, again and again.
const RESIDUAL_GAIN: i32 = 3;
const OUTPUT_GAIN: i32 = 2;
/// An adapter's pair adds about a quarter of what its matrix gives.
const A_GAIN: i32 = 0;
const B_GAIN: i32 = -1;

/// What a model is made by.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    pub shape: Shape,
    pub file_type: FileType,
    /// All matrices get one type, without a mix.
    pub pure: bool,
    pub seed: u64,
    /// Positions the file says the model was trained on; `None`: the shape's.
    pub context: Option<usize>,
}

impl Recipe {
    /// The model's file, whose tensors are drawn while it is written.
    ///
    /// # Errors
    /// [`Error::Argument`] for a file type with a tensor type that is not drawn.
    pub fn model(&self) -> Result<Writer<'static>> {
        let base = self.file_type.base();
        if !draw::is_drawn(base) {
            return Err(Error::argument("type", format!("{base} is not among the types that are drawn")));
        }
        let mut writer = Writer::new();
        self.set_metadata(&mut writer)?;
        let parts = self.tensors()?;
        for Part { name, dims, ty, gain } in parts {
            let at = (self.seed, &*name);
            match dims[..] {
                [n_in, n_out] => {
                    let chunks = draw::matrix(ty, [n_in, n_out], gain, at)?;
                    writer.tensor(&name, ty.id, &dims, Data::Chunks(Box::new(chunks)))?;
                }
                _ => writer.tensor(&name, ty.id, &dims, draw::norm(dims[0], at))?,
            }
        }
        Ok(writer)
    }

    /// An adapter of rank `rank` for the model, on every matrix of its layers.
    ///
    /// # Errors
    /// As [`adapter`].
    pub fn adapter(&self, rank: usize) -> Result<Writer<'static>> {
        let linears: Vec<Linear> = (0..self.shape.layers).flat_map(|layer| self.shape.linears(layer)).collect();
        adapter(&linears, rank, self.seed)
    }

    fn set_metadata(&self, writer: &mut Writer<'_>) -> Result<()> {
        let Shape { layers, embed, ffn, heads, kv_heads, head_dim, vocab, rope_base, .. } = self.shape;
        let name = format!("synth {} {} seed {}", self.shape.name, self.file_type.name(), self.seed);
        writer.set("general.architecture", architecture())?;
        writer.set("general.type", "model")?;
        writer.set("general.name", &*name)?;
        writer.set("general.file_type", self.file_type.id())?;
        writer.set("general.quantization_version", 2_u32)?;
        let counts = [
            ("block_count", layers),
            ("context_length", self.context.unwrap_or(self.shape.context)),
            ("embedding_length", embed),
            ("feed_forward_length", ffn),
            ("attention.head_count", heads),
            ("attention.head_count_kv", kv_heads),
            ("attention.key_length", head_dim),
            ("attention.value_length", head_dim),
            ("rope.dimension_count", head_dim),
            ("vocab_size", vocab),
        ];
        for (key, count) in counts {
            let count = u32::try_from(count).map_err(|_| Error::argument("context", format!("{count} is too many")))?;
            writer.set(&format!("{}.{key}", architecture()), count)?;
        }
        writer.set(&format!("{}.attention.layer_norm_rms_epsilon", architecture()), NORM_EPS)?;
        writer.set(&format!("{}.rope.freq_base", architecture()), rope_base)?;
        vocab::set(writer, vocab)
    }

    /// All tensors in the order of the file, with their types.
    fn tensors(&self) -> Result<Vec<Part>> {
        let Shape { layers, embed, vocab, tied, heads, kv_heads, .. } = self.shape;
        let (float, half) = (stored("f32").expect("f32 is stored"), stored("f16").expect("f16 is stored"));
        let matrix =
            |name: &str, n_in, n_out, gain| Part { name: name.into(), dims: vec![n_in, n_out], ty: half, gain };
        let norm = |name: String| Part { name, dims: vec![embed], ty: float, gain: 0 };
        let embedding_gain = if tied { OUTPUT_GAIN } else { LAYER_GAIN };
        let mut parts = vec![matrix("token_embd.weight", embed, vocab, embedding_gain)];
        for layer in 0..layers {
            let linears = self.shape.linears(layer).map(|l| matrix(&l.name, l.n_in, l.n_out, layer_gain(&l.name)));
            let (attention, wide) = linears.split_at(4);
            parts.push(norm(format!("blk.{layer}.attn_norm.weight")));
            parts.extend_from_slice(attention);
            parts.push(norm(format!("blk.{layer}.ffn_norm.weight")));
            parts.extend_from_slice(wide);
        }
        parts.push(norm("output_norm.weight".into()));
        if !tied {
            parts.push(matrix("output.weight", embed, vocab, OUTPUT_GAIN));
        }
        let facts = Facts { architecture: architecture().into(), layers, heads, kv_heads, experts: 0 };
        let options = PlanOptions { pure: self.pure, ..PlanOptions::new(self.file_type) };
        let shapes: Vec<_> = parts.iter().map(Part::shape).collect();
        let planned = plan(&facts, &shapes, &options)?;
        parts.iter_mut().zip(planned).for_each(|(part, planned)| part.ty = planned.ty);
        Ok(parts)
    }
}

/// A tensor of a model.
#[derive(Clone)]
struct Part {
    name: String,
    dims: Vec<usize>,
    ty: &'static StoredType,
    gain: i32,
}

impl Part {
    fn shape(&self) -> super::quantize::Shape<'_> {
        super::quantize::Shape { name: &self.name, dims: &self.dims, ty: self.ty }
    }
}

fn layer_gain(name: &str) -> i32 {
    let adds = name.ends_with("attn_output.weight") || name.ends_with("ffn_down.weight");
    if adds { RESIDUAL_GAIN } else { LAYER_GAIN }
}

fn architecture() -> &'static str {
    ARCHITECTURES[0].name
}

/// The matrices of a model's layers that adapters have pairs for, in the order of the file.
///
/// # Errors
/// [`Error::Malformed`] for a file with no such matrix.
pub fn linears(gguf: &Gguf) -> Result<Vec<Linear>> {
    let is_linear = |name: &str| {
        let part = name.strip_prefix("blk.").and_then(|rest| rest.strip_suffix(".weight"));
        part.and_then(|part| part.split_once('.')).is_some_and(|(_, part)| shape::LINEARS.contains(&part))
    };
    let found = gguf.tensors().iter().filter(|t| is_linear(&t.name) && t.dims.len() == 2);
    let linears: Vec<_> = found.map(|t| Linear { name: t.name.clone(), n_in: t.dims[0], n_out: t.dims[1] }).collect();
    if linears.is_empty() {
        return Err(Error::malformed(gguf.path(), "no matrix of a layer that an adapter could change"));
    }
    Ok(linears)
}

/// The file of an adapter of rank `rank` in F16 on `linears`, with a scale of 1.
///
/// # Errors
/// [`Error::Argument`] for a rank of 0 and one that is larger than a matrix.
pub fn adapter(linears: &[Linear], rank: usize, seed: u64) -> Result<Writer<'static>> {
    let ty = stored("f16").expect("f16 is stored");
    let mut writer = Writer::new();
    writer.set("general.type", "adapter")?;
    writer.set("general.architecture", architecture())?;
    writer.set("general.name", &*format!("synth rank {rank} seed {seed}"))?;
    writer.set("adapter.type", "lora")?;
    writer.set("adapter.lora.alpha", rank as f32)?;
    for Linear { name, n_in, n_out } in linears {
        let most = *n_in.min(n_out);
        if rank == 0 || rank > most {
            return Err(Error::argument("rank", format!("{rank}: {name} can have 1 to {most}")));
        }
        for (half, dims, gain) in [("lora_a", [*n_in, rank], A_GAIN), ("lora_b", [rank, *n_out], B_GAIN)] {
            let name = format!("{name}.{half}");
            let chunks = draw::matrix(ty, dims, gain, (seed, &name))?;
            writer.tensor(&name, ty.id, &dims, Data::Chunks(Box::new(chunks)))?;
        }
    }
    Ok(writer)
}
