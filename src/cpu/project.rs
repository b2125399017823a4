//! The weight product: inputs prepared once a fan, the shrink and the expand of low-rank terms in the same region.

use super::claims::share;
use super::low_rank::Delta;
use super::pool::pause;
use super::simd::{Cell, Columns, Grid, Kernels, Line, Rows as WeightRows, Scratch, Strided, lines};
use super::{Buf, Cpu, Rows, lock, ops};
use crate::backend::{Input, Precision};
use crate::error::{Error, Result};
use crate::quant;
use crate::quant::act::{ActRowMut, Acts};
use crate::tensor::Tensor;
use std::ops::Range;

/// Most projections a fan may hold (q, k and v).
const MAX_OUTPUTS: usize = 3;
/// Pieces of work a thread should find in a region, so that a slow thread leaves the rest to others.
const PIECES_PER_THREAD: usize = 8;
/// Rows of a piece are a multiple of this: two groups of the widest kernel's rows in lanes.
const LANE_ROWS: usize = 32;
/// Rows from which on a shrink is shared out by rows.
const MANY_ROWS: usize = 32;
/// Rows of such a share are a multiple of this: those that meet a weight together.
const ROW_BLOCK: usize = 4;
/// Rows of many that are prepared, and then shrunk while they are near, by one thread at a time.
const PREPARED_ROWS: usize = 2 * ROW_BLOCK;
/// Pieces that a thread multiplies at most before it waits for the shrinks of others.
const LATE: usize = 8;

/// Weights that read the same x, where the file is mapped.
#[derive(Debug)]
pub struct Fan {
    weights: Vec<Tensor>,
    cols: usize,
    precision: Precision,
}

impl Fan {
    pub(super) fn new(weights: &[&Tensor], precision: Precision) -> Result<Self> {
        let cols = weights.first().map_or(0, |w| w.cols());
        if weights.len() > MAX_OUTPUTS || weights.iter().any(|w| w.cols() != cols) {
            return Err(Error::argument("fan", "its weights must be at most three, of one input width"));
        }
        Ok(Self { weights: weights.iter().map(|w| (*w).clone()).collect(), cols, precision })
    }

    /// Row `r` of the first weight, in f32.
    pub(super) fn row(&self, r: usize, out: &mut [f32]) {
        let weight = &self.weights[0];
        let bytes = weight.row_bytes();
        quant::dequantize(weight.ty, &weight.data[r * bytes..][..bytes], out);
    }

    /// Outputs in a piece of work for `threads` threads.
    fn piece(&self, threads: usize) -> usize {
        let total: usize = self.weights.iter().map(|w| w.rows()).sum();
        total.div_ceil(threads * PIECES_PER_THREAD).max(total.div_ceil(Columns::MAX_PARTS)).next_multiple_of(LANE_ROWS)
    }

    /// The weights from the first row on that `thread` of `threads` multiplies.
    pub(super) fn first(&self, thread: usize, threads: usize) -> &[u8] {
        let piece = self.piece(threads);
        let pieces = |w: &Tensor| w.rows().div_ceil(piece);
        let mut i = share(self.weights.iter().map(pieces).sum(), thread, threads).start;
        for weight in &self.weights {
            if i < pieces(weight) {
                return &weight.data[i * piece * weight.row_bytes()..];
            }
            i -= pieces(weight);
        }
        &[]
    }

    /// Whether `weight`, one of the fan or an A on it, meets activations quantized to 8 bits.
    fn int8(&self, weight: &Tensor) -> bool {
        self.precision == Precision::Int8 && weight.ty.is_quantized()
    }
}

/// A fan's input, as f32 and as 8-bit activations.
#[derive(Default)]
pub(super) struct Prepared {
    /// `[rows, cols]` at least; unused when the input is taken as it is, or only in 8 bits.
    x: Vec<Line>,
    acts: Acts,
    rows: usize,
    /// Whether u is there already.
    shrunk: bool,
}

impl Cpu {
    /// Norms or gates the input, and quantizes it if a weight of the fan wants that. Many rows are shrunk into u while
    /// they are near.
    pub(super) fn prepare(&mut self, u: &mut Buf, input: &Input<'_, Self>, fan: &Fan, delta: Option<&Delta>) {
        let Self { pool, kernels, rows, prepared, workspaces, .. } = self;
        let Prepared { x, acts, rows: count, shrunk } = prepared;
        *count = if let Input::NormedOutputs { .. } = input { rows.outputs.len() } else { rows.len() };
        let n = *count;
        let delta = delta.filter(|delta| delta.opens(&rows.open));
        let int8 = delta.is_some_and(Delta::int8) || fan.weights.iter().any(|w| fan.int8(w));
        acts.resize(if int8 { n } else { 0 }, fan.cols.next_multiple_of(quant::act::BLOCK));
        let raw = matches!(input, Input::Raw(_));
        let early = delta.filter(|delta| n >= MANY_ROWS && !delta.int8() && (int8 || !raw));
        *shrunk = early.is_some();
        if raw && !int8 {
            return;
        }
        // Where no product reads them in f32, the values of some rows are gone when these are quantized and shrunk.
        let float = fan.weights.iter().any(|w| !fan.int8(w)) || early.is_none() && delta.is_some_and(Delta::float);
        let kept = if raw || !float { 0 } else { n * fan.cols };
        let height = if n >= MANY_ROWS { n.div_ceil(pool.threads()).min(PREPARED_ROWS) } else { 1 };
        let (mut values, mut quantized) = (lines(x, kept).chunks_mut(height * fan.cols), acts.rows_mut());
        let ld = u.cols;
        let mut u = early.map(|delta| (delta, u.rows_mut(n).chunks_mut(height * ld)));
        let items = (0..n).step_by(height).map(|first| Unprepared {
            rows: first..n.min(first + height),
            values: values.next(),
            quantized: std::array::from_fn(|i| if i < height { quantized.next() } else { None }),
            u: u.as_mut().and_then(|(delta, u)| Some((*delta, u.next()?))),
        });
        let outputs_only = matches!(input, Input::NormedOutputs { .. });
        let (acts, x) = (&Acts::default(), &[][..]);
        let pass = Pass { kernels, rows, fan, x, first: 0, acts, few: false, outputs_only };
        pool.items(n, items, |thread, item| item.prepare(&pass, input, &mut lock(&workspaces[thread])));
    }

    /// `y_i = W_i x + Σ B u` in one region: the shrinks of the open terms, the products, and after each piece of a
    /// product its expand.
    pub(super) fn multiply(
        &mut self,
        ys: &mut [&mut Buf],
        u: &mut Buf,
        input: &Input<'_, Self>,
        fan: &Fan,
        delta: Option<&Delta>,
    ) {
        let Self { pool, kernels, rows, prepared, workspaces, .. } = self;
        let n = prepared.rows;
        let x = match input {
            Input::Raw(buf) => buf.values(n * fan.cols),
            _ => bytemuck::cast_slice(&prepared.x),
        };
        let outputs_only = matches!(input, Input::NormedOutputs { .. });
        let few = n < MANY_ROWS;
        let pass = Pass { kernels, rows, fan, x, first: 0, acts: &prepared.acts, few, outputs_only };
        let piece = fan.piece(pool.threads());
        let mut outputs = ys.iter_mut().map(|y| {
            let cols = y.cols;
            Strided::new(y.rows_mut(n), n, cols)
        });
        let mut views: [Option<Strided<'_>>; MAX_OUTPUTS] = std::array::from_fn(|_| outputs.next());
        let shared = views.each_mut().map(|view| view.as_mut().map(|v| v.share(piece)));
        let delta = delta.filter(|delta| delta.opens(&rows.open));
        let ld = u.cols;
        let low_rank = delta.map(|delta| {
            // Many rows read A from a near cache, and each reads its x once; of few, A is what is read.
            let by_rows = n >= MANY_ROWS && !delta.int8();
            let height = if by_rows {
                n.div_ceil(pool.threads() * PIECES_PER_THREAD).next_multiple_of(ROW_BLOCK)
            } else {
                n.max(1)
            };
            let cuts = if prepared.shrunk { &[] } else { delta.cuts(by_rows) };
            let u = Grid::new(u.rows_mut(n), n, ld, height, cuts);
            Shrinking { delta, u, ld }
        });
        let pieces = shared.iter().flatten().map(Columns::parts).sum();
        pool.deal(pieces, |thread, claims| {
            let scratch = &mut *lock(&workspaces[thread]);
            let mut late = Late::new(&pass, low_rank.as_ref());
            while let Some(mut i) = claims.take(thread) {
                let found = fan.weights.iter().zip(shared.iter().flatten()).enumerate().find(|(_, (_, columns))| {
                    let here = i < columns.parts();
                    i -= if here { 0 } else { columns.parts() };
                    here
                });
                let Some((output, (weight, columns))) = found else { break };
                let Some(mut y) = columns.take(i) else { break };
                late.prefetch(output, columns.range(i));
                pass.product(weight, columns.range(i), 0..n, &[], &mut y, scratch);
                late.shrink(scratch);
                late.add(Piece { output, first: columns.range(i).start, y });
            }
            late.shrink(scratch);
            late.finish();
        });
    }
}

/// Rows of the input that one thread prepares together.
struct Unprepared<'a> {
    rows: Range<usize>,
    /// Where their values in f32 go, if a product reads them.
    values: Option<&'a mut [f32]>,
    /// The same in 8 bits, row by row.
    quantized: [Option<ActRowMut<'a>>; PREPARED_ROWS],
    /// Their rows of u, if they are shrunk here.
    u: Option<(&'a Delta, &'a mut [f32])>,
}

impl Unprepared<'_> {
    fn prepare(self, pass: &Pass<'_>, input: &Input<'_, Cpu>, scratch: &mut Scratch) {
        let Self { rows, values, quantized, u } = self;
        let cols = pass.fan.cols;
        let mut block = std::mem::take(&mut scratch.block);
        let x = if let Input::Raw(x) = input {
            &x.values(rows.end * cols)[rows.start * cols..]
        } else {
            let values = values.unwrap_or_else(|| lines(&mut block, rows.len() * cols));
            for (i, out) in rows.clone().zip(values.chunks_exact_mut(cols)) {
                input.row(pass.kernels, pass.rows, i, out);
            }
            &*values
        };
        for (x, quantized) in x.chunks_exact(cols).zip(quantized.into_iter().flatten()) {
            pass.kernels.quantize(x, quantized);
        }
        if let Some((delta, u)) = u {
            let ld = u.len() / rows.len();
            let (pass, place) = (Pass { x, first: rows.start, ..*pass }, (rows.clone(), 0..ld));
            delta.shrink(&pass, place, &mut Strided::new(u, rows.len(), ld), &[], scratch);
        }
        scratch.block = block;
    }
}

/// The low-rank half of a product.
struct Shrinking<'a> {
    delta: &'a Delta,
    u: Grid<'a>,
    ld: usize,
}

/// Outputs that lack their expand.
struct Piece<'a> {
    output: usize,
    /// The first of them in the whole output.
    first: usize,
    y: Strided<'a>,
}

/// What one thread does to the low-rank half. It claims a cell of u, multiplies a first piece while that cell's A comes
/// from memory, and then shrinks. Pieces that it has multiplied while another thread still shrinks are expanded later:
/// it waits only when all shrinks have been claimed, so by threads that are inside the region.
struct Late<'a> {
    pass: &'a Pass<'a>,
    low_rank: Option<&'a Shrinking<'a>>,
    cell: Option<Cell<'a>>,
    pieces: [Option<Piece<'a>>; LATE],
    count: usize,
}

impl<'a> Late<'a> {
    /// Claims a cell.
    fn new(pass: &'a Pass<'a>, low_rank: Option<&'a Shrinking<'a>>) -> Self {
        let cell = low_rank.and_then(|low_rank| low_rank.u.take());
        if let Some((low_rank, cell)) = low_rank.zip(cell.as_ref()).filter(|_| pass.few) {
            pass.kernels.prefetch(low_rank.delta.a(cell));
        }
        Self { pass, low_rank, cell, pieces: [const { None }; LATE], count: 0 }
    }

    /// Shrinks what it has claimed, and what no other thread has.
    fn shrink(&mut self, scratch: &mut Scratch) {
        let Some(Shrinking { delta, u, .. }) = self.low_rank else { return };
        while let Some(mut cell) = self.cell.take() {
            self.cell = u.take();
            let next = self.cell.as_ref().filter(|_| self.pass.few).map_or(&[][..], |cell| delta.a(cell));
            delta.shrink(self.pass, cell.place(), &mut cell, next, scratch);
        }
    }

    /// Asks for the B of outputs that are about to be multiplied.
    fn prefetch(&self, output: usize, outputs: Range<usize>) {
        if let Some(low_rank) = self.low_rank.filter(|_| self.pass.few) {
            low_rank.delta.prefetch(self.pass.kernels, output, outputs);
        }
    }

    /// Takes over a piece, and expands what it has if all shrinks are done.
    fn add(&mut self, piece: Piece<'a>) {
        let Some(low_rank) = self.low_rank.filter(|l| l.delta.acts_on(piece.output)) else { return };
        self.pieces[self.count] = Some(piece);
        self.count += 1;
        if self.count == LATE {
            self.finish();
        } else if let Some(u) = low_rank.u.values() {
            self.expand(low_rank, u);
        }
    }

    /// Expands what is left, when the shrinks are done.
    fn finish(&mut self) {
        let Some(low_rank) = self.low_rank.filter(|_| self.count > 0) else { return };
        let mut waited = 0;
        let u = loop {
            match low_rank.u.values() {
                Some(u) => break u,
                None => pause(&mut waited),
            }
        };
        self.expand(low_rank, u);
    }

    fn expand(&mut self, low_rank: &Shrinking<'_>, u: &[f32]) {
        for piece in &mut self.pieces[..self.count] {
            if let Some(Piece { output, first, mut y }) = piece.take() {
                low_rank.delta.expand(self.pass, output, first, &mut y, u, low_rank.ld);
            }
        }
        self.count = 0;
    }
}

/// One product: what every piece of it reads.
pub(super) struct Pass<'a> {
    pub(super) kernels: &'a Kernels,
    rows: &'a Rows,
    fan: &'a Fan,
    /// `[n, cols]` of the rows from `first` on.
    x: &'a [f32],
    first: usize,
    acts: &'a Acts,
    /// Whether so few rows read a weight that it is what the time goes to.
    few: bool,
    /// Whether the rows are those of `Batch::outputs`.
    outputs_only: bool,
}

impl Pass<'_> {
    /// The opening of `slot` for row `i` of the product.
    pub(super) fn opening(&self, i: usize, slot: usize) -> f32 {
        let row = if self.outputs_only { self.rows.outputs[i] as usize } else { i };
        self.rows.opening(row, slot)
    }

    /// Rows `range` of `weight` against the rows `rows` of x, which are all of them if both are in Int8. Meanwhile
    /// `next` may be asked for.
    pub(super) fn product(
        &self,
        weight: &Tensor,
        range: Range<usize>,
        rows: Range<usize>,
        next: &[u8],
        y: &mut Strided<'_>,
        scratch: &mut Scratch,
    ) {
        let w = WeightRows { ty: weight.ty, data: &weight.data, cols: self.fan.cols }.slice(range);
        if self.fan.int8(weight) {
            self.kernels.linear_int8(&w, self.acts, y, scratch);
        } else {
            let (start, end) = (rows.start - self.first, rows.end - self.first);
            let x = &self.x[start * self.fan.cols..end * self.fan.cols];
            self.kernels.linear_float_before(&w, x, y, next, scratch);
        }
    }
}

impl Input<'_, Cpu> {
    /// Writes prepared row `i`.
    fn row(&self, kernels: &Kernels, rows: &Rows, i: usize, out: &mut [f32]) {
        let level = kernels.level();
        match self {
            Input::Raw(x) => out.copy_from_slice(x.row(i)),
            Input::Normed { x, weight, eps } => ops::rms_norm(level, x.row(i), weight, *eps, out),
            Input::NormedOutputs { x, weight, eps } => {
                let x = x.row(rows.outputs[i] as usize);
                ops::rms_norm(level, x, weight, *eps, out);
            }
            Input::Gated { gate, up, .. } => {
                ops::silu_mul(level, gate.row(i), up.row(i), out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::Bytes;
    use crate::tensor::TensorType;

    /// A weight whose bytes say which row they are of.
    fn numbered(rows: usize, from: u8) -> Tensor {
        let data: Vec<u8> = (0..rows as u8).map(|row| from + row).collect();
        let data = data.iter().flat_map(|row| [*row; 4]).collect::<Vec<u8>>();
        Tensor { name: "w".into(), ty: TensorType::F32, dims: vec![1, rows], data: Bytes::from(data) }
    }

    #[test]
    fn a_thread_expects_the_rows_that_it_is_dealt_first() {
        let (a, b) = (numbered(100, 0), numbered(40, 100));
        let fan = Fan::new(&[&a, &b], Precision::Float).unwrap();
        // Pieces of 32 rows: four of the first weight, two of the second.
        assert_eq!(fan.piece(2), 32);
        let first = |thread, threads| fan.first(thread, threads).first().copied();
        assert_eq!([0, 1].map(|t| first(t, 2)), [Some(0), Some(96)]);
        assert_eq!([0, 1, 2].map(|t| first(t, 3)), [Some(0), Some(64), Some(100)]);
        assert_eq!(fan.first(2, 3).len(), 40 * 4);
    }
}
