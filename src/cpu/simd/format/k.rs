//! The K formats, as `quant` unpacks them.

use super::super::isa::Isa;
use super::Format;

pub(in crate::cpu::simd) struct Q2K;
pub(in crate::cpu::simd) struct Q3K;
pub(in crate::cpu::simd) struct Q4K;
pub(in crate::cpu::simd) struct Q5K;
pub(in crate::cpu::simd) struct Q6K;

/// Quants of `count` bits and those of `mask` above them: the 16 bytes at both pointers, from these bits on.
#[inline(always)]
unsafe fn wide_bits<I: Isa>(
    [low, high]: [*const u8; 2],
    stride: usize,
    from: [usize; 2],
    count: usize,
    mask: u8,
) -> I::Bytes {
    // SAFETY: as the caller vouches.
    unsafe {
        let low = I::bits(I::load_rows(low, stride), from[0], (1 << count) - 1);
        I::join_bits(low, I::bits(I::load_rows(high, stride), from[1], mask), count)
    }
}

/// The head of Q4_K and Q5_K: the F16 scale and minimum, and the words of packed 6-bit ones.
#[derive(Clone, Copy)]
pub(in crate::cpu::simd) struct KHead<I: Isa> {
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
        [
            wide_bits::<I>([low, high], stride, from, 4, 1),
            wide_bits::<I>([low.add(16), high.add(16)], stride, from, 4, 1),
        ]
    }
}

k_format!(Q4K, 144, 15, q4_k_quants);
k_format!(Q5K, 176, 31, q5_k_quants);

/// The head of Q2_K: its F16 scale and minimum, the latter taken off, and the words of both's nibbles.
#[derive(Clone, Copy)]
pub(in crate::cpu::simd) struct Q2Head<I: Isa> {
    scales: [I::Floats; 2],
    words: [I::Ints; 4],
}

impl Format for Q2K {
    const BYTES: usize = 84;
    const PARTS: usize = 8;
    const PEAK: Option<i32> = Some(3);
    const MINIMUM: bool = true;
    const HALVES: bool = true;
    type Head<I: Isa> = Q2Head<I>;

    #[inline(always)]
    unsafe fn head<I: Isa>(p: *const u8, stride: usize) -> Q2Head<I> {
        // SAFETY: as the caller vouches.
        unsafe {
            let [d, dmin] = I::load_scales(p.add(80), stride);
            Q2Head {
                scales: [d, I::mul(dmin, I::splat_f32(-1.0))],
                words: [
                    I::load_words(p, stride),
                    I::load_words(p.add(4), stride),
                    I::load_words(p.add(8), stride),
                    I::load_words(p.add(12), stride),
                ],
            }
        }
    }

    #[inline(always)]
    unsafe fn quants<I: Isa>(p: *const u8, stride: usize, part: usize) -> [I::Bytes; 2] {
        // SAFETY: as the caller vouches.
        unsafe {
            let (p, from) = (p.add(16 + 32 * (part / 4)), 2 * (part % 4));
            [I::bits(I::load_rows(p, stride), from, 3), I::bits(I::load_rows(p.add(16), stride), from, 3)]
        }
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(head: Q2Head<I>, _: usize) -> [I::Floats; 2] {
        head.scales
    }

    #[inline(always)]
    unsafe fn halves<I: Isa>(head: Q2Head<I>, part: usize) -> [I::Ints; 2] {
        let (word, at) = (head.words[part / 2], 16 * (part % 2));
        // SAFETY: as the caller vouches.
        unsafe { [I::bits_i32(word, at, 15), I::bits_i32(word, at + 8, 15)] }
    }

    #[inline(always)]
    unsafe fn minimums<I: Isa>(head: Q2Head<I>, part: usize) -> I::Ints {
        let (word, at) = (head.words[part / 2], 16 * (part % 2) + 4);
        // SAFETY: as the caller vouches.
        unsafe { I::pair_i16(I::bits_i32(word, at, 15), I::bits_i32(word, at + 8, 15)) }
    }
}

/// The head of Q3_K: its F16 scale and the words of its packed 6-bit ones.
#[derive(Clone, Copy)]
pub(in crate::cpu::simd) struct Q3Head<I: Isa> {
    scale: I::Floats,
    words: [I::Ints; 3],
}

impl Format for Q3K {
    const BYTES: usize = 110;
    const PARTS: usize = 8;
    const PEAK: Option<i32> = Some(7);
    const EXCESS: i32 = 4;
    const HALVES: bool = true;
    type Head<I: Isa> = Q3Head<I>;

    #[inline(always)]
    unsafe fn head<I: Isa>(p: *const u8, stride: usize) -> Q3Head<I> {
        // SAFETY: as the caller vouches.
        unsafe {
            Q3Head {
                // The scale is the block's last two bytes; the two before it are read with it.
                scale: I::load_scales(p.add(106), stride)[1],
                words: [
                    I::load_words(p.add(96), stride),
                    I::load_words(p.add(100), stride),
                    I::load_words(p.add(104), stride),
                ],
            }
        }
    }

    #[inline(always)]
    unsafe fn quants<I: Isa>(p: *const u8, stride: usize, part: usize) -> [I::Bytes; 2] {
        // SAFETY: as the caller vouches.
        unsafe {
            let (low, from) = (p.add(32 + 32 * (part / 4)), [2 * (part % 4), part]);
            [wide_bits::<I>([low, p], stride, from, 2, 1), wide_bits::<I>([low.add(16), p.add(16)], stride, from, 2, 1)]
        }
    }

    #[inline(always)]
    unsafe fn scales<I: Isa>(head: Q3Head<I>, _: usize) -> [I::Floats; 2] {
        [head.scale; 2]
    }

    /// As `quant::q3_k` unpacks them: scale s has its nibble in byte s mod 8, its upper bits in byte 8 + s mod 4.
    #[inline(always)]
    unsafe fn halves<I: Isa>(head: Q3Head<I>, part: usize) -> [I::Ints; 2] {
        let (low, at) = (head.words[part % 4 / 2], 16 * (part % 2) + 4 * (part / 4));
        let (high, high_at) = (head.words[2], 16 * (part % 2) + 2 * (part / 2));
        // SAFETY: as the caller vouches.
        unsafe {
            let excess = I::splat_i32(-32);
            let nibbles = [I::bits_i32(low, at, 15), I::bits_i32(low, at + 8, 15)];
            let upper = [I::bits_i32(high, high_at, 3), I::bits_i32(high, high_at + 8, 3)];
            let upper = [I::mul_i32(upper[0], I::splat_i32(16)), I::mul_i32(upper[1], I::splat_i32(16))];
            [I::add_i32(I::or_i32(nibbles[0], upper[0]), excess), I::add_i32(I::or_i32(nibbles[1], upper[1]), excess)]
        }
    }
}

/// The head of Q6_K: its F16 scale and the words of its 8-bit ones.
#[derive(Clone, Copy)]
pub(in crate::cpu::simd) struct Q6Head<I: Isa> {
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
            [
                wide_bits::<I>([low, high], stride, from, 4, 3),
                wide_bits::<I>([low.add(16), high.add(16)], stride, from, 4, 3),
            ]
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
