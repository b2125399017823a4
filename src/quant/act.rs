//! Activations quantized to 8 bits, the right-hand side of an Int8 dot.
//!
//! A block of 32 values x becomes `d = max|x| / 127` and `q = round(x · 127/max|x|)`, ties to even, so that
//! x ≈ d·q with q in −127..=127. The value −128 never occurs: AVX2's `maddubs(|w|, sign(x, w))` relies on it.
//!
//! A block so small that 127/max|x| overflows (below 4e-37) becomes d = 0, q = 0, as a block of zeros does. A
//! block with an infinity or a NaN becomes d = NaN, q = 0, so that every dot that reads it is NaN: a fault
//! upstream shows, and is not rounded into a number.

use std::sync::atomic::{AtomicU64, Ordering};

/// Values in an activation block.
pub const BLOCK: usize = 32;

/// Rows that the kernels for many rows take at a time.
pub(crate) const PANEL: usize = 4;

/// Rows of quantized activations, one allocation each for quants, scales and sums.
#[derive(Clone, Debug, Default)]
pub struct Acts {
    rows: usize,
    cols: usize,
    /// Of whole panels, so that the last one's rows can be read.
    quants: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<[i16; 2]>,
    edition: u64,
}

/// One row: `quants.len() = 32 · scales.len()`, `sums[b]` = the sums of the quants of both halves of block b.
#[derive(Clone, Copy, Debug)]
pub struct ActRow<'a> {
    pub quants: &'a [i8],
    pub scales: &'a [f32],
    pub sums: &'a [[i16; 2]],
}

/// One block: x ≈ scale·quants.
#[derive(Clone, Copy, Debug)]
pub struct ActBlock<'a> {
    pub quants: &'a [i8; BLOCK],
    pub scale: f32,
    /// Of the two halves.
    pub sums: [i16; 2],
}

impl ActBlock<'_> {
    /// The sum of the quants.
    pub fn sum(&self) -> i32 {
        self.sums.into_iter().map(i32::from).sum()
    }
}

impl<'a> ActRow<'a> {
    /// The blocks in order.
    pub fn blocks(self) -> impl Iterator<Item = ActBlock<'a>> {
        let parts = self.quants.as_chunks().0.iter().zip(self.scales).zip(self.sums);
        parts.map(|((quants, scale), sums)| ActBlock { quants, scale: *scale, sums: *sums })
    }
}

/// One row, to be written.
#[derive(Debug)]
pub struct ActRowMut<'a> {
    pub quants: &'a mut [i8],
    pub scales: &'a mut [f32],
    pub sums: &'a mut [[i16; 2]],
}

impl Acts {
    /// Room for `rows` rows of `cols` values; `cols` is a multiple of [`BLOCK`].
    pub fn new(rows: usize, cols: usize) -> Self {
        let mut acts = Self::default();
        acts.resize(rows, cols);
        acts
    }

    /// Changes the shape, keeping the allocations when they suffice. The contents are then unspecified.
    ///
    /// # Panics
    /// If `cols` is not a multiple of [`BLOCK`].
    pub fn resize(&mut self, rows: usize, cols: usize) {
        assert!(cols.is_multiple_of(BLOCK), "{cols} activations are not whole blocks of {BLOCK}");
        (self.rows, self.cols, self.edition) = (rows, cols, next_edition());
        grow(&mut self.quants, rows.next_multiple_of(PANEL) * cols, 0);
        grow(&mut self.scales, rows * cols / BLOCK, 0.0);
        grow(&mut self.sums, rows * cols / BLOCK, [0; 2]);
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> ActRow<'_> {
        let blocks = self.cols / BLOCK;
        ActRow {
            quants: &self.quants[i * self.cols..][..self.cols],
            scales: &self.scales[i * blocks..][..blocks],
            sums: &self.sums[i * blocks..][..blocks],
        }
    }

    /// A number that no other contents have had, of these or other activations, while the process runs: what was made
    /// of them can be told by it.
    pub(crate) fn edition(&self) -> u64 {
        self.edition
    }

    /// The quants of all rows, one after the other, and of at least as many more as make whole panels.
    pub(crate) fn quants(&self) -> &[i8] {
        &self.quants
    }

    /// Every row in turn, to be written; the items are disjoint, so threads may share them out.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = ActRowMut<'_>> {
        self.edition = next_edition();
        let blocks = self.cols / BLOCK;
        let quants = self.quants[..self.rows * self.cols].chunks_exact_mut(self.cols);
        let scales = self.scales[..self.rows * blocks].chunks_exact_mut(blocks);
        let sums = self.sums[..self.rows * blocks].chunks_exact_mut(blocks);
        quants.zip(scales).zip(sums).map(|((quants, scales), sums)| ActRowMut { quants, scales, sums })
    }
}

/// See [`Acts::edition`].
fn next_edition() -> u64 {
    static EDITIONS: AtomicU64 = AtomicU64::new(1);
    EDITIONS.fetch_add(1, Ordering::Relaxed)
}

/// Makes `values` at least `len` long. They are not cut: what is cut would be filled again when the shape changes back.
fn grow<T: Copy>(values: &mut Vec<T>, len: usize, fill: T) {
    if values.len() < len {
        values.resize(len, fill);
    }
}

/// Quantizes a row of activations, as the head of this module defines it.
///
/// # Panics
/// If the parts of `out` do not have the sizes that a row of `x.len()` activations asks for.
pub fn quantize(x: &[f32], out: ActRowMut<'_>) {
    quantize_row(x, out);
}

/// [`quantize`], always inlined, so that a caller's instruction set applies to it.
#[inline(always)]
pub(crate) fn quantize_row(x: &[f32], out: ActRowMut<'_>) {
    out.check(x.len());
    let ActRowMut { quants, scales, sums } = out;
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(quants.as_chunks_mut::<BLOCK>().0);
    for (((x, quants), scale), sum) in blocks.zip(scales).zip(sums) {
        let step = Step::new(x.iter().map(|v| v.to_bits() & MAGNITUDE).fold(0, u32::max));
        *scale = step.scale;
        if step.inverse == 0.0 {
            (*quants, *sum) = ([0; BLOCK], [0; 2]);
            continue;
        }
        let mut rounded = [0; BLOCK];
        for i in 0..BLOCK {
            rounded[i] = round_ties_even(x[i] * step.inverse);
        }
        *sum = half_sums(&rounded);
        for i in 0..BLOCK {
            quants[i] = rounded[i] as i8;
        }
    }
}

/// The sums of both halves. They are small, so one word holds both, and one loop that becomes vector code sums them.
#[inline(always)]
fn half_sums(rounded: &[i32; BLOCK]) -> [i16; 2] {
    let mut both = 0i32;
    for i in 0..BLOCK / 2 {
        both = both.wrapping_add(rounded[i].wrapping_add(rounded[BLOCK / 2 + i] << 16));
    }
    // A negative sum in the low half has taken one from the high half.
    let low = both as i16;
    [low, (both.wrapping_sub(i32::from(low)) >> 16) as i16]
}

/// The integer nearest to `v`, which is at most 2^22 in magnitude; the even one of two.
///
/// The sum with 1.5·2^23 has no bits left for a fraction, so the addition rounds, and the low bits of its result
/// are the integer. Vector code on every machine, while `f32::round_ties_even` is a library call on some.
#[inline(always)]
fn round_ties_even(v: f32) -> i32 {
    const SHIFT: f32 = 12_582_912.0;
    (v + SHIFT).to_bits().wrapping_sub(SHIFT.to_bits()) as i32
}

/// Masks the sign off the bits of an `f32`. What is left orders as an integer like the magnitudes do, with
/// infinity above every number and NaN above infinity.
const MAGNITUDE: u32 = 0x7fff_ffff;

/// The step of a block: its scale d, and 127/max|x|, or 0 where every quant is to be 0.
struct Step {
    scale: f32,
    inverse: f32,
}

impl Step {
    /// The step of a block whose largest magnitude has the bits `largest`. Two roundings take that magnitude
    /// times `inverse` to less than 127.0001, so that no quant is out of −127..=127.
    #[inline(always)]
    fn new(largest: u32) -> Self {
        let largest = f32::from_bits(largest);
        let inverse = 127.0 / largest;
        if !largest.is_finite() {
            Self { scale: f32::NAN, inverse: 0.0 }
        } else if inverse.is_infinite() {
            Self { scale: 0.0, inverse: 0.0 }
        } else {
            Self { scale: largest / 127.0, inverse }
        }
    }
}

impl ActRowMut<'_> {
    /// Panics unless the parts fit a row of `cols` activations.
    fn check(&self, cols: usize) {
        let blocks = cols / BLOCK;
        let fits = self.quants.len() == cols && self.scales.len() == blocks && self.sums.len() == blocks;
        assert!(fits && cols.is_multiple_of(BLOCK), "the output does not fit {cols} activations");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantized(x: &[f32]) -> Acts {
        let mut acts = Acts::new(1, x.len());
        quantize(x, acts.rows_mut().next().unwrap());
        acts
    }

    #[test]
    fn ties_round_to_even_and_the_extremes_are_127() {
        let mut x = [0.0; 32];
        x[..6].copy_from_slice(&[-127.0, 127.0, 0.5, 1.5, -2.5, 3.49]);
        let acts = quantized(&x);
        assert_eq!(acts.row(0).quants[..6], [-127, 127, 0, 2, -2, 3]);
        assert_eq!((acts.row(0).scales[0], acts.row(0).sums[0]), (1.0, [3, 0]));
    }

    #[test]
    fn sums_are_those_of_the_halves() {
        for [low, high] in [[-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-0.01, 0.0], [1.0, 1.0]] {
            let x: [f32; BLOCK] = std::array::from_fn(|i| if i < BLOCK / 2 { low } else { high });
            let acts = quantized(&x);
            let row = acts.row(0);
            let sum = |half: &[i8]| half.iter().map(|q| i16::from(*q)).sum::<i16>();
            assert_eq!(row.sums[0], [sum(&row.quants[..BLOCK / 2]), sum(&row.quants[BLOCK / 2..])]);
        }
    }

    #[test]
    fn rounding_by_addition_is_ieee_rounding() {
        for i in -127 * 64..=127 * 64 {
            for v in [i as f32 / 64.0, (i as f32 / 64.0).next_up(), (i as f32 / 64.0).next_down()] {
                assert_eq!(round_ties_even(v), v.round_ties_even() as i32, "{v}");
            }
        }
    }

    #[test]
    fn zeros_and_vanishing_values_give_a_scale_of_zero() {
        for x in [0.0, -0.0, 1e-45, 3e-37] {
            let acts = quantized(&[x; 32]);
            assert_eq!((acts.row(0).scales[0].to_bits(), acts.row(0).quants[0], acts.row(0).sums[0]), (0, 0, [0; 2]));
        }
        assert_eq!(quantized(&[4e-37; 32]).row(0).quants, [127; 32]);
    }

    #[test]
    fn a_block_that_is_not_finite_reads_as_nan_and_spoils_no_other() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 64];
            x[7] = bad;
            let acts = quantized(&x);
            let row = acts.row(0);
            assert!(row.scales[0].is_nan() && row.quants[..32] == [0; 32] && row.sums[0] == [0; 2]);
            assert!(row.scales[1] == 1.0 / 127.0 && row.quants[32..] == [127; 32] && row.sums[1] == [127 * 16; 2]);
        }
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let acts = quantized(&[f32::MAX; 32]);
        assert_eq!(acts.row(0).quants, [127; 32]);
        assert!(acts.row(0).scales[0].is_finite());
    }
}
