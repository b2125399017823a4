//! Float kernels, written once over arrays of lanes and compiled for each level.

use super::multiversion;
use super::view::{Rows, Strided};
use crate::quant::dequantize_row;
use crate::quant::float::{LANES, accumulate, reduce};

/// Outputs that `expand` keeps in registers.
const EXPAND: usize = 64;

/// Weight rows whose dots are computed side by side, so that their sums do not wait for each other.
const SIDE: usize = 4;

multiversion! {
    /// y\[i\]\[r\] = the Float dot of row r of `w` and row i of `x`; `rows` is room for dequantized rows.
    pub(super) fn linear(w: &Rows<'_>, x: &[f32], y: &mut Strided<'_>, rows: &mut Vec<f32>) {
        let (n, row_bytes) = (w.rows(), w.row_bytes());
        rows.resize(SIDE * w.cols, 0.0);
        for first in (0..n).step_by(SIDE) {
            let side = SIDE.min(n - first);
            for (r, row) in rows.chunks_exact_mut(w.cols).enumerate() {
                // Past the last row the last one is computed again, and dropped.
                let r = (first + r).min(n - 1);
                dequantize_row(w.ty, &w.data[r * row_bytes..][..row_bytes], row);
            }
            for (i, x) in x.chunks_exact(w.cols).enumerate() {
                let dots = dot_side(rows, x);
                y.row_mut(i)[first..first + side].copy_from_slice(&dots[..side]);
            }
        }
    }

    /// y\[o\] = fma(u\[j\], b\[j\]\[first + o\], y\[o\]) for j ascending.
    pub(super) fn expand(y: &mut [f32], b: &Rows<'_>, first: usize, u: &[f32]) {
        let (size, row_bytes) = (b.ty.block_bytes(), b.row_bytes());
        let mut weights = [0.0; EXPAND];
        let (whole, tail) = y.as_chunks_mut::<EXPAND>();
        let mut at = first * size;
        for y in whole {
            let mut sums = *y;
            for (j, u) in u.iter().enumerate() {
                dequantize_row(b.ty, &b.data[j * row_bytes + at..][..EXPAND * size], &mut weights);
                for o in 0..EXPAND {
                    sums[o] = u.mul_add(weights[o], sums[o]);
                }
            }
            *y = sums;
            at += EXPAND * size;
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

/// The Float dots of `SIDE` rows, one after the other in `rows`, with `x`.
#[inline(always)]
fn dot_side(rows: &[f32], x: &[f32]) -> [f32; SIDE] {
    let whole = x.len() / LANES * LANES;
    let mut lanes = [[0.0; LANES]; SIDE];
    for at in (0..whole).step_by(LANES) {
        for r in 0..SIDE {
            accumulate(&rows[r * x.len() + at..][..LANES], &x[at..][..LANES], &mut lanes[r]);
        }
    }
    let mut dots = [0.0; SIDE];
    for r in 0..SIDE {
        accumulate(&rows[r * x.len() + whole..][..x.len() - whole], &x[whole..], &mut lanes[r]);
        dots[r] = reduce(lanes[r]);
    }
    dots
}
