//! The float types F32, F16 and BF16, little-endian, and the fixed order in which the Float dot adds.

use half::{bf16, f16};
use std::hint::black_box;

/// Partial sums of the Float dot.
pub const LANES: usize = 16;

/// The value of the F16 bits `h`, exact for subnormals too.
///
/// Exponent and mantissa are moved to their place in an `f32`, whose exponent is then too small by
/// 127 − 15 = 112; a multiplication by 2^112 mends that and normalizes. Written without branches, so that a
/// loop of it becomes vector code.
#[inline(always)]
pub(crate) fn f16_to_f32(h: u16) -> f32 {
    const TWO_POW_112: f32 = f32::from_bits((127 + 112) << 23);
    let magnitude = f32::from_bits(u32::from(h & 0x7fff) << 13) * TWO_POW_112;
    let not_finite = if h & 0x7c00 == 0x7c00 { f32::INFINITY.to_bits() } else { 0 };
    f32::from_bits(magnitude.to_bits() | not_finite | u32::from(h & 0x8000) << 16)
}

/// The F16 scale at the start of a block.
#[inline(always)]
pub(super) fn scale(bytes: &[u8]) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// [`scale`], hidden from the optimizer: it would vectorize a loop across blocks, with a scatter for each
/// value, where vectors along a block are wanted.
#[inline(always)]
pub(super) fn opaque_scale(bytes: &[u8]) -> f32 {
    black_box(scale(bytes))
}

/// Writes `d` as the F16 scale at the start of a block, rounded to nearest even.
pub(super) fn put_scale(d: f32, bytes: &mut [u8]) {
    bytes[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
}

#[inline(always)]
pub(super) fn dequantize_f32(src: &[u8], dst: &mut [f32]) {
    for (b, v) in src.as_chunks::<4>().0.iter().zip(dst) {
        *v = f32::from_le_bytes(*b);
    }
}

#[inline(always)]
pub(super) fn dequantize_f16(src: &[u8], dst: &mut [f32]) {
    for (b, v) in src.as_chunks::<2>().0.iter().zip(dst) {
        *v = f16_to_f32(u16::from_le_bytes(*b));
    }
}

#[inline(always)]
pub(super) fn dequantize_bf16(src: &[u8], dst: &mut [f32]) {
    for (b, v) in src.as_chunks::<2>().0.iter().zip(dst) {
        *v = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
    }
}

pub(super) fn encode_f32(src: &[f32], dst: &mut [u8]) {
    for (v, b) in src.iter().zip(dst.as_chunks_mut::<4>().0) {
        *b = v.to_le_bytes();
    }
}

pub(super) fn encode_f16(src: &[f32], dst: &mut [u8]) {
    for (v, b) in src.iter().zip(dst.as_chunks_mut::<2>().0) {
        *b = f16::from_f32(*v).to_le_bytes();
    }
}

pub(super) fn encode_bf16(src: &[f32], dst: &mut [u8]) {
    for (v, b) in src.iter().zip(dst.as_chunks_mut::<2>().0) {
        *b = bf16::from_f32(*v).to_le_bytes();
    }
}

/// `lanes[l] = fma(w[l], x[l], lanes[l])`.
#[inline(always)]
pub(crate) fn accumulate(w: &[f32; LANES], x: &[f32; LANES], lanes: &mut [f32; LANES]) {
    for l in 0..LANES {
        lanes[l] = w[l].mul_add(x[l], lanes[l]);
    }
}

/// The same for the fewer than [`LANES`] values at the end of a row. The other lanes are left alone: adding a
/// zero product would turn −0 into +0.
#[inline(always)]
pub(crate) fn accumulate_tail(w: &[f32], x: &[f32], lanes: &mut [f32; LANES]) {
    for ((w, x), lane) in w.iter().zip(x).zip(lanes) {
        *lane = w.mul_add(*x, *lane);
    }
}

/// The sum of the lanes by a fixed tree: lane i takes lane i + 8, then i + 4, i + 2, i + 1.
#[inline(always)]
pub fn reduce(mut lanes: [f32; LANES]) -> f32 {
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_bits_all_convert_as_ieee_754_says() {
        for h in 0..=u16::MAX {
            let (got, want) = (f16_to_f32(h), f16::from_bits(h).to_f32());
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{h:#06x}: {got} != {want}");
        }
    }

    #[test]
    fn f16_and_bf16_round_to_nearest_even_and_keep_nan() {
        let cases = [
            (1.0 + 1.0 / 2048.0, 0x3c00, 0x3f80),
            (1.0 + 3.0 / 2048.0, 0x3c02, 0x3f80),
            (1.0 + 1.0 / 256.0, 0x3c04, 0x3f80),
            (1.0 + 3.0 / 256.0, 0x3c0c, 0x3f82),
            (65520.0, 0x7c00, 0x4780),
            (-0.0, 0x8000, 0x8000),
        ];
        for (x, half_bits, brain_bits) in cases {
            let mut b = [0; 2];
            encode_f16(&[x], &mut b);
            assert_eq!(u16::from_le_bytes(b), half_bits, "f16 of {x}");
            encode_bf16(&[x], &mut b);
            assert_eq!(u16::from_le_bytes(b), brain_bits, "bf16 of {x}");
        }
        let mut b = [0; 2];
        encode_bf16(&[f32::from_bits(0x7f80_0001)], &mut b);
        assert_eq!(u16::from_le_bytes(b), 0x7fc0);
        encode_f16(&[f32::NAN], &mut b);
        assert!(f16_to_f32(u16::from_le_bytes(b)).is_nan());
    }

    #[test]
    fn the_tree_adds_far_lanes_first() {
        // 2^24 + 1 rounds to 2^24, so the result tells in which order the lanes were added.
        let mut lanes = [0.0; LANES];
        (lanes[0], lanes[1], lanes[8], lanes[9]) = (16_777_216.0, 1.0, -16_777_216.0, 1.0);
        assert_eq!(reduce(lanes), 2.0);
        (lanes[8], lanes[9], lanes[4]) = (1.0, 1.0, -16_777_216.0);
        assert_eq!(reduce(lanes), 2.0);
    }
}
