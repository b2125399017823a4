//! A file's tensors, found by name, checked against the config, and handed to a backend.

use super::config::Config;
use crate::backend::Linear;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::tensor::Tensor;
use std::collections::HashSet;
use std::sync::Arc;

/// A fan of the model: projections that read the same x.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FanKind {
    Qkv,
    AttnOutput,
    GateUp,
    Down,
    Head,
}

/// Where a weight stands in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Site {
    /// `None` for the head, which belongs to no layer.
    pub layer: Option<usize>,
    pub fan: FanKind,
    /// Which projection of the fan.
    pub output: usize,
}

const LAYER_WEIGHTS: [(&str, FanKind, usize); 7] = [
    ("attn_q", FanKind::Qkv, 0),
    ("attn_k", FanKind::Qkv, 1),
    ("attn_v", FanKind::Qkv, 2),
    ("attn_output", FanKind::AttnOutput, 0),
    ("ffn_gate", FanKind::GateUp, 0),
    ("ffn_up", FanKind::GateUp, 1),
    ("ffn_down", FanKind::Down, 0),
];

impl Site {
    /// The projection whose weight has this GGUF name, if the model could have one.
    pub fn of(name: &str, layers: usize) -> Option<Self> {
        if name == "output.weight" {
            return Some(Self { layer: None, fan: FanKind::Head, output: 0 });
        }
        let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
        let layer = layer.parse::<usize>().ok().filter(|l| *l < layers && layer == l.to_string())?;
        let short = rest.strip_suffix(".weight")?;
        let (_, fan, output) = LAYER_WEIGHTS.into_iter().find(|(n, _, _)| *n == short)?;
        Some(Self { layer: Some(layer), fan, output })
    }

    /// The GGUF name of the projection's weight: what [`Site::of`] reads.
    pub fn name(&self) -> String {
        let short = LAYER_WEIGHTS.into_iter().find(|(_, fan, output)| (*fan, *output) == (self.fan, self.output));
        match (self.layer, short) {
            (Some(layer), Some((short, _, _))) => format!("blk.{layer}.{short}.weight"),
            _ => "output.weight".into(),
        }
    }
}

/// One layer's weights on a backend; shapes as `[n_in, n_out]`.
pub struct Layer<B: Linear> {
    /// `[embed]`
    pub attn_norm: B::Vector,
    /// q `[embed, heads·head_dim]`, k and v `[embed, kv_heads·head_dim]`
    pub qkv: B::Fan,
    /// `[heads·head_dim, embed]`
    pub attn_output: B::Fan,
    /// `[embed]`
    pub ffn_norm: B::Vector,
    /// gate and up `[embed, ffn]`
    pub gate_up: B::Fan,
    /// `[ffn, embed]`
    pub down: B::Fan,
}

/// A model's weights on a backend.
pub struct Weights<B: Linear> {
    /// `[embed, vocab]`: row t is token t's embedding.
    pub embed: Arc<B::Fan>,
    pub layers: Vec<Layer<B>>,
    /// `[embed]`
    pub norm: B::Vector,
    /// `[embed, vocab]`; the embedding itself in models that tie the two.
    pub head: Arc<B::Fan>,
}

/// Finds tensors, checks shapes, and remembers which names were used.
struct Finder<'a> {
    gguf: &'a Gguf,
    used: HashSet<String>,
}

impl Finder<'_> {
    fn take(&mut self, name: &str, dims: &[usize]) -> Result<Tensor> {
        let path = self.gguf.path();
        let Some(tensor) = self.gguf.tensor(name)? else {
            return Err(Error::malformed(path, format!("tensor {name} is missing")));
        };
        if tensor.dims != dims {
            let what = format!("tensor {name}: shape {:?}, {dims:?} expected", tensor.dims);
            return Err(Error::malformed(path, what));
        }
        self.used.insert(name.to_string());
        Ok(tensor)
    }

    fn layer<B: Linear>(&mut self, backend: &B, config: &Config, index: usize) -> Result<Layer<B>> {
        let (embed, ffn) = (config.embed, config.ffn);
        let q_width = config.heads.heads * config.heads.head_dim;
        let kv_width = config.heads.kv_heads * config.heads.head_dim;
        let mut take = |name: &str, dims: &[usize]| self.take(&format!("blk.{index}.{name}.weight"), dims);
        let q = take("attn_q", &[embed, q_width])?;
        let k = take("attn_k", &[embed, kv_width])?;
        let v = take("attn_v", &[embed, kv_width])?;
        let gate = take("ffn_gate", &[embed, ffn])?;
        let up = take("ffn_up", &[embed, ffn])?;
        Ok(Layer {
            attn_norm: backend.vector(&take("attn_norm", &[embed])?)?,
            qkv: backend.fan(&[&q, &k, &v])?,
            attn_output: backend.fan(&[&take("attn_output", &[q_width, embed])?])?,
            ffn_norm: backend.vector(&take("ffn_norm", &[embed])?)?,
            gate_up: backend.fan(&[&gate, &up])?,
            down: backend.fan(&[&take("ffn_down", &[ffn, embed])?])?,
        })
    }
}

impl<B: Linear> Weights<B> {
    /// Hands every tensor of the file to the backend. `progress` hears the fraction done after each layer and
    /// returns whether to go on.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a missing tensor or wrong shape, [`Error::Unsupported`] for a tensor this
    /// architecture does not use (it would change the result silently), [`Error::Cancelled`].
    pub fn load(gguf: &Gguf, config: &Config, backend: &B, progress: &mut dyn FnMut(f32) -> bool) -> Result<Self> {
        let mut finder = Finder { gguf, used: HashSet::from(["rope_freqs.weight".to_string()]) };
        let table = [config.embed, config.vocab];
        let embedding = finder.take("token_embd.weight", &table)?;
        let embed = Arc::new(backend.fan(&[&embedding])?);
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            layers.push(finder.layer(backend, config, index)?);
            if !progress((index + 1) as f32 / (config.layers + 1) as f32) {
                return Err(Error::Cancelled);
            }
        }
        let norm = backend.vector(&finder.take("output_norm.weight", &[config.embed])?)?;
        let head = match gguf.tensor("output.weight")? {
            Some(_) => Arc::new(backend.fan(&[&finder.take("output.weight", &table)?])?),
            None => embed.clone(),
        };
        if let Some(unused) = gguf.tensors().iter().find(|t| !finder.used.contains(&t.name)) {
            let name = config.architecture.name;
            let what = format!("tensor {} in a model of architecture {name:?}", unused.name);
            return Err(Error::unsupported(gguf.path(), what));
        }
        progress(1.0);
        Ok(Self { embed, layers, norm, head })
    }
}
