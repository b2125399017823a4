//! The formats whose nibbles are places in a table of levels.

use super::super::isa::Isa;
use super::{Format, nibble_quads, nibbles};
use crate::quant::{IQ4_LEVELS, MXFP4_LEVELS};

pub(in crate::cpu::simd) struct Iq4Nl;
pub(in crate::cpu::simd) struct Iq4Xs;
pub(in crate::cpu::simd) struct Mxfp4;

/// The IQ4 levels at the nibbles of the 16 bytes at `p`.
#[inline(always)]
unsafe fn iq4<I: Isa>(p: *const u8, stride: usize) -> [I::Bytes; 2] {
    // SAFETY: as the caller vouches; the table has 16 bytes.
    unsafe {
        let levels = I::operand(I::splat_16(IQ4_LEVELS.as_ptr()));
        let [low, high] = nibbles::<I>(p, stride);
        [I::lookup(levels, low), I::lookup(levels, high)]
    }
}

/// The entries of `table` at the nibbles of the 16 bytes at `p`, as quads.
#[inline(always)]
unsafe fn table_quads<I: Isa>(table: I::Bytes, p: *const u8, stride: usize) -> [I::Bytes; 8] {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut quads = nibble_quads::<I>(p, stride);
        for quad in &mut quads {
            *quad = I::lookup(table, *quad);
        }
        quads
    }
}

/// [`iq4`] as quads.
#[inline(always)]
unsafe fn iq4_quads<I: Isa>(p: *const u8, stride: usize) -> [I::Bytes; 8] {
    // SAFETY: as the caller vouches; the table has 16 bytes.
    unsafe { table_quads::<I>(I::operand(I::splat_16(IQ4_LEVELS.as_ptr())), p, stride) }
}

impl Format for Iq4Nl {
    const BYTES: usize = 18;
    const PEAK: Option<i32> = None;
    type Head<I: Isa> = [I::Floats; 2];

    #[inline(always)]
    unsafe fn head<I: Isa>(p: *const u8, stride: usize) -> [I::Floats; 2] {
        // SAFETY: as the caller vouches.
        unsafe { I::load_scales(p, stride) }
    }

    #[inline(always)]
    unsafe fn quants<I: Isa>(p: *const u8, stride: usize, _: usize) -> [I::Bytes; 2] {
        // SAFETY: as the caller vouches.
        unsafe { iq4::<I>(p.add(2), stride) }
    }

    #[inline(always)]
    unsafe fn quads<I: Isa>(p: *const u8, stride: usize, _: usize) -> [I::Bytes; 8] {
        // SAFETY: as the caller vouches.
        unsafe { iq4_quads::<I>(p.add(2), stride) }
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(head: [I::Floats; 2], _: usize) -> [I::Floats; 2] {
        head
    }
}

/// The head of IQ4_XS: its F16 scale, and the words in which the high and the low bits of the sub-blocks' scales lie.
#[derive(Clone, Copy)]
pub(in crate::cpu::simd) struct Iq4Head<I: Isa> {
    scale: I::Floats,
    high: I::Ints,
    low: I::Ints,
}

impl Format for Iq4Xs {
    const BYTES: usize = 136;
    const PARTS: usize = 8;
    const PEAK: Option<i32> = None;
    type Head<I: Isa> = Iq4Head<I>;

    #[inline(always)]
    unsafe fn head<I: Isa>(p: *const u8, stride: usize) -> Iq4Head<I> {
        // SAFETY: as the caller vouches.
        unsafe {
            Iq4Head {
                scale: I::load_scales(p, stride)[0],
                high: I::load_words(p, stride),
                low: I::load_words(p.add(4), stride),
            }
        }
    }

    #[inline(always)]
    unsafe fn quants<I: Isa>(p: *const u8, stride: usize, part: usize) -> [I::Bytes; 2] {
        // SAFETY: as the caller vouches.
        unsafe { iq4::<I>(p.add(8 + 16 * part), stride) }
    }

    #[inline(always)]
    unsafe fn quads<I: Isa>(p: *const u8, stride: usize, part: usize) -> [I::Bytes; 8] {
        // SAFETY: as the caller vouches.
        unsafe { iq4_quads::<I>(p.add(8 + 16 * part), stride) }
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(head: Iq4Head<I>, part: usize) -> [I::Floats; 2] {
        // SAFETY: as the caller vouches.
        unsafe {
            // The two high bits are the word's from 16 + 2·part on, put where they are to stand.
            let high = I::bits_i32(head.high, 12 + 2 * part, 48);
            let index = I::or_i32(I::bits_i32(head.low, 4 * part, 15), high);
            // Exact: 11 bits times 6.
            [I::mul(head.scale, I::to_f32(I::add_i32(index, I::splat_i32(-32)))); 2]
        }
    }
}

/// What is added to the levels of MXFP4 to make them unsigned: the largest.
const MXFP4_EXCESS: i8 = 12;

/// The levels of MXFP4, unsigned.
static MXFP4_QUANTS: [i8; 16] = {
    let mut quants = MXFP4_LEVELS;
    let mut i = 0;
    while i < quants.len() {
        quants[i] += MXFP4_EXCESS;
        i += 1;
    }
    quants
};

impl Format for Mxfp4 {
    const BYTES: usize = 17;
    const PEAK: Option<i32> = Some(2 * MXFP4_EXCESS as i32);
    const EXCESS: i32 = MXFP4_EXCESS as i32;
    type Head<I: Isa> = I::Floats;

    #[inline(always)]
    unsafe fn head<I: Isa>(p: *const u8, stride: usize) -> I::Floats {
        // SAFETY: as the caller vouches.
        unsafe { I::power(I::bits_i32(I::load_words(p, stride), 0, 255)) }
    }

    #[inline(always)]
    unsafe fn quants<I: Isa>(p: *const u8, stride: usize, _: usize) -> [I::Bytes; 2] {
        // SAFETY: as the caller vouches; the table has 16 bytes.
        unsafe {
            let levels = I::splat_16(MXFP4_QUANTS.as_ptr());
            let [low, high] = nibbles::<I>(p.add(1), stride);
            [I::lookup(levels, low), I::lookup(levels, high)]
        }
    }

    #[inline(always)]
    unsafe fn quads<I: Isa>(p: *const u8, stride: usize, _: usize) -> [I::Bytes; 8] {
        // SAFETY: as the caller vouches; the table has 16 bytes.
        unsafe { table_quads::<I>(I::splat_16(MXFP4_QUANTS.as_ptr()), p.add(1), stride) }
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(head: I::Floats, _: usize) -> [I::Floats; 2] {
        [head; 2]
    }
}
