//! The Int8 kernels, written once over [`Isa`] and [`Format`].
//!
//! A group of `LANES` weight rows is computed at a time with an output row in each lane, so that the one
//! `f32` accumulator a row has, and the ascending order of its blocks, cost no horizontal sum. Few activation
//! rows read the weights as they lie; many read a group that has been unpacked into a tile once.

use super::format::{Format, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use super::isa::Isa;
use super::view::{Rows, Strided};
use crate::quant::act::{ActRow, Acts, BLOCK};
use crate::tensor::TensorType;
use std::ops::Range;

/// Activation rows of a full panel.
const PANEL: usize = 8;

/// Activation rows of the panel that takes a remainder of at most so many.
const SMALL_PANEL: usize = 4;

/// Bytes of packed activations that stay in the second-level cache while all weights pass by.
const PANELS_BYTES: usize = 512 << 10;

/// How far ahead weights are asked for at least.
const AHEAD_BYTES: usize = 8 << 10;

/// The largest group of which the first-level cache can hold this one and the next.
const NEAR_BYTES: usize = 10 << 10;

/// Bytes of an activation row's share of a panel block: its quants, scale, and offset or both halves' offsets.
const fn panel_row<F: Format>() -> usize {
    if F::HALVES { BLOCK + 12 } else { BLOCK + 8 }
}

/// Bytes of a weight row's share of a tile block: its quants, scale, and minimum or the halves' scales where the
/// format has them.
const fn tile_row<F: Format>() -> usize {
    if F::HALVES {
        BLOCK + 12
    } else if F::MINIMUM {
        BLOCK + 8
    } else {
        BLOCK + 4
    }
}

/// What the kernels keep between calls.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// A weight of fewer rows than a group, filled up, and its outputs.
    padded: Vec<u8>,
    outputs: Vec<f32>,
    /// A group of weight rows, unpacked.
    tile: Vec<Line>,
    /// Activations in the order in which tiles read them.
    panels: Vec<Line>,
}

impl Buffers {
    /// Makes room for weight rows of `row_bytes` bytes against one row of activations.
    pub(super) fn reserve(&mut self, row_bytes: usize) {
        /// Rows in a group of the widest level.
        const LANES: usize = 16;
        self.padded.reserve(LANES * row_bytes);
        self.outputs.reserve(LANES);
    }
}

/// A cache line of bytes, any of which are valid.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Where a tile goes: `rows` rows, `ld` values apart.
#[derive(Clone, Copy)]
pub(super) struct Outputs {
    start: *mut f32,
    ld: usize,
    rows: usize,
}

/// [`super::Kernels::linear_int8`].
///
/// # Safety
/// The machine has the features of `I`; `w` is of a quantized type; `w` [n, cols], `x` [m, cols], `y` [m, n].
#[inline(always)]
pub(super) unsafe fn linear<I: Isa>(w: &Rows<'_>, x: &Acts, y: &mut Strided<'_>, buffers: &mut Buffers) {
    // SAFETY: as the caller vouches.
    unsafe {
        match w.ty {
            TensorType::Q4_0 => linear_of::<I, Q4_0>(w, x, y, buffers),
            TensorType::Q4_1 => linear_of::<I, Q4_1>(w, x, y, buffers),
            TensorType::Q5_0 => linear_of::<I, Q5_0>(w, x, y, buffers),
            TensorType::Q5_1 => linear_of::<I, Q5_1>(w, x, y, buffers),
            TensorType::Q8_0 => linear_of::<I, Q8_0>(w, x, y, buffers),
            TensorType::Q4K => linear_of::<I, Q4K>(w, x, y, buffers),
            TensorType::Q5K => linear_of::<I, Q5K>(w, x, y, buffers),
            TensorType::Q6K => linear_of::<I, Q6K>(w, x, y, buffers),
            TensorType::F32 | TensorType::F16 | TensorType::BF16 => unreachable!("the type was checked"),
        }
    }
}

/// # Safety
/// As [`linear`], and `w` is of format `F`.
unsafe fn linear_of<I: Isa, F: Format>(w: &Rows<'_>, x: &Acts, y: &mut Strided<'_>, buffers: &mut Buffers) {
    if w.rows() == 0 || x.rows() == 0 {
        return;
    }
    // SAFETY: as the caller vouches; from the second branch on there is at least one whole group.
    unsafe {
        if w.rows() < I::LANES {
            padded::<I, F>(w, x, y, buffers);
            return;
        }
        match x.rows() {
            1 => I::few::<F, 1>(w, [x.row(0)], y),
            2 => I::few::<F, 2>(w, [x.row(0), x.row(1)], y),
            3 => I::few::<F, 3>(w, [x.row(0), x.row(1), x.row(2)], y),
            _ => many::<I, F>(w, x, y, buffers),
        }
    }
}

/// Fewer rows than a group: a group padded with zeros, of which the outputs asked for are kept.
///
/// # Safety
/// As [`linear_of`].
unsafe fn padded<I: Isa, F: Format>(w: &Rows<'_>, x: &Acts, y: &mut Strided<'_>, buffers: &mut Buffers) {
    let (mut rows, mut outputs) = (std::mem::take(&mut buffers.padded), std::mem::take(&mut buffers.outputs));
    rows.clear();
    rows.extend_from_slice(w.data);
    rows.resize(I::LANES * w.row_bytes(), 0);
    outputs.resize(x.rows() * I::LANES, 0.0);
    let whole = Rows { data: &rows, ..*w };
    // SAFETY: as the caller vouches; `whole` has LANES rows, and the view as many columns.
    unsafe { linear_of::<I, F>(&whole, x, &mut Strided::new(&mut outputs, x.rows(), I::LANES), buffers) };
    for (i, row) in outputs.chunks_exact(I::LANES).enumerate() {
        let y = y.row_mut(i);
        y.copy_from_slice(&row[..y.len()]);
    }
    (buffers.padded, buffers.outputs) = (rows, outputs);
}

/// The first rows of the groups that cover `n` rows. The last group is moved back to end at the last row: its
/// first rows are then computed twice, to the same bits.
#[inline(always)]
fn groups<I: Isa>(n: usize) -> impl Iterator<Item = usize> {
    (0..n).step_by(I::LANES).map(move |g| g.min(n - I::LANES))
}

/// What the sum of a row's products exceeds the sum of its quants by, for activations that sum to `sum`.
#[inline(always)]
fn excess<I: Isa, F: Format>(sum: i32) -> i32 {
    if F::PEAK.is_some() { F::EXCESS * sum } else { I::BIAS * sum }
}

/// Whether that is ever anything.
const fn exceeds<I: Isa, F: Format>() -> bool {
    if F::PEAK.is_some() { F::EXCESS != 0 } else { I::BIAS != 0 }
}

/// The quants of a part of a group's blocks at `p`: every fourth row in each pair of vectors, values 0..16 in the
/// first of a pair, 16..32 in the other.
///
/// # Safety
/// As [`Isa`] says; the blocks at `p + k·stride` for k < LANES can be read.
#[inline(always)]
unsafe fn load_quants<I: Isa, F: Format>(p: *const u8, stride: usize, part: usize) -> [[I::Bytes; 2]; 4] {
    // SAFETY: as the caller vouches.
    unsafe {
        [
            F::quants::<I>(p, stride, part),
            F::quants::<I>(p.add(stride), stride, part),
            F::quants::<I>(p.add(2 * stride), stride, part),
            F::quants::<I>(p.add(3 * stride), stride, part),
        ]
    }
}

/// Asks for the share of part `b` of the weights that come after the group at `start`. A group is read along
/// its rows, some lines of each, which no hardware prefetcher follows well; the next groups lie in memory one
/// after the other and are asked for in that order. They go to the first-level cache where it holds both.
///
/// # Safety
/// The machine has the features of `I`.
#[inline(always)]
unsafe fn prefetch<I: Isa, F: Format>(start: *const u8, stride: usize, b: usize) {
    let (group_bytes, part_bytes) = (I::LANES * stride, I::LANES * F::BYTES / F::PARTS);
    let ahead = start.wrapping_add(group_bytes.max(AHEAD_BYTES) + b * part_bytes);
    for line in 0..part_bytes.div_ceil(64) {
        // SAFETY: as the caller vouches.
        unsafe {
            match group_bytes <= NEAR_BYTES {
                true => I::prefetch_near(ahead.wrapping_add(line * 64)),
                false => I::prefetch_far(ahead.wrapping_add(line * 64)),
            }
        }
    }
}

/// Σ (q_w − excess)·q_x of a part, a row in each lane.
///
/// # Safety
/// As [`Isa`] says.
#[inline(always)]
unsafe fn dot_part<I: Isa, F: Format>(quants: [[I::Bytes; 2]; 4], x: [I::Bytes; 2], sum: i32) -> I::Ints {
    // SAFETY: as the caller vouches.
    unsafe {
        let dot = I::sum_lanes([
            I::dot_pair::<F>(quants[0], x),
            I::dot_pair::<F>(quants[1], x),
            I::dot_pair::<F>(quants[2], x),
            I::dot_pair::<F>(quants[3], x),
        ]);
        if exceeds::<I, F>() { I::add_i32(dot, I::splat_i32(-excess::<I, F>(sum))) } else { dot }
    }
}

/// The same of both halves, each times its scale, summed.
///
/// # Safety
/// As [`Isa`] says.
#[inline(always)]
unsafe fn dot_halves<I: Isa, F: Format>(
    quants: [[I::Bytes; 2]; 4],
    x: [I::Bytes; 2],
    sums: [i32; 2],
    scales: [I::Ints; 2],
) -> I::Ints {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut halves = [I::splat_i32(0); 2];
        for h in 0..2 {
            let dot = I::sum_lanes([
                I::dot::<F>(quants[0][h], x[h]),
                I::dot::<F>(quants[1][h], x[h]),
                I::dot::<F>(quants[2][h], x[h]),
                I::dot::<F>(quants[3][h], x[h]),
            ]);
            halves[h] = I::mul_i32(I::add_i32(dot, I::splat_i32(-excess::<I, F>(sums[h]))), scales[h]);
        }
        I::add_i32(halves[0], halves[1])
    }
}

/// All rows of `w` times `M` activation rows, `w` read once.
///
/// # Safety
/// As [`linear_of`]; `w` has at least `LANES` rows, `y` has `M` rows.
#[inline(always)]
pub(super) unsafe fn few<I: Isa, F: Format, const M: usize>(w: &Rows<'_>, x: [ActRow<'_>; M], y: &mut Strided<'_>) {
    let (stride, blocks) = (w.row_bytes(), w.cols / (BLOCK * F::PARTS));
    let ld = y.ld();
    let y = y.as_mut_ptr();
    for group in groups::<I>(w.rows()) {
        // SAFETY: rows group..group + LANES exist in `w` and in the columns of `y`; block b exists in them
        // and in the activations; the rest as the caller vouches.
        unsafe {
            let start = w.data.as_ptr().add(group * stride);
            let mut acc = [I::splat_f32(0.0); M];
            for block in 0..blocks {
                let p = start.add(block * F::BYTES);
                let head = F::head::<I>(p, stride);
                for part in 0..F::PARTS {
                    let b = block * F::PARTS + part;
                    prefetch::<I, F>(start, stride, b);
                    let quants = load_quants::<I, F>(p, stride, part);
                    let [scale, minimum] = F::scales::<I>(head, part);
                    for i in 0..M {
                        let at = x[i].quants.as_ptr().add(b * BLOCK);
                        let halves = [I::splat_16(at), I::splat_16(at.add(16))];
                        let (d, sums) = (*x[i].scales.get_unchecked(b), *x[i].sums.get_unchecked(b));
                        let dot = if F::HALVES {
                            dot_halves::<I, F>(quants, halves, sums, F::halves::<I>(head, part))
                        } else {
                            dot_part::<I, F>(quants, halves, sums[0] + sums[1])
                        };
                        acc[i] = I::fma(I::to_f32(dot), I::mul(scale, I::splat_f32(d)), acc[i]);
                        if F::MINIMUM {
                            acc[i] = I::fma(minimum, I::splat_f32(d * (sums[0] + sums[1]) as f32), acc[i]);
                        }
                    }
                }
            }
            for (i, acc) in acc.iter().enumerate() {
                I::store_f32(y.add(i * ld + group), *acc);
            }
        }
    }
}

/// All rows of `w` times many activation rows: panels of activations that fit the cache, times tiles.
///
/// # Safety
/// As [`linear_of`]; `w` has at least `LANES` rows.
unsafe fn many<I: Isa, F: Format>(w: &Rows<'_>, x: &Acts, y: &mut Strided<'_>, buffers: &mut Buffers) {
    let (stride, blocks, ld) = (w.row_bytes(), w.cols / BLOCK, y.ld());
    let row_bytes = blocks * panel_row::<F>();
    let chunk = (PANELS_BYTES / row_bytes).max(1).next_multiple_of(PANEL);
    let tile = bytes_of(&mut buffers.tile, blocks * I::LANES * tile_row::<F>()).as_mut_ptr();
    for first in (0..x.rows()).step_by(chunk) {
        let rows = chunk.min(x.rows() - first);
        let panels = bytes_of(&mut buffers.panels, rows.next_multiple_of(PANEL) * row_bytes);
        for (p, panel) in panels.chunks_exact_mut(PANEL * row_bytes).enumerate() {
            let start = first + p * PANEL;
            match (first + rows).min(start + PANEL) - start {
                1..=SMALL_PANEL => pack_panel::<I, F, SMALL_PANEL>(x, start, panel),
                _ => pack_panel::<I, F, PANEL>(x, start, panel),
            }
        }
        for group in groups::<I>(w.rows()) {
            // SAFETY: rows group..group + LANES exist in `w` and in the columns of `y`, rows first..first +
            // rows in `x` and `y`; the tile and the panels have the sizes that their users ask for.
            unsafe {
                I::pack_weights::<F>(w.data.as_ptr().add(group * stride), stride, blocks, tile);
                for (p, panel) in panels.chunks_exact(PANEL * row_bytes).enumerate() {
                    let rows = (rows - p * PANEL).min(PANEL);
                    let start = y.as_mut_ptr().add((first + p * PANEL) * ld + group);
                    let out = Outputs { start, ld, rows };
                    match rows {
                        1..=SMALL_PANEL => I::tile::<F, SMALL_PANEL>(tile, panel.as_ptr(), blocks, out),
                        _ => I::tile::<F, PANEL>(tile, panel.as_ptr(), blocks, out),
                    }
                }
            }
        }
    }
}

/// The first `len` bytes of a buffer of cache lines, grown if need be.
fn bytes_of(lines: &mut Vec<Line>, len: usize) -> &mut [u8] {
    let wanted = len.div_ceil(size_of::<Line>());
    if lines.len() < wanted {
        lines.resize(wanted, Line([0; 64]));
    }
    // SAFETY: the lines are `len` bytes or more without padding, and any bytes make a line.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), len) }
}

/// Packs up to `R` rows of `x`, from `first` on, into a panel: for each block, quads of quants [8][R][4], the
/// scales [R], and the offsets [R], which are d·Σq where the format has minimums and else −excess, of both halves
/// [2][R] where these have scales. Rows that do not exist become zeros.
fn pack_panel<I: Isa, F: Format, const R: usize>(x: &Acts, first: usize, panel: &mut [u8]) {
    let block_bytes = R * panel_row::<F>();
    for r in 0..R {
        if first + r >= x.rows() {
            for block in panel.chunks_exact_mut(block_bytes).take(x.cols() / BLOCK) {
                block.as_chunks_mut::<4>().0.iter_mut().skip(r).step_by(R).for_each(|quad| *quad = [0; 4]);
            }
            continue;
        }
        let row = x.row(first + r);
        let steps = row.scales.iter().zip(row.sums);
        let quants = bytemuck::cast_slice::<i8, u8>(row.quants).as_chunks::<4>().0.as_chunks::<8>().0;
        for ((block, quants), (d, sums)) in panel.chunks_exact_mut(block_bytes).zip(quants).zip(steps) {
            let quads = block.as_chunks_mut::<4>().0;
            for (k, quad) in quants.iter().enumerate() {
                quads[k * R + r] = *quad;
            }
            quads[8 * R + r] = d.to_ne_bytes();
            let sum = sums[0] + sums[1];
            let offsets = if F::HALVES {
                sums.map(|sum| (-excess::<I, F>(sum)).to_ne_bytes())
            } else if F::MINIMUM {
                [(d * sum as f32).to_ne_bytes(); 2]
            } else {
                [(-excess::<I, F>(sum)).to_ne_bytes(); 2]
            };
            quads[9 * R + r] = offsets[0];
            if F::HALVES {
                quads[10 * R + r] = offsets[1];
            }
        }
    }
}

/// Unpacks a group of weight rows, `stride` bytes apart, into a tile: for each block, quads of quants
/// [8][LANES][4], the scales [LANES] and, where the format has them, the minimums [LANES] or the halves' integer
/// scales [2][LANES]. `blocks` counts parts of 32 values.
///
/// # Safety
/// As [`Isa`] says; `w` can be read for LANES rows, `tile` written for `blocks · LANES · tile_row` bytes.
#[inline(always)]
pub(super) unsafe fn pack_weights<I: Isa, F: Format>(w: *const u8, stride: usize, blocks: usize, tile: *mut u8) {
    for b in 0..blocks / F::PARTS {
        // SAFETY: as the caller vouches.
        unsafe {
            let p = w.add(b * F::BYTES);
            let head = F::head::<I>(p, stride);
            for part in 0..F::PARTS {
                prefetch::<I, F>(w, stride, b * F::PARTS + part);
                let tile = tile.add((b * F::PARTS + part) * I::LANES * tile_row::<F>());
                let quants = load_quants::<I, F>(p, stride, part);
                let low = I::transpose([quants[0][0], quants[1][0], quants[2][0], quants[3][0]]);
                let high = I::transpose([quants[0][1], quants[1][1], quants[2][1], quants[3][1]]);
                for (k, (low, high)) in low.into_iter().zip(high).enumerate() {
                    I::store(tile.add(k * 4 * I::LANES), low);
                    I::store(tile.add((k + 4) * 4 * I::LANES), high);
                }
                let [scale, minimum] = F::scales::<I>(head, part);
                let scales = tile.add(BLOCK * I::LANES).cast::<f32>();
                I::store_f32(scales, scale);
                if F::MINIMUM {
                    I::store_f32(scales.add(I::LANES), minimum);
                }
                if F::HALVES {
                    let [first, second] = F::halves::<I>(head, part);
                    I::store_i32(scales.add(I::LANES).cast(), first);
                    I::store_i32(scales.add(2 * I::LANES).cast(), second);
                }
            }
        }
    }
}

/// Σ (q_w − excess)·q_x over the quads `quads` of a tile's part and a panel's, for each of its `R` rows. Where the
/// format has minimums there is no excess, and `offsets` is not read.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn tile_dots<I: Isa, F: Format, const R: usize>(
    tile: *const u8,
    panel: *const u8,
    quads: Range<usize>,
    offsets: *const i32,
) -> [I::Ints; R] {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut starts = [0; R];
        let mut sums = [I::splat_i32(0); R];
        for r in 0..R {
            if !F::MINIMUM {
                starts[r] = *offsets.add(r);
            }
            sums[r] = I::open::<F>(starts[r]);
        }
        for k in quads {
            let w = I::load(tile.add(k * 4 * I::LANES));
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = I::dot_quad::<F>(*sum, w, I::splat_4(panel.add((k * R + r) * 4).cast()));
            }
        }
        for r in 0..R {
            sums[r] = I::close::<F>(sums[r], starts[r]);
        }
        sums
    }
}

/// A tile of weights times a panel of `R` activation rows.
///
/// # Safety
/// As [`Isa`] says; `tile` and `panel` were packed for `blocks` blocks and this `I`, `F` and `R`; `out` has
/// at most `R` rows and can be written for LANES values a row.
#[inline(always)]
pub(super) unsafe fn tile<I: Isa, F: Format, const R: usize>(
    tile: *const u8,
    panel: *const u8,
    blocks: usize,
    out: Outputs,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut acc = [I::splat_f32(0.0); R];
        for b in 0..blocks {
            let tile = tile.add(b * I::LANES * tile_row::<F>());
            let panel = panel.add(b * R * panel_row::<F>());
            let x_scales = panel.add(BLOCK * R).cast::<f32>();
            let x_offsets = x_scales.add(R);
            let scales = tile.add(BLOCK * I::LANES).cast::<f32>();
            let mut dots;
            if F::HALVES {
                dots = tile_dots::<I, F, R>(tile, panel, 0..4, x_offsets.cast());
                let second = tile_dots::<I, F, R>(tile, panel, 4..8, x_offsets.add(R).cast());
                let by = [I::load_i32(scales.add(I::LANES).cast()), I::load_i32(scales.add(2 * I::LANES).cast())];
                for r in 0..R {
                    dots[r] = I::add_i32(I::mul_i32(dots[r], by[0]), I::mul_i32(second[r], by[1]));
                }
            } else {
                dots = tile_dots::<I, F, R>(tile, panel, 0..8, x_offsets.cast());
            }
            let scale = I::load_f32(scales);
            for r in 0..R {
                acc[r] = I::fma(I::to_f32(dots[r]), I::mul(scale, I::splat_f32(*x_scales.add(r))), acc[r]);
                if F::MINIMUM {
                    acc[r] = I::fma(I::load_f32(scales.add(I::LANES)), I::splat_f32(*x_offsets.add(r)), acc[r]);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            if r < out.rows {
                I::store_f32(out.start.add(r * out.ld), *acc);
            }
        }
    }
}
