//! The launches that know of sequences: embedding, rotary embedding with the store to the cache, attention.

use super::args;
use super::project::row_tile;
use super::{BLOCK, Buf, Cache, Cuda, Device, Fan, int};
use crate::backend::{Heads, Owed, Rope};
use crate::error::{Error, Result};
use crate::tensor::TensorType;
use cudarc::driver::CudaSlice;
use std::f64::consts::TAU;
use std::ops::Range;

const EMBED_THREADS: u32 = 256;
const ROPE_THREADS: u32 = 64;
const ATTEND_THREADS: u32 = 128;
const GATHER_THREADS: u32 = 256;
/// Columns of q, k or v that a warp of rope.cu covers.
const TILE: usize = 32;
/// Positions of the shortest chunk of attend.cu, and the most chunks that it cuts a context into.
const CHUNK: usize = 64;
const MOST_CHUNKS: usize = 64;
/// A block of attention takes one chunk as long as each multiprocessor has no more blocks than this.
const BLOCKS_PER_MULTIPROCESSOR: usize = 16;
/// Head sizes that attend.cu is compiled for.
pub(super) const HEAD_DIMS: [usize; 5] = [64, 80, 96, 128, 256];

/// Every kernel of attend.cu.
pub(super) fn attend_names() -> Vec<String> {
    let types = [TensorType::F32, TensorType::F16, TensorType::Q8_0];
    types.iter().flat_map(|ty| HEAD_DIMS.iter().filter_map(|dim| attend_name(*dim, *ty))).collect()
}

/// What attention works in.
pub(super) struct Attention {
    /// Results of chunks.
    partials: CudaSlice<f32>,
    /// `[rows, kv_heads]`, all 0 between launches.
    arrivals: CudaSlice<u32>,
    /// Whole turns a position of each rope met so far, by its frequencies.
    turns: Vec<(Vec<f64>, CudaSlice<f64>)>,
}

impl Attention {
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self { partials: device.zeros(0)?, arrivals: device.zeros(0)?, turns: Vec::new() })
    }

    /// Room for so many results and counters. Returns whether memory moved.
    fn reserve(&mut self, device: &Device, partials: usize, arrivals: usize) -> Result<bool> {
        let moved = partials > self.partials.len() || arrivals > self.arrivals.len();
        if partials > self.partials.len() {
            self.partials = device.zeros(partials.next_power_of_two())?;
        }
        if arrivals > self.arrivals.len() {
            self.arrivals = device.zeros(arrivals.next_power_of_two())?;
        }
        Ok(moved)
    }

    fn turns(&mut self, device: &Device, rope: &Rope) -> Result<u64> {
        if let Some((_, turns)) = self.turns.iter().find(|(inv_freq, _)| *inv_freq == rope.inv_freq) {
            return Ok(device.address(turns));
        }
        let turns: Vec<f64> = rope.inv_freq.iter().map(|f| f / TAU).collect();
        let turns = device.copy(&turns)?;
        let address = device.address(&turns);
        self.turns.push((rope.inv_freq.clone(), turns));
        Ok(address)
    }
}

/// The most chunks that a graph of this step may meet: contexts share a graph up to the next power of two.
pub(super) fn chunk_bucket(context: usize) -> usize {
    context.div_ceil(CHUNK).next_power_of_two().min(MOST_CHUNKS)
}

/// Blocks that share the context of each row and head.
fn splits(chunks: usize, strips: usize, multiprocessors: usize) -> usize {
    let chunks_a_block = (chunks * strips).div_ceil(BLOCKS_PER_MULTIPROCESSOR * multiprocessors);
    chunks.div_ceil(chunks_a_block.max(1))
}

impl Cuda {
    pub(super) fn embed_rows(&mut self, h: &mut Buf, table: &Fan) -> Result<()> {
        let (d, rows) = (&self.device, self.step.rows());
        let [w] = &table.weights[..] else { return Err(Error::argument("table", "it is not one weight")) };
        if h.rows < rows || h.cols != table.n_in {
            return Err(Error::argument("h", format!("it is not {rows} rows of {}", table.n_in)));
        }
        self.step.check_tokens(w.n_out)?;
        self.graphs.limits.vocab = w.n_out;
        let args = args::Embed {
            rows: self.step.args(d),
            quants: d.address(&w.quants),
            high: d.address(&w.high),
            scales: d.address(&w.scales),
            h: d.address(&h.data),
            cols: int(h.cols),
            vocab: int(w.n_out),
        };
        let kernel = format!("embed_{}", w.ty);
        let grid = (h.cols.div_ceil(EMBED_THREADS as usize), rows);
        // SAFETY: embed_T takes this struct; h was checked above, and that the table has a row for each token.
        unsafe { d.launch(&kernel, grid, EMBED_THREADS, &args, format_args!("[{rows} x {}]", h.cols)) }?;
        self.launches += 1;
        Ok(())
    }

    /// Every relation that the kernels of attention take on trust.
    fn check_heads(&self, q: &Buf, cache: &Cache, layer: usize, heads: &Heads) -> Result<()> {
        let (rows, spec) = (self.step.rows(), cache.spec());
        if q.rows < rows || q.cols != heads.heads * heads.head_dim || rows == 0 {
            return Err(Error::argument("q", format!("it is not {rows} rows of {} heads", heads.heads)));
        }
        let ours = (heads.kv_heads, heads.head_dim);
        if layer >= spec.layers || ours != (spec.kv_heads, spec.head_dim) || !heads.heads.is_multiple_of(ours.0) {
            return Err(Error::argument("cache", format!("layer {layer} of {spec:?} for {heads:?}")));
        }
        self.step.check_pages(spec.pages, spec.page_len)
    }

    pub(super) fn rope_store_rows(
        &mut self,
        qkv: [&mut Buf; 3],
        owed: Option<Owed<'_, Self>>,
        (cache, layer): (&mut Cache, usize),
        rope: &Rope,
        heads: &Heads,
    ) -> Result<()> {
        let rows = self.step.rows();
        let [q, k, v] = qkv.map(|buf| &*buf);
        self.check_heads(q, cache, layer, heads)?;
        let kv_width = heads.kv_heads * heads.head_dim;
        if [k, v].iter().any(|buf| buf.rows < rows || buf.cols != kv_width) {
            return Err(Error::argument("qkv", format!("k and v are not {rows} rows of {kv_width}")));
        }
        let rotated = 2 * rope.inv_freq.len();
        if rotated > heads.head_dim {
            return Err(Error::argument("rope", format!("{rotated} values of heads of {}", heads.head_dim)));
        }
        self.graphs.limits.cache(cache.spec());
        let turns = self.attention.turns(&self.device, rope)?;
        let expand = |output, buf: &Buf| self.expand(owed, output, rows, buf.cols);
        let expands = [expand(0, q)?, expand(1, k)?, expand(2, v)?];
        let d = &self.device;
        let args = args::RopeStore {
            rows: self.step.args(d),
            cache: cache.args(d, layer),
            q: d.address(&q.data),
            k: d.address(&k.data),
            v: d.address(&v.data),
            turns,
            expands,
            heads: int(heads.heads),
            n_rows: int(rows),
            rotated: int(rotated),
            unused: 0,
        };
        let tile = row_tile(rows);
        let warps = q.cols.div_ceil(TILE) + 2 * kv_width.div_ceil(TILE);
        let grid = (warps.div_ceil(ROPE_THREADS as usize / TILE), rows.div_ceil(tile));
        let shape = format_args!("[{rows} x ({} + 2 x {kv_width})]", q.cols);
        // SAFETY: rope_store_rR takes this struct; the shapes were checked above and by `expand`, and that the step's
        // pages are the cache's.
        unsafe { d.launch(&format!("rope_store_r{tile}"), grid, ROPE_THREADS, &args, shape) }?;
        self.launches += 1;
        Ok(())
    }

    pub(super) fn attend_rows(
        &mut self,
        y: &mut Buf,
        q: &Buf,
        cache: &Cache,
        layer: usize,
        heads: &Heads,
    ) -> Result<()> {
        let rows = self.step.rows();
        self.check_heads(q, cache, layer, heads)?;
        if y.rows < rows || y.cols != q.cols {
            return Err(Error::argument("y", format!("it is not {rows} rows of {}", q.cols)));
        }
        self.graphs.limits.cache(cache.spec());
        let chunks = chunk_bucket(self.step.context());
        let partials = if chunks > 1 { rows * heads.heads * chunks * (heads.head_dim + 2) } else { 0 };
        let mut moved = self.attention.reserve(&self.device, partials, rows * heads.kv_heads)?;
        let quantizes = heads.head_dim.is_multiple_of(BLOCK);
        if quantizes {
            moved |= self.acts.reserve(&self.device, rows * y.cols)?;
        }
        if moved {
            self.graphs.clear();
        }
        let d = &self.device;
        let work = Work {
            kernel: cache.attend_kernel(),
            rows: self.step.args(d),
            cache: cache.args(d, layer),
            q: d.address(&q.data),
            y: d.address(&y.data),
            out: if quantizes { self.acts.args(d, false) } else { args::Quantized::default() },
            heads: *heads,
            chunks,
            prefetch: rows * self.step.context() * cache.position_bytes() <= d.l2_bytes() / 2,
        };
        let (shares, tiles) = self.step.shares(d);
        if !shares.tiles.is_empty() {
            work.launch_tiles(d, tiles, shares.tiles.len())?;
        }
        for run in &shares.runs {
            work.launch_run(d, &self.attention, run.clone())?;
        }
        self.launches += u64::from(!shares.tiles.is_empty()) + shares.runs.len() as u64;
        self.acts.of = quantizes.then(|| d.address(&y.data));
        Ok(())
    }

    /// Moves the outputs' rows of `bufs` to the front, if there are others.
    pub(super) fn gather(&mut self, bufs: [&mut Buf; 2]) -> Result<()> {
        let d = &self.device;
        let Some(outputs) = self.step.output_rows(d) else { return Ok(()) };
        if bufs.iter().any(|buf| buf.rows < self.step.rows()) {
            return Err(Error::argument("bufs", format!("they are not {} rows", self.step.rows())));
        }
        let n_rows = self.step.outputs();
        for buf in bufs {
            let (data, n) = (d.address(&buf.data), int(buf.cols));
            let args = args::Gather { data, rows: outputs, n, n_rows: int(n_rows) };
            let grid = (buf.cols.div_ceil(GATHER_THREADS as usize), 1);
            let shape = format_args!("[{n_rows} x {}]", buf.cols);
            // SAFETY: gather_rows takes this struct; buf holds the step's rows, of which the outputs are some, and
            // they ascend.
            unsafe { d.launch("gather_rows", grid, GATHER_THREADS, &args, shape) }?;
            self.launches += 1;
        }
        self.acts.of = None;
        self.step.keep_outputs();
        Ok(())
    }
}

/// Attention of a step, checked.
struct Work<'a> {
    /// Of attend.cu.
    kernel: &'a str,
    rows: args::Rows,
    cache: args::Cache,
    q: u64,
    y: u64,
    out: args::Quantized,
    heads: Heads,
    /// Most chunks of a row.
    chunks: usize,
    /// Whether the keys and values that are read come to no more than the L2 cache holds beside weights.
    prefetch: bool,
}

impl Work<'_> {
    /// Rows that follow one another in few positions of a sequence, or in none.
    fn launch_run(&self, d: &Device, attention: &Attention, run: Range<usize>) -> Result<()> {
        let Heads { heads, kv_heads, head_dim, scale } = self.heads;
        let (rows, width, first) = (run.len(), heads * head_dim, run.start as u64);
        let past = |address: u64, bytes: usize| if address == 0 { 0 } else { address + first * bytes as u64 };
        let strips = rows * kv_heads;
        let splits = splits(self.chunks, strips, d.multiprocessors());
        let args = args::Attend {
            rows: args::Rows {
                positions: past(self.rows.positions, 4),
                tables: past(self.rows.tables, 4),
                ..self.rows
            },
            cache: self.cache,
            q: past(self.q, 4 * width),
            y: past(self.y, 4 * width),
            out: args::Quantized {
                quants: past(self.out.quants, width),
                scales: past(self.out.scales, width / BLOCK * 4),
                sums: past(self.out.sums, width / BLOCK * 4),
                floats: 0,
            },
            partials: d.address(&attention.partials),
            arrivals: d.address(&attention.arrivals),
            scale,
            softcap: 0.0,
            window: 0,
            heads: int(heads),
            n_rows: int(rows),
            splits: int(splits),
            chunks_max: int(self.chunks),
            prefetch: self.prefetch.into(),
        };
        let shape = format_args!("{rows} rows, {heads} heads, {} chunks", self.chunks);
        // SAFETY: attend_dD_T takes this struct; the caller saw the shapes and pages, that the run is of the step, and
        // that there is room for the results of `chunks` chunks, which hold its longest context, and for y's blocks.
        unsafe { d.launch(self.kernel, (splits, strips), ATTEND_THREADS, &args, shape) }
    }

    /// `n` tiles of many rows of a sequence each.
    fn launch_tiles(&self, d: &Device, tiles: u64, n: usize) -> Result<()> {
        let Heads { heads, head_dim, scale, .. } = self.heads;
        let args = args::AttendMany {
            rows: self.rows,
            cache: self.cache,
            q: self.q,
            y: self.y,
            out: self.out,
            tiles,
            scale,
            softcap: 0.0,
            window: 0,
            heads: int(heads),
        };
        let shape = format_args!("{n} tiles, {heads} heads");
        // SAFETY: attend_many_dD takes this struct; the caller saw the shapes and pages, and that the tiles are rows of
        // the step, of one sequence each.
        unsafe { d.launch(&format!("attend_many_d{head_dim}"), (n, heads), ATTEND_THREADS, &args, shape) }
    }
}

/// The kernel for heads and a cache of these kinds, if there is one.
pub(super) fn attend_name(head_dim: usize, ty: TensorType) -> Option<String> {
    let compiled = HEAD_DIMS.contains(&head_dim) && ty.row_bytes(head_dim).is_some();
    compiled.then(|| format!("attend_d{head_dim}_{ty}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_fill_the_device_and_never_outnumber_the_chunks() {
        assert_eq!([1, 64, 65, 1000, 32_768].map(chunk_bucket), [1, 1, 2, 16, 64]);
        assert_eq!(splits(1, 8, 132), 1);
        assert_eq!(splits(64, 8, 132), 64);
        assert_eq!(splits(64, 8 * 16, 132), 16);
        assert_eq!(splits(64, 8 * 512, 132), 1);
    }

    #[test]
    fn a_kernel_is_found_for_each_size_and_type_it_is_compiled_for() {
        assert_eq!(attend_name(128, TensorType::F16), Some("attend_d128_f16".into()));
        assert_eq!(attend_name(80, TensorType::Q8_0), None, "80 is no multiple of a block");
        assert_eq!(attend_name(72, TensorType::F16), None);
    }
}
