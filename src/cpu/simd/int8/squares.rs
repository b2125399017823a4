//! Many activation rows with AMX: panels of 16 against groups of 16 weight rows, each unpacked into a tile once.
//!
//! A block's 32 values are one square of sums. That it is stored, and read again by vectors to be scaled, is what takes
//! most of the time: a processor that multiplies squares issues half as many vectors of 512 bits meanwhile.

use super::super::amx::{HALF, SIDE, Squares};
use super::super::avx512::Avx512;
use super::super::format::Format;
use super::super::isa::Isa;
use super::super::line::lines;
use super::super::prefetch::prefetch_to_write;
use super::super::view::{Rows, Strided};
use super::tiles::{PANELS_BYTES, ask, half_words, part_bytes, tile_blocks, tile_row, words_of};
use super::{Buffers, Outputs, StepsOf, excess, pair, weigh};
use crate::quant::act::{ActRow, Acts, BLOCK};
use std::mem::MaybeUninit;

/// Whose vectors unpack and scale.
type Vectors = Avx512<false>;

/// Two blocks' sums, of both halves where these have scales.
#[repr(align(64))]
struct Sums(MaybeUninit<[[[i32; SIDE * SIDE]; 2]; 2]>);

impl Sums {
    fn of(&mut self, block: usize, half: usize) -> *mut i32 {
        self.0.as_mut_ptr().cast::<i32>().wrapping_add((2 * (block % 2) + half) * SIDE * SIDE)
    }
}

/// Bytes of an activation row's share of a block of a panel: the quants, the scale, and where the format has minimums
/// the offset.
const fn panel_row<F: Format>() -> usize {
    BLOCK + 4 * (1 + F::MINIMUM as usize)
}

/// All rows of `w` times many activation rows.
///
/// # Safety
/// As [`super::many`], and the system has lent the registers.
pub(in crate::cpu::simd) unsafe fn squares<F: Format>(
    w: &Rows<'_>,
    x: &Acts,
    y: &mut Strided<'_>,
    buffers: &mut Buffers,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        match w.rows() >= 2 * SIDE {
            true => squares_of::<F, 2>(w, x, y, buffers),
            false => squares_of::<F, 1>(w, x, y, buffers),
        }
    }
}

/// [`squares`], `G` groups of weight rows at a time, which meet a panel one after the other while it is near.
///
/// # Safety
/// As [`squares`]; `w` has at least `G · SIDE` rows.
unsafe fn squares_of<F: Format, const G: usize>(w: &Rows<'_>, x: &Acts, y: &mut Strided<'_>, buffers: &mut Buffers) {
    let (stride, blocks, ld) = (w.row_bytes(), w.cols / BLOCK, y.ld());
    let row_bytes = blocks * panel_row::<F>();
    let tile_len = tile_blocks::<Vectors, F>(blocks);
    let wide = G * SIDE;
    let tile = lines::<u8>(&mut buffers.tile, tile_len * wide * tile_row::<F>()).as_mut_ptr();
    let panels = lines::<u8>(&mut buffers.steps, x.rows().next_multiple_of(HALF) * row_bytes);
    let steps_of = Some(StepsOf { edition: x.edition(), ty: w.ty, excess: 0, panel: SIDE });
    // Other pieces of a weight meet the same activations.
    if buffers.steps_of != steps_of {
        buffers.steps_of = steps_of;
        panels.chunks_mut(SIDE * row_bytes).enumerate().for_each(|(p, panel)| pack_panel::<F>(x, p * SIDE, panel));
    }
    // SAFETY: as the caller vouches.
    let registers = unsafe { Squares::new(if F::HALVES { BLOCK / 2 } else { BLOCK }) };
    let chunk = (PANELS_BYTES / w.cols).max(1).next_multiple_of(SIDE);
    for (c, panels) in panels.chunks(chunk * row_bytes).enumerate() {
        let groups = (0..w.rows()).step_by(wide).map(|g| g.min(w.rows() - wide));
        let tiles = groups.flat_map(|group| (0..blocks).step_by(tile_len).map(move |b| (group, b)));
        for (group, b) in tiles {
            // SAFETY: rows group..group + wide exist in `w` and in the columns of `y`, parts b..b + len in `w` and in
            // the panels; the tiles have the size that their users ask for.
            unsafe {
                let len = tile_len.min(blocks - b);
                let mut tiles = [(tile.cast_const(), std::ptr::null()); G];
                for (g, (at, next)) in tiles.iter_mut().enumerate() {
                    let tile = tile.add(g * len * SIDE * tile_row::<F>());
                    let start = w.data.as_ptr().add((group + g * SIDE) * stride);
                    (*at, *next) = (tile, start.wrapping_add(wide * stride + b * part_bytes::<Vectors, F>()));
                    pack_tile::<F>([start.add(b / F::PARTS * F::BYTES), *next], stride, len, tile);
                }
                for (p, panel) in panels.chunks(SIDE * row_bytes).enumerate() {
                    let (row, rows) = (c * chunk + p * SIDE, panel.len() / row_bytes);
                    let panel = panel.as_ptr().add(b * rows * panel_row::<F>());
                    for (g, (tile, next)) in tiles.into_iter().enumerate() {
                        let start = y.as_mut_ptr().add(row * ld + group + g * SIDE);
                        let out = Outputs { start, ld, rows: x.rows() - row };
                        let ahead = (p == 0).then_some(next);
                        match rows {
                            HALF => square::<F, HALF>(&registers, tile, panel, len, out, ahead, b == 0),
                            _ => square::<F, SIDE>(&registers, tile, panel, len, out, ahead, b == 0),
                        }
                    }
                }
            }
        }
    }
}

/// Packs the rows of `x` from `first` on, as many as `panel` has room for: for each block the quants, row by row, the
/// scales, and the offsets, which are d·Σq, or, where halves have minimums, the pair of their Σq. Rows that do not
/// exist become zeros.
fn pack_panel<F: Format>(x: &Acts, first: usize, panel: &mut [u8]) {
    let rows = panel.len() / (x.cols() / BLOCK * panel_row::<F>());
    if first + rows > x.rows() {
        panel.fill(0);
    }
    for r in 0..rows.min(x.rows() - first) {
        let ActRow { quants, scales, sums } = x.row(first + r);
        let from = quants.as_chunks::<BLOCK>().0.iter().zip(scales).zip(sums);
        for (block, ((quants, d), sums)) in panel.chunks_exact_mut(rows * panel_row::<F>()).zip(from) {
            let (to, words) = block.split_at_mut(rows * BLOCK);
            to[r * BLOCK..][..BLOCK].copy_from_slice(bytemuck::cast_slice(quants));
            words[4 * r..][..4].copy_from_slice(&d.to_ne_bytes());
            if F::MINIMUM {
                let [low, high] = sums.map(i32::from);
                let whole = (d * (low + high) as f32).to_ne_bytes();
                let offset = if F::HALVES { pair(*sums).to_ne_bytes() } else { whole };
                words[4 * (rows + r)..][..4].copy_from_slice(&offset);
            }
        }
    }
}

/// [`super::pack_weights`], with quants less their excess: AMX multiplies signed ones, so that no sum has to be mended.
///
/// # Safety
/// As [`super::pack_weights`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn pack_tile<F: Format>(w: [*const u8; 2], stride: usize, blocks: usize, tile: *mut u8) {
    use std::arch::x86_64::*;
    // SAFETY: as the caller vouches.
    unsafe {
        super::pack_weights::<Vectors, F>(w, stride, blocks, tile);
        let excess = excess::<Vectors, F>();
        if excess == 0 {
            return;
        }
        for b in 0..blocks {
            for quad in 0..BLOCK / 4 {
                let at = tile.add(b * SIDE * tile_row::<F>() + quad * 4 * SIDE);
                Vectors::store(at, _mm512_sub_epi8(Vectors::load(at), _mm512_set1_epi8(excess as i8)));
            }
        }
    }
}

/// A tile of weights times a panel of `R` activation rows; added to what `out` has, unless the tile is the `first` of
/// its rows. Meanwhile the other half of what [`super::pack_weights`] asks for is, if it is said.
///
/// # Safety
/// `tile` and `panel` were packed for this `F` from `blocks` parts and more, and the registers laid out for it; `out`
/// can be written for SIDE values of each of its rows up to `R`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn square<F: Format, const R: usize>(
    registers: &Squares,
    tile: *const u8,
    panel: *const u8,
    blocks: usize,
    out: Outputs,
    ahead: Option<*const u8>,
    first: bool,
) {
    type I = Vectors;
    let mut sums = Sums(MaybeUninit::uninit());
    // SAFETY: as the caller vouches.
    unsafe {
        let mut acc = [I::splat_f32(0.0); R];
        if !first {
            for (r, acc) in acc.iter_mut().enumerate() {
                *acc = I::load_f32(out.start.add(r.min(out.rows - 1) * out.ld));
            }
        }
        multiply::<F, R>(registers, tile, panel, 0, &mut sums);
        for b in 0..blocks {
            // The next block's squares are on their way while vectors scale this one's.
            if b + 1 < blocks {
                multiply::<F, R>(registers, tile, panel, b + 1, &mut sums);
            }
            if let Some(ahead) = ahead {
                ask::<I, F>(ahead, b, 1);
            }
            if b < R {
                // What the next panel's rows will be written to.
                prefetch_to_write(out.start.wrapping_add((R + b) * out.ld).cast());
            }
            let (w_scales, minimums, halves, taken) = words_of::<I, F>(tile.add(b * SIDE * tile_row::<F>()).cast_mut());
            let scales = panel.add(b * R * panel_row::<F>() + R * BLOCK).cast::<f32>();
            let offsets = scales.add(R);
            let (low, high) = (sums.of(b, 0), sums.of(b, 1));
            let scale = I::load_f32(w_scales);
            for (r, acc) in acc.iter_mut().enumerate() {
                let mut dot = I::load_i32(low.add(r * SIDE));
                if F::HALVES {
                    let by = [I::load_i32(halves), I::load_i32(halves.add(SIDE * (half_words::<F>() - 1)))];
                    dot = weigh::<I, F>([dot, I::load_i32(high.add(r * SIDE))], by);
                }
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
        for (r, acc) in acc.into_iter().enumerate().take(out.rows) {
            I::store_f32(out.start.add(r * out.ld), acc);
        }
    }
}

/// The sums of block `b`.
///
/// # Safety
/// As [`square`]; the block exists.
#[inline(always)]
unsafe fn multiply<F: Format, const R: usize>(
    registers: &Squares,
    tile: *const u8,
    panel: *const u8,
    b: usize,
    sums: &mut Sums,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let (w, x) = (tile.add(b * SIDE * tile_row::<F>()), panel.add(b * R * panel_row::<F>()));
        registers.product::<R>(x, BLOCK, w, sums.of(b, 0));
        if F::HALVES {
            registers.product::<R>(x.add(BLOCK / 2), BLOCK, w.add(SIDE * BLOCK / 2), sums.of(b, 1));
        }
    }
}
