//! Attention over a paged cache of keys and values.

use super::simd::{Kernels, Rows};
use super::{columns, fits, ops};
use crate::backend::{CacheSpec, PageId};
use crate::error::{Error, Result};
use crate::tensor::TensorType;
use std::sync::Mutex;

/// Bytes of the longest key that is stored: no model has heads of more than 1024 values.
const MAX_ROW_BYTES: usize = 4096;

/// Keys, values, and what each thread works in.
///
/// One head's part of a page is contiguous: keys as `[layer][page][kv_head][head_dim][position]`, values as
/// `[layer][page][kv_head][position][head_dim]`, in Q8_0 with blocks of 32 along head_dim in both. So both halves of
/// attention are sums of scaled rows, with positions in lanes for the scores and values in lanes for the output, and
/// never a sum across lanes.
pub struct Cache {
    pub(super) keys: Vec<u8>,
    pub(super) values: Vec<u8>,
    pub(super) spec: CacheSpec,
    /// Bytes of one head's key or value; of its part of a page.
    pub(super) row_bytes: usize,
    pub(super) part: usize,
    rooms: Vec<Mutex<Room>>,
}

impl Cache {
    /// A zeroed cache. The system commits its memory as positions are first written.
    pub fn new(spec: &CacheSpec, threads: usize) -> Result<Self> {
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
        let Some(bytes) = bytes.filter(|b| fits::<u8>(2 * b)) else {
            let reason = format!("no memory for the cache of {} tokens", spec.pages.saturating_mul(spec.page_len));
            return Err(Error::argument("context", reason));
        };
        let rooms = (0..threads).map(|_| Mutex::default()).collect();
        let part = row_bytes * spec.page_len;
        Ok(Self { keys: vec![0; bytes], values: vec![0; bytes], spec: *spec, row_bytes, part, rooms })
    }

    /// Pages of all sequences together.
    pub fn pages(&self) -> usize {
        self.spec.pages
    }

    /// Gives every thread what a single row of any length works in, where `shared` query heads read a key/value
    /// head; which thread meets which is then left to chance, and none allocates. Many rows may ask for more.
    pub fn reserve(&self, shared: usize) {
        fn grow<T>(values: &mut Vec<T>, capacity: usize) {
            values.reserve(capacity.saturating_sub(values.len()));
        }
        for room in &self.rooms {
            let room = &mut *room.lock().unwrap_or_else(|e| e.into_inner());
            grow(&mut room.scores, shared * self.spec.pages * self.spec.page_len);
            grow(&mut room.totals, shared);
            grow(&mut room.page, self.spec.head_dim * self.spec.page_len);
        }
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

    /// Attention of neighbouring rows of one sequence, for query heads that share a key/value head:
    /// `y[row, head] = Σ_p softmax_p(scale · q·k_p) v_p` over the positions p up to the row's own.
    ///
    /// Scores, weights and sums of a row are taken in the order of the positions, page by page, whichever rows
    /// are computed beside it; so its bits depend on nothing but its own keys and values.
    pub fn attend(&self, kernels: &Kernels, task: &Task<'_>, y: &mut [f32]) {
        let (head_dim, level) = (self.spec.head_dim, kernels.level());
        let room = &mut *self.rooms[task.thread].lock().unwrap_or_else(|e| e.into_inner());
        let (page_len, ty) = (self.spec.page_len, self.spec.ty);
        let (vectors, positions) = (task.rows * task.shared, task.len + task.rows - 1);
        let ld = positions.next_multiple_of(page_len);
        room.scores.resize(vectors * ld, 0.0);
        room.scores.fill(0.0);
        room.page.resize(head_dim * page_len, 0.0);
        for (page, start) in task.pages(positions, page_len) {
            let keys = &self.keys[self.start(task.layer, page, task.kv_head)..][..self.part];
            columns::widen(kernels, ty, keys, page_len, &mut room.page);
            let keys = Rows { ty: TensorType::F32, data: bytemuck::cast_slice(&room.page), cols: page_len };
            for (i, scores) in room.scores.chunks_exact_mut(ld).enumerate() {
                let q = &task.q[task.at(i, head_dim)..][..head_dim];
                kernels.expand(&mut scores[start..start + page_len], &keys, 0, q);
            }
        }
        room.totals.clear();
        for (i, scores) in room.scores.chunks_exact_mut(ld).enumerate() {
            room.totals.push(ops::softmax_weights(level, &mut scores[..task.len_of(i)], task.scale));
            y[task.at(i, head_dim)..][..head_dim].fill(0.0);
        }
        for (page, start) in task.pages(positions, page_len) {
            let filled = page_len.min(positions - start);
            let wide = &mut room.page[..filled * head_dim];
            let from = self.start(task.layer, page, task.kv_head);
            kernels.widen(ty, &self.values[from..][..filled * self.row_bytes], wide);
            let values = Rows { ty: TensorType::F32, data: bytemuck::cast_slice(wide), cols: head_dim };
            for (i, weights) in room.scores.chunks_exact(ld).enumerate() {
                let end = (start + filled).min(task.len_of(i)).max(start);
                let y = &mut y[task.at(i, head_dim)..][..head_dim];
                kernels.expand(y, &values.slice(0..end - start), 0, &weights[start..end]);
            }
        }
        for (i, total) in room.totals.iter().enumerate() {
            ops::scale(level, &mut y[task.at(i, head_dim)..][..head_dim], 1.0 / total);
        }
    }
}

/// What one thread works in.
#[derive(Default)]
struct Room {
    /// `[vectors, positions]`, positions rounded up to whole pages.
    scores: Vec<f32>,
    /// Sums of the weights, one a vector.
    totals: Vec<f32>,
    /// One head's part of a page, in f32.
    page: Vec<f32>,
}

/// Rows of one sequence at successive positions, and the query heads that read one key/value head.
pub struct Task<'a> {
    pub thread: usize,
    pub layer: usize,
    pub kv_head: usize,
    pub rows: usize,
    /// Query heads of each row.
    pub shared: usize,
    /// Query vectors: vector `h` of row `r` starts at `r · ld + offset + h · head_dim`, in `y` too.
    pub q: &'a [f32],
    pub ld: usize,
    pub offset: usize,
    pub scale: f32,
    pub table: &'a [PageId],
    /// Positions that the first row attends to, its own included; each later row has one more.
    pub len: usize,
}

impl Task<'_> {
    fn at(&self, vector: usize, head_dim: usize) -> usize {
        vector / self.shared * self.ld + self.offset + vector % self.shared * head_dim
    }

    fn len_of(&self, vector: usize) -> usize {
        self.len + vector / self.shared
    }

    /// Pages that hold the first `len` positions, with the first position of each.
    fn pages(&self, len: usize, page_len: usize) -> impl Iterator<Item = (PageId, usize)> {
        self.table.iter().copied().zip((0..len).step_by(page_len))
    }
}
