//! What a GGUF file says about its model: the architecture as data.

use crate::backend::{Heads, Rope, RopeLayout};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::quant;
use crate::tensor::TensorType;

/// What sets one architecture apart from another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Architecture {
    /// `general.architecture`, and the prefix of its keys.
    pub name: &'static str,
    pub rope: RopeLayout,
}

/// The architectures this engine runs.
pub const ARCHITECTURES: &[Architecture] = &[Architecture { name: "llama", rope: RopeLayout::Interleaved }];

/// A model's shape and constants.
#[derive(Clone, Debug)]
pub struct Config {
    pub architecture: Architecture,
    pub layers: usize,
    /// Width of the residual stream.
    pub embed: usize,
    /// Width between the gate/up and down projections.
    pub ffn: usize,
    pub heads: Heads,
    pub vocab: usize,
    /// Positions the model was trained on.
    pub context: usize,
    /// Added to the mean square in every RMS norm.
    pub norm_eps: f32,
    pub rope: Rope,
}

/// Limits on counts that a file states; far above any model known, far below what could exhaust memory.
const MAX_LAYERS: usize = 4096;
const MAX_HEADS: usize = 4096;
const MAX_HEAD_DIM: usize = 1 << 16;
const MAX_WIDTH: usize = 1 << 24;
const MAX_CONTEXT: usize = 1 << 28;

/// Reads the keys of one architecture.
struct Keys<'a> {
    gguf: &'a Gguf,
    prefix: &'static str,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn fail<T>(&self, key: &str, why: impl std::fmt::Display) -> Result<T> {
        Err(Error::malformed(self.gguf.path(), format!("{}: {why}", self.name(key))))
    }

    fn optional(&self, key: &str, max: usize) -> Result<Option<usize>> {
        let Some(value) = self.gguf.u32(&self.name(key))? else { return Ok(None) };
        let value = value as usize;
        if value == 0 || value > max {
            return self.fail(key, format!("{value} is not between 1 and {max}"));
        }
        Ok(Some(value))
    }

    fn count(&self, key: &str, max: usize) -> Result<usize> {
        match self.optional(key, max)? {
            Some(value) => Ok(value),
            None => self.fail(key, "this key is missing"),
        }
    }

    /// A number that must be positive and finite.
    fn positive(&self, key: &str) -> Result<Option<f32>> {
        let Some(value) = self.gguf.f32(&self.name(key))? else { return Ok(None) };
        if !value.is_finite() || value <= 0.0 {
            return self.fail(key, format!("{value} is not a positive number"));
        }
        Ok(Some(value))
    }
}

impl Config {
    /// Reads the keys `<architecture>.*` and the RoPE factors.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an architecture or rope scaling that is not built in; [`Error::Malformed`]
    /// for keys that are missing, out of bounds or contradict each other.
    pub fn read(gguf: &Gguf) -> Result<Self> {
        let path = gguf.path();
        let Some(name) = gguf.str("general.architecture")? else {
            return Err(Error::malformed(path, "general.architecture: this key is missing"));
        };
        let Some(architecture) = ARCHITECTURES.iter().copied().find(|a| a.name == name) else {
            return Err(Error::unsupported(path, format!("architecture {name:?}")));
        };
        let keys = Keys { gguf, prefix: architecture.name };
        if gguf.u32(&keys.name("expert_count"))?.unwrap_or(0) > 0 {
            return Err(Error::unsupported(path, "mixture of experts (llama.expert_count)"));
        }
        let embed = keys.count("embedding_length", MAX_WIDTH)?;
        let heads = read_heads(&keys, embed)?;
        let embedding = gguf.tensor("token_embd.weight")?;
        let Some(embedding) = embedding else {
            return Err(Error::malformed(path, "tensor token_embd.weight is missing"));
        };
        if embedding.dims.len() != 2 || embedding.cols() != embed {
            let shape = &embedding.dims;
            return Err(Error::malformed(path, format!("token_embd.weight: shape {shape:?} for width {embed}")));
        }
        Ok(Self {
            architecture,
            layers: keys.count("block_count", MAX_LAYERS)?,
            embed,
            ffn: keys.count("feed_forward_length", MAX_WIDTH)?,
            heads,
            vocab: embedding.rows(),
            context: keys.count("context_length", MAX_CONTEXT)?,
            norm_eps: match keys.positive("attention.layer_norm_rms_epsilon")? {
                Some(eps) => eps,
                None => return keys.fail("attention.layer_norm_rms_epsilon", "this key is missing"),
            },
            rope: read_rope(&keys, &heads, architecture.rope)?,
        })
    }
}

fn read_heads(keys: &Keys<'_>, embed: usize) -> Result<Heads> {
    let heads = keys.count("attention.head_count", MAX_HEADS)?;
    let kv_heads = keys.optional("attention.head_count_kv", MAX_HEADS)?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        return keys.fail("attention.head_count_kv", format!("{kv_heads} does not divide {heads} heads"));
    }
    let head_dim = match keys.optional("attention.key_length", MAX_HEAD_DIM)? {
        Some(dim) => dim,
        None if embed.is_multiple_of(heads) => embed / heads,
        None => return keys.fail("attention.head_count", format!("{heads} does not divide width {embed}")),
    };
    if keys.optional("attention.value_length", MAX_HEAD_DIM)?.is_some_and(|v| v != head_dim) {
        let what = "attention.value_length that differs from the key length";
        return Err(Error::unsupported(keys.gguf.path(), what));
    }
    Ok(Heads { heads, kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() })
}

fn read_rope(keys: &Keys<'_>, heads: &Heads, layout: RopeLayout) -> Result<Rope> {
    let rotated = keys.optional("rope.dimension_count", MAX_HEAD_DIM)?.unwrap_or(heads.head_dim);
    if rotated > heads.head_dim || !rotated.is_multiple_of(2) {
        return keys.fail("rope.dimension_count", format!("{rotated} of {} head values", heads.head_dim));
    }
    let base = f64::from(keys.positive("rope.freq_base")?.unwrap_or(10_000.0));
    // As llama.cpp reads it: a factor without a type is linear, and the first files named it `rope.scale_linear`.
    let scaling = keys.gguf.str(&keys.name("rope.scaling.type"))?.unwrap_or("linear");
    let linear = match scaling {
        "none" => 1.0,
        "linear" => match keys.positive("rope.scaling.factor")? {
            Some(factor) => f64::from(factor),
            None => f64::from(keys.positive("rope.scale_linear")?.unwrap_or(1.0)),
        },
        other => return Err(Error::unsupported(keys.gguf.path(), format!("rope scaling {other:?}"))),
    };
    let factors = read_rope_factors(keys, rotated / 2)?;
    let frequency = |i: usize| base.powf(-2.0 * i as f64 / rotated as f64) / linear;
    let inv_freq = match factors {
        Some(factors) => factors.iter().enumerate().map(|(i, f)| frequency(i) / f64::from(*f)).collect(),
        None => (0..rotated / 2).map(frequency).collect(),
    };
    Ok(Rope { layout, inv_freq })
}

/// Llama 3's per-frequency divisors, where the file has them.
fn read_rope_factors(keys: &Keys<'_>, pairs: usize) -> Result<Option<Vec<f32>>> {
    let Some(tensor) = keys.gguf.tensor("rope_freqs.weight")? else { return Ok(None) };
    let path = keys.gguf.path();
    if tensor.ty != TensorType::F32 || tensor.dims != [pairs] {
        let what = format!("rope_freqs.weight: {} {:?}, f32 [{pairs}] expected", tensor.ty, tensor.dims);
        return Err(Error::malformed(path, what));
    }
    let factors = quant::to_f32(&tensor);
    if factors.iter().any(|f| !f.is_finite() || *f <= 0.0) {
        return Err(Error::malformed(path, "rope_freqs.weight: a factor is not a positive number"));
    }
    Ok(Some(factors))
}
