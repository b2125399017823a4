//! MXFP4: `{ u8 e; u8 qs[16] }`, value = 2^(e − 128)·level: the E2M1 floats, doubled, times half an E8M0 power. Every
//! e is a number here, as in ggml: 255, a NaN of E8M0, reads as 2^127. Layout: ggml's `block_mxfp4`.

use super::act::ActRow;
use super::{BLOCK, put_nibbles, table};

/// The levels: twice the E2M1 floats, positive ones first; −0 is 0.
pub(crate) const LEVELS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Bytes of a block, and where its quants begin.
const BYTES: usize = 17;
const QUANTS: usize = 1;

/// 2^(e − 128); the two smallest are subnormal.
#[inline(always)]
fn power(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 1 << (21 + e) } else { u32::from(e - 1) << 23 })
}

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    for (block, out) in src.as_chunks::<BYTES>().0.iter().zip(dst.as_chunks_mut::<BLOCK>().0) {
        table::dequantize(&LEVELS, power(block[0]), table::nibbles(block), out);
    }
}

/// The place of the level nearest to `v` / `step`, of two equally near ones the smaller.
fn nearest(v: f32, step: f32) -> u8 {
    let positive = LEVELS[..8].windows(2);
    let place: u8 =
        positive.map(|pair| u8::from(v.abs() > f32::from(pair[0]).midpoint(f32::from(pair[1])) * step)).sum();
    if v < 0.0 && place > 0 { place | 8 } else { place }
}

/// ggml takes e = ⌊log2 max|x|⌋ + 125, so that the largest value is 8 levels or more. Here that, the one below and the
/// one above are tried for the least squared error. Values that are not finite have a block of zeros.
pub(super) fn encode(src: &[f32], dst: &mut [u8]) {
    for (x, block) in src.as_chunks::<BLOCK>().0.iter().zip(dst.as_chunks_mut::<BYTES>().0) {
        block.fill(0);
        let peak = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        // The exponent field is ⌊log2 max|x|⌋ + 127.
        let plain = (peak.to_bits() >> 23).saturating_sub(2) as u8;
        let mut least = f64::INFINITY;
        for e in [plain, plain.saturating_sub(1), plain.saturating_add(1)] {
            let step = power(e);
            let places = x.map(|v| nearest(v, step));
            let errors = x.iter().zip(places).map(|(v, place)| {
                let level = f64::from(LEVELS[usize::from(place)]);
                (level * f64::from(step) - f64::from(*v)).powi(2)
            });
            let error: f64 = errors.sum();
            if error < least {
                least = error;
                block[0] = e;
                put_nibbles(places, &mut block[QUANTS..]);
            }
        }
    }
}

/// acc = fma(Σ level·q_x, 2^(e − 128)·d_x, acc), blocks ascending.
pub(super) fn dot(row: &[u8], x: ActRow<'_>) -> f32 {
    x.blocks().zip(row.as_chunks::<BYTES>().0).fold(0.0, |acc, (x, block)| {
        let sum = table::dot(&LEVELS, table::nibbles(block), x.quants);
        (sum as f32).mul_add(power(block[0]) * x.scale, acc)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_exact_to_the_ends() {
        for e in 0..=u8::MAX {
            assert_eq!(f64::from(power(e)), f64::powi(2.0, i32::from(e) - 128));
        }
    }

    #[test]
    fn ties_go_to_the_smaller_level_and_minus_zero_is_zero() {
        let places = [0.5, 0.6, -0.5, -0.6, 5.0, 5.1, -10.0, -10.5, 99.0, -99.0, -0.0].map(|v| nearest(v * 0.25, 0.25));
        assert_eq!(places, [0, 1, 0, 9, 4, 5, 14, 15, 7, 15, 0]);
    }

    #[test]
    fn an_exponent_that_errs_less_is_taken() {
        let (mut block, mut out) = ([0; BYTES], [0.0; BLOCK]);
        // 7.9 is far from 6, the largest level of the plain exponent, and near 8, one of the next.
        encode(&[7.9; BLOCK], &mut block);
        dequantize(&block, &mut out);
        assert_eq!(out, [8.0; BLOCK]);
        for size in [1e-38, 1e-20, 1.0, 1e38] {
            encode(&[size; BLOCK], &mut block);
            dequantize(&block, &mut out);
            assert!((out[7] / size - 1.0).abs() <= 0.2, "{} for {size}", out[7]);
        }
        encode(&[0.0; BLOCK], &mut block);
        assert_eq!(block, [0; BYTES]);
        for bad in [f32::NAN, f32::INFINITY] {
            block.fill(7);
            encode(&[bad; BLOCK], &mut block);
            assert_eq!(block, [0; BYTES]);
        }
    }
}
