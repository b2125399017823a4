//! The Int8 kernels, written once over [`Isa`] and [`Format`].
//!
//! A group of `LANES` weight rows is computed at a time with an output row in each lane, so that the one
//! `f32` accumulator a row has, and the ascending order of its blocks, cost no horizontal sum. Few activation
//! rows read the weights as they lie; many read a group that has been unpacked into a tile once.

mod few;
mod squares;
mod tiles;

pub(super) use few::few;
pub(super) use squares::squares;
pub(super) use tiles::{Panel, many, pack_weights, tile};

use super::format::{Format, Iq4Nl, Iq4Xs, Mxfp4, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use super::isa::Isa;
use super::line::{LINE, Line};
use super::prefetch::prefetch;
use super::view::{Rows, Strided};
use crate::quant::act::Acts;
use crate::tensor::TensorType;

/// How far ahead weights are asked for at least: memory's latency times the speed at which a thread reads.
const AHEAD_BYTES: usize = 16 << 10;

/// What the kernels keep between calls.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// A weight of fewer rows than a group, filled up, and its outputs.
    padded: Vec<u8>,
    outputs: Vec<f32>,
    /// A group of weight rows, unpacked.
    tile: Vec<Line>,
    /// Scales and offsets of activations in the order in which tiles read them.
    steps: Vec<Line>,
    /// What they were made of and for.
    steps_of: Option<StepsOf>,
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

/// What decides the steps of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StepsOf {
    /// That of the activations.
    edition: u64,
    /// The weights' type.
    ty: TensorType,
    /// What a multiplied weight exceeds its quant by.
    excess: i32,
    /// Rows that are multiplied at a time.
    panel: usize,
}

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
            TensorType::Q2K => linear_of::<I, Q2K>(w, x, y, buffers),
            TensorType::Q3K => linear_of::<I, Q3K>(w, x, y, buffers),
            TensorType::Q4K => linear_of::<I, Q4K>(w, x, y, buffers),
            TensorType::Q5K => linear_of::<I, Q5K>(w, x, y, buffers),
            TensorType::Q6K => linear_of::<I, Q6K>(w, x, y, buffers),
            TensorType::Iq4Nl => linear_of::<I, Iq4Nl>(w, x, y, buffers),
            TensorType::Iq4Xs => linear_of::<I, Iq4Xs>(w, x, y, buffers),
            TensorType::Mxfp4 => linear_of::<I, Mxfp4>(w, x, y, buffers),
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
            _ => I::many::<F>(w, x, y, buffers),
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

/// What a weight that is multiplied exceeds its quant by.
const fn excess<I: Isa, F: Format>() -> i32 {
    if F::PEAK.is_some() { F::EXCESS } else { I::BIAS }
}

/// Whether both halves' sums, and so their products with scales, can be taken as pairs of `i16`.
const fn in_pairs<F: Format>() -> bool {
    let largest = match F::PEAK {
        Some(peak) if peak - F::EXCESS > F::EXCESS => peak - F::EXCESS,
        Some(_) => F::EXCESS,
        None => 128,
    };
    F::HALVES && 16 * 127 * largest <= i16::MAX as i32
}

/// Both halves' scales as [`weigh`] takes them: as they are, or twice the pair.
///
/// # Safety
/// As [`Isa`] says.
#[inline(always)]
unsafe fn half_scales<I: Isa, F: Format>(head: F::Head<I>, part: usize) -> [I::Ints; 2] {
    // SAFETY: as the caller vouches.
    unsafe {
        let scales = F::halves::<I>(head, part);
        if in_pairs::<F>() { [I::pair_i16(scales[0], scales[1]); 2] } else { scales }
    }
}

/// Σ of both halves' sums times their scales.
///
/// # Safety
/// As [`Isa`] says.
#[inline(always)]
unsafe fn weigh<I: Isa, F: Format>(sums: [I::Ints; 2], scales: [I::Ints; 2]) -> I::Ints {
    // SAFETY: as the caller vouches.
    unsafe {
        if in_pairs::<F>() {
            return I::dot_i16(I::pair_i16(sums[0], sums[1]), scales[0]);
        }
        I::add_i32(I::mul_i32(sums[0], scales[0]), I::mul_i32(sums[1], scales[1]))
    }
}

/// A pair of `i16` as a word in memory holds it.
#[inline(always)]
const fn pair(values: [i16; 2]) -> i32 {
    values[0] as u16 as i32 | (values[1] as i32) << 16
}

/// The quants of a part of a group's blocks at `p`: every fourth row in each pair of vectors, values 0..16 in the
/// first of a pair, 16..32 in the other.
///
/// # Safety
/// As [`Isa`] says; the blocks at `p + k·stride` for k < LANES can be read.
#[inline(always)]
pub(super) unsafe fn load_quants<I: Isa, F: Format>(p: *const u8, stride: usize, part: usize) -> [[I::Bytes; 2]; 4] {
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

/// Asks for the share of block `block` of the weights that come after the group at `start`. A group is read along
/// its rows, some lines of each, which no hardware prefetcher follows well; the next groups lie in memory one
/// after the other and are asked for in that order.
#[inline(always)]
fn ask_after<I: Isa, F: Format>(start: *const u8, stride: usize, block: usize) {
    let (group_bytes, block_bytes) = (I::LANES * stride, I::LANES * F::BYTES);
    let ahead = start.wrapping_add(group_bytes.max(AHEAD_BYTES) + block * block_bytes);
    for line in 0..block_bytes.div_ceil(LINE) {
        prefetch(ahead.wrapping_add(line * LINE));
    }
}
