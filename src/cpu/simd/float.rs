//! Float kernels: dots by level, and loops written once over arrays of lanes and compiled for each.

#[cfg(target_arch = "x86_64")]
use super::dots;
use super::view::{Rows, Strided};
use super::{Level, multiversion};
use crate::quant::{dequantize_row, dot_float};
use crate::tensor::TensorType;

/// Outputs that `expand` keeps in registers.
const EXPAND: usize = 64;

/// Weight rows that are dequantized together.
pub(super) const SIDE: usize = 8;

/// y\[i\]\[r\] = the Float dot of row r of `w` and row i of `x`; `rows` is room for dequantized rows.
pub(super) fn linear(level: Level, w: &Rows<'_>, x: &[f32], y: &mut Strided<'_>, next: &[u8], rows: &mut Vec<f32>) {
    if !w.ty.is_quantized() {
        return linear_plain(level, w, x, y, next);
    }
    let (n, row_bytes) = (w.rows(), w.row_bytes());
    rows.resize(SIDE * w.cols, 0.0);
    for first in (0..n).step_by(SIDE) {
        let side = first..n.min(first + SIDE);
        for (row, bytes) in rows.chunks_exact_mut(w.cols).zip(w.slice(side.clone()).data.chunks_exact(row_bytes)) {
            dequantize(level, w.ty, bytes, row);
        }
        let data = bytemuck::cast_slice(&rows[..side.len() * w.cols]);
        linear_plain(level, &Rows { ty: TensorType::F32, data, cols: w.cols }, x, &mut y.columns(side), &[]);
    }
}

/// The same of a weight of a float type.
fn linear_plain(level: Level, w: &Rows<'_>, x: &[f32], y: &mut Strided<'_>, next: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if dots::linear(level, w, x, y, next) {
        return;
    }
    let _ = (level, next);
    for (i, x) in x.chunks_exact(w.cols).enumerate() {
        for (r, v) in y.row_mut(i).iter_mut().enumerate() {
            *v = dot_float(w.ty, w.row(r), x);
        }
    }
}

multiversion! {
    /// [`crate::quant::dequantize`].
    pub(super) fn dequantize(ty: TensorType, src: &[u8], dst: &mut [f32]) {
        dequantize_row(ty, src, dst)
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
