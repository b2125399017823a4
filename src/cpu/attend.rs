//! Attention over the cache, in chunks of positions.
//!
//! The scores of a chunk are a softmax of their own: its maximum, the sum of its weights, and the values summed by
//! weight. Chunks are joined in the order of their positions. Where a chunk starts depends on its position alone, and
//! inside it every sum is taken in a fixed order; so the bits of a row depend on nothing but its own keys and values,
//! whichever rows are computed beside it and whoever computes a chunk.

use super::cache::Cache;
use super::simd::Kernels;
use super::simd::attention::{self, Float, Matrix, Vectors};
use super::simd::{Line, lines};
use super::{Buf, Cpu, Rows, columns, lock, ops};
use crate::backend::{Heads, PageId};
use crate::tensor::TensorType;
use std::sync::Mutex;

/// Positions of a chunk, as far as they are whole pages.
const CHUNK: usize = 256;
/// Most rows whose attention one task computes, so that they share the widened keys and values.
const ROWS: usize = 32;
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
    chunks: Vec<Line>,
    /// Of the chunks of one task that are joined so far, the maximum and the total of each vector.
    joined: Vec<[f32; 2]>,
}

/// What one thread works in.
#[derive(Default)]
struct Room {
    work: Work,
    /// What [`Cache::chunk`] leaves.
    chunk: Vec<Line>,
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
            lines::<f32>(scores, shared * cache.chunk_len());
            lines::<f32>(page, heads.head_dim * cache.spec.page_len);
            grow(counts, shared);
        }
        grow(&mut self.pieces, chunks);
        lines::<f32>(&mut self.chunks, chunks * heads.heads * (heads.head_dim + 2));
        grow(&mut self.joined, shared);
    }
}

fn grow<T>(values: &mut Vec<T>, capacity: usize) {
    values.reserve(capacity.saturating_sub(values.len()));
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
        let chunks = lines(chunks, tasks * size);
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
    /// How many of the rows `first..end` follow one another in the sequence of the first.
    fn neighbours(&self, first: usize, end: usize) -> usize {
        let next = |row: usize| self.positions[row] as usize == self.positions[first] as usize + (row - first);
        (first..end).take_while(|row| self.tables[*row] == self.tables[first] && next(*row)).count()
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
        let chunk = lines(chunk, task.vectors() * (head_dim + 2));
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
        let scores = lines::<f32>(scores, vectors * ld);
        let page = lines::<f32>(page, head_dim * page_len);
        let pages = &task.table[start / page_len..end.div_ceil(page_len)];
        let begin = |id: PageId| self.start(task.layer, id, task.kv_head);
        let first_values = &self.values[begin(pages[0])..];
        for (i, &id) in pages.iter().enumerate() {
            let first = start + i * page_len;
            task.count(first, page_len, counts);
            let next = pages.get(i + 1).map_or(first_values, |id| &self.keys[begin(*id)..]);
            let keys = &self.keys[begin(id)..][..self.part];
            let keys = self.matrix(kernels, true, [keys, next], page_len, vectors, page);
            attention::scores(level, keys, q, counts, &mut scores[first - start..], ld);
        }
        let (sums, weights) = out.split_at_mut(vectors * head_dim);
        task.count(start, ld, counts);
        for (i, of) in weights.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            *of = ops::softmax_weights(level, &mut scores[i * ld..][..counts[i]], task.scale).into();
        }
        for (i, &id) in pages.iter().enumerate() {
            let first = start + i * page_len;
            task.count(first, page_len, counts);
            let next = pages.get(i + 1).map_or(&[][..], |id| &self.values[begin(*id)..]);
            let values = &self.values[begin(id)..][..page_len.min(end - first) * self.row_bytes];
            let values = self.matrix(kernels, false, [values, next], head_dim, vectors, page);
            let weights = Vectors { data: &scores[first - start..], ld };
            attention::sums(level, values, weights, counts, i == 0, sums);
        }
    }

    /// Keys in columns, or values in rows, of `cols` values: as they lie, or widened to `page`. What will be read next
    /// is asked for meanwhile.
    fn matrix<'a>(
        &self,
        kernels: &Kernels,
        are_keys: bool,
        [data, next]: [&'a [u8]; 2],
        cols: usize,
        vectors: usize,
        page: &'a mut [f32],
    ) -> Matrix<'a> {
        let next = Some(next).filter(|_| vectors <= DIRECT);
        match self.spec.ty {
            TensorType::F32 => return Matrix { ty: Float::F32, data, cols, next },
            TensorType::F16 if vectors <= DIRECT => return Matrix { ty: Float::F16, data, cols, next },
            _ => {}
        }
        let page = &mut page[..data.len() / self.row_bytes * self.spec.head_dim];
        if are_keys {
            columns::widen(kernels, self.spec.ty, data, cols, page);
        } else {
            kernels.widen(self.spec.ty, data, page);
        }
        Matrix { ty: Float::F32, data: bytemuck::cast_slice(page), cols, next: None }
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
            q: &q.values((first + count) * q.cols)[first * q.cols..],
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

    /// How many of the positions `first..first + most` each vector attends to.
    fn count(&self, first: usize, most: usize, counts: &mut Vec<usize>) {
        counts.clear();
        counts.extend((0..self.vectors()).map(|i| self.len_of(i).saturating_sub(first).min(most)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, Batch, CacheSpec, Linear, Precision, Rope, RopeLayout, Span};
    use crate::cpu::simd::Level;
    use crate::quant;
    use crate::rng::Rng;

    const PAGE_LEN: usize = 64;
    const SHARED: usize = 3;
    const KV_HEADS: usize = 2;

    /// Keys and values of one head, `[positions, head_dim]`, as the cache rounds them.
    struct Head {
        keys: Vec<f32>,
        values: Vec<f32>,
    }

    impl Head {
        fn new(ty: TensorType, rows: [&[f32]; 2], head: usize, head_dim: usize) -> Self {
            let [keys, values] = rows.map(|rows| {
                let mut out = Vec::new();
                for row in rows.chunks_exact(KV_HEADS * head_dim) {
                    let row = &row[head * head_dim..][..head_dim];
                    let (mut bytes, mut wide) = (vec![0; ty.row_bytes(head_dim).unwrap()], vec![0.0; head_dim]);
                    quant::encode(ty, row, &mut bytes);
                    quant::dequantize(ty, &bytes, &mut wide);
                    out.extend(wide);
                }
                out
            });
            Self { keys, values }
        }

        /// One vector's attention to the first `len` positions.
        fn truth(&self, q: &[f32], len: usize, scale: f32) -> Vec<f32> {
            let (mut y, mut of) = (vec![0.0; q.len()], [0.0; 2]);
            for start in (0..len).step_by(CHUNK) {
                let positions = start..len.min(start + CHUNK);
                let key = |p: usize| self.keys[p * q.len()..].iter().zip(q);
                let mut weights: Vec<f32> =
                    positions.clone().map(|p| key(p).fold(0.0, |s, (k, q)| q.mul_add(*k, s))).collect();
                let of_chunk = ops::softmax_weights(Level::Scalar, &mut weights, scale).into();
                let value = |j: usize| positions.clone().map(move |p| self.values[p * q.len() + j]).zip(&weights);
                let sum = |j: usize| value(j).fold(0.0f32, |s, (v, w)| w.mul_add(v, s));
                let sums: Vec<f32> = (0..q.len()).map(sum).collect();
                if start == 0 {
                    (y, of) = (sums, of_chunk);
                } else {
                    ops::join_chunk(Level::Scalar, &mut y, &mut of, &sums, of_chunk, scale);
                }
            }
            y.iter().map(|sum| sum * (1.0 / of[1])).collect()
        }
    }

    /// Attention of the last `rows` positions of `[q, k, v]`, after the others were stored in steps of another size.
    /// What the cache held before is no number.
    fn attention(cpu: &mut Cpu, ty: TensorType, heads: &Heads, [q, k, v]: [&[f32]; 3], rows: usize) -> Vec<f32> {
        let widths = [heads.heads, heads.kv_heads, heads.kv_heads].map(|n| n * heads.head_dim);
        let len = q.len() / widths[0];
        let pages: Vec<PageId> = (0..len.div_ceil(PAGE_LEN) as PageId).rev().collect();
        let (kv_heads, head_dim) = (heads.kv_heads, heads.head_dim);
        let spec = CacheSpec { layers: 1, kv_heads, head_dim, pages: pages.len(), page_len: PAGE_LEN, ty };
        let mut cache = cpu.cache(&spec).unwrap();
        cache.keys.fill(0xff);
        cache.values.fill(0xff);
        let rope = Rope { layout: RopeLayout::Interleaved, inv_freq: vec![] };
        let mut y = cpu.buf(len, widths[0]).unwrap();
        for range in
            [0..(len - rows) / 3, (len - rows) / 3..len - rows, len - rows..len].iter().filter(|r| !r.is_empty())
        {
            let mut bufs = widths.map(|width| cpu.buf(range.len(), width).unwrap());
            for ((buf, data), width) in bufs.iter_mut().zip([q, k, v]).zip(widths) {
                cpu.upload(buf, &data[range.start * width..range.end * width]).unwrap();
            }
            let positions: Vec<u32> = range.clone().map(|p| p as u32).collect();
            let (tokens, outputs) = (&positions[..], &[][..]);
            let spans = &[Span { rows: 0..range.len() as u32, table: 0..pages.len() as u32 }];
            let (openings, slots, pages, positions) = (&[][..], 0, &pages[..], &positions[..]);
            cpu.begin(&Batch { tokens, positions, spans, pages, openings, slots, outputs }).unwrap();
            let [q, k, v] = &mut bufs;
            cpu.rope_store([&mut *q, k, v], None, &mut cache, 0, &rope, heads).unwrap();
            cpu.attend(&mut y, q, &cache, 0, heads).unwrap();
        }
        y.values(rows * widths[0]).to_vec()
    }

    #[test]
    fn attention_has_the_bits_of_its_truth_at_every_level() {
        let mut rng = Rng::new(1);
        for (i, head_dim) in [64, 80, 96, 128, 256].into_iter().enumerate() {
            let heads = Heads { heads: SHARED * KV_HEADS, kv_heads: KV_HEADS, head_dim, scale: 0.3 };
            let types = [TensorType::F32, TensorType::F16, TensorType::Q8_0];
            for (ty, len) in types.into_iter().filter(|ty| ty.row_bytes(head_dim).is_some()).zip([70, 300, 530]) {
                let mut noise = |n: usize| -> Vec<f32> { (0..len * n * head_dim).map(|_| rng.normal()).collect() };
                let (q, k, v) = (noise(heads.heads), noise(KV_HEADS), noise(KV_HEADS));
                let kv: Vec<Head> = (0..KV_HEADS).map(|head| Head::new(ty, [&k, &v], head, head_dim)).collect();
                let rows = [1, 2, 7, 50, 65][i];
                let vectors = q.chunks_exact(head_dim).enumerate().skip((len - rows) * heads.heads);
                let truth =
                    vectors.flat_map(|(i, q)| kv[i % heads.heads / SHARED].truth(q, i / heads.heads + 1, heads.scale));
                let truth: Vec<u32> = truth.map(f32::to_bits).collect();
                for (level, threads) in Level::ALL.into_iter().zip([1, 2, 3]) {
                    let mut cpu = Cpu::at_level(threads, Precision::Int8, level).unwrap();
                    let y = attention(&mut cpu, ty, &heads, [&q, &k, &v], rows);
                    let y: Vec<u32> = y.into_iter().map(f32::to_bits).collect();
                    assert!(y == truth, "{ty}, heads of {head_dim}, {rows} rows at {}", level.name());
                }
            }
        }
    }
}
