//! The verbs a device offers, each with its formula. `model` is written over these traits and knows no device.
//!
//! Buffers are row-major `[rows, cols]` in `f32`; a *row* is one token of the batch. Everything that changes
//! from step to step (tokens, positions, page tables, openings) goes in through [`Linear::begin`]; after that
//! no verb takes a host slice, so that a captured command graph may replay for any of it.
//!
//! # Where a valve meets a weight
//! A fan is the set of projections that read the same x. Its delta holds every low-rank term of every attached
//! adapter on those projections:
//!
//! ```text
//! u_t  = opening[row, slot_t] · scale_t · (A_t x)         the shrink: done by `project`, in the pass over W
//! y_i += Σ_t B_t u_t   over the terms t of output i       the expand: done by `project` or the consumer of y_i
//! ```
//!
//! Which of the two does the expand is the backend's choice, the same for every fan of a step: either `project` adds
//! it, and the consumers have nothing to add; or it leaves `y_i = W_i x` and `u`, and whoever reads `y_i` next adds the
//! rest. The consumer is handed an [`Owed`] in both cases. Only the verbs that take it may read a y of a fan with a
//! delta.
//! A row whose opening of a slot is zero (of either sign) skips that term in both halves: it is never
//! multiplied by zero, since A·x may overflow.

use crate::error::Result;
use crate::tensor::{Tensor, TensorType};
use std::ops::Range;

/// Index of a page of the key/value cache.
pub type PageId = u32;

/// How a weight meets activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// Activations quantized to 8 bits in blocks of 32 for quantized weights: inference.
    #[default]
    Int8,
    /// Weights dequantized, f32 activations: truth, fixtures and training.
    Float,
}

/// One step's rows. Uploaded once by [`Linear::begin`].
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `[rows]`
    pub tokens: &'a [u32],
    /// `[rows]`: where in its sequence each token stands; its key and value are stored there.
    pub positions: &'a [u32],
    /// The sequences of this batch; their row ranges cover all rows in order.
    pub spans: &'a [Span],
    /// The page tables of all spans, one after the other.
    pub pages: &'a [PageId],
    /// `[rows, slots]`: α of each slot for each row; all finite.
    pub openings: &'a [f32],
    pub slots: usize,
    /// Rows whose logits are wanted, ascending.
    pub outputs: &'a [u32],
}

/// The rows of one sequence: contiguous in the batch, at successive positions.
#[derive(Clone, Debug)]
pub struct Span {
    pub rows: Range<u32>,
    /// Where in [`Batch::pages`] its table stands; it covers every position up to its last row's.
    pub table: Range<u32>,
}

/// One low-rank term, as an adapter file gives it.
#[derive(Clone, Copy, Debug)]
pub struct Term<'a> {
    /// Which projection of the fan it adds to.
    pub output: usize,
    /// Which column of [`Batch::openings`] turns it.
    pub slot: usize,
    /// `lora_alpha / rank`, stored with the adapter.
    pub scale: f32,
    /// A: `dims = [n_in, rank]`.
    pub a: &'a Tensor,
    /// B: `dims = [rank, n_out]`.
    pub b: &'a Tensor,
}

/// What a projection reads.
pub enum Input<'a, B: Linear + ?Sized> {
    /// x as it is.
    Raw(&'a B::Buf),
    /// RMS norm: `x · weight / sqrt(mean(x²) + eps)`.
    Normed { x: &'a B::Buf, weight: &'a B::Vector, eps: f32 },
    /// The same, of the rows in [`Batch::outputs`] alone; y then has one row for each of them.
    NormedOutputs { x: &'a B::Buf, weight: &'a B::Vector, eps: f32 },
    /// `silu(gate) · up`, where gate (output 0) and up (output 1) may owe their low-rank terms.
    Gated { gate: &'a B::Buf, up: &'a B::Buf, owed: Option<Owed<'a, B>> },
}

/// The expand of a projection's outputs, `y_i += Σ B_t u_t`, for a backend whose `project` has not added it.
pub struct Owed<'a, B: Linear + ?Sized> {
    /// `[rows, Σ rank]`, from the same `project` call.
    pub u: &'a B::Buf,
    pub delta: &'a B::Delta,
}

impl<B: Linear + ?Sized> Clone for Owed<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Linear + ?Sized> Copy for Owed<'_, B> {}

/// Memory, and the one verb through which every weight product passes.
pub trait Linear {
    /// Activations `[rows, cols]`.
    type Buf: Send;
    /// A weight vector (norms) in f32.
    type Vector: Send + Sync;
    /// Projections that read the same x; immutable.
    type Fan: Send + Sync;
    /// Every low-rank term on a fan.
    type Delta: Send + Sync;

    /// A zeroed buffer of at most `rows` rows.
    fn buf(&self, rows: usize, cols: usize) -> Result<Self::Buf>;
    /// Makes the rows of `buf` ones of `cols` values, no more than it was made with. What they hold has no meaning.
    fn shape(&self, buf: &mut Self::Buf, cols: usize);
    /// A norm weight; any float type.
    fn vector(&self, weight: &Tensor) -> Result<Self::Vector>;
    /// Weights `[n_in, n_out_i]` with one n_in.
    fn fan(&self, weights: &[&Tensor]) -> Result<Self::Fan>;
    /// The terms in the order their columns take in u.
    fn delta(&self, terms: &[Term<'_>]) -> Result<Self::Delta>;

    /// Takes in a step's rows.
    fn begin(&mut self, batch: &Batch<'_>) -> Result<()>;
    /// `y_i = W_i x` for every weight of the fan and, with a delta, `u = opening · scale · A x` where a term is open;
    /// perhaps with the expand, as the head of this module says.
    ///
    /// `u` has at least as many columns as the delta has ranks in all.
    fn project(
        &mut self,
        ys: &mut [&mut Self::Buf],
        u: &mut Self::Buf,
        x: Input<'_, Self>,
        fan: &Self::Fan,
        delta: Option<&Self::Delta>,
    ) -> Result<()>;
    /// Says that `fan` is projected after the next one, so that its weights may come nearer meanwhile.
    fn expect(&mut self, _fan: &Self::Fan) {}
    /// Copies the first `dst.len() / cols` rows out.
    fn download(&mut self, src: &Self::Buf, dst: &mut [f32]) -> Result<()>;
    /// Copies rows in.
    fn upload(&mut self, dst: &mut Self::Buf, src: &[f32]) -> Result<()>;
}

/// The shape of a key/value cache.
#[derive(Clone, Copy, Debug)]
pub struct CacheSpec {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub pages: usize,
    /// Positions a page holds.
    pub page_len: usize,
    /// F32, F16 or Q8_0.
    pub ty: TensorType,
}

/// Which pairs of a head's values a rotation turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// Pairs (2i, 2i+1): llama's GGUF files.
    Interleaved,
}

/// A rotary embedding: pair i of a row at position p turns by `p · inv_freq[i]`.
#[derive(Clone, Debug)]
pub struct Rope {
    pub layout: RopeLayout,
    /// `[rotated / 2]` in radians a position; `1 / (base^(2i/rotated) · factor_i)`.
    pub inv_freq: Vec<f64>,
}

/// Heads of an attention layer.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Multiplies q·k: `1/√head_dim`.
    pub scale: f32,
}

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likely {
    pub token: u32,
    pub logit: f32,
}

/// Everything a forward pass needs beyond [`Linear`].
pub trait Backend: Linear {
    /// Keys and values of all layers, in pages.
    type Cache: Send;

    fn cache(&self, spec: &CacheSpec) -> Result<Self::Cache>;
    /// Copies the keys and values of page `from` to page `to`, of all layers.
    fn copy_page(&mut self, cache: &mut Self::Cache, from: PageId, to: PageId) -> Result<()>;
    /// Copies the first positions of a page to `out`, as many as it holds:
    /// `[position][layer][keys, values][kv_head][head_dim]` of the cache's type, little endian, whatever the order
    /// they have in the cache.
    fn read_page(&mut self, cache: &Self::Cache, page: PageId, out: &mut [u8]) -> Result<()>;
    /// The reverse of [`Backend::read_page`].
    fn write_page(&mut self, cache: &mut Self::Cache, page: PageId, data: &[u8]) -> Result<()>;
    /// Runs the step that was begun as one of the same shape ran before, if the backend kept that as one command; if
    /// not, the verbs follow, from [`Backend::embed`] on, up to [`Backend::finish`]. `version` stands for the buffers,
    /// weights and deltas that the verbs would be given.
    fn replay(&mut self, _version: u64) -> Result<bool> {
        Ok(false)
    }
    /// Ends the verbs of a step. Returns whether they took effect: if not, [`Backend::replay`] and they come again.
    fn finish(&mut self) -> Result<bool> {
        Ok(true)
    }
    /// `h[row] = table[tokens[row]]`; the table is a fan of one weight.
    fn embed(&mut self, h: &mut Self::Buf, table: &Self::Fan) -> Result<()>;
    /// Settles what q, k, v owe, turns q and k by the rows' positions, stores k and v at those positions.
    fn rope_store(
        &mut self,
        qkv: [&mut Self::Buf; 3],
        owed: Option<Owed<'_, Self>>,
        cache: &mut Self::Cache,
        layer: usize,
        rope: &Rope,
        heads: &Heads,
    ) -> Result<()>;
    /// Says that of the step's rows only those in [`Batch::outputs`] matter from here on. A backend may move them to
    /// the front of `bufs` and compute no others; all its rows are outputs then.
    fn keep_outputs(&mut self, _bufs: [&mut Self::Buf; 2]) -> Result<()> {
        Ok(())
    }
    /// `y[row, head] = Σ_p softmax_p(scale · q·k_p) v_p` over positions p ≤ the row's own.
    fn attend(
        &mut self,
        y: &mut Self::Buf,
        q: &Self::Buf,
        cache: &Self::Cache,
        layer: usize,
        heads: &Heads,
    ) -> Result<()>;
    /// `h += y`, with what y (output 0) owes.
    fn add(&mut self, h: &mut Self::Buf, y: &Self::Buf, owed: Option<Owed<'_, Self>>) -> Result<()>;
    /// `y += Σ B u` on the rows in [`Batch::outputs`], for a head that carries a delta.
    fn settle_outputs(&mut self, y: &mut Self::Buf, owed: Owed<'_, Self>) -> Result<()>;
    /// Puts the `k` likeliest tokens of each row of `logits` into `out`, `[outputs, k]` of [`Batch::outputs`]: by
    /// falling logit, equal ones by rising token, without those whose logit is NaN or −∞; ∞ counts as the largest
    /// number. Returns whether it did: a backend may leave that to who sees all logits, and does where a row has fewer.
    fn likeliest(&mut self, _logits: &Self::Buf, _k: usize, _out: &mut Vec<Likely>) -> Result<bool> {
        Ok(false)
    }
}
