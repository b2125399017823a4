//! Attention over a paged cache of keys and values.

use super::ops;
use super::simd::{Kernels, Rows, Scratch, Strided};
use crate::backend::{CacheSpec, PageId};
use crate::error::{Error, Result};
use crate::quant::dequantize;
use crate::tensor::TensorType;
use std::ops::Range;
use std::sync::Mutex;

/// Keys or values of all layers: `[layer][page][kv_head][position][head_dim]`, so that the rows of one head
/// in one page are contiguous and a page serves as a weight matrix.
struct Store {
    bytes: Vec<u8>,
}

/// Keys, values, and what each thread works in.
pub struct Cache {
    keys: Store,
    values: Store,
    spec: CacheSpec,
    row_bytes: usize,
    rooms: Vec<Mutex<Room>>,
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
        // A single row's scores never reallocate; a prompt's may.
        let scores = || Vec::with_capacity(spec.pages * spec.page_len);
        let rooms = (0..threads).map(|_| Mutex::new(Room { scores: scores(), ..Room::default() })).collect();
        Ok(Self { keys: store(), values: store(), spec: *spec, row_bytes, rooms })
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

    /// The first `len` rows in `page` of the task's head.
    fn rows<'a>(&'a self, store: &'a Store, task: &Task<'_>, page: PageId, len: usize) -> Rows<'a> {
        let start = self.offset(task.layer, page, task.kv_head);
        let data = &store.bytes[start..start + len * self.row_bytes];
        Rows { ty: self.spec.ty, data, cols: self.spec.head_dim }
    }

    /// Attention of neighbouring rows of one sequence, for query heads that share a key/value head:
    /// `y[row, head] = Σ_p softmax_p(scale · q·k_p) v_p` over the positions p up to the row's own.
    ///
    /// Scores, weights and sums of a row are taken in the order of the positions, page by page, whichever rows
    /// are computed beside it; so its bits depend on nothing but its own keys and values.
    pub fn attend(&self, kernels: &Kernels, scratch: &mut Scratch, task: &Task<'_>, y: &mut [f32]) {
        let (head_dim, level) = (self.spec.head_dim, kernels.level());
        let room = &mut *self.rooms[task.thread].lock().unwrap_or_else(|e| e.into_inner());
        let (vectors, longest) = (task.rows * task.shared, task.len + task.rows - 1);
        room.q.clear();
        (0..vectors).for_each(|i| room.q.extend_from_slice(&task.q[task.at(i, head_dim)..][..head_dim]));
        room.scores.resize(vectors * longest, 0.0);
        let mut scores = Strided::new(&mut room.scores, vectors, longest);
        for (page, positions) in task.pages(longest, self.spec.page_len) {
            let rows = self.rows(&self.keys, task, page, positions.len());
            kernels.linear_float(&rows, &room.q, &mut scores.columns(positions), scratch);
        }
        room.totals.clear();
        for (i, scores) in room.scores.chunks_exact_mut(longest).enumerate() {
            let total = ops::softmax_weights(level, &mut scores[..task.len_of(i)], task.scale);
            room.totals.push(total);
            y[task.at(i, head_dim)..][..head_dim].fill(0.0);
        }
        for (page, positions) in task.pages(longest, self.spec.page_len) {
            let mut rows = self.rows(&self.values, task, page, positions.len());
            if vectors > 1 {
                // Shared by several vectors, a page is widened once.
                room.values.resize(positions.len() * head_dim, 0.0);
                dequantize(rows.ty, rows.data, &mut room.values);
                rows = Rows { ty: TensorType::F32, data: bytemuck::cast_slice(&room.values), cols: head_dim };
            }
            for (i, weights) in room.scores.chunks_exact(longest).enumerate() {
                let end = positions.end.min(task.len_of(i)).max(positions.start);
                let y = &mut y[task.at(i, head_dim)..][..head_dim];
                kernels.expand(y, &rows.slice(0..end - positions.start), 0, &weights[positions.start..end]);
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
    /// Query vectors `[vectors, head_dim]`.
    q: Vec<f32>,
    /// `[vectors, positions]`
    scores: Vec<f32>,
    /// Sums of the weights, one a vector.
    totals: Vec<f32>,
    /// A page of values.
    values: Vec<f32>,
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

    /// Pages that hold the first `len` positions, and which positions each holds.
    fn pages(&self, len: usize, page_len: usize) -> impl Iterator<Item = (PageId, Range<usize>)> {
        let starts = (0..len).step_by(page_len);
        self.table.iter().zip(starts).map(move |(page, start)| (*page, start..len.min(start + page_len)))
    }
}
