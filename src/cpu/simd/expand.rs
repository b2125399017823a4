//! The expand of a low-rank term: B in tiles of sixteen outputs, so that the outputs of a piece of work lie one after
//! the other and stand in lanes.

#[cfg(target_arch = "x86_64")]
use super::Level;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2Lanes, Avx512Lanes, Bf16, F16, F32, Lanes, Weight};
use super::prefetch;
use super::view::Strided;
use crate::quant::dequantize_row;
use crate::quant::float::LANES;
use crate::tensor::TensorType;
use std::ops::Range;

/// B `[n_out, rank]` as tiles of [`Tiles::WIDTH`] outputs, `[rank][WIDTH]` each; the last is filled up with zeros.
#[derive(Clone, Copy, Debug)]
pub struct Tiles<'a> {
    /// F32, F16 or BF16.
    pub ty: TensorType,
    pub data: &'a [u8],
    pub rank: usize,
}

impl<'a> Tiles<'a> {
    /// Outputs of a tile.
    pub const WIDTH: usize = LANES;

    /// Bytes of a tile.
    fn tile_bytes(&self) -> usize {
        self.rank * Self::WIDTH * self.ty.block_bytes()
    }

    /// Those of `outputs`.
    ///
    /// # Panics
    /// If the first of them is inside a tile, or there are fewer.
    pub fn of(&self, outputs: Range<usize>) -> &'a [u8] {
        assert!(outputs.start.is_multiple_of(Self::WIDTH), "output {} is inside a tile", outputs.start);
        let tiles = outputs.start / Self::WIDTH..outputs.end.div_ceil(Self::WIDTH);
        &self.data[tiles.start * self.tile_bytes()..tiles.end * self.tile_bytes()]
    }
}

/// u of some rows: row `i` is the `rank` values from `i · ld` on.
#[derive(Clone, Copy, Debug)]
pub struct Shrunk<'a> {
    pub values: &'a [f32],
    pub ld: usize,
    pub rank: usize,
}

impl<'a> Shrunk<'a> {
    fn row(&self, i: usize) -> &'a [f32] {
        &self.values[i * self.ld..][..self.rank]
    }
}

/// `y += B u` in scalar code.
pub(super) fn scalar(y: &mut [f32], tiles: &[u8], ty: TensorType, u: &[f32]) {
    let row_bytes = LANES * ty.block_bytes();
    for (y, tile) in y.chunks_mut(LANES).zip(tiles.chunks_exact(u.len() * row_bytes)) {
        for (row, u) in tile.chunks_exact(row_bytes).zip(u) {
            let mut weights = [0.0; LANES];
            dequantize_row(ty, row, &mut weights);
            for (y, w) in y.iter_mut().zip(weights) {
                *y = u.mul_add(w, *y);
            }
        }
    }
}

/// [`super::Kernels::expand_rows`] in scalar code.
pub(super) fn rows_scalar(y: &mut Strided<'_>, rows: &[usize], b: &Tiles<'_>, first: usize, u: &Shrunk<'_>) {
    let tiles = b.of(first..first + y.cols());
    for i in rows {
        scalar(y.row_mut(*i), tiles, b.ty, u.row(*i));
    }
}

/// The same with instructions. False if the level has none.
///
/// # Panics
/// If the shapes do not fit.
#[cfg(target_arch = "x86_64")]
pub(super) fn rows(
    level: Level,
    y: &mut Strided<'_>,
    rows: &[usize],
    b: &Tiles<'_>,
    first: usize,
    u: &Shrunk<'_>,
) -> bool {
    let tiles = b.of(first..first + y.cols());
    assert!(rows.iter().all(|i| *i < y.rows()) && u.rank == b.rank, "rows of y, and a rank of {}", u.rank);
    // SAFETY: this machine has the features of the level, as `detect` found; the rows, the rank and the number of
    // tiles were checked above, and each arm has the type of `b`.
    unsafe {
        match (level.vectors(), b.ty) {
            (Level::Avx512, TensorType::F32) => rows_avx512::<F32>(y, rows, tiles, u),
            (Level::Avx512, TensorType::F16) => rows_avx512::<F16>(y, rows, tiles, u),
            (Level::Avx512, TensorType::BF16) => rows_avx512::<Bf16>(y, rows, tiles, u),
            (Level::Avx2, TensorType::F32) => rows_avx2::<F32>(y, rows, tiles, u),
            (Level::Avx2, TensorType::F16) => rows_avx2::<F16>(y, rows, tiles, u),
            (Level::Avx2, TensorType::BF16) => rows_avx2::<Bf16>(y, rows, tiles, u),
            _ => return false,
        }
    }
    true
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn rows_avx512<W: Weight>(y: &mut Strided<'_>, rows: &[usize], tiles: &[u8], u: &Shrunk<'_>) {
    // SAFETY: as the caller vouches.
    unsafe { rows_of::<Avx512Lanes, W, 4, 4>(y, rows, tiles, u) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows_avx2<W: Weight>(y: &mut Strided<'_>, rows: &[usize], tiles: &[u8], u: &Shrunk<'_>) {
    // SAFETY: as the caller vouches.
    unsafe { rows_of::<Avx2Lanes, W, 2, 2>(y, rows, tiles, u) }
}

/// `M` rows at a time meet `T` tiles at a time.
///
/// # Safety
/// As [`Lanes`] says; `rows` are rows of `y`, and `tiles` is `u.rank` rows of type `W` for each tile of `y`'s columns.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn rows_of<L: Lanes, W: Weight, const T: usize, const M: usize>(
    y: &mut Strided<'_>,
    rows: &[usize],
    tiles: &[u8],
    u: &Shrunk<'_>,
) {
    let (blocks, rest) = rows.as_chunks::<M>();
    // SAFETY: as the caller vouches.
    unsafe {
        strips::<L, W, T, M>(y, blocks, tiles, u);
        strips::<L, W, 4, 1>(y, rest.as_chunks().0, tiles, u);
    }
}

/// The same of whole blocks of rows: each strip of `T` tiles goes through all of them while its B is near.
///
/// # Safety
/// As [`rows_of`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn strips<L: Lanes, W: Weight, const T: usize, const M: usize>(
    y: &mut Strided<'_>,
    blocks: &[[usize; M]],
    tiles: &[u8],
    u: &Shrunk<'_>,
) {
    let (cols, mut at, mut tile) = (y.cols(), 0, tiles.as_ptr());
    // SAFETY: as the caller vouches; a strip lies inside the columns.
    unsafe {
        while cols - at >= T * LANES {
            for rows in blocks {
                let (to, from) = pointers(y, rows, at, u);
                add_tiles::<L, W, T, M>(to, tile, from, u.rank);
            }
            tile = tile.add(T * u.rank * W::LANE_BYTES);
            at += T * LANES;
        }
        while cols - at >= LANES {
            for rows in blocks {
                let (to, from) = pointers(y, rows, at, u);
                add_tiles::<L, W, 1, M>(to, tile, from, u.rank);
            }
            tile = tile.add(u.rank * W::LANE_BYTES);
            at += LANES;
        }
        for rows in blocks.iter().filter(|_| at < cols) {
            let (y, from) = pointers(y, rows, at, u);
            add_end::<L, W, M>(y, cols - at, tile, from, u.rank);
        }
    }
}

/// Output `at` of some rows, and their u.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn pointers<const M: usize>(
    y: &mut Strided<'_>,
    rows: &[usize; M],
    at: usize,
    u: &Shrunk<'_>,
) -> ([*mut f32; M], [*const f32; M]) {
    let (mut to, mut from) = ([std::ptr::null_mut(); M], [std::ptr::null(); M]);
    for ((row, to), from) in rows.iter().zip(&mut to).zip(&mut from) {
        (*to, *from) = (y.row_mut(*row)[at..].as_mut_ptr(), u.row(*row).as_ptr());
    }
    (to, from)
}

/// The `left` outputs of the last tile, fewer than it has.
///
/// # Safety
/// As [`add_tiles`], for those outputs.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn add_end<L: Lanes, W: Weight, const M: usize>(
    y: [*mut f32; M],
    left: usize,
    tile: *const u8,
    u: [*const f32; M],
    rank: usize,
) {
    let mut ends = [[0.0f32; LANES]; M];
    let mut to = [std::ptr::null_mut(); M];
    // SAFETY: as the caller vouches; the arrays take the 16 values that are read and written of them.
    unsafe {
        for ((end, to), y) in ends.iter_mut().zip(&mut to).zip(y) {
            y.copy_to_nonoverlapping(end.as_mut_ptr(), left);
            *to = end.as_mut_ptr();
        }
        add_tiles::<L, W, 1, M>(to, tile, u, rank);
        for (to, y) in to.into_iter().zip(y) {
            y.copy_from_nonoverlapping(to, left);
        }
    }
}

/// `T` tiles of outputs of `M` rows, in registers while the ranks go by.
///
/// # Safety
/// As [`Lanes`] says, for the outputs, for `rank` values of every row of u and for the tiles of the outputs.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn add_tiles<L: Lanes, W: Weight, const T: usize, const M: usize>(
    y: [*mut f32; M],
    tile: *const u8,
    u: [*const f32; M],
    rank: usize,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut sums = [[L::splat(0.0); T]; M];
        for (sums, y) in sums.iter_mut().zip(y) {
            for (t, sum) in sums.iter_mut().enumerate() {
                *sum = L::load_f32(y.add(t * LANES).cast());
            }
        }
        for j in 0..rank {
            let mut weights = [L::splat(0.0); T];
            for (t, weight) in weights.iter_mut().enumerate() {
                let row = tile.add((t * rank + j) * W::LANE_BYTES);
                *weight = W::load(row);
                if M == 1 {
                    prefetch(row.wrapping_add(T * rank * W::LANE_BYTES));
                }
            }
            for (sums, u) in sums.iter_mut().zip(u) {
                let u = L::splat(*u.add(j));
                for (weight, sum) in weights.iter().zip(sums) {
                    *sum = weight.fma(u, *sum);
                }
            }
        }
        for (sums, y) in sums.iter().zip(y) {
            for (t, sum) in sums.iter().enumerate() {
                sum.store(y.add(t * LANES));
            }
        }
    }
}
