//! Float kernels, written once over arrays of lanes and compiled for each level by `at_level`.

use super::kernels::Scratch;
use super::view::{Rows, Strided};
use crate::quant::dequantize_row;
use crate::quant::float::{LANES, accumulate, reduce};

/// Outputs that `expand` keeps in registers.
const EXPAND: usize = 64;

/// y\[i\]\[r\] = the Float dot of row r of `w` and row i of `x`.
#[inline(always)]
pub(super) fn linear(w: &Rows<'_>, x: &[f32], y: &mut Strided<'_>, scratch: &mut Scratch) {
    scratch.rows.resize(w.cols, 0.0);
    for r in 0..w.rows() {
        dequantize_row(w.ty, w.row(r), &mut scratch.rows);
        for (i, x) in x.chunks_exact(w.cols).enumerate() {
            let mut lanes = [0.0; LANES];
            accumulate(&scratch.rows, x, &mut lanes);
            y.row_mut(i)[r] = reduce(lanes);
        }
    }
}

/// y\[o\] = fma(u\[j\], b\[j\]\[first + o\], y\[o\]) for j ascending.
#[inline(always)]
pub(super) fn expand(y: &mut [f32], b: &Rows<'_>, first: usize, u: &[f32]) {
    let size = b.ty.block_bytes();
    for (c, y) in y.chunks_mut(EXPAND).enumerate() {
        let mut weights = [0.0; EXPAND];
        let weights = &mut weights[..y.len()];
        for (j, u) in u.iter().enumerate() {
            let bytes = &b.row(j)[(first + c * EXPAND) * size..][..y.len() * size];
            dequantize_row(b.ty, bytes, weights);
            for (y, w) in y.iter_mut().zip(&*weights) {
                *y = u.mul_add(*w, *y);
            }
        }
    }
}
