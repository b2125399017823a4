//! Float kernels, written once over arrays of lanes and compiled for each level.

use super::view::{Rows, Strided};
use super::{Level, half, multiversion};
use crate::quant::dequantize_row;
use crate::quant::float::{LANES, accumulate, accumulate_tail, reduce};
use crate::tensor::TensorType;
use std::ops::Range;

/// Outputs that `expand` keeps in registers.
const EXPAND: usize = 64;

/// Weight rows whose dots are computed side by side, so that their sums do not wait for each other.
pub(super) const SIDE: usize = 4;

/// y\[i\]\[r\] = the Float dot of row r of `w` and row i of `x`; `rows` is room for dequantized rows.
pub(super) fn linear(level: Level, w: &Rows<'_>, x: &[f32], y: &mut Strided<'_>, rows: &mut Vec<f32>) {
    let (n, row_bytes) = (w.rows(), w.row_bytes());
    rows.resize(SIDE * w.cols, 0.0);
    for first in (0..n).step_by(SIDE) {
        let side = SIDE.min(n - first);
        for (row, bytes) in rows.chunks_exact_mut(w.cols).zip(w.data[first * row_bytes..].chunks_exact(row_bytes)) {
            match w.ty {
                TensorType::F16 => half::widen(level, bytes, row),
                _ => dequantize(level, w.ty, bytes, row),
            }
        }
        // Past the last row stale ones are multiplied too, and dropped.
        dot_rows(level, rows, x, y, first..first + side);
    }
}

multiversion! {
    /// [`crate::quant::dequantize`].
    pub(super) fn dequantize(ty: TensorType, src: &[u8], dst: &mut [f32]) {
        dequantize_row(ty, src, dst)
    }

    /// Writes the dots of `SIDE` rows with every row of `x` to the columns `range` of `y`.
    fn dot_rows(rows: &[f32], x: &[f32], y: &mut Strided<'_>, range: Range<usize>) {
        for (i, x) in x.chunks_exact(rows.len() / SIDE).enumerate() {
            let dots = dot_side(rows, x);
            y.row_mut(i)[range.start..range.end].copy_from_slice(&dots[..range.len()]);
        }
    }

    /// y\[o\] = fma(u\[j\], b\[j\]\[first + o\], y\[o\]) for j ascending.
    pub(super) fn expand(y: &mut [f32], b: &Rows<'_>, first: usize, u: &[f32]) {
        let (size, row_bytes) = (b.ty.block_bytes(), b.row_bytes());
        let mut weights = [0.0; EXPAND];
        let (whole, tail) = y.as_chunks_mut::<EXPAND>();
        let mut at = first * size;
        for y in whole {
            let rows = b.data.chunks_exact(row_bytes).zip(u);
            let mut sums = *y;
            if b.ty == TensorType::F32 {
                for (row, u) in rows {
                    add_scaled(&row[at..][..EXPAND * size], *u, &mut sums);
                }
            } else {
                for (row, u) in rows {
                    dequantize_row(b.ty, &row[at..][..EXPAND * size], &mut weights);
                    for o in 0..EXPAND {
                        sums[o] = u.mul_add(weights[o], sums[o]);
                    }
                }
            }
            *y = sums;
            at += EXPAND * size;
        }
        if tail.is_empty() {
            return;
        }
        let weights = &mut weights[..tail.len()];
        for (j, u) in u.iter().enumerate() {
            dequantize_row(b.ty, &b.data[j * row_bytes + at..][..tail.len() * size], weights);
            for (y, w) in tail.iter_mut().zip(&*weights) {
                *y = u.mul_add(*w, *y);
            }
        }
    }
}

/// `sums += u · row`, the row's values read where they lie.
#[inline(always)]
fn add_scaled(row: &[u8], u: f32, sums: &mut [f32; EXPAND]) {
    let row = &row.as_chunks::<4>().0[..EXPAND];
    for o in 0..EXPAND {
        sums[o] = u.mul_add(f32::from_le_bytes(row[o]), sums[o]);
    }
}

/// The Float dots of `SIDE` rows, one after the other in `rows`, with `x`.
#[inline(always)]
fn dot_side(rows: &[f32], x: &[f32]) -> [f32; SIDE] {
    let (a, rows) = rows.split_at(x.len());
    let (b, rows) = rows.split_at(x.len());
    let (c, d) = rows.split_at(x.len());
    let mut lanes = [[0.0; LANES]; SIDE];
    let rows = a.as_chunks().0.iter().zip(b.as_chunks().0).zip(c.as_chunks().0.iter().zip(d.as_chunks().0));
    for (((a, b), (c, d)), x) in rows.zip(x.as_chunks().0) {
        accumulate(a, x, &mut lanes[0]);
        accumulate(b, x, &mut lanes[1]);
        accumulate(c, x, &mut lanes[2]);
        accumulate(d, x, &mut lanes[3]);
    }
    let whole = x.len() / LANES * LANES;
    if whole < x.len() {
        for (row, lanes) in [a, b, c, d].into_iter().zip(&mut lanes) {
            accumulate_tail(&row[whole..], &x[whole..], lanes);
        }
    }
    [reduce(lanes[0]), reduce(lanes[1]), reduce(lanes[2]), reduce(lanes[3])]
}
