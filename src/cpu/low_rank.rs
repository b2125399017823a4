//! Low-rank terms as the kernels want them, and their two halves: the shrink and the expand.

use super::project::Pass;
use super::simd::{Cell, Kernels, LINE, Scratch, Shrunk, Strided, Tiles};
use crate::backend::{Precision, Term};
use crate::map::Bytes;
use crate::quant;
use crate::tensor::{Tensor, TensorType};
use std::ops::Range;

/// Rows of A that one piece of work computes: as many as meet a row of x in registers.
const FLOAT_ROWS: usize = 8;
/// The same of an A that meets 8-bit activations.
const INT8_ROWS: usize = 16;
/// Bytes of B that are asked for ahead of the product that they are added to.
const AHEAD_BYTES: usize = 8 << 10;
/// Rows whose expand shares a look at the openings.
const ROWS: usize = 64;

/// One low-rank pair.
#[derive(Debug)]
struct LowRank {
    output: usize,
    slot: usize,
    scale: f32,
    /// Its columns of u.
    columns: Range<usize>,
    /// `[rank]` rows of n_in.
    a: Tensor,
    /// B in tiles.
    b: Bytes,
    b_type: TensorType,
}

/// Every low-rank term on a fan.
#[derive(Debug)]
pub struct Delta {
    terms: Vec<LowRank>,
    /// Where the columns of u are cut into pieces of work; none spans two terms.
    cuts: Vec<usize>,
    /// The first and the last of them.
    ends: [usize; 2],
    /// Whether an A meets 8-bit activations.
    int8: bool,
    /// Whether an A meets activations in f32.
    float: bool,
}

impl Delta {
    pub(super) fn new(terms: &[Term<'_>], precision: Precision) -> Self {
        let (mut first, mut cuts) = (0, vec![0]);
        let int8 = |a: &Tensor| precision == Precision::Int8 && a.ty.is_quantized();
        let lower = |term: &Term<'_>| {
            let Term { output, slot, scale, a, b } = *term;
            let columns = first..first + b.dims[0];
            let step = if int8(a) { INT8_ROWS } else { FLOAT_ROWS };
            cuts.extend(columns.clone().step_by(step).skip(1));
            cuts.push(columns.end);
            first = columns.end;
            let (b, b_type) = tiles(b, precision);
            LowRank { output, slot, scale, columns, a: a.clone(), b, b_type }
        };
        let mut lowered: Vec<LowRank> = terms.iter().map(lower).collect();
        gather(&mut lowered);
        let [int8, float] = [true, false].map(|kind| terms.iter().any(|term| int8(term.a) == kind));
        Self { terms: lowered, ends: [0, first], cuts, int8, float }
    }

    /// Where u is cut: into pieces of some columns, or not at all.
    pub(super) fn cuts(&self, whole: bool) -> &[usize] {
        if whole { &self.ends } else { &self.cuts }
    }

    /// Whether an A meets 8-bit activations.
    pub(super) fn int8(&self) -> bool {
        self.int8
    }

    /// Whether an A meets activations in f32.
    pub(super) fn float(&self) -> bool {
        self.float
    }

    /// Whether a term is open in any row of the step.
    pub(super) fn opens(&self, open: &[bool]) -> bool {
        self.terms.iter().any(|term| open[term.slot])
    }

    /// Whether a term adds to `output`.
    pub(super) fn acts_on(&self, output: usize) -> bool {
        self.terms.iter().any(|term| term.output == output)
    }

    /// The rows of A that a cell of u, which lies inside one term, reads.
    pub(super) fn a(&self, cell: &Cell<'_>) -> &[u8] {
        let columns = cell.place().1;
        let term = self.terms.iter().find(|term| columns.start < term.columns.end);
        let Some(term) = term.filter(|term| columns.end <= term.columns.end) else { return &[] };
        let row_bytes = term.a.row_bytes();
        let first = term.columns.start;
        &term.a.data[(columns.start - first) * row_bytes..(columns.end - first) * row_bytes]
    }

    /// `u = opening · scale · A x` in the rows and columns of u that `cell` is. Where a term is closed its values have
    /// no meaning. Meanwhile `next` may be asked for.
    pub(super) fn shrink(
        &self,
        pass: &Pass<'_>,
        (rows, columns): (Range<usize>, Range<usize>),
        cell: &mut Strided<'_>,
        next: &[u8],
        scratch: &mut Scratch,
    ) {
        for term in &self.terms {
            let here = term.columns.start.max(columns.start)..term.columns.end.min(columns.end);
            if here.is_empty() || rows.clone().all(|i| pass.opening(i, term.slot) == 0.0) {
                continue;
            }
            let mut u = cell.columns(here.start - columns.start..here.end - columns.start);
            let ranks = here.start - term.columns.start..here.end - term.columns.start;
            pass.product(&term.a, ranks, rows.clone(), next, &mut u, scratch);
            for (i, row) in rows.clone().enumerate() {
                let factor = pass.opening(row, term.slot) * term.scale;
                u.row_mut(i).iter_mut().for_each(|v| *v *= factor);
            }
        }
    }

    /// Asks for what the expand of `outputs` of output `output` reads.
    pub(super) fn prefetch(&self, kernels: &Kernels, output: usize, outputs: Range<usize>) {
        for term in self.terms.iter().filter(|term| term.output == output) {
            let b = Tiles { ty: term.b_type, data: &term.b, rank: term.columns.len() };
            let tiles = b.of(outputs.clone());
            kernels.prefetch(&tiles[..tiles.len().min(AHEAD_BYTES)]);
        }
    }

    /// `y += B u` for the outputs of `output` from `first` on, in the rows where a term is open. u has rows of `ld`
    /// values.
    pub(super) fn expand(
        &self,
        pass: &Pass<'_>,
        output: usize,
        first: usize,
        y: &mut Strided<'_>,
        u: &[f32],
        ld: usize,
    ) {
        for term in self.terms.iter().filter(|term| term.output == output) {
            let b = Tiles { ty: term.b_type, data: &term.b, rank: term.columns.len() };
            let mut open = [0; ROWS];
            let mut count = 0;
            for i in 0..y.rows() {
                if pass.opening(i, term.slot) != 0.0 {
                    open[count] = i;
                    count += 1;
                }
                if count == ROWS || i + 1 == y.rows() {
                    let u = Shrunk { values: &u[term.columns.start..], ld, rank: b.rank };
                    pass.kernels.expand_rows(y, &open[..count], &b, first, &u);
                    count = 0;
                }
            }
        }
    }
}

/// Moves all A, then all B to one place, in the order in which a step reads them: what comes after each is what a
/// kernel that asks for the next bytes ahead will want.
fn gather(terms: &mut [LowRank]) {
    let mut all = Vec::new();
    let mut add = |bytes: &[u8]| {
        let start = all.len();
        all.extend_from_slice(bytes);
        all.resize(all.len().next_multiple_of(LINE), 0);
        start..start + bytes.len()
    };
    let a: Vec<_> = terms.iter().map(|term| add(&term.a.data)).collect();
    let b: Vec<_> = terms.iter().map(|term| add(&term.b)).collect();
    let all = Bytes::from(all);
    for (term, (a, b)) in terms.iter_mut().zip(a.into_iter().zip(b)) {
        term.a.data = all.slice(a).expect("it was put there");
        term.b = all.slice(b).expect("it was put there");
    }
}

/// B in tiles. In Int8 precision a q8_0 B is kept as f16, half the bytes of f32 for a relative error of 2⁻¹²; other
/// types keep their values exactly.
fn tiles(b: &Tensor, precision: Precision) -> (Bytes, TensorType) {
    let (rank, n_out) = (b.dims[0], b.rows());
    let values = quant::to_f32(b);
    let ty = match (b.ty, precision) {
        (ty, Precision::Int8) if ty.is_quantized() => TensorType::F16,
        (TensorType::F16 | TensorType::BF16, _) => b.ty,
        _ => TensorType::F32,
    };
    let row_bytes = Tiles::WIDTH * ty.block_bytes();
    let mut bytes = vec![0; n_out.div_ceil(Tiles::WIDTH) * rank * row_bytes];
    for (i, out) in bytes.chunks_exact_mut(row_bytes).enumerate() {
        let (first, j) = (i / rank * Tiles::WIDTH, i % rank);
        let mut row = [0.0; Tiles::WIDTH];
        row.iter_mut().zip(first..n_out).for_each(|(v, o)| *v = values[o * rank + j]);
        quant::encode(ty, &row, out);
    }
    (Bytes::from(bytes), ty)
}
