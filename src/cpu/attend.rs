//! Attention over a paged cache of keys and values.

use super::ops;
use super::simd::{Kernels, Rows, Scratch, Strided};
use crate::backend::{CacheSpec, Heads, PageId};
use crate::error::{Error, Result};
use crate::tensor::TensorType;
use std::sync::Mutex;

/// Keys or values of all layers: `[layer][page][kv_head][position][head_dim]`, so that the rows of one head
/// in one page are contiguous and a page serves as a weight matrix.
struct Store {
    bytes: Vec<u8>,
}

/// Keys, values, and a score buffer a thread.
pub struct Cache {
    keys: Store,
    values: Store,
    spec: CacheSpec,
    row_bytes: usize,
    scores: Vec<Mutex<Vec<f32>>>,
}

impl Cache {
    /// A zeroed cache. The system commits its memory as positions are first written.
    pub fn new(spec: &CacheSpec, threads: usize) -> Result<Self> {
        if !matches!(spec.ty, TensorType::F32 | TensorType::F16) {
            return Err(Error::argument("cache type", format!("{} is neither f32 nor f16", spec.ty)));
        }
        let row_bytes = spec.head_dim * spec.ty.block_bytes();
        let rows = [spec.layers, spec.pages, spec.kv_heads, spec.page_len];
        let bytes = rows.into_iter().try_fold(row_bytes, usize::checked_mul).filter(|b| *b <= isize::MAX as usize / 2);
        let Some(bytes) = bytes else {
            return Err(Error::argument("context", "the cache would not fit the address space"));
        };
        let store = || Store { bytes: vec![0; bytes] };
        let scores = || Mutex::new(vec![0.0; spec.pages * spec.page_len]);
        let scores = (0..threads).map(|_| scores()).collect();
        Ok(Self { keys: store(), values: store(), spec: *spec, row_bytes, scores })
    }

    /// Where the rows of `kv_head` in `page` start, in bytes.
    fn offset(&self, layer: usize, page: PageId, kv_head: usize) -> usize {
        let index = (layer * self.spec.pages + page as usize) * self.spec.kv_heads + kv_head;
        index * self.spec.page_len * self.row_bytes
    }

    /// Stores one token's keys and values, `[kv_heads, head_dim]` each, at `position`.
    pub fn store(&mut self, layer: usize, pages: &[PageId], position: u32, k: &[f32], v: &[f32]) {
        let (page, slot) = (position as usize / self.spec.page_len, position as usize % self.spec.page_len);
        for head in 0..self.spec.kv_heads {
            let start = self.offset(layer, pages[page], head) + slot * self.row_bytes;
            let values = head * self.spec.head_dim..(head + 1) * self.spec.head_dim;
            let range = start..start + self.row_bytes;
            crate::quant::encode(self.spec.ty, &k[values.clone()], &mut self.keys.bytes[range.clone()]);
            crate::quant::encode(self.spec.ty, &v[values], &mut self.values.bytes[range]);
        }
    }

    /// The first `len` rows of `kv_head` in `page`.
    fn rows<'a>(&'a self, store: &'a Store, layer: usize, page: PageId, kv_head: usize, len: usize) -> Rows<'a> {
        let start = self.offset(layer, page, kv_head);
        let data = &store.bytes[start..start + len * self.row_bytes];
        Rows { ty: self.spec.ty, data, cols: self.spec.head_dim }
    }

    /// One row's attention for one head: `out = Σ_p softmax_p(scale · q·k_p) v_p` over the first `len`
    /// positions. Scores, weights and sums are taken in the order of the positions, page by page, so that a
    /// row's bits depend on nothing but its own keys and values.
    pub fn attend(&self, kernels: &Kernels, scratch: &mut Scratch, task: &Task<'_>, out: &mut [f32]) {
        let mut scores = self.scores[task.thread].lock().unwrap_or_else(|e| e.into_inner());
        let scores = &mut scores[..task.len];
        let kv_head = task.head / (task.heads.heads / task.heads.kv_heads);
        let page_len = self.spec.page_len;
        for (chunk, page) in scores.chunks_mut(page_len).zip(task.pages) {
            let rows = self.rows(&self.keys, task.layer, *page, kv_head, chunk.len());
            let len = chunk.len();
            kernels.linear_float(&rows, task.q, &mut Strided::new(chunk, 1, len), scratch);
        }
        let total = ops::softmax_weights(kernels.level(), scores, task.heads.scale);
        out.fill(0.0);
        for (chunk, page) in scores.chunks(page_len).zip(task.pages) {
            let rows = self.rows(&self.values, task.layer, *page, kv_head, chunk.len());
            kernels.expand(out, &rows, 0, chunk);
        }
        ops::scale(kernels.level(), out, 1.0 / total);
    }
}

/// One row and one head.
pub struct Task<'a> {
    pub thread: usize,
    pub layer: usize,
    pub head: usize,
    pub heads: &'a Heads,
    /// `[head_dim]`
    pub q: &'a [f32],
    pub pages: &'a [PageId],
    /// Positions attended to, the row's own included.
    pub len: usize,
}
