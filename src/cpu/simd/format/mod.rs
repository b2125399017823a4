//! What the Int8 kernels need to know of a block format: where the quants and scales of 32 values lie.
//!
//! No closures around instructions here: they are not sure to be inlined into a function of the level's features,
//! and cost ten times the time where they are not.

mod k;
mod table;

pub(super) use k::{Q2K, Q3K, Q4K, Q5K, Q6K};
pub(super) use table::{Iq4Nl, Iq4Xs, Mxfp4};

use super::int8::load_quants;
use super::isa::Isa;

/// A block format, seen as parts of 32 values. The value of a quant q is scale·(q − excess) + minimum.
///
/// # Safety
/// Every method needs the features of `I`, and the blocks at `p + k·stride` for k < LANES to be readable.
pub(super) trait Format: Sized {
    /// Bytes of a block.
    const BYTES: usize;
    /// Parts of 32 values in a block.
    const PARTS: usize = 1;
    /// Largest quant of those that are unsigned; `None` if quants are signed bytes.
    const PEAK: Option<i32>;
    /// What the stored quant exceeds the value by.
    const EXCESS: i32 = 0;
    /// Whether there is a minimum.
    const MINIMUM: bool = false;
    /// Whether both halves of a part have an integer scale of their own beside the part's.
    const HALVES: bool = false;

    /// What is read once for all parts of a group's blocks.
    type Head<I: Isa>: Copy;

    unsafe fn head<I: Isa>(p: *const u8, stride: usize) -> Self::Head<I>;
    /// Quants 0..16 and 16..32 of a part, of every fourth row.
    unsafe fn quants<I: Isa>(p: *const u8, stride: usize, part: usize) -> [I::Bytes; 2];
    /// Quants 4k..4k + 4 of a part in vector k, a row in each lane.
    #[inline(always)]
    unsafe fn quads<I: Isa>(p: *const u8, stride: usize, part: usize) -> [I::Bytes; 8] {
        // SAFETY: as the caller vouches.
        unsafe {
            let rows = load_quants::<I, Self>(p, stride, part);
            let low = I::transpose([rows[0][0], rows[1][0], rows[2][0], rows[3][0]]);
            let high = I::transpose([rows[0][1], rows[1][1], rows[2][1], rows[3][1]]);
            [low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]]
        }
    }
    /// The scale of a part of every row, and its minimum where the format has one.
    unsafe fn scales<I: Isa>(head: Self::Head<I>, part: usize) -> [I::Floats; 2];
    /// The scales of the halves of a part of every row, where the format has them.
    #[inline(always)]
    unsafe fn halves<I: Isa>(_: Self::Head<I>, _: usize) -> [I::Ints; 2] {
        // SAFETY: nothing is read.
        unreachable!("only called where HALVES is set")
    }
    /// The integer minimums of the halves of a part of every row as pairs of `i16`, where the format has both; the
    /// minimum is then what they are multiples of.
    #[inline(always)]
    unsafe fn minimums<I: Isa>(_: Self::Head<I>, _: usize) -> I::Ints {
        // SAFETY: nothing is read.
        unreachable!("only called where HALVES and MINIMUM are set")
    }
}

pub(super) struct Q4_0;
pub(super) struct Q4_1;
pub(super) struct Q5_0;
pub(super) struct Q5_1;
pub(super) struct Q8_0;

/// Nibbles of the 16 bytes at `p`: low ones first.
#[inline(always)]
unsafe fn nibbles<I: Isa>(p: *const u8, stride: usize) -> [I::Bytes; 2] {
    // SAFETY: as the caller vouches.
    unsafe {
        let v = I::load_rows(p, stride);
        [I::bits(v, 0, 15), I::bits(v, 4, 15)]
    }
}

/// Nibbles of the 16 bytes at `p` of every row as quads: turned while two share a byte, at half the cost.
#[inline(always)]
unsafe fn nibble_quads<I: Isa>(p: *const u8, stride: usize) -> [I::Bytes; 8] {
    // SAFETY: as the caller vouches.
    unsafe {
        let v = I::transpose([
            I::load_rows(p, stride),
            I::load_rows(p.add(stride), stride),
            I::load_rows(p.add(2 * stride), stride),
            I::load_rows(p.add(3 * stride), stride),
        ]);
        [
            I::bits(v[0], 0, 15),
            I::bits(v[1], 0, 15),
            I::bits(v[2], 0, 15),
            I::bits(v[3], 0, 15),
            I::bits(v[0], 4, 15),
            I::bits(v[1], 4, 15),
            I::bits(v[2], 4, 15),
            I::bits(v[3], 4, 15),
        ]
    }
}

/// Quants of five bits: `{ u8 high[4]; u8 low[16] }` at `p`.
#[inline(always)]
unsafe fn five_bits<I: Isa>(p: *const u8, stride: usize) -> [I::Bytes; 2] {
    // SAFETY: as the caller vouches.
    unsafe {
        let [low, high] = nibbles::<I>(p.add(4), stride);
        [I::join_bits(low, I::load_bits(p, stride), 4), I::join_bits(high, I::load_bits(p.add(2), stride), 4)]
    }
}

/// The formats of one part whose head is an F16 scale and perhaps an F16 minimum.
macro_rules! simple_format {
    ($name:ident, $bytes:literal, $peak:expr, $excess:literal, $minimum:literal, |$p:ident, $s:ident| $quants:expr
     $(, |$q:ident, $t:ident| $quads:expr)?) => {
        impl Format for $name {
            const BYTES: usize = $bytes;
            const PEAK: Option<i32> = $peak;
            const EXCESS: i32 = $excess;
            const MINIMUM: bool = $minimum;
            type Head<I: Isa> = [I::Floats; 2];

            #[inline(always)]
            unsafe fn head<I: Isa>(p: *const u8, stride: usize) -> [I::Floats; 2] {
                // SAFETY: as the caller vouches.
                unsafe { I::load_scales(p, stride) }
            }

            #[inline(always)]
            unsafe fn quants<I: Isa>($p: *const u8, $s: usize, _: usize) -> [I::Bytes; 2] {
                // SAFETY: as the caller vouches.
                unsafe { $quants }
            }

            $(#[inline(always)]
            unsafe fn quads<I: Isa>($q: *const u8, $t: usize, _: usize) -> [I::Bytes; 8] {
                // SAFETY: as the caller vouches.
                unsafe { $quads }
            })?

            #[inline(always)]
            unsafe fn scales<I: Isa>(head: [I::Floats; 2], _: usize) -> [I::Floats; 2] {
                head
            }
        }
    };
}

simple_format!(Q4_0, 18, Some(15), 8, false, |p, s| nibbles::<I>(p.add(2), s), |p, s| nibble_quads::<I>(p.add(2), s));
simple_format!(Q4_1, 20, Some(15), 0, true, |p, s| nibbles::<I>(p.add(4), s), |p, s| nibble_quads::<I>(p.add(4), s));
simple_format!(Q5_0, 22, Some(31), 16, false, |p, s| five_bits::<I>(p.add(2), s));
simple_format!(Q5_1, 24, Some(31), 0, true, |p, s| five_bits::<I>(p.add(4), s));
simple_format!(Q8_0, 34, None, 0, false, |p, s| [
    I::operand(I::load_rows(p.add(2), s)),
    I::operand(I::load_rows(p.add(18), s))
]);
