//! The forward pass: one for all backends and architectures.

use super::config::Config;
use super::load::{FanKind, Head, Layer, Portion, Weights};
use super::logits::Logits;
use crate::backend::{Backend, Batch, CacheSpec, Input, Owed, PageId};
use crate::error::Result;
use crate::tensor::TensorType;
use crate::valve::{Adapter, ValveSet};
use std::sync::Arc;

/// How much a stage must be able to hold.
#[derive(Clone, Copy, Debug)]
pub struct StageSpec {
    /// Rows of the largest batch.
    pub rows: usize,
    /// Rows of a batch whose logits may be wanted.
    pub outputs: usize,
    /// Pages of the key/value cache.
    pub pages: usize,
    /// Positions a page holds.
    pub page_len: usize,
    /// Type of keys and values: F32, F16 or Q8_0.
    pub kv_type: TensorType,
}

/// A model's layers on a device, behind one dynamic call a step.
pub trait Stage: Send {
    /// Replaces the attached adapters; their parts answer to the columns of the openings, in order.
    fn attach(&mut self, adapters: &[Arc<Adapter>]) -> Result<()>;
    /// Runs the batch; `logits` gets what it asks for of the rows in `batch.outputs`.
    fn step(&mut self, batch: &Batch<'_>, logits: &mut Logits) -> Result<()>;
    /// [`Backend::copy_page`] of its cache.
    fn copy_page(&mut self, from: PageId, to: PageId) -> Result<()>;
    /// [`Backend::read_page`] of its cache.
    fn read_page(&mut self, page: PageId, out: &mut [u8]) -> Result<()>;
    /// [`Backend::write_page`] of its cache.
    fn write_page(&mut self, page: PageId, data: &[u8]) -> Result<()>;
}

/// A stage that has a portion of the layers.
pub trait Part: Stage {
    /// Runs the batch. Unless it has the embedding, `hidden` holds what the portion before made of the rows,
    /// `[rows, embed]`; unless it has the head, which makes `logits`, that is where what it makes goes.
    fn run(&mut self, batch: &Batch<'_>, hidden: &mut [f32], logits: &mut Logits) -> Result<()>;
    /// Its layers.
    fn layers(&self) -> usize;
}

/// Activations of a step, each `[rows, width]`.
struct Buffers<B: Backend> {
    /// The residual stream.
    h: B::Buf,
    k: B::Buf,
    v: B::Buf,
    /// Queries and what attention makes of them, then gate and up.
    wide: [B::Buf; 2],
    /// What a half of a layer adds to the residual.
    y: B::Buf,
    logits: B::Buf,
    /// Shrunk activations of the fan whose outputs are being consumed, and of the one after it.
    u: [B::Buf; 2],
}

/// A model's layers, or a portion of them, on one backend.
pub struct Forward<B: Backend> {
    backend: B,
    config: Config,
    weights: Arc<Weights<B>>,
    valves: Arc<ValveSet<B>>,
    /// Counts the changes of what the backend's verbs are given.
    version: u64,
    cache: B::Cache,
    buffers: Buffers<B>,
    spec: StageSpec,
    portion: Portion,
}

impl<B: Backend> Forward<B> {
    /// Buffers and a cache of the stated size; no adapters.
    pub fn new(backend: B, config: Config, weights: Arc<Weights<B>>, spec: StageSpec) -> Result<Self> {
        let portion = Portion::all(config.layers);
        Self::of_portion(backend, config, weights, portion, spec)
    }

    /// The same for the layers of `portion`, whose weights these are.
    pub fn of_portion(
        backend: B,
        config: Config,
        weights: Arc<Weights<B>>,
        portion: Portion,
        spec: StageSpec,
    ) -> Result<Self> {
        let heads = &config.heads;
        let (kv_width, wide) = (heads.kv_heads * heads.head_dim, config.ffn.max(heads.heads * heads.head_dim));
        let buf = |cols| backend.buf(spec.rows, cols);
        let buffers = Buffers {
            h: buf(config.embed)?,
            k: buf(kv_width)?,
            v: buf(kv_width)?,
            wide: [buf(wide)?, buf(wide)?],
            y: buf(config.embed)?,
            logits: backend.buf(if portion.head { spec.outputs } else { 0 }, config.vocab)?,
            u: [buf(0)?, buf(0)?],
        };
        let cache = backend.cache(&CacheSpec {
            layers: portion.layers.len(),
            kv_heads: heads.kv_heads,
            head_dim: heads.head_dim,
            pages: spec.pages,
            page_len: spec.page_len,
            ty: spec.kv_type,
        })?;
        let valves = Arc::new(ValveSet::build(&backend, &[], &portion)?);
        Ok(Self { backend, config, weights, valves, version: 0, cache, buffers, spec, portion })
    }

    /// The device below.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Queries, and what the cache keeps.
    fn qkv(&mut self, index: usize, layer: &Layer<B>, valves: &ValveSet<B>) -> Result<()> {
        let Buffers { h, k, v, wide: [q, attn], u: [u, _], .. } = &mut self.buffers;
        let (backend, config) = (&mut self.backend, &self.config);
        for buf in [&mut *q, attn] {
            backend.shape(buf, config.heads.heads * config.heads.head_dim);
        }
        let x = Input::Normed { x: h, weight: &layer.attn_norm, eps: config.norm_eps };
        let delta = valves.delta(Some(index), FanKind::Qkv);
        backend.expect(&layer.attn_output);
        backend.project(&mut [&mut *q, &mut *k, &mut *v], u, x, &layer.qkv, delta)?;
        let owed = delta.map(|delta| Owed { u, delta });
        backend.rope_store([q, k, v], owed, &mut self.cache, index, &config.rope, &config.heads)
    }

    fn attention(&mut self, index: usize, layer: &Layer<B>, valves: &ValveSet<B>) -> Result<()> {
        let Buffers { h, wide: [q, attn], y, u: [_, u_out], .. } = &mut self.buffers;
        let (backend, config) = (&mut self.backend, &self.config);
        backend.attend(attn, q, &self.cache, index, &config.heads)?;
        let delta = valves.delta(Some(index), FanKind::AttnOutput);
        backend.expect(&layer.gate_up);
        backend.project(&mut [&mut *y], u_out, Input::Raw(attn), &layer.attn_output, delta)?;
        backend.add(h, y, delta.map(|delta| Owed { u: u_out, delta }))
    }

    fn ffn_half(&mut self, index: usize, layer: &Layer<B>, next: Option<&B::Fan>, valves: &ValveSet<B>) -> Result<()> {
        let Buffers { h, wide: [gate, up], y, u: [u, u_down], .. } = &mut self.buffers;
        let (backend, config) = (&mut self.backend, &self.config);
        for buf in [&mut *gate, &mut *up] {
            backend.shape(buf, config.ffn);
        }
        let x = Input::Normed { x: h, weight: &layer.ffn_norm, eps: config.norm_eps };
        let delta = valves.delta(Some(index), FanKind::GateUp);
        backend.expect(&layer.down);
        backend.project(&mut [&mut *gate, &mut *up], u, x, &layer.gate_up, delta)?;
        let x = Input::Gated { gate, up, owed: delta.map(|delta| Owed { u, delta }) };
        let delta = valves.delta(Some(index), FanKind::Down);
        if let Some(next) = next {
            backend.expect(next);
        }
        backend.project(&mut [&mut *y], u_down, x, &layer.down, delta)?;
        backend.add(h, y, delta.map(|delta| Owed { u: u_down, delta }))
    }

    /// The whole step; `outputs`: whether any row's logits are wanted.
    fn verbs(&mut self, outputs: bool) -> Result<()> {
        let (weights, valves) = (self.weights.clone(), self.valves.clone());
        if let Some(embed) = &weights.embed {
            self.backend.embed(&mut self.buffers.h, embed)?;
        }
        for (index, layer) in weights.layers.iter().enumerate() {
            self.qkv(index, layer, &valves)?;
            if index + 1 == weights.layers.len() && self.portion.head {
                // Past the last layer's keys and values, a row is computed for its logits alone.
                if !outputs {
                    return Ok(());
                }
                self.backend.keep_outputs([&mut self.buffers.h, &mut self.buffers.wide[0]])?;
            }
            self.attention(index, layer, &valves)?;
            let head = weights.head.as_ref().map(|head| &*head.fan);
            let next = weights.layers.get(index + 1).map(|layer| &layer.qkv).or(head);
            self.ffn_half(index, layer, next, &valves)?;
        }
        weights.head.as_ref().map_or(Ok(()), |head| self.head(head, &valves))
    }

    fn head(&mut self, head: &Head<B>, valves: &ValveSet<B>) -> Result<()> {
        let Buffers { h, logits, u: [u, _], .. } = &mut self.buffers;
        let x = Input::NormedOutputs { x: h, weight: &head.norm, eps: self.config.norm_eps };
        let delta = valves.delta(None, FanKind::Head);
        if let Some(first) = self.weights.layers.first() {
            self.backend.expect(&first.qkv);
        }
        self.backend.project(&mut [&mut *logits], u, x, &head.fan, delta)?;
        match delta {
            Some(delta) => self.backend.settle_outputs(logits, Owed { u, delta }),
            None => Ok(()),
        }
    }

    /// Takes what is asked for of the logits of `outputs` rows from the backend.
    fn leave(&mut self, outputs: usize, to: &mut Logits) -> Result<()> {
        let Logits { enough, all, likeliest } = to;
        if *enough > 0 && self.backend.likeliest(&self.buffers.logits, *enough, likeliest)? {
            all.clear();
            return Ok(());
        }
        likeliest.clear();
        all.resize(outputs * self.config.vocab, 0.0);
        self.backend.download(&self.buffers.logits, all)
    }
}

impl<B> Part for Forward<B>
where
    B: Backend + Send,
{
    fn run(&mut self, batch: &Batch<'_>, hidden: &mut [f32], logits: &mut Logits) -> Result<()> {
        self.backend.begin(batch)?;
        if !self.portion.embed {
            self.backend.upload(&mut self.buffers.h, hidden)?;
        }
        while !self.backend.replay(self.version)? {
            self.verbs(!batch.outputs.is_empty())?;
            if self.backend.finish()? {
                break;
            }
        }
        match self.portion.head {
            true => self.leave(batch.outputs.len(), logits),
            false => self.backend.download(&self.buffers.h, hidden),
        }
    }

    fn layers(&self) -> usize {
        self.portion.layers.len()
    }
}

impl<B> Stage for Forward<B>
where
    B: Backend + Send,
{
    fn attach(&mut self, adapters: &[Arc<Adapter>]) -> Result<()> {
        let valves = ValveSet::build(&self.backend, adapters, &self.portion)?;
        let u = |valves: &ValveSet<B>| self.backend.buf(self.spec.rows, valves.rank());
        self.buffers.u = [u(&valves)?, u(&valves)?];
        self.valves = Arc::new(valves);
        self.version += 1;
        Ok(())
    }

    fn step(&mut self, batch: &Batch<'_>, logits: &mut Logits) -> Result<()> {
        self.run(batch, &mut [], logits)
    }

    fn copy_page(&mut self, from: PageId, to: PageId) -> Result<()> {
        self.backend.copy_page(&mut self.cache, from, to)
    }

    fn read_page(&mut self, page: PageId, out: &mut [u8]) -> Result<()> {
        self.backend.read_page(&self.cache, page, out)
    }

    fn write_page(&mut self, page: PageId, data: &[u8]) -> Result<()> {
        self.backend.write_page(&mut self.cache, page, data)
    }
}
