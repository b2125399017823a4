//! What the Int8 kernels need to know of a block format: where the quants and scales of 32 values lie.
//!
//! No closures around instructions here: they are not sure to be inlined into a function of the level's features,
//! and cost ten times the time where they are not.

use super::isa::Isa;

/// A block format, seen as parts of 32 values. The value of a quant q is scale·(q − excess) + minimum.
///
/// # Safety
/// Every method needs the features of `I`, and the blocks at `p + k·stride` for k < LANES to be readable.
pub(super) trait Format {
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
    /// The scale of a part of every row, and its minimum where the format has one.
    unsafe fn scales<I: Isa>(head: Self::Head<I>, part: usize) -> [I::Floats; 2];
    /// The scales of the halves of a part of every row, where the format has them.
    #[inline(always)]
    unsafe fn halves<I: Isa>(_: Self::Head<I>, _: usize) -> [I::Ints; 2] {
        unreachable!("only called where HALVES is set")
    }
}

pub(super) struct Q4_0;
pub(super) struct Q4_1;
pub(super) struct Q5_0;
pub(super) struct Q5_1;
pub(super) struct Q8_0;
pub(super) struct Q4K;
pub(super) struct Q5K;
pub(super) struct Q6K;

/// Nibbles of the 16 bytes at `p`: low ones first.
#[inline(always)]
unsafe fn nibbles<I: Isa>(p: *const u8, stride: usize) -> [I::Bytes; 2] {
    // SAFETY: as the caller vouches.
    unsafe {
        let v = I::load_rows(p, stride);
        [I::bits(v, 0, 15), I::bits(v, 4, 15)]
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

/// Quants of a nibble and the bits above it: the 16 bytes at both pointers, from these bits on.
#[inline(always)]
unsafe fn wide_bits<I: Isa>([low, high]: [*const u8; 2], stride: usize, from: [usize; 2], mask: u8) -> I::Bytes {
    // SAFETY: as the caller vouches.
    unsafe {
        let low = I::bits(I::load_rows(low, stride), from[0], 15);
        I::join_bits(low, I::bits(I::load_rows(high, stride), from[1], mask), 4)
    }
}

/// The formats of one part whose head is an F16 scale and perhaps an F16 minimum.
macro_rules! simple_format {
    ($name:ident, $bytes:literal, $peak:expr, $excess:literal, $minimum:literal, |$p:ident, $s:ident| $quants:expr) => {
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

            #[inline(always)]
            unsafe fn scales<I: Isa>(head: [I::Floats; 2], _: usize) -> [I::Floats; 2] {
                head
            }
        }
    };
}

simple_format!(Q4_0, 18, Some(15), 8, false, |p, s| nibbles::<I>(p.add(2), s));
simple_format!(Q4_1, 20, Some(15), 0, true, |p, s| nibbles::<I>(p.add(4), s));
simple_format!(Q5_0, 22, Some(31), 16, false, |p, s| five_bits::<I>(p.add(2), s));
simple_format!(Q5_1, 24, Some(31), 0, true, |p, s| five_bits::<I>(p.add(4), s));
simple_format!(Q8_0, 34, None, 0, false, |p, s| [
    I::operand(I::load_rows(p.add(2), s)),
    I::operand(I::load_rows(p.add(18), s))
]);

/// The head of Q4_K and Q5_K: the F16 scale and minimum, and the words of packed 6-bit ones.
#[derive(Clone, Copy)]
pub(super) struct KHead<I: Isa> {
    scales: [I::Floats; 2],
    words: [I::Ints; 3],
}

#[inline(always)]
unsafe fn k_head<I: Isa>(p: *const u8, stride: usize) -> KHead<I> {
    // SAFETY: as the caller vouches.
    unsafe {
        KHead {
            scales: I::load_scales(p, stride),
            words: [I::load_words(p.add(4), stride), I::load_words(p.add(8), stride), I::load_words(p.add(12), stride)],
        }
    }
}

/// As `quant::k` unpacks them.
#[inline(always)]
unsafe fn k_scales<I: Isa>(head: KHead<I>, part: usize) -> [I::Floats; 2] {
    // SAFETY: as the caller vouches.
    unsafe {
        let ([d, dmin], [scales, minimums, rest]) = (head.scales, head.words);
        let at = 8 * (part % 4);
        let [s, m] = if part < 4 {
            [I::bits_i32(scales, at, 63), I::bits_i32(minimums, at, 63)]
        } else {
            let low = [I::bits_i32(rest, at, 15), I::bits_i32(rest, at + 4, 15)];
            // The two high bits, where they are to stand already.
            let high = [I::bits_i32(scales, at + 2, 48), I::bits_i32(minimums, at + 2, 48)];
            [I::or_i32(low[0], high[0]), I::or_i32(low[1], high[1])]
        };
        // Exact: 11 bits times 6. The minimum is taken off.
        let m = I::mul(dmin, I::to_f32(m));
        [I::mul(d, I::to_f32(s)), I::mul(m, I::splat_f32(-1.0))]
    }
}

/// Q4_K and Q5_K: `$quants` gives a part's quants.
macro_rules! k_format {
    ($name:ident, $bytes:literal, $peak:literal, $quants:ident) => {
        impl Format for $name {
            const BYTES: usize = $bytes;
            const PARTS: usize = 8;
            const PEAK: Option<i32> = Some($peak);
            const MINIMUM: bool = true;
            type Head<I: Isa> = KHead<I>;

            #[inline(always)]
            unsafe fn head<I: Isa>(p: *const u8, stride: usize) -> KHead<I> {
                // SAFETY: as the caller vouches.
                unsafe { k_head(p, stride) }
            }

            #[inline(always)]
            unsafe fn quants<I: Isa>(p: *const u8, stride: usize, part: usize) -> [I::Bytes; 2] {
                // SAFETY: as the caller vouches.
                unsafe { $quants::<I>(p, stride, part) }
            }

            #[inline(always)]
            unsafe fn scales<I: Isa>(head: KHead<I>, part: usize) -> [I::Floats; 2] {
                // SAFETY: as the caller vouches.
                unsafe { k_scales(head, part) }
            }
        }
    };
}

#[inline(always)]
unsafe fn q4_k_quants<I: Isa>(p: *const u8, stride: usize, part: usize) -> [I::Bytes; 2] {
    // SAFETY: as the caller vouches.
    unsafe {
        let (p, from) = (p.add(16 + 32 * (part / 2)), 4 * (part % 2));
        [I::bits(I::load_rows(p, stride), from, 15), I::bits(I::load_rows(p.add(16), stride), from, 15)]
    }
}

#[inline(always)]
unsafe fn q5_k_quants<I: Isa>(p: *const u8, stride: usize, part: usize) -> [I::Bytes; 2] {
    // SAFETY: as the caller vouches.
    unsafe {
        let (low, high) = (p.add(48 + 32 * (part / 2)), p.add(16));
        let from = [4 * (part % 2), part];
        [wide_bits::<I>([low, high], stride, from, 1), wide_bits::<I>([low.add(16), high.add(16)], stride, from, 1)]
    }
}

k_format!(Q4K, 144, 15, q4_k_quants);
k_format!(Q5K, 176, 31, q5_k_quants);

/// The head of Q6_K: its F16 scale and the words of its 8-bit ones.
#[derive(Clone, Copy)]
pub(super) struct Q6Head<I: Isa> {
    scale: I::Floats,
    words: [I::Ints; 4],
}

impl Format for Q6K {
    const BYTES: usize = 210;
    const PARTS: usize = 8;
    const PEAK: Option<i32> = Some(63);
    const EXCESS: i32 = 32;
    const HALVES: bool = true;
    type Head<I: Isa> = Q6Head<I>;

    #[inline(always)]
    unsafe fn head<I: Isa>(p: *const u8, stride: usize) -> Q6Head<I> {
        // SAFETY: as the caller vouches.
        unsafe {
            Q6Head {
                // The scale is the block's last two bytes; the two before it are read with it.
                scale: I::load_scales(p.add(206), stride)[1],
                words: [
                    I::load_words(p.add(192), stride),
                    I::load_words(p.add(196), stride),
                    I::load_words(p.add(200), stride),
                    I::load_words(p.add(204), stride),
                ],
            }
        }
    }

    #[inline(always)]
    unsafe fn quants<I: Isa>(p: *const u8, stride: usize, part: usize) -> [I::Bytes; 2] {
        let (side, k) = (part / 4, part % 4);
        // SAFETY: as the caller vouches.
        unsafe {
            let (low, high) = (p.add(64 * side + 32 * (k % 2)), p.add(128 + 32 * side));
            let from = [4 * (k / 2), 2 * k];
            [wide_bits::<I>([low, high], stride, from, 3), wide_bits::<I>([low.add(16), high.add(16)], stride, from, 3)]
        }
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(head: Q6Head<I>, _: usize) -> [I::Floats; 2] {
        [head.scale; 2]
    }

    #[inline(always)]
    unsafe fn halves<I: Isa>(head: Q6Head<I>, part: usize) -> [I::Ints; 2] {
        let (word, at) = (head.words[part / 2], 2 * (part % 2));
        // SAFETY: as the caller vouches.
        unsafe { [I::byte_i32(word, at), I::byte_i32(word, at + 1)] }
    }
}
