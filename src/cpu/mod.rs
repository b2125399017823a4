//! The CPU backend: weights stay where the file is mapped, kernels by instruction-set level, one team of
//! threads.
//!
//! # Regions
//! With one row, a layer takes five parallel regions (qkv, attention, output, gate/up, down); everything
//! between runs on the calling thread. The shrink and the expand are part of their projection's region, so a
//! valve adds none. With more rows, inputs and consumers are shared out by row, in regions of their own.

mod ahead;
mod attend;
mod cache;
mod claims;
mod columns;
pub mod limits;
mod low_rank;
mod ops;
mod pages;
mod pool;
mod project;
pub mod simd;

use crate::backend::{Backend, Batch, CacheSpec, Heads, Input, Linear, Owed, PageId, Precision, Rope, Term};
use crate::error::{Error, Result};
use crate::quant;
use crate::tensor::{Tensor, TensorType};
use attend::Attention;
use bytemuck::Zeroable;
use pool::Pool;
use project::Prepared;
use simd::{Kernels, LINE, Level, Line, Scratch};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

pub use cache::Cache;
pub use low_rank::Delta;
pub use project::Fan;

/// Bytes of the next fan's weights that a worker asks for while the calling thread does what lies between two products.
/// Half and twice of it are 1 % slower or no faster.
const AHEAD: usize = 128 << 10;
/// The same for the calling thread, which waits less.
const AHEAD_FIRST: usize = 32 << 10;

/// Activations `[rows, cols]`.
#[derive(Debug)]
pub struct Buf {
    data: Vec<Line>,
    cols: usize,
}

impl Buf {
    /// The first `n` values.
    fn values(&self, n: usize) -> &[f32] {
        &bytemuck::cast_slice(&self.data)[..n]
    }

    fn values_mut(&mut self, n: usize) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.data)[..n]
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.values((i + 1) * self.cols)[i * self.cols..]
    }

    /// The first `n` rows.
    fn rows_mut(&mut self, n: usize) -> &mut [f32] {
        self.values_mut(n * self.cols)
    }
}

/// A step's rows, copied so that no verb holds on to the caller's.
#[derive(Default)]
struct Rows {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    openings: Vec<f32>,
    slots: usize,
    /// For each slot, whether it is open in any row.
    open: Vec<bool>,
    outputs: Vec<u32>,
    pages: Vec<PageId>,
    /// For each row, the part of `pages` that is its sequence's table.
    tables: Vec<Range<u32>>,
}

impl Rows {
    fn len(&self) -> usize {
        self.tokens.len()
    }

    fn opening(&self, row: usize, slot: usize) -> f32 {
        self.openings[row * self.slots + slot]
    }

    fn table(&self, row: usize) -> &[PageId] {
        let range = &self.tables[row];
        &self.pages[range.start as usize..range.end as usize]
    }

    /// Drops all rows but the outputs.
    fn keep_outputs(&mut self) {
        let slots = self.slots;
        for (i, row) in self.outputs.iter_mut().enumerate() {
            let from = *row as usize;
            self.tokens[i] = self.tokens[from];
            self.positions[i] = self.positions[from];
            self.openings.copy_within(from * slots..(from + 1) * slots, i * slots);
            self.tables[i] = self.tables[from].clone();
            *row = i as u32;
        }
        let n = self.outputs.len();
        self.tokens.truncate(n);
        self.positions.truncate(n);
        self.openings.truncate(n * slots);
        self.tables.truncate(n);
        self.find_open();
    }

    /// Which slots are open in any row.
    fn find_open(&mut self) {
        self.open.clear();
        self.open.resize(self.slots, false);
        for (i, opening) in self.openings.iter().enumerate() {
            self.open[i % self.slots] |= *opening != 0.0;
        }
    }

    fn fill(&mut self, batch: &Batch<'_>) {
        fn copy<T: Copy>(to: &mut Vec<T>, from: &[T]) {
            to.clear();
            to.extend_from_slice(from);
        }
        copy(&mut self.tokens, batch.tokens);
        copy(&mut self.positions, batch.positions);
        copy(&mut self.openings, batch.openings);
        copy(&mut self.outputs, batch.outputs);
        copy(&mut self.pages, batch.pages);
        self.slots = batch.slots;
        self.find_open();
        self.tables.clear();
        for span in batch.spans {
            self.tables.extend(span.rows.clone().map(|_| span.table.clone()));
        }
    }
}

/// Neighbouring rows whose keys and values go to one page.
struct Run {
    page: PageId,
    rows: Range<usize>,
}

/// Cosines and sines of a step's rows, made once for all layers that share a rope.
#[derive(Default)]
struct RopeTable {
    inv_freq: Vec<f64>,
    /// `[rows, pairs]`
    cos: Vec<f32>,
    sin: Vec<f32>,
    filled: bool,
}

impl RopeTable {
    fn fill(&mut self, rope: &Rope, positions: &[u32]) {
        if self.filled && self.inv_freq == rope.inv_freq {
            return;
        }
        self.inv_freq.clone_from(&rope.inv_freq);
        self.cos.clear();
        self.sin.clear();
        for position in positions {
            for frequency in &rope.inv_freq {
                let (sin, cos) = (f64::from(*position) * frequency).sin_cos();
                self.cos.push(cos as f32);
                self.sin.push(sin as f32);
            }
        }
        self.filled = true;
    }
}

/// A backend on the processor.
pub struct Cpu {
    pool: Pool,
    kernels: &'static Kernels,
    precision: Precision,
    rows: Rows,
    prepared: Prepared,
    rope: RopeTable,
    runs: Vec<Run>,
    attention: Attention,
    /// What the threads work in.
    workspaces: Vec<Mutex<Scratch>>,
}

impl Cpu {
    /// A team of `threads` threads at the machine's instruction-set level, which `COTVALVE_SIMD` may lower.
    ///
    /// # Errors
    /// [`Error::Argument`] for zero threads, more than the system starts, or an unknown level.
    pub fn new(threads: usize, precision: Precision) -> Result<Self> {
        Self::at_level(threads, precision, Level::from_env()?)
    }

    /// The same at `level`, or at the machine's if that is lower. Every level gives the same bits.
    pub fn at_level(threads: usize, precision: Precision, level: Level) -> Result<Self> {
        if threads == 0 {
            return Err(Error::argument("threads", "at least one is needed"));
        }
        let pool =
            Pool::new(threads).map_err(|e| Error::argument("threads", format!("{threads} cannot be started: {e}")))?;
        let workspaces = (0..threads).map(|_| Mutex::default()).collect();
        Ok(Self {
            pool,
            kernels: Kernels::at(level),
            precision,
            rows: Rows::default(),
            prepared: Prepared::default(),
            rope: RopeTable::default(),
            runs: Vec::new(),
            attention: Attention::new(threads),
            workspaces,
        })
    }

    /// Gives every thread what a decode step of a weight of `cols` inputs works in; which thread meets which is then
    /// left to chance, and none allocates.
    fn reserve(&self, ty: TensorType, cols: usize) {
        self.workspaces.iter().for_each(|workspace| lock(workspace).reserve(ty, cols));
    }

    /// Stores a step's keys and values, page by page.
    fn store_rows(&mut self, k: &Buf, v: &Buf, cache: &mut Cache, layer: usize) {
        let (rows, kernels, page_len) = (&self.rows, self.kernels, cache.spec.page_len);
        let place = |row: usize| {
            let position = rows.positions[row] as usize;
            (rows.table(row)[position / page_len], position % page_len)
        };
        self.runs.clear();
        for row in 0..rows.len() {
            match self.runs.last_mut().filter(|run| run.page == place(row).0) {
                Some(run) => run.rows.end = row + 1,
                None => self.runs.push(Run { page: place(row).0, rows: row..row + 1 }),
            }
        }
        self.runs.sort_unstable_by_key(|run| run.page);
        let mut pages = cache.layer(layer);
        let runs = self.runs.iter().map(|run| (run, pages.take(run.page)));
        self.pool.items(self.runs.len(), runs, |_, (run, mut page)| {
            for row in run.rows.clone() {
                page.store(kernels, place(row).1, [k.row(row), v.row(row)]);
            }
        });
    }

    /// Parallel regions run so far.
    pub fn regions(&self) -> u64 {
        self.pool.regions()
    }
}

/// Whether there is memory for `n` values, as far as the system says: an allocation that fails ends the process,
/// and sizes come from files.
fn fits<T>(n: usize) -> bool {
    Vec::<T>::new().try_reserve_exact(n).is_ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Linear for Cpu {
    type Buf = Buf;
    type Vector = Vec<f32>;
    type Fan = Fan;
    type Delta = Delta;

    fn buf(&self, rows: usize, cols: usize) -> Result<Buf> {
        let values = rows.checked_mul(cols).filter(|n| fits::<f32>(*n));
        let Some(values) = values else {
            return Err(Error::argument("batch", format!("no memory for {rows} rows of {cols} values")));
        };
        Ok(Buf { data: vec![Line::zeroed(); (values * size_of::<f32>()).div_ceil(LINE)], cols })
    }

    fn shape(&self, buf: &mut Buf, cols: usize) {
        buf.cols = cols;
    }

    fn vector(&self, weight: &Tensor) -> Result<Vec<f32>> {
        Ok(quant::to_f32(weight))
    }

    fn fan(&self, weights: &[&Tensor]) -> Result<Fan> {
        weights.iter().for_each(|w| self.reserve(w.ty, w.cols()));
        Fan::new(weights, self.precision)
    }

    fn delta(&self, terms: &[Term<'_>]) -> Result<Delta> {
        terms.iter().for_each(|t| self.reserve(t.a.ty, t.a.cols()));
        Ok(Delta::new(terms, self.precision))
    }

    fn begin(&mut self, batch: &Batch<'_>) -> Result<()> {
        self.rows.fill(batch);
        self.rope.filled = false;
        Ok(())
    }

    fn project(
        &mut self,
        ys: &mut [&mut Buf],
        u: &mut Buf,
        x: Input<'_, Self>,
        fan: &Fan,
        delta: Option<&Delta>,
    ) -> Result<()> {
        self.prepare(u, &x, fan, delta);
        self.multiply(ys, u, &x, fan, delta);
        Ok(())
    }

    fn expect(&mut self, fan: &Fan) {
        for thread in 0..self.pool.threads() {
            let bytes = fan.first(thread, self.pool.threads());
            let most = if thread == 0 { AHEAD_FIRST } else { AHEAD };
            self.pool.expect(thread, &bytes[..bytes.len().min(most)]);
        }
    }

    fn download(&mut self, src: &Buf, dst: &mut [f32]) -> Result<()> {
        dst.copy_from_slice(src.values(dst.len()));
        Ok(())
    }

    fn upload(&mut self, dst: &mut Buf, src: &[f32]) -> Result<()> {
        dst.values_mut(src.len()).copy_from_slice(src);
        Ok(())
    }
}

impl Backend for Cpu {
    type Cache = Cache;

    fn cache(&self, spec: &CacheSpec) -> Result<Cache> {
        Cache::new(spec)
    }

    fn copy_page(&mut self, cache: &mut Cache, from: PageId, to: PageId) -> Result<()> {
        cache.copy_page(from, to);
        Ok(())
    }

    fn read_page(&mut self, cache: &Cache, page: PageId, out: &mut [u8]) -> Result<()> {
        cache.read_page(page, out);
        Ok(())
    }

    fn write_page(&mut self, cache: &mut Cache, page: PageId, data: &[u8]) -> Result<()> {
        cache.write_page(page, data);
        Ok(())
    }

    fn embed(&mut self, h: &mut Buf, table: &Fan) -> Result<()> {
        let cols = h.cols;
        for (row, token) in h.rows_mut(self.rows.len()).chunks_exact_mut(cols).zip(&self.rows.tokens) {
            table.row(*token as usize, row);
        }
        Ok(())
    }

    fn rope_store(
        &mut self,
        qkv: [&mut Buf; 3],
        _: Option<Owed<'_, Self>>,
        cache: &mut Cache,
        layer: usize,
        rope: &Rope,
        heads: &Heads,
    ) -> Result<()> {
        self.rope.fill(rope, &self.rows.positions);
        let [q, k, v] = qkv;
        let n = self.rows.len();
        let widths = [q.cols, k.cols];
        let (table, kernels) = (&self.rope, self.kernels);
        let pairs = rope.inv_freq.len();
        let items = q.rows_mut(n).chunks_exact_mut(widths[0]);
        let items = items.zip(k.rows_mut(n).chunks_exact_mut(widths[1]));
        self.pool.items(n, items.enumerate(), |_, (i, (q, k))| {
            let (cos, sin) = (&table.cos[i * pairs..][..pairs], &table.sin[i * pairs..][..pairs]);
            ops::rotate(kernels.level(), q, heads.head_dim, rope.layout, cos, sin);
            ops::rotate(kernels.level(), k, heads.head_dim, rope.layout, cos, sin);
        });
        self.store_rows(k, v, cache, layer);
        Ok(())
    }

    fn keep_outputs(&mut self, bufs: [&mut Buf; 2]) -> Result<()> {
        if self.rows.outputs.len() < self.rows.len() {
            for buf in bufs {
                let (cols, values) = (buf.cols, buf.rows_mut(self.rows.len()));
                for (i, row) in self.rows.outputs.iter().enumerate() {
                    let from = *row as usize * cols;
                    values.copy_within(from..from + cols, i * cols);
                }
            }
            self.rows.keep_outputs();
        }
        Ok(())
    }

    fn attend(&mut self, y: &mut Buf, q: &Buf, cache: &Cache, layer: usize, heads: &Heads) -> Result<()> {
        self.attend_rows(y.rows_mut(self.rows.len()), q, cache, layer, heads);
        Ok(())
    }

    fn add(&mut self, h: &mut Buf, y: &Buf, _: Option<Owed<'_, Self>>) -> Result<()> {
        let (n, cols) = (self.rows.len(), h.cols);
        let level = self.kernels.level();
        self.pool.items(n, h.rows_mut(n).chunks_exact_mut(cols).enumerate(), |_, (i, h)| {
            ops::add(level, h, y.row(i));
        });
        Ok(())
    }

    fn settle_outputs(&mut self, _: &mut Buf, _: Owed<'_, Self>) -> Result<()> {
        Ok(())
    }
}
