//! The paged cache of keys and values.

use super::simd::Kernels;
use super::{columns, fits};
use crate::backend::{CacheSpec, PageId};
use crate::error::{Error, Result};
use crate::tensor::TensorType;
use memmap2::MmapMut;

/// Bytes of the longest key that is stored: no model has heads of more than 1024 values.
const MAX_ROW_BYTES: usize = 4096;

/// Keys and values.
///
/// One head's part of a page is contiguous: keys as `[layer][page][kv_head][head_dim][position]`, values as
/// `[layer][page][kv_head][position][head_dim]`, in Q8_0 with blocks of 32 along head_dim in both. So both halves of
/// attention are sums of scaled rows, with positions in lanes for the scores and values in lanes for the output, and
/// never a sum across lanes.
pub struct Cache {
    pub(super) keys: MmapMut,
    pub(super) values: MmapMut,
    pub(super) spec: CacheSpec,
    /// Bytes of one head's key or value; of its part of a page.
    pub(super) row_bytes: usize,
    pub(super) part: usize,
}

impl Cache {
    /// A zeroed cache. The system commits its memory as positions are first written.
    pub fn new(spec: &CacheSpec) -> Result<Self> {
        if !matches!(spec.ty, TensorType::F32 | TensorType::F16 | TensorType::Q8_0) {
            return Err(Error::argument("cache type", format!("{} is none of f32, f16 and q8_0", spec.ty)));
        }
        let Some(row_bytes) = spec.ty.row_bytes(spec.head_dim) else {
            let (ty, block, head) = (spec.ty, spec.ty.block_len(), spec.head_dim);
            return Err(Error::argument("cache type", format!("{ty} has blocks of {block} values, heads have {head}")));
        };
        if row_bytes > MAX_ROW_BYTES {
            return Err(Error::argument("head size", format!("{} is more than a cache row holds", spec.head_dim)));
        }
        let counts = [spec.page_len, spec.layers, spec.pages, spec.kv_heads];
        let bytes =
            counts.into_iter().try_fold(row_bytes, usize::checked_mul).filter(|b| *b <= isize::MAX as usize / 2);
        // Mapped, not allocated, so that pages start on cache lines.
        let half = |bytes: usize| MmapMut::map_anon(bytes.max(1)).ok();
        let halves = bytes.filter(|b| fits::<u8>(2 * b)).and_then(|bytes| Some((half(bytes)?, half(bytes)?)));
        let Some((keys, values)) = halves else {
            let reason = format!("no memory for the cache of {} tokens", spec.pages.saturating_mul(spec.page_len));
            return Err(Error::argument("context", reason));
        };
        Ok(Self { keys, values, spec: *spec, row_bytes, part: row_bytes * spec.page_len })
    }

    /// Pages of all sequences together.
    pub fn pages(&self) -> usize {
        self.spec.pages
    }

    /// Where one head's part of a page starts, in bytes.
    pub(super) fn start(&self, layer: usize, page: PageId, kv_head: usize) -> usize {
        ((layer * self.spec.pages + page as usize) * self.spec.kv_heads + kv_head) * self.part
    }

    /// Stores one token's keys and values, `[kv_heads, head_dim]` each, at `position`.
    pub fn store(&mut self, kernels: &Kernels, layer: usize, table: &[PageId], position: u32, [k, v]: [&[f32]; 2]) {
        let CacheSpec { page_len, head_dim, ty, .. } = self.spec;
        let (page, slot) = (table[position as usize / page_len], position as usize % page_len);
        let row_bytes = self.row_bytes;
        let mut encoded = [0; MAX_ROW_BYTES];
        for (head, (k, v)) in k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim)).enumerate() {
            let start = self.start(layer, page, head);
            kernels.narrow(ty, v, &mut self.values[start + slot * row_bytes..][..row_bytes]);
            let encoded = &mut encoded[..row_bytes];
            kernels.narrow(ty, k, encoded);
            columns::put(ty, encoded, slot, page_len, &mut self.keys[start..start + self.part]);
        }
    }
}
