//! Float dots with instructions: several weight rows meet several activation rows in registers, each dot with the
//! sixteen sums of [`crate::quant::float`].

use super::Level;
use super::lanes::{Avx2Lanes, Avx512Lanes, Bf16, F16, F32, Lanes, Weight, reduce};
use super::prefetch;
use super::view::{Rows, Strided};
use crate::quant;
use crate::quant::float::{LANES, accumulate_tail};
use crate::tensor::TensorType;

/// Activation rows from which on blocks of them are computed together.
const MANY: usize = 4;

/// y\[i\]\[r\] = the Float dot of row r of `w`, of a float type, and row i of `x`. False if the level has no such
/// instructions.
///
/// # Panics
/// If the shapes do not fit: `w` [n, cols], `x` [m, cols], `y` [m, n].
pub(super) fn linear(level: Level, w: &Rows<'_>, x: &[f32], y: &mut Strided<'_>, next: &[u8]) -> bool {
    let (m, n) = (y.rows(), y.cols());
    assert!(w.rows() == n && m * w.cols == x.len(), "[{}, {}] and {} for [{m}, {n}]", w.rows(), w.cols, x.len());
    // SAFETY: this machine has the features of the level, as `detect` found; the shapes were compared above, and
    // each arm has the type of `w`.
    unsafe {
        match (level.vectors(), w.ty) {
            (Level::Avx512, TensorType::F32) => linear_avx512::<F32>(w, x, y, next),
            (Level::Avx512, TensorType::F16) => linear_avx512::<F16>(w, x, y, next),
            (Level::Avx512, TensorType::BF16) => linear_avx512::<Bf16>(w, x, y, next),
            (Level::Avx2, TensorType::F32) => linear_avx2::<F32>(w, x, y, next),
            (Level::Avx2, TensorType::F16) => linear_avx2::<F16>(w, x, y, next),
            (Level::Avx2, TensorType::BF16) => linear_avx2::<Bf16>(w, x, y, next),
            _ => return false,
        }
    }
    true
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn linear_avx512<W: Weight>(w: &Rows<'_>, x: &[f32], y: &mut Strided<'_>, next: &[u8]) {
    // SAFETY: as the caller vouches.
    unsafe { linear_of::<Avx512Lanes, W, 8, 4, 4>(w, x, y, next) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn linear_avx2<W: Weight>(w: &Rows<'_>, x: &[f32], y: &mut Strided<'_>, next: &[u8]) {
    // SAFETY: as the caller vouches.
    unsafe { linear_of::<Avx2Lanes, W, 4, 2, 2>(w, x, y, next) }
}

/// One row of x meets `FEW` weight rows at a time; of many, `X` meet `R`.
///
/// # Safety
/// As [`Lanes`] says; the shapes fit and `w` is of type `W`.
#[inline(always)]
unsafe fn linear_of<L: Lanes, W: Weight, const FEW: usize, const R: usize, const X: usize>(
    w: &Rows<'_>,
    x: &[f32],
    y: &mut Strided<'_>,
    next: &[u8],
) {
    let (n, m, cols) = (y.cols(), y.rows(), w.cols);
    // What the last rows ask for: where the same distance ahead would be, were it next in memory.
    let next = if next.is_empty() { w.data.as_ptr_range().end } else { next.as_ptr() };
    let (w, stride, ld) = (w.data.as_ptr(), cols * W::TYPE.block_bytes(), y.ld());
    let (x, y) = (x.as_ptr(), y.as_mut_ptr());
    // SAFETY: every block has its rows inside n and m; the rest as the caller vouches.
    unsafe {
        let mut i = 0;
        while m >= MANY && i + X <= m {
            let (x, y) = (x.add(i * cols), y.add(i * ld));
            let mut r = 0;
            while r + R <= n {
                dots::<L, W, R, X>(w.add(r * stride), x, cols, y.add(r), ld, next);
                r += R;
            }
            while r < n {
                dots::<L, W, 1, X>(w.add(r * stride), x, cols, y.add(r), ld, next);
                r += 1;
            }
            i += X;
        }
        while i < m {
            let (x, y) = (x.add(i * cols), y.add(i * ld));
            let mut r = 0;
            while r + FEW <= n {
                let ahead = if r + FEW < n { w.add((r + FEW) * stride) } else { next };
                dots::<L, W, FEW, 1>(w.add(r * stride), x, cols, y.add(r), ld, ahead);
                r += FEW;
            }
            while r + 2 <= n {
                dots::<L, W, 2, 1>(w.add(r * stride), x, cols, y.add(r), ld, next);
                r += 2;
            }
            if r < n {
                dots::<L, W, 1, 1>(w.add(r * stride), x, cols, y.add(r), ld, next);
            }
            i += 1;
        }
    }
}

/// The dots of `R` weight rows with `X` activation rows: y\[i\]\[r\] is `ld · i + r` values from `y`.
///
/// # Safety
/// As [`Lanes`] says, for the rows of `cols` values at `w` and `x` and for those outputs.
#[inline(always)]
unsafe fn dots<L: Lanes, W: Weight, const R: usize, const X: usize>(
    w: *const u8,
    x: *const f32,
    cols: usize,
    y: *mut f32,
    ld: usize,
    ahead: *const u8,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let stride = cols * W::TYPE.block_bytes();
        let mut sums = [[L::splat(0.0); R]; X];
        for block in 0..cols / LANES {
            let mut weights = [L::splat(0.0); R];
            for (r, weight) in weights.iter_mut().enumerate() {
                let at = r * stride + block * W::LANE_BYTES;
                *weight = W::load(w.add(at));
                if X == 1 {
                    prefetch(ahead.wrapping_add(at));
                }
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = L::load_f32(x.add(i * cols + block * LANES).cast());
                for (weight, sum) in weights.iter().zip(sums) {
                    *sum = weight.fma(x, *sum);
                }
            }
        }
        if !cols.is_multiple_of(LANES) {
            add_tails::<L, W, R, X>(w, x, cols, &mut sums);
        }
        for (i, sums) in sums.iter().enumerate() {
            for first in (0..R).step_by(4) {
                // Past the last row it is reduced again, and dropped.
                let four = [0, 1, 2, 3].map(|k| sums[(first + k).min(R - 1)]);
                let dots = reduce(four);
                y.add(i * ld + first).copy_from_nonoverlapping(dots.as_ptr(), 4.min(R - first));
            }
        }
    }
}

/// Adds the products of the fewer than [`LANES`] values at the end of the rows.
///
/// # Safety
/// As [`dots`].
#[cold]
#[inline(always)]
unsafe fn add_tails<L: Lanes, W: Weight, const R: usize, const X: usize>(
    w: *const u8,
    x: *const f32,
    cols: usize,
    sums: &mut [[L; R]; X],
) {
    let (whole, size) = (cols / LANES * LANES, W::TYPE.block_bytes());
    for r in 0..R {
        let mut weights = [0.0; LANES];
        let weights = &mut weights[..cols - whole];
        // SAFETY: as the caller vouches.
        let bytes = unsafe { std::slice::from_raw_parts(w.add((r * cols + whole) * size), (cols - whole) * size) };
        quant::dequantize_row(W::TYPE, bytes, weights);
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as the caller vouches; the array takes the 16 values that are stored and loaded.
            unsafe {
                let mut lanes = [0.0; LANES];
                sums[r].store(lanes.as_mut_ptr());
                let x = std::slice::from_raw_parts(x.add(i * cols + whole), cols - whole);
                accumulate_tail(weights, x, &mut lanes);
                sums[r] = L::load_f32(lanes.as_ptr().cast());
            }
        }
    }
}
