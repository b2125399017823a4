//! Valves: low-rank deltas on a model's weights, opened by α while the model runs.
//!
//! ```text
//! y = W·x + α · s · B·(A·x)         s = lora_alpha / rank, stored with the adapter
//! ```
//!
//! α = 0 is the base model bit for bit; 1 is the adapter as trained; above 1 extrapolates, below 0 turns the
//! other way. Whether a chain of thought gets shorter or longer with α belongs to the adapter: one trained
//! towards short solutions shortens. Source: CoT-Valve, arXiv 2502.09601.

mod convert;
mod dial;
mod load;
mod merge;
mod parts;
mod peft;
mod recode;

pub use convert::{ADAPTER_TYPES, Conversion, Source};
pub use dial::{Dial, Origins, Scope, Setting};
pub use load::{Adapter, Pair};
pub use merge::{MergeOptions, Merged, merge};
pub use parts::{Group, Part, Selector};

use crate::backend::{Linear, Term};
use crate::error::Result;
use crate::model::{FanKind, Portion};
use std::sync::Arc;

/// Every attached adapter's terms on a backend, fan by fan. The adapters' parts own the slots, one each, in order.
///
/// A set never changes: attaching another adapter makes another set, which takes the old one's place between
/// two steps.
pub struct ValveSet<B: Linear> {
    /// One entry a layer of the portion.
    layers: Vec<LayerDeltas<B>>,
    head: Option<B::Delta>,
    slots: usize,
    rank: usize,
}

struct LayerDeltas<B: Linear> {
    qkv: Option<B::Delta>,
    attn_output: Option<B::Delta>,
    gate_up: Option<B::Delta>,
    down: Option<B::Delta>,
}

impl<B: Linear> ValveSet<B> {
    /// Hands the pairs of `adapters` on weights of `portion` to the backend.
    pub fn build(backend: &B, adapters: &[Arc<Adapter>], portion: &Portion) -> Result<Self> {
        let mut rank = 0;
        let mut delta = |layer: Option<usize>, fan: FanKind| -> Result<Option<B::Delta>> {
            let terms = terms_at(adapters, layer, fan);
            rank = rank.max(terms.iter().map(|t| t.b.dims[0]).sum());
            if terms.is_empty() { Ok(None) } else { backend.delta(&terms).map(Some) }
        };
        let mut layers = Vec::with_capacity(portion.layers.len());
        for layer in portion.layers.clone().map(Some) {
            layers.push(LayerDeltas {
                qkv: delta(layer, FanKind::Qkv)?,
                attn_output: delta(layer, FanKind::AttnOutput)?,
                gate_up: delta(layer, FanKind::GateUp)?,
                down: delta(layer, FanKind::Down)?,
            });
        }
        let head = if portion.head { delta(None, FanKind::Head)? } else { None };
        let slots = adapters.iter().map(|adapter| adapter.parts().len()).sum();
        Ok(Self { layers, head, slots, rank })
    }

    /// Columns of a batch's openings.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Columns that the widest delta needs in u.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The delta on a fan of the portion's `layer`, from 0, or of the head.
    pub fn delta(&self, layer: Option<usize>, fan: FanKind) -> Option<&B::Delta> {
        let Some(layer) = layer else { return self.head.as_ref() };
        let deltas = &self.layers[layer];
        match fan {
            FanKind::Qkv => deltas.qkv.as_ref(),
            FanKind::AttnOutput => deltas.attn_output.as_ref(),
            FanKind::GateUp => deltas.gate_up.as_ref(),
            FanKind::Down => deltas.down.as_ref(),
            FanKind::Head => self.head.as_ref(),
        }
    }
}

/// The terms of all adapters on one fan, by slot, then by output.
fn terms_at(adapters: &[Arc<Adapter>], layer: Option<usize>, fan: FanKind) -> Vec<Term<'_>> {
    let mut terms = Vec::new();
    let mut first = 0;
    for adapter in adapters {
        for pair in adapter.pairs().iter().filter(|pair| (pair.site.layer, pair.site.fan) == (layer, fan)) {
            let slot = first + adapter.slot(Part::of(pair.site)).expect("every pair has its part");
            terms.push(Term { output: pair.site.output, slot, scale: pair.scale, a: &pair.a, b: &pair.b });
        }
        first += adapter.parts().len();
    }
    terms.sort_by_key(|t| (t.slot, t.output));
    terms
}
