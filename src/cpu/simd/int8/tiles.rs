//! Many activation rows: panels of them against groups of weight rows, each unpacked into a tile once.

use super::super::format::Format;
use super::super::isa::Isa;
use super::super::line::{LINE, lines};
use super::super::prefetch::prefetch;
use super::super::view::{Rows, Strided};
use super::{Buffers, Outputs, StepsOf, excess, half_scales, in_pairs, pair, weigh};
use crate::quant::act::{Acts, BLOCK, PANEL};
use std::ops::Range;

/// Bytes of quantized activations that stay in the second-level cache while all weights pass by.
pub(super) const PANELS_BYTES: usize = 512 << 10;

/// Bytes of a group's tile that stay in the first-level cache, beside another's, while all panels pass by.
const TILE_BYTES: usize = 12 << 10;

/// Rows of quantized activations as tiles read them: quants row by row, `ld` bytes apart, and a block of `steps` for
/// each part of 32 values, as [`pack_steps`] writes it.
#[derive(Clone, Copy)]
pub(in crate::cpu::simd) struct Panel {
    quants: *const i8,
    ld: usize,
    steps: *const u8,
}

/// Whether a panel has an offset for each half.
const fn offsets_in_halves<F: Format>() -> bool {
    F::HALVES && !F::MINIMUM
}

/// Words of a block of a panel's steps: scales, and offsets or both halves' offsets, of each row.
const fn step_words<F: Format>() -> usize {
    if offsets_in_halves::<F>() { 3 * PANEL } else { 2 * PANEL }
}

/// Words of a weight row's share of a tile block that its halves' scales take.
pub(super) const fn half_words<F: Format>() -> usize {
    if in_pairs::<F>() {
        1
    } else if F::HALVES {
        2
    } else {
        0
    }
}

/// Bytes of a part of a group's weights.
pub(super) const fn part_bytes<I: Isa, F: Format>() -> usize {
    I::LANES * F::BYTES / F::PARTS
}

/// Bytes of a weight row's share of a tile block: its quants, and words for its scale and, where the format has them,
/// for its minimum, the halves' scales, and the halves' minimums.
pub(super) const fn tile_row<F: Format>() -> usize {
    let minimum = F::MINIMUM as usize + (F::MINIMUM && F::HALVES) as usize;
    BLOCK + 4 * (1 + minimum + half_words::<F>())
}

/// Where the words of a tile block at `tile` begin: the scales, the minimums, the halves' scales and their minimums.
/// Those that the format does not have are not to be read.
#[inline(always)]
pub(super) fn words_of<I: Isa, F: Format>(tile: *mut u8) -> (*mut f32, *mut f32, *mut i32, *mut i32) {
    let scales = tile.wrapping_add(BLOCK * I::LANES).cast::<f32>();
    let minimums = scales.wrapping_add(I::LANES);
    let halves = scales.wrapping_add(I::LANES * (1 + F::MINIMUM as usize)).cast::<i32>();
    (scales, minimums, halves, halves.wrapping_add(I::LANES * half_words::<F>()))
}

/// Parts of 32 values of a row that a tile holds, of `blocks` in all: whole blocks of the format, in tiles of nearly
/// equal length.
pub(super) fn tile_blocks<I: Isa, F: Format>(blocks: usize) -> usize {
    let most = (TILE_BYTES / (I::LANES * tile_row::<F>())).max(F::PARTS);
    blocks.div_ceil(blocks.div_ceil(most)).next_multiple_of(F::PARTS)
}

/// All rows of `w` times many activation rows.
///
/// # Safety
/// As [`linear_of`]; `w` has at least `LANES` rows.
pub(in crate::cpu::simd) unsafe fn many<I: Isa, F: Format>(
    w: &Rows<'_>,
    x: &Acts,
    y: &mut Strided<'_>,
    buffers: &mut Buffers,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        match w.rows() >= I::GROUPS * I::LANES {
            true if I::GROUPS == 2 => many_groups::<I, F, 2>(w, x, y, buffers),
            _ => many_groups::<I, F, 1>(w, x, y, buffers),
        }
    }
}

/// [`many`], `G` groups of weight rows at a time: activations that fit the second-level cache, times tiles that fit
/// the first.
///
/// # Safety
/// As [`many`]; `w` has at least `G · LANES` rows.
unsafe fn many_groups<I: Isa, F: Format, const G: usize>(
    w: &Rows<'_>,
    x: &Acts,
    y: &mut Strided<'_>,
    buffers: &mut Buffers,
) {
    let (stride, blocks, ld) = (w.row_bytes(), w.cols / BLOCK, y.ld());
    let wide = G * I::LANES;
    let chunk = (PANELS_BYTES / w.cols).max(1).next_multiple_of(PANEL);
    let tile_len = tile_blocks::<I, F>(blocks);
    let tile = lines::<u8>(&mut buffers.tile, tile_len * wide * tile_row::<F>()).as_mut_ptr();
    let panel_bytes = 4 * blocks * step_words::<F>();
    let steps = lines(&mut buffers.steps, x.rows().div_ceil(PANEL) * panel_bytes);
    let steps_of = Some(StepsOf { edition: x.edition(), ty: w.ty, excess: excess::<I, F>(), panel: PANEL });
    // Other pieces of a weight meet the same activations.
    if buffers.steps_of != steps_of {
        buffers.steps_of = steps_of;
        for (p, steps) in steps.chunks_exact_mut(panel_bytes).enumerate() {
            pack_steps::<I, F>(x, p * PANEL, steps);
        }
    }
    for first in (0..x.rows()).step_by(chunk) {
        let rows = chunk.min(x.rows() - first);
        let steps = &steps[first / PANEL * panel_bytes..][..rows.div_ceil(PANEL) * panel_bytes];
        let groups = (0..w.rows()).step_by(wide).map(|g| g.min(w.rows() - wide));
        let tiles = groups.flat_map(|group| (0..blocks).step_by(tile_len).map(move |b| (group, b)));
        for (group, b) in tiles {
            // SAFETY: rows group..group + wide exist in `w` and in the columns of `y`, rows first..first + rows in
            // `x` and `y`, parts b..b + len in `w` and `x`; the tile and the steps have the sizes that their users
            // ask for. Rows that fill up the last panel exist in `x`.
            unsafe {
                let len = tile_len.min(blocks - b);
                let mut next = [std::ptr::null(); G];
                for (g, next) in next.iter_mut().enumerate() {
                    let tile = tile.add(g * len * I::LANES * tile_row::<F>());
                    let start = w.data.as_ptr().add((group + g * I::LANES) * stride);
                    *next = start.wrapping_add(wide * stride + b * part_bytes::<I, F>());
                    I::pack_weights::<F>([start.add(b / F::PARTS * F::BYTES), *next], stride, len, tile);
                }
                let mut ahead = Some(next);
                for (p, steps) in steps.chunks_exact(panel_bytes).enumerate() {
                    let row = first + p * PANEL;
                    let quants = x.quants().as_ptr().add(row * x.cols() + b * BLOCK);
                    let steps = steps.as_ptr().add(4 * b * step_words::<F>());
                    let out = Outputs { start: y.as_mut_ptr().add(row * ld + group), ld, rows: x.rows() - row };
                    I::tile::<F, G>(tile, Panel { quants, ld: x.cols(), steps }, len, out, ahead.take(), b == 0);
                }
            }
        }
    }
}

/// Packs the steps of up to `PANEL` rows of `x`, from `first` on: for each block the scales [PANEL], and the offsets
/// [PANEL], which are d·Σq where the format has minimums and else −excess, of both halves [2][PANEL] where these have
/// scales; where the halves have both, the offset is the pair of their Σq. Rows that do not exist become zeros.
fn pack_steps<I: Isa, F: Format>(x: &Acts, first: usize, steps: &mut [u8]) {
    let steps = steps.as_chunks_mut::<4>().0;
    if first + PANEL > x.rows() {
        steps.fill([0; 4]);
    }
    for r in 0..PANEL.min(x.rows() - first) {
        let row = x.row(first + r);
        for ((block, d), sums) in steps.chunks_exact_mut(step_words::<F>()).zip(row.scales).zip(row.sums) {
            block[r] = d.to_ne_bytes();
            let [first, second] = sums.map(i32::from);
            block[PANEL + r] = if F::HALVES && F::MINIMUM {
                pair(*sums).to_ne_bytes()
            } else if F::HALVES {
                (-excess::<I, F>() * first).to_ne_bytes()
            } else if F::MINIMUM {
                (d * (first + second) as f32).to_ne_bytes()
            } else {
                (-excess::<I, F>() * (first + second)).to_ne_bytes()
            };
            if offsets_in_halves::<F>() {
                block[2 * PANEL + r] = (-excess::<I, F>() * second).to_ne_bytes();
            }
        }
    }
}

/// Asks for a half of part `b` of the weights of a group at `ahead`, which may be any address. A core has only so many
/// lines on their way at a time: asked for in one go, they would hold up what goes on meanwhile.
#[inline(always)]
pub(super) fn ask<I: Isa, F: Format>(ahead: *const u8, b: usize, half: usize) {
    let lines = part_bytes::<I, F>().div_ceil(LINE);
    let [first, end] = [[0, lines / 2], [lines / 2, lines]][half];
    for line in first..end {
        prefetch(ahead.wrapping_add(b * part_bytes::<I, F>() + line * LINE));
    }
}

/// Unpacks a group of weight rows, `stride` bytes apart, into a tile: for each block, quads of quants
/// [8][LANES][4], and the words that [`words_of`] finds. `blocks` counts parts of 32 values. Meanwhile half of
/// as many from `ahead` on, which may be any address, is asked for.
///
/// # Safety
/// As [`Isa`] says; `w` can be read for LANES rows, `tile` written for `blocks · LANES · tile_row` bytes.
#[inline(always)]
pub(in crate::cpu::simd) unsafe fn pack_weights<I: Isa, F: Format>(
    [w, ahead]: [*const u8; 2],
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
                let b = b * F::PARTS + part;
                ask::<I, F>(ahead, b, 0);
                let tile = tile.add(b * I::LANES * tile_row::<F>());
                let quads = F::quads::<I>(p, stride, part);
                for (k, quad) in quads.into_iter().enumerate() {
                    I::store(tile.add(k * 4 * I::LANES), quad);
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

/// Σ (q_w − excess)·q_x over the quads `quads` of a part of `G` tiles, `apart` bytes apart, and a panel's, for each
/// of its rows. Where the format has minimums there is no excess, and `offsets` is not read.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn tile_dots<I: Isa, F: Format, const G: usize>(
    tile: *const u8,
    apart: usize,
    panel: Panel,
    quads: Range<usize>,
    offsets: *const i32,
) -> [[I::Ints; PANEL]; G] {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut starts = [0; PANEL];
        let mut opened = [I::open::<F>(0); PANEL];
        if !F::MINIMUM {
            for (r, (start, opened)) in starts.iter_mut().zip(&mut opened).enumerate() {
                *start = *offsets.add(r);
                *opened = I::open::<F>(*start);
            }
        }
        let mut sums = [opened; G];
        for k in quads {
            let mut w = [I::load(tile.add(k * 4 * I::LANES)); G];
            for (g, w) in w.iter_mut().enumerate().skip(1) {
                *w = I::load(tile.add(g * apart + k * 4 * I::LANES));
            }
            let x = panel.quants.add(4 * k);
            for r in 0..PANEL {
                let x = I::splat_4(x.add(r * panel.ld));
                for (sums, w) in sums.iter_mut().zip(w) {
                    sums[r] = I::dot_quad::<F>(sums[r], w, x);
                }
            }
        }
        for sums in &mut sums {
            for (sum, start) in sums.iter_mut().zip(starts) {
                *sum = I::close::<F>(*sum, start);
            }
        }
        sums
    }
}

/// The same over a whole part, with the halves' scales where the format has them.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn part_dots<I: Isa, F: Format, const G: usize>(
    tile: *const u8,
    apart: usize,
    panel: Panel,
    offsets: *const i32,
) -> [[I::Ints; PANEL]; G] {
    // SAFETY: as the caller vouches.
    unsafe {
        if !F::HALVES {
            return tile_dots::<I, F, G>(tile, apart, panel, 0..8, offsets);
        }
        let mut dots = tile_dots::<I, F, G>(tile, apart, panel, 0..4, offsets);
        let second = tile_dots::<I, F, G>(tile, apart, panel, 4..8, offsets.add(PANEL));
        for (g, (dots, second)) in dots.iter_mut().zip(second).enumerate() {
            let (_, _, halves, _) = words_of::<I, F>(tile.add(g * apart).cast_mut());
            let by = [I::load_i32(halves), I::load_i32(halves.add(I::LANES * (half_words::<F>() - 1)))];
            for (dot, second) in dots.iter_mut().zip(second) {
                *dot = weigh::<I, F>([*dot, second], by);
            }
        }
        dots
    }
}

/// `G` tiles of weights, one after the other, times a panel of activation rows; added to what `out` has, unless the
/// tiles are the `first` of their rows. Meanwhile the other half of what [`pack_weights`] asks for is, if it is said.
///
/// # Safety
/// As [`Isa`] says; `tile` and the panel's steps were packed for this `I` and `F` from `blocks` parts; the panel's rows
/// can be read for as many, and `out`, of which rows past the panel's do not count, written for G · LANES values a row.
#[inline(always)]
pub(in crate::cpu::simd) unsafe fn tile<I: Isa, F: Format, const G: usize>(
    tile: *const u8,
    panel: Panel,
    blocks: usize,
    out: Outputs,
    ahead: Option<[*const u8; G]>,
    first: bool,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let apart = blocks * I::LANES * tile_row::<F>();
        let mut acc = [[I::splat_f32(0.0); PANEL]; G];
        if !first {
            for (g, acc) in acc.iter_mut().enumerate() {
                for (r, acc) in acc.iter_mut().enumerate() {
                    *acc = I::load_f32(out.start.add(r.min(out.rows - 1) * out.ld + g * I::LANES));
                }
            }
        }
        for b in 0..blocks {
            if let Some(ahead) = ahead {
                for ahead in ahead {
                    ask::<I, F>(ahead, b, 1);
                }
            }
            let tile = tile.add(b * I::LANES * tile_row::<F>());
            let panel = Panel { quants: panel.quants.add(b * BLOCK), ..panel };
            let scales = panel.steps.cast::<f32>().add(b * step_words::<F>());
            let offsets = scales.add(PANEL);
            let dots = part_dots::<I, F, G>(tile, apart, panel, offsets.cast());
            for (g, (acc, dots)) in acc.iter_mut().zip(dots).enumerate() {
                let (w_scales, minimums, _, taken) = words_of::<I, F>(tile.add(g * apart).cast_mut());
                let scale = I::load_f32(w_scales);
                for (r, (acc, dot)) in acc.iter_mut().zip(dots).enumerate() {
                    let d = I::splat_f32(*scales.add(r));
                    *acc = I::fma(I::to_f32(dot), I::mul(scale, d), *acc);
                    if F::MINIMUM && F::HALVES {
                        let taken = I::dot_i16(I::load_i32(taken), I::splat_i32(*offsets.cast::<i32>().add(r)));
                        *acc = I::fma(I::to_f32(taken), I::mul(I::load_f32(minimums), d), *acc);
                    } else if F::MINIMUM {
                        *acc = I::fma(I::load_f32(minimums), I::splat_f32(*offsets.add(r)), *acc);
                    }
                }
            }
        }
        for (g, acc) in acc.into_iter().enumerate() {
            for (r, acc) in acc.into_iter().enumerate().take(out.rows) {
                I::store_f32(out.start.add(r * out.ld + g * I::LANES), acc);
            }
        }
    }
}
