//! LoRA adapters: reading one, and checking that it fits a model.

use super::parts::Part;
use super::peft;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::model::{Config, Site};
use crate::tensor::Tensor;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// One low-rank pair, on one projection.
#[derive(Clone, Debug)]
pub struct Pair {
    pub site: Site,
    /// A: `dims = [n_in, rank]`.
    pub a: Tensor,
    /// B: `dims = [rank, n_out]`.
    pub b: Tensor,
    /// `lora_alpha / rank` (in PEFT, by its config, also `lora_alpha / √rank`); 1 where a GGUF file has no
    /// `lora_alpha` or has 0, as llama.cpp takes it.
    pub scale: f32,
}

/// An adapter that fits a model: y = W·x + α · scale · B·(A·x) on every site it names.
#[derive(Clone, Debug)]
pub struct Adapter {
    path: PathBuf,
    pairs: Vec<Pair>,
    parts: Vec<Part>,
    content_hash: [u8; 32],
    ignored: Vec<String>,
}

impl Adapter {
    /// Opens a GGUF file, or a folder that PEFT saved, and checks every pair against the model's shapes.
    /// `has_output`: the model has an `output.weight` of its own.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a damaged file; [`Error::Unsupported`] for another kind of adapter or a tensor
    /// type without a kernel; [`Error::Adapter`] if it was made for another architecture, a shape does not
    /// fit, half of a pair is missing, a tensor has no place in the model, or nothing would be applied.
    pub fn open(path: &Path, config: &Config, has_output: bool) -> Result<Self> {
        if path.is_dir() {
            return peft::open(path, config, has_output);
        }
        Self::read(&Gguf::open(path)?, config, has_output)
    }

    /// The same, of a GGUF file already read.
    pub fn read(gguf: &Gguf, config: &Config, has_output: bool) -> Result<Self> {
        check_kind(gguf, config)?;
        let alpha = gguf.f32("adapter.lora.alpha")?.unwrap_or(0.0);
        if !alpha.is_finite() {
            return Err(Error::malformed(gguf.path(), format!("adapter.lora.alpha: {alpha} is not finite")));
        }
        let mut ignored = Vec::new();
        let mut halves: BTreeMap<&str, [bool; 2]> = BTreeMap::new();
        for info in gguf.tensors() {
            let name = &info.name;
            if let Some(base) = name.strip_suffix(".lora_a") {
                halves.entry(base).or_default()[0] = true;
            } else if let Some(base) = name.strip_suffix(".lora_b") {
                halves.entry(base).or_default()[1] = true;
            } else if name.ends_with("_norm.weight") {
                ignored.push(name.to_string());
            } else {
                return Err(Error::adapter(gguf.path(), format!("tensor {name} is neither .lora_a nor .lora_b")));
            }
        }
        let mut pairs = Vec::with_capacity(halves.len());
        for (base, found) in halves {
            if found != [true; 2] {
                let missing = if found[0] { "lora_b" } else { "lora_a" };
                return Err(Error::adapter(gguf.path(), format!("{base}.{missing} is missing")));
            }
            pairs.push(read_pair(gguf, base, alpha, config, has_output)?);
        }
        if pairs.is_empty() {
            return Err(Error::adapter(gguf.path(), "it holds nothing that could be applied to this model"));
        }
        Ok(Self::of(gguf.path(), pairs, ignored))
    }

    /// Pairs that were checked, and the names of what else `path` holds.
    pub(super) fn of(path: &Path, mut pairs: Vec<Pair>, ignored: Vec<String>) -> Self {
        // One order, whatever the file's: the hash is then that of what is applied.
        pairs.sort_by_key(|p| (p.site.layer.unwrap_or(usize::MAX), p.site.fan as usize, p.site.output));
        let parts = pairs.iter().map(|pair| Part::of(pair.site)).collect::<BTreeSet<_>>().into_iter().collect();
        Self { path: path.to_path_buf(), parts, content_hash: content_hash(&pairs), pairs, ignored }
    }

    /// Whether every pair has its place in a model of this shape.
    ///
    /// # Errors
    /// [`Error::Adapter`] if it was read for another model.
    pub fn check(&self, config: &Config, has_output: bool) -> Result<()> {
        let fits = |pair: &Pair| {
            let place = pair.site.layer.map_or(has_output, |layer| layer < config.layers);
            place && [pair.a.cols(), pair.b.rows()] == shape(pair.site, config)
        };
        if self.pairs.iter().all(fits) { Ok(()) } else { Err(Error::adapter(&self.path, "read for another model")) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every pair that will be applied, by layer, the head last.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// The parts that a dial can turn, ascending, each with a slot of its own once the adapter is attached.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Which of the adapter's slots turns `part`.
    pub fn slot(&self, part: Part) -> Option<usize> {
        self.parts.binary_search(&part).ok()
    }

    /// SHA-256 of all that is applied: sites, scales, shapes, types and values. Two adapters with one hash do the
    /// same, whatever their files are called.
    pub fn content_hash(&self) -> &[u8; 32] {
        &self.content_hash
    }

    /// Names of tensors that have no effect: norms in GGUF files, which llama.cpp accepts and ignores too; copies of
    /// the base model's embedding and head in PEFT folders.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }
}

fn content_hash(pairs: &[Pair]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for Pair { site, a, b, scale } in pairs {
        hash.update(format!("{site:?} {:#x}", scale.to_bits()));
        for half in [a, b] {
            hash.update(format!(" {} {:?} ", half.ty, half.dims));
            hash.update(&*half.data);
        }
    }
    hash.finalize().into()
}

fn check_kind(gguf: &Gguf, config: &Config) -> Result<()> {
    let path = gguf.path();
    let kind = gguf.str("general.type")?.unwrap_or("model");
    if kind != "adapter" {
        return Err(Error::adapter(path, format!("general.type is {kind:?}, not \"adapter\"")));
    }
    let adapter = gguf.str("adapter.type")?.unwrap_or("");
    if adapter != "lora" {
        return Err(Error::unsupported(path, format!("adapter.type {adapter:?}")));
    }
    let architecture = gguf.str("general.architecture")?.unwrap_or("");
    if architecture != config.architecture.name {
        let model = config.architecture.name;
        return Err(Error::adapter(path, format!("made for architecture {architecture:?}; the model is {model:?}")));
    }
    if gguf.get("adapter.alora.invocation_tokens").is_some() {
        return Err(Error::unsupported(path, "activated LoRA (adapter.alora.invocation_tokens)"));
    }
    Ok(())
}

/// Inputs and outputs of the projection at `site`.
pub(super) fn shape(site: Site, config: &Config) -> [usize; 2] {
    use crate::model::FanKind::{AttnOutput, Down, GateUp, Head, Qkv};
    let q_width = config.heads.heads * config.heads.head_dim;
    let kv_width = config.heads.kv_heads * config.heads.head_dim;
    match (site.fan, site.output) {
        (Qkv, 0) => [config.embed, q_width],
        (Qkv, _) => [config.embed, kv_width],
        (AttnOutput, _) => [q_width, config.embed],
        (GateUp, _) => [config.embed, config.ffn],
        (Down, _) => [config.ffn, config.embed],
        (Head, _) => [config.embed, config.vocab],
    }
}

fn read_pair(gguf: &Gguf, base: &str, alpha: f32, config: &Config, has_output: bool) -> Result<Pair> {
    let path = gguf.path();
    let site = Site::of(base, config.layers).filter(|s| s.layer.is_some() || has_output);
    let Some(site) = site else {
        return Err(Error::adapter(path, format!("{base}: the model has no such projection to add to")));
    };
    let take = |suffix: &str| match gguf.tensor(&format!("{base}.{suffix}"))? {
        Some(tensor) => Ok(tensor),
        None => Err(Error::adapter(path, format!("{base}.{suffix} is missing"))),
    };
    let (a, b) = (take("lora_a")?, take("lora_b")?);
    let [n_in, n_out] = shape(site, config);
    let rank = b.dims[0];
    if a.dims != [n_in, rank] || b.dims != [rank, n_out] {
        let (a, b) = (&a.dims, &b.dims);
        return Err(Error::adapter(path, format!("{base}: A {a:?} and B {b:?} do not fit a weight [{n_in}, {n_out}]")));
    }
    let scale = if alpha == 0.0 { 1.0 } else { alpha / rank as f32 };
    Ok(Pair { site, a, b, scale })
}
