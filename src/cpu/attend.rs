//! Attention over the cache, in chunks of positions.
//!
//! The scores of a chunk are a softmax of their own: its maximum, the sum of its weights, and the values summed by
//! weight. Chunks are joined in the order of their positions. Where a chunk starts depends on its position alone, and
//! inside it every sum is taken in a fixed order; so the bits of a row depend on nothing but its own keys and values,
//! whichever rows are computed beside it and whoever computes a chunk.

use super::cache::Cache;
use super::simd::Kernels;
use super::simd::attention::{self, Line, Matrix, Vectors};
use super::{Buf, Cpu, Rows, columns, lock, ops};
use crate::backend::{Heads, PageId};
use crate::tensor::TensorType;
use std::sync::Mutex;

/// Positions of a chunk, as far as they are whole pages.
const CHUNK: usize = 256;
/// Most rows whose attention one task computes, so that they share the widened keys and values.
const ROWS: usize = 16;
/// Tasks of attention that each thread should find.
const TASKS: usize = 4;
/// Most vectors that read F16 as it lies; for more it is widened once for all.
const DIRECT: usize = 8;

/// What attention works in; it stays from step to step.
#[derive(Default)]
pub(super) struct Attention {
    rooms: Vec<Mutex<Room>>,
    pieces: Vec<Piece>,
    /// `[pieces, kv_heads]` chunks, as [`Cache::chunk`] leaves them.
    chunks: Vec<f32>,
    /// Of the chunks of one task that are joined so far, the maximum and the total of each vector.
    joined: Vec<[f32; 2]>,
}

/// What one thread works in.
#[derive(Default)]
struct Room {
    work: Work,
    /// What [`Cache::chunk`] leaves.
    chunk: Vec<f32>,
    joined: Vec<[f32; 2]>,
}

#[derive(Default)]
struct Work {
    /// `[vectors, head_dim]`
    q: Vec<f32>,
    /// `[vectors, positions]`: scores of a chunk, then weights.
    scores: Vec<Line>,
    /// One head's part of a page, in f32.
    page: Vec<Line>,
    /// Positions of a page that each vector reads.
    counts: Vec<usize>,
}

/// Neighbouring rows of one sequence, and a chunk of the positions that they read.
struct Piece {
    first: usize,
    rows: usize,
    chunk: usize,
}

impl Attention {
    pub fn new(threads: usize) -> Self {
        Self { rooms: (0..threads).map(|_| Mutex::default()).collect(), ..Self::default() }
    }

    /// Makes room for a single row of any length, on every thread; which thread meets what is then left to chance,
    /// and none allocates. More rows may ask for more.
    fn reserve(&mut self, cache: &Cache, heads: &Heads) {
        let (shared, chunks) = (heads.heads / heads.kv_heads, cache.pages().div_ceil(cache.chunk_pages()));
        for room in &self.rooms {
            let Room { work: Work { q, scores, page, counts }, .. } = &mut *lock(room);
            grow(q, shared * heads.head_dim);
            lines(scores, shared * cache.chunk_len());
            lines(page, heads.head_dim * cache.spec.page_len);
            grow(counts, shared);
        }
        grow(&mut self.pieces, chunks);
        grow(&mut self.chunks, chunks * heads.heads * (heads.head_dim + 2));
        grow(&mut self.joined, shared);
    }
}

fn grow<T>(values: &mut Vec<T>, capacity: usize) {
    values.reserve(capacity.saturating_sub(values.len()));
}

/// The first `n` values, whatever they are, of a buffer that grows to hold them.
fn lines(buffer: &mut Vec<Line>, n: usize) -> &mut [f32] {
    let needed = n.div_ceil(size_of::<Line>() / size_of::<f32>());
    if buffer.len() < needed {
        buffer.resize(needed, bytemuck::Zeroable::zeroed());
    }
    &mut bytemuck::cast_slice_mut(buffer)[..n]
}

/// The same of plain values.
fn values(buffer: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if buffer.len() < n {
        buffer.resize(n, 0.0);
    }
    &mut buffer[..n]
}

impl Cpu {
    /// `y[row, head] = Σ_p softmax_p(scale · q·k_p) v_p` over the positions p up to the row's own.
    pub(super) fn attend_rows(&mut self, y: &mut [f32], q: &Buf, cache: &Cache, layer: usize, heads: &Heads) {
        if layer == 0 {
            // Tables grow with their sequences; after this without an allocation.
            self.rows.pages.reserve(cache.pages().saturating_sub(self.rows.pages.len()));
            self.attention.reserve(cache, heads);
        }
        let n = self.rows.len();
        if n < self.pool.threads() * TASKS {
            return self.attend_pieces(y, q, cache, layer, heads);
        }
        let (rows, kernels, rooms) = (&self.rows, self.kernels, &self.attention.rooms);
        let (width, block) = (q.cols, n.div_ceil(self.pool.threads() * TASKS).min(ROWS));
        // The last rows of a prompt read most: they come first, and no thread is left with one when all is done.
        let blocks = y.chunks_mut(block * width).enumerate().rev();
        self.pool.items(n.div_ceil(block), blocks, |thread, (i, y)| {
            let room = &mut *lock(&rooms[thread]);
            let (mut first, end) = (i * block, i * block + y.len() / width);
            while first < end {
                let count = rows.neighbours(first, end);
                let y = &mut y[(first - i * block) * width..][..count * width];
                for kv_head in 0..heads.kv_heads {
                    cache.attend(kernels, &Task::new(rows, first, count, kv_head, q, layer, heads), room, y);
                }
                first += count;
            }
        });
    }

    /// The same for few rows: chunks and heads are shared out, and joined on this thread.
    fn attend_pieces(&mut self, y: &mut [f32], q: &Buf, cache: &Cache, layer: usize, heads: &Heads) {
        let (rows, kernels, level) = (&self.rows, self.kernels, self.kernels.level());
        let Attention { rooms, pieces, chunks, joined } = &mut self.attention;
        pieces.clear();
        let (mut first, mut most) = (0, 0);
        while first < rows.len() {
            let count = rows.neighbours(first, rows.len().min(first + ROWS));
            let positions = rows.positions[first] as usize + count;
            pieces.extend((0..positions.div_ceil(cache.chunk_len())).map(|chunk| Piece { first, rows: count, chunk }));
            (first, most) = (first + count, most.max(count));
        }
        let task = |i: usize| {
            let Piece { first, rows: count, chunk } = pieces[i / heads.kv_heads];
            (Task::new(rows, first, count, i % heads.kv_heads, q, layer, heads), chunk)
        };
        let (tasks, size) = (pieces.len() * heads.kv_heads, most * heads.heads / heads.kv_heads * (heads.head_dim + 2));
        let chunks = values(chunks, tasks * size);
        self.pool.chunks(chunks, size, |thread, i, out| {
            let (task, chunk) = task(i);
            let work = &mut lock(&rooms[thread]).work;
            task.gather(heads.head_dim, &mut work.q);
            cache.chunk(kernels, &task, chunk, work, &mut out[..task.vectors() * (heads.head_dim + 2)]);
        });
        for head in 0..heads.kv_heads {
            for (i, chunk) in chunks.chunks_exact(size).enumerate().skip(head).step_by(heads.kv_heads) {
                let (task, number) = task(i);
                let Piece { first, rows: count, .. } = pieces[i / heads.kv_heads];
                let y = &mut y[first * q.cols..][..count * q.cols];
                task.join(level, number, cache, chunk, joined, y);
                if (number + 1) * cache.chunk_len() >= task.positions() {
                    task.finish(level, heads.head_dim, joined, y);
                }
            }
        }
    }
}

impl Rows {
    /// How many of the rows `first..end` belong to the sequence of the first.
    fn neighbours(&self, first: usize, end: usize) -> usize {
        (first..end).take_while(|row| self.tables[*row] == self.tables[first]).count()
    }
}

impl Cache {
    fn chunk_pages(&self) -> usize {
        (CHUNK / self.spec.page_len).max(1)
    }

    /// Positions of a chunk.
    fn chunk_len(&self) -> usize {
        self.chunk_pages() * self.spec.page_len
    }

    /// All chunks of a task, joined in `y`, which holds the task's rows.
    fn attend(&self, kernels: &Kernels, task: &Task<'_>, room: &mut Room, y: &mut [f32]) {
        let (head_dim, level) = (self.spec.head_dim, kernels.level());
        let Room { work, chunk, joined } = room;
        task.gather(head_dim, &mut work.q);
        let chunk = values(chunk, task.vectors() * (head_dim + 2));
        for number in 0..task.positions().div_ceil(self.chunk_len()) {
            self.chunk(kernels, task, number, work, chunk);
            task.join(level, number, self, chunk, joined, y);
        }
        task.finish(level, head_dim, joined, y);
    }

    /// A chunk of positions for the vectors of a task, whose q is in `work`. To `out` go the sums of the values,
    /// `[vectors, head_dim]`, and for each vector the maximum of its scores and the sum of its weights. Of a vector
    /// that reads no position of the chunk they mean nothing.
    fn chunk(&self, kernels: &Kernels, task: &Task<'_>, number: usize, work: &mut Work, out: &mut [f32]) {
        let (page_len, head_dim, level, vectors) =
            (self.spec.page_len, self.spec.head_dim, kernels.level(), task.vectors());
        let (ld, start) = (self.chunk_len(), number * self.chunk_len());
        let end = task.positions().min(start + ld);
        let Work { q, scores, page, counts } = work;
        let q = Vectors { data: q, ld: head_dim };
        let scores = lines(scores, vectors * ld);
        let page = lines(page, head_dim * page_len);
        let pages = || task.table[start / page_len..].iter().zip((start..end).step_by(page_len));
        for (&id, first) in pages() {
            let from = self.start(task.layer, id, task.kv_head);
            let keys = &self.keys[from..][..self.part];
            let keys = self.matrix(kernels, true, keys, page_len, vectors, page);
            attention::scores(level, keys, q, page_len.min(end - first), &mut scores[first - start..], ld);
        }
        let (sums, weights) = out.split_at_mut(vectors * head_dim);
        for (i, of) in weights.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let count = task.len_of(i).saturating_sub(start).min(ld);
            *of = ops::softmax_weights(level, &mut scores[i * ld..][..count], task.scale).into();
        }
        for (&id, first) in pages() {
            let from = self.start(task.layer, id, task.kv_head);
            let filled = page_len.min(end - first);
            let values = &self.values[from..][..filled * self.row_bytes];
            let values = self.matrix(kernels, false, values, head_dim, vectors, page);
            counts.clear();
            counts.extend((0..vectors).map(|i| task.len_of(i).saturating_sub(first).min(filled)));
            let weights = Vectors { data: &scores[first - start..], ld };
            attention::sums(level, values, weights, counts, first == start, sums);
        }
    }

    /// Keys in columns, or values in rows, of `cols` values: as they lie, or widened to `page`.
    fn matrix<'a>(
        &self,
        kernels: &Kernels,
        are_keys: bool,
        data: &'a [u8],
        cols: usize,
        vectors: usize,
        page: &'a mut [f32],
    ) -> Matrix<'a> {
        match self.spec.ty {
            TensorType::F32 => return Matrix::F32 { data, cols },
            TensorType::F16 if vectors <= DIRECT => return Matrix::F16 { data, cols },
            _ => {}
        }
        let page = &mut page[..data.len() / self.row_bytes * self.spec.head_dim];
        if are_keys {
            columns::widen(kernels, self.spec.ty, data, cols, page);
        } else {
            kernels.widen(self.spec.ty, data, page);
        }
        Matrix::F32 { data: bytemuck::cast_slice(page), cols }
    }
}

/// Neighbouring rows of one sequence, and the query heads that read one key/value head: `shared` vectors a row.
struct Task<'a> {
    layer: usize,
    kv_head: usize,
    rows: usize,
    shared: usize,
    /// Vector `h` of row `r` starts at `r · ld + offset + h · head_dim`, in `y` too.
    q: &'a [f32],
    ld: usize,
    offset: usize,
    scale: f32,
    table: &'a [PageId],
    /// Positions that the first row attends to, its own included; each later row has one more.
    len: usize,
}

impl<'a> Task<'a> {
    fn new(
        rows: &'a Rows,
        first: usize,
        count: usize,
        kv_head: usize,
        q: &'a Buf,
        layer: usize,
        heads: &Heads,
    ) -> Self {
        let shared = heads.heads / heads.kv_heads;
        Self {
            layer,
            kv_head,
            rows: count,
            shared,
            q: &q.data[first * q.cols..][..count * q.cols],
            ld: q.cols,
            offset: kv_head * shared * heads.head_dim,
            scale: heads.scale,
            table: rows.table(first),
            len: rows.positions[first] as usize + 1,
        }
    }

    fn vectors(&self) -> usize {
        self.rows * self.shared
    }

    /// Positions that the last row attends to.
    fn positions(&self) -> usize {
        self.len + self.rows - 1
    }

    fn len_of(&self, vector: usize) -> usize {
        self.len + vector / self.shared
    }

    /// Copies the query vectors.
    fn gather(&self, head_dim: usize, q: &mut Vec<f32>) {
        q.clear();
        for row in self.q.chunks_exact(self.ld) {
            q.extend_from_slice(&row[self.offset..][..self.shared * head_dim]);
        }
    }

    /// Joins chunk `number` to those before it, whose sums are in `y`.
    fn join(
        &self,
        level: super::simd::Level,
        number: usize,
        cache: &Cache,
        chunk: &[f32],
        joined: &mut Vec<[f32; 2]>,
        y: &mut [f32],
    ) {
        let head_dim = cache.spec.head_dim;
        let (sums, of) = chunk.split_at(self.vectors() * head_dim);
        let of = &of.as_chunks::<2>().0[..self.vectors()];
        if number == 0 {
            joined.clear();
            joined.extend_from_slice(of);
        }
        for (i, sums) in sums.chunks_exact(head_dim).enumerate() {
            let y = &mut y[i / self.shared * self.ld + self.offset + i % self.shared * head_dim..][..head_dim];
            if number == 0 {
                y.copy_from_slice(sums);
            } else if self.len_of(i) > number * cache.chunk_len() {
                ops::join_chunk(level, y, &mut joined[i], sums, of[i], self.scale);
            }
        }
    }

    /// Divides the sums by the totals of their weights.
    fn finish(&self, level: super::simd::Level, head_dim: usize, joined: &[[f32; 2]], y: &mut [f32]) {
        for (i, [_, total]) in joined.iter().enumerate() {
            let y = &mut y[i / self.shared * self.ld + self.offset + i % self.shared * head_dim..][..head_dim];
            ops::scale(level, y, 1.0 / total);
        }
    }
}
