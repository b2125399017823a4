//! Many activation rows: panels of them against groups of weight rows, each unpacked into a tile once.

use super::super::format::Format;
use super::super::isa::Isa;
use super::super::view::{Rows, Strided};
use super::{Buffers, Line, Outputs, excess, groups, half_scales, in_pairs, load_quants, prefetch, sum_pair, weigh};
use crate::quant::act::{Acts, BLOCK};
use std::ops::Range;

/// Activation rows of a full panel.
const PANEL: usize = 8;

/// Activation rows of the panel that takes a remainder of at most so many.
const SMALL_PANEL: usize = 4;

/// Bytes of packed activations that stay in the second-level cache while all weights pass by.
const PANELS_BYTES: usize = 512 << 10;

/// Whether a panel has an offset for each half.
const fn offsets_in_halves<F: Format>() -> bool {
    F::HALVES && !F::MINIMUM
}

/// Bytes of an activation row's share of a panel block: its quants, scale, and offset or both halves' offsets.
const fn panel_row<F: Format>() -> usize {
    if offsets_in_halves::<F>() { BLOCK + 12 } else { BLOCK + 8 }
}

/// Words of a weight row's share of a tile block that its halves' scales take.
const fn half_words<F: Format>() -> usize {
    if in_pairs::<F>() {
        1
    } else if F::HALVES {
        2
    } else {
        0
    }
}

/// Bytes of a weight row's share of a tile block: its quants, and words for its scale and, where the format has them,
/// for its minimum, the halves' scales, and the halves' minimums.
const fn tile_row<F: Format>() -> usize {
    let minimum = F::MINIMUM as usize + (F::MINIMUM && F::HALVES) as usize;
    BLOCK + 4 * (1 + minimum + half_words::<F>())
}

/// Where the words of a tile block at `tile` begin: the scales, the minimums, the halves' scales and their minimums.
/// Those that the format does not have are not to be read.
#[inline(always)]
fn words_of<I: Isa, F: Format>(tile: *mut u8) -> (*mut f32, *mut f32, *mut i32, *mut i32) {
    let scales = tile.wrapping_add(BLOCK * I::LANES).cast::<f32>();
    let minimums = scales.wrapping_add(I::LANES);
    let halves = scales.wrapping_add(I::LANES * (1 + F::MINIMUM as usize)).cast::<i32>();
    (scales, minimums, halves, halves.wrapping_add(I::LANES * half_words::<F>()))
}

/// All rows of `w` times many activation rows: panels of activations that fit the cache, times tiles.
///
/// # Safety
/// As [`linear_of`]; `w` has at least `LANES` rows.
pub(super) unsafe fn many<I: Isa, F: Format>(w: &Rows<'_>, x: &Acts, y: &mut Strided<'_>, buffers: &mut Buffers) {
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
/// [2][R] where these have scales; where the halves have both, the offset is the pair of their Σq. Rows that do not
/// exist become zeros.
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
            let offsets = if F::HALVES && F::MINIMUM {
                [sum_pair(*sums).to_ne_bytes(); 2]
            } else if F::HALVES {
                sums.map(|sum| (-excess::<I, F>(sum)).to_ne_bytes())
            } else if F::MINIMUM {
                [(d * sum as f32).to_ne_bytes(); 2]
            } else {
                [(-excess::<I, F>(sum)).to_ne_bytes(); 2]
            };
            quads[9 * R + r] = offsets[0];
            if offsets_in_halves::<F>() {
                quads[10 * R + r] = offsets[1];
            }
        }
    }
}

/// Unpacks a group of weight rows, `stride` bytes apart, into a tile: for each block, quads of quants
/// [8][LANES][4], and the words that [`words_of`] finds. `blocks` counts parts of 32 values.
///
/// # Safety
/// As [`Isa`] says; `w` can be read for LANES rows, `tile` written for `blocks · LANES · tile_row` bytes.
#[inline(always)]
pub(in crate::cpu::simd) unsafe fn pack_weights<I: Isa, F: Format>(
    w: *const u8,
    stride: usize,
    blocks: usize,
    tile: *mut u8,
) {
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
                let (scales, minimums, halves, taken) = words_of::<I, F>(tile);
                I::store_f32(scales, scale);
                if F::MINIMUM {
                    I::store_f32(minimums, minimum);
                }
                if F::HALVES {
                    let [first, second] = half_scales::<I, F>(head, part);
                    I::store_i32(halves, first);
                    if !in_pairs::<F>() {
                        I::store_i32(halves.add(I::LANES), second);
                    }
                }
                if F::HALVES && F::MINIMUM {
                    I::store_i32(taken, F::minimums::<I>(head, part));
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
pub(in crate::cpu::simd) unsafe fn tile<I: Isa, F: Format, const R: usize>(
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
            let (scales, minimums, halves, taken) = words_of::<I, F>(tile.cast_mut());
            let mut dots;
            if F::HALVES {
                dots = tile_dots::<I, F, R>(tile, panel, 0..4, x_offsets.cast());
                let second = tile_dots::<I, F, R>(tile, panel, 4..8, x_offsets.add(R).cast());
                let by = [I::load_i32(halves), I::load_i32(halves.add(I::LANES * (half_words::<F>() - 1)))];
                for r in 0..R {
                    dots[r] = weigh::<I, F>([dots[r], second[r]], by);
                }
            } else {
                dots = tile_dots::<I, F, R>(tile, panel, 0..8, x_offsets.cast());
            }
            let scale = I::load_f32(scales);
            for r in 0..R {
                acc[r] = I::fma(I::to_f32(dots[r]), I::mul(scale, I::splat_f32(*x_scales.add(r))), acc[r]);
                if F::MINIMUM && F::HALVES {
                    let taken = I::dot_i16(I::load_i32(taken), I::splat_i32(*x_offsets.cast::<i32>().add(r)));
                    let by = I::mul(I::load_f32(minimums), I::splat_f32(*x_scales.add(r)));
                    acc[r] = I::fma(I::to_f32(taken), by, acc[r]);
                } else if F::MINIMUM {
                    acc[r] = I::fma(I::load_f32(minimums), I::splat_f32(*x_offsets.add(r)), acc[r]);
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
