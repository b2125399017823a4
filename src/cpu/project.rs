//! The weight product: inputs prepared once a fan, the shrink in the same region, the expand for consumers.

use super::simd::{Columns, Kernels, Rows as WeightRows, Scratch, Strided};
use super::{Buf, Cpu, Rows, Workspace, lock, ops};
use crate::backend::{Input, Owed, Precision, Term};
use crate::error::{Error, Result};
use crate::map::Bytes;
use crate::quant;
use crate::quant::act::Acts;
use crate::tensor::{Tensor, TensorType};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most projections a fan may hold (q, k and v).
const MAX_OUTPUTS: usize = 3;
/// Pieces of work a thread should find in a region, so that a slow thread leaves the rest to others.
const PIECES_PER_THREAD: usize = 8;
/// Rows of a piece are a multiple of this: two groups of the widest kernel's rows in lanes.
const LANE_ROWS: usize = 32;

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

    /// Whether `weight`, one of the fan or an A on it, meets activations quantized to 8 bits.
    fn int8(&self, weight: &Tensor) -> bool {
        self.precision == Precision::Int8 && weight.ty.is_quantized()
    }
}

/// One low-rank pair as the kernels want it.
#[derive(Debug)]
struct LowRank {
    output: usize,
    slot: usize,
    scale: f32,
    rank: usize,
    /// Columns of u before this term's.
    first: usize,
    /// `[rank]` rows of n_in.
    a: Tensor,
    /// B transposed: `rank` rows of n_out.
    b: Bytes,
    b_type: TensorType,
    n_out: usize,
}

/// Every low-rank term on a fan.
#[derive(Debug)]
pub struct Delta {
    terms: Vec<LowRank>,
}

impl Delta {
    pub(super) fn new(terms: &[Term<'_>], precision: Precision) -> Self {
        let mut first = 0;
        let lower = |term: &Term<'_>| {
            let rank = term.b.dims[0];
            let (b, b_type) = transpose(term.b, precision);
            first += rank;
            let Term { output, slot, scale, .. } = *term;
            let (a, n_out) = (term.a.clone(), term.b.rows());
            LowRank { output, slot, scale, rank, first: first - rank, a, b, b_type, n_out }
        };
        Self { terms: terms.iter().map(lower).collect() }
    }
}

/// B as `rank` rows of n_out, so that outputs stand in lanes. In Int8 precision a q8_0 B is kept as f16, half
/// the bytes of f32 for a relative error of 2⁻¹²; other types keep their values exactly.
fn transpose(b: &Tensor, precision: Precision) -> (Bytes, TensorType) {
    let (rank, n_out) = (b.dims[0], b.rows());
    let values = quant::to_f32(b);
    let ty = match (b.ty, precision) {
        (ty, Precision::Int8) if ty.is_quantized() => TensorType::F16,
        (TensorType::F16 | TensorType::BF16, _) => b.ty,
        _ => TensorType::F32,
    };
    let row_bytes = n_out * ty.block_bytes();
    let mut bytes = vec![0; rank * row_bytes];
    let mut row = vec![0.0; n_out];
    for (j, out) in bytes.chunks_exact_mut(row_bytes).enumerate() {
        row.iter_mut().enumerate().for_each(|(o, v)| *v = values[o * rank + j]);
        quant::encode(ty, &row, out);
    }
    (Bytes::from(bytes), ty)
}

impl Owed<'_, Cpu> {
    /// `y += Σ B u` for batch row `row` of output `output`; terms whose opening is zero are skipped.
    pub(super) fn settle(&self, kernels: &Kernels, rows: &Rows, row: usize, output: usize, y: &mut [f32]) {
        self.settle_as(kernels, rows, [row, row], output, y);
    }

    /// The same where u has rows of its own: `[batch row, row of u]`.
    pub(super) fn settle_as(
        &self,
        kernels: &Kernels,
        rows: &Rows,
        [row, u_row]: [usize; 2],
        output: usize,
        y: &mut [f32],
    ) {
        for term in self.delta.terms.iter().filter(|t| t.output == output) {
            if rows.opening(row, term.slot) == 0.0 {
                continue;
            }
            let b = WeightRows { ty: term.b_type, data: &term.b, cols: term.n_out };
            let u = &self.u.row(u_row)[term.first..][..term.rank];
            kernels.expand(y, &b, 0, u);
        }
    }
}

/// A fan's input, as f32 and as 8-bit activations.
#[derive(Default)]
pub(super) struct Prepared {
    /// `[rows, cols]`; unused when the input is taken as it is.
    x: Vec<f32>,
    acts: Acts,
    rows: usize,
}

impl Cpu {
    /// Norms or gates the input, and quantizes it if a weight of the fan wants that.
    pub(super) fn prepare(&mut self, input: &Input<'_, Self>, fan: &Fan, delta: Option<&Delta>) {
        let Self { pool, kernels, rows, prepared, workspaces, .. } = self;
        let Prepared { x, acts, rows: count } = prepared;
        *count = if let Input::NormedOutputs { .. } = input { rows.outputs.len() } else { rows.len() };
        let n = *count;
        let as_it_is = matches!(input, Input::Raw(_));
        x.resize(if as_it_is { 0 } else { n * fan.cols }, 0.0);
        let shrunk = delta.iter().flat_map(|d| &d.terms).map(|t| &t.a);
        let int8 = fan.weights.iter().chain(shrunk).any(|w| fan.int8(w));
        acts.resize(if int8 { n } else { 0 }, fan.cols.next_multiple_of(quant::act::BLOCK));
        if as_it_is && !int8 {
            return;
        }
        let mut values = x.chunks_exact_mut(fan.cols);
        let mut quantized = acts.rows_mut();
        let items = (0..n).map(|i| (i, values.next(), quantized.next()));
        let (kernels, rows) = (*kernels, &*rows);
        pool.items(n, items, |thread, (i, values, quantized)| {
            let x = match values {
                Some(out) => {
                    input.row(kernels, rows, i, out, &mut lock(&workspaces[thread]));
                    &*out
                }
                None => input.raw_row(i),
            };
            if let Some(quantized) = quantized {
                kernels.quantize(x, quantized);
            }
        });
    }

    /// `y_i = W_i x`, and the shrink of every open term, in one region.
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
            Input::Raw(buf) => &buf.data[..n * fan.cols],
            _ => &prepared.x[..],
        };
        let outputs_only = matches!(input, Input::NormedOutputs { .. });
        let pass = Pass { kernels, rows, fan, x, acts: &prepared.acts, n, outputs_only };
        let total: usize = fan.weights.iter().map(|w| w.rows()).sum();
        let piece = total.div_ceil(pool.threads() * PIECES_PER_THREAD).max(total.div_ceil(Columns::MAX_PARTS));
        let piece = piece.next_multiple_of(LANE_ROWS);
        let mut outputs = ys.iter_mut().map(|y| {
            let cols = y.cols;
            Strided::new(y.rows_mut(n), n, cols)
        });
        let mut views: [Option<Strided<'_>>; MAX_OUTPUTS] = std::array::from_fn(|_| outputs.next());
        let shared = views.each_mut().map(|view| view.as_mut().map(|v| v.share(piece)));
        let terms = delta.map_or(&[][..], |d| &d.terms);
        let u = Mutex::new(u);
        let next = AtomicUsize::new(0);
        pool.run(&|thread| {
            let workspace = &mut *lock(&workspaces[thread]);
            loop {
                // The shrinks come first: each is one piece, and more work than most.
                let mut i = next.fetch_add(1, Ordering::Relaxed);
                if let Some(term) = terms.get(i) {
                    pass.shrink(term, &u, workspace);
                    continue;
                }
                i -= terms.len();
                let found = fan.weights.iter().zip(shared.iter().flatten()).find(|(_, columns)| {
                    let here = i < columns.parts();
                    i -= if here { 0 } else { columns.parts() };
                    here
                });
                let Some((weight, columns)) = found else { break };
                let Some(mut y) = columns.take(i) else { break };
                pass.product(weight, columns.range(i), &mut y, &mut workspace.kernels);
            }
        });
    }
}

/// One product: what every piece of it reads.
struct Pass<'a> {
    kernels: &'a Kernels,
    rows: &'a Rows,
    fan: &'a Fan,
    /// `[n, cols]`
    x: &'a [f32],
    acts: &'a Acts,
    n: usize,
    /// Whether the rows are those of `Batch::outputs`.
    outputs_only: bool,
}

impl Pass<'_> {
    /// The opening of `slot` for row `i` of the product.
    fn opening(&self, i: usize, slot: usize) -> f32 {
        let row = if self.outputs_only { self.rows.outputs[i] as usize } else { i };
        self.rows.opening(row, slot)
    }

    /// `u = opening · scale · A x` for the rows where the term is open.
    fn shrink(&self, term: &LowRank, u: &Mutex<&mut Buf>, workspace: &mut Workspace) {
        if (0..self.n).all(|i| self.opening(i, term.slot) == 0.0) {
            return;
        }
        let Workspace { kernels: scratch, row } = workspace;
        row.resize(self.n * term.rank, 0.0);
        self.product(&term.a, 0..term.rank, &mut Strided::new(row, self.n, term.rank), scratch);
        let mut u = lock(u);
        let cols = u.cols;
        for (i, shrunk) in row.chunks_exact(term.rank).enumerate() {
            let opening = self.opening(i, term.slot);
            if opening != 0.0 {
                let out = &mut u.data[i * cols + term.first..][..term.rank];
                out.iter_mut().zip(shrunk).for_each(|(o, s)| *o = s * (opening * term.scale));
            }
        }
    }

    /// Rows `range` of `weight` against all rows of x.
    fn product(&self, weight: &Tensor, range: Range<usize>, y: &mut Strided<'_>, scratch: &mut Scratch) {
        let w = WeightRows { ty: weight.ty, data: &weight.data, cols: self.fan.cols }.slice(range);
        if self.fan.int8(weight) {
            self.kernels.linear_int8(&w, self.acts, y, scratch);
        } else {
            self.kernels.linear_float(&w, self.x, y, scratch);
        }
    }
}

impl Input<'_, Cpu> {
    fn raw_row(&self, i: usize) -> &[f32] {
        match self {
            Input::Raw(x) => x.row(i),
            _ => &[],
        }
    }

    /// Writes prepared row `i`.
    fn row(&self, kernels: &Kernels, rows: &Rows, i: usize, out: &mut [f32], workspace: &mut Workspace) {
        let level = kernels.level();
        match self {
            Input::Raw(x) => out.copy_from_slice(x.row(i)),
            Input::Normed { x, weight, eps } => ops::rms_norm(level, x.row(i), weight, *eps, out),
            Input::NormedOutputs { x, weight, eps } => {
                let x = x.row(rows.outputs[i] as usize);
                ops::rms_norm(level, x, weight, *eps, out);
            }
            Input::Gated { gate, up, owed } => {
                out.copy_from_slice(gate.row(i));
                let Some(owed) = owed else {
                    return ops::silu_mul(level, out, up.row(i));
                };
                let row = &mut workspace.row;
                row.clear();
                row.extend_from_slice(up.row(i));
                owed.settle(kernels, rows, i, 0, out);
                owed.settle(kernels, rows, i, 1, row);
                ops::silu_mul(level, out, row);
            }
        }
    }
}
