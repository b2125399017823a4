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

    /// The pages of a layer, to be written.
    pub(super) fn layer(&mut self, layer: usize) -> LayerMut<'_> {
        let (start, len) = (self.start(layer, 0, 0), self.spec.pages * self.spec.kv_heads * self.part);
        let (keys, values) = (&mut self.keys[start..][..len], &mut self.values[start..][..len]);
        LayerMut { keys, values, next: 0, spec: self.spec, row_bytes: self.row_bytes }
    }
}

/// The pages of a layer from `next` on.
pub(super) struct LayerMut<'a> {
    keys: &'a mut [u8],
    values: &'a mut [u8],
    next: usize,
    spec: CacheSpec,
    row_bytes: usize,
}

impl<'a> LayerMut<'a> {
    /// Page `page`, and nothing before it any more.
    ///
    /// # Panics
    /// If a later one was taken before.
    pub fn take(&mut self, page: PageId) -> PageMut<'a> {
        let len = self.spec.kv_heads * self.spec.page_len * self.row_bytes;
        let skipped = (page as usize).checked_sub(self.next).expect("pages are taken in ascending order");
        self.next = page as usize + 1;
        let [keys, values] = [&mut self.keys, &mut self.values].map(|pages| {
            let (page, rest) = std::mem::take(pages)[skipped * len..].split_at_mut(len);
            *pages = rest;
            page
        });
        PageMut { keys, values, spec: self.spec, row_bytes: self.row_bytes }
    }
}

/// One page of a layer, all its heads.
pub(super) struct PageMut<'a> {
    keys: &'a mut [u8],
    values: &'a mut [u8],
    spec: CacheSpec,
    row_bytes: usize,
}

impl PageMut<'_> {
    /// Stores one token's keys and values, `[kv_heads, head_dim]` each, at position `slot` of the page.
    pub fn store(&mut self, kernels: &Kernels, slot: usize, [k, v]: [&[f32]; 2]) {
        let CacheSpec { page_len, head_dim, ty, .. } = self.spec;
        let (row_bytes, part) = (self.row_bytes, self.row_bytes * page_len);
        let mut encoded = [0; MAX_ROW_BYTES];
        let encoded = &mut encoded[..row_bytes];
        let heads = self.keys.chunks_exact_mut(part).zip(self.values.chunks_exact_mut(part));
        for ((keys, values), (k, v)) in heads.zip(k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim))) {
            kernels.narrow(ty, v, &mut values[slot * row_bytes..][..row_bytes]);
            kernels.narrow(ty, k, encoded);
            columns::put(ty, encoded, slot, page_len, keys);
        }
    }
}
