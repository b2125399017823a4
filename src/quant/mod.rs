//! Quantization block formats in scalar code: the definition of truth for every kernel.
//!
//! A weight row is a run of blocks; a block holds [`TensorType::block_len`] values. Two ways to multiply a
//! row by activations:
//!
//! * **Int8**: activations are quantized in blocks of 32 ([`act`]); the products inside a block are summed
//!   exactly in `i32`, then each block adds to one `f32` accumulator by fused multiply-add, blocks in
//!   ascending order. So a dot has one value, whatever the instruction set, the number of rows, or threads.
//! * **Float**: the row is dequantized to `f32` and multiplied by `f32` activations; lane `l` of 16 sums
//!   the values with index ≡ `l` (mod 16) by fused multiply-add in ascending order, and the lanes are added
//!   by a fixed tree.
//!
//! The value of a NaN result is "a NaN": its sign and payload are not part of the truth.

pub mod act;
mod checked;
pub mod float;
mod iq4;
mod iq4_nl;
pub(crate) mod iq4_xs;
pub(crate) mod k;
mod mxfp4;
mod q2_k;
pub(crate) mod q3_k;
mod q4_0;
mod q4_1;
pub(crate) mod q4_k;
mod q5_0;
mod q5_1;
pub(crate) mod q5_k;
pub(crate) mod q6_k;
mod q8_0;
mod search;
mod table;

#[cfg(feature = "ggml")]
pub(crate) use checked::check_finite;
pub(crate) use checked::encode_checked;
pub(crate) use iq4::LEVELS as IQ4_LEVELS;
pub(crate) use mxfp4::LEVELS as MXFP4_LEVELS;
pub(crate) use q8_0::encode as encode_q8_0;

use crate::tensor::{Tensor, TensorType};
use act::ActRow;

/// Values in a block of activations; every block of weights holds a whole number of them.
const BLOCK: usize = act::BLOCK;

/// Turns a row of weights into `f32`, one multiplication and at most one addition a value, never fused.
///
/// # Panics
/// If `src` is not exactly `dst.len()` values of type `ty`.
pub fn dequantize(ty: TensorType, src: &[u8], dst: &mut [f32]) {
    check_row(ty, src.len(), dst.len());
    dequantize_row(ty, src, dst);
}

/// [`dequantize`] without its check, always inlined, so that a caller's instruction set applies to it.
#[inline(always)]
pub(crate) fn dequantize_row(ty: TensorType, src: &[u8], dst: &mut [f32]) {
    match ty {
        TensorType::F32 => float::dequantize_f32(src, dst),
        TensorType::F16 => float::dequantize_f16(src, dst),
        TensorType::BF16 => float::dequantize_bf16(src, dst),
        TensorType::Q4_0 => q4_0::dequantize(src, dst),
        TensorType::Q4_1 => q4_1::dequantize(src, dst),
        TensorType::Q5_0 => q5_0::dequantize(src, dst),
        TensorType::Q5_1 => q5_1::dequantize(src, dst),
        TensorType::Q2K => q2_k::dequantize(src, dst),
        TensorType::Q3K => q3_k::dequantize(src, dst),
        TensorType::Q4K => q4_k::dequantize(src, dst),
        TensorType::Q5K => q5_k::dequantize(src, dst),
        TensorType::Q6K => q6_k::dequantize(src, dst),
        TensorType::Q8_0 => q8_0::dequantize(src, dst),
        TensorType::Iq4Nl => iq4_nl::dequantize(src, dst),
        TensorType::Iq4Xs => iq4_xs::dequantize(src, dst),
        TensorType::Mxfp4 => mxfp4::dequantize(src, dst),
    }
}

/// The values of a tensor of any type.
pub fn to_f32(tensor: &Tensor) -> Vec<f32> {
    let mut values = vec![0.0; tensor.cols() * tensor.rows()];
    let rows = values.chunks_exact_mut(tensor.cols()).zip(tensor.data.chunks_exact(tensor.row_bytes()));
    rows.for_each(|(out, row)| dequantize(tensor.ty, row, out));
    values
}

/// Encodes `f32` values as type `ty`: for finite values with the bits of ggml's reference encoder, but for the K
/// types, the IQ4 types and MXFP4, which have encoders of their own.
/// Values that are not finite keep their kind in the float types and have no useful encoding in the others.
///
/// # Panics
/// If `dst` is not exactly `src.len()` values of type `ty`.
pub fn encode(ty: TensorType, src: &[f32], dst: &mut [u8]) {
    check_row(ty, dst.len(), src.len());
    match ty {
        TensorType::F32 => float::encode_f32(src, dst),
        TensorType::F16 => float::encode_f16(src, dst),
        TensorType::BF16 => float::encode_bf16(src, dst),
        TensorType::Q4_0 => q4_0::encode(src, dst),
        TensorType::Q4_1 => q4_1::encode(src, dst),
        TensorType::Q5_0 => q5_0::encode(src, dst),
        TensorType::Q5_1 => q5_1::encode(src, dst),
        TensorType::Q2K => q2_k::encode(src, None, dst),
        TensorType::Q3K => q3_k::encode(src, None, dst),
        TensorType::Q4K => q4_k::encode(src, None, dst),
        TensorType::Q5K => q5_k::encode(src, None, dst),
        TensorType::Q6K => q6_k::encode(src, None, dst),
        TensorType::Q8_0 => q8_0::encode(src, dst),
        TensorType::Iq4Nl => iq4_nl::encode(src, None, dst),
        TensorType::Iq4Xs => iq4_xs::encode(src, None, dst),
        TensorType::Mxfp4 => mxfp4::encode(src, dst),
    }
}

/// [`encode`] of one row, where `importance` has what an error in each of its columns counts beside the others: the
/// mean square of the activations that meet it, finite and not negative. The float types, Q8_0 and MXFP4 have no use
/// for it.
///
/// # Panics
/// Where [`encode`] does, and if `importance` is not as long as `src`.
pub fn encode_weighted(ty: TensorType, src: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
    let Some(weights) = importance else { return encode(ty, src, dst) };
    check_row(ty, dst.len(), src.len());
    assert_eq!(weights.len(), src.len(), "an importance a column");
    match ty {
        TensorType::Q4_0 => q4_0::encode_weighted(src, weights, dst),
        TensorType::Q4_1 => q4_1::encode_weighted(src, weights, dst),
        TensorType::Q5_0 => q5_0::encode_weighted(src, weights, dst),
        TensorType::Q5_1 => q5_1::encode_weighted(src, weights, dst),
        TensorType::Q2K => q2_k::encode(src, importance, dst),
        TensorType::Q3K => q3_k::encode(src, importance, dst),
        TensorType::Q4K => q4_k::encode(src, importance, dst),
        TensorType::Q5K => q5_k::encode(src, importance, dst),
        TensorType::Q6K => q6_k::encode(src, importance, dst),
        TensorType::Iq4Nl => iq4_nl::encode(src, importance, dst),
        TensorType::Iq4Xs => iq4_xs::encode(src, importance, dst),
        TensorType::F32 | TensorType::F16 | TensorType::BF16 | TensorType::Q8_0 | TensorType::Mxfp4 => {
            encode(ty, src, dst)
        }
    }
}

/// The Int8 dot of a row of quantized weights and a row of quantized activations.
///
/// # Panics
/// If `ty` is not a quantized type, or the two rows differ in length.
pub fn dot_int8(ty: TensorType, row: &[u8], x: ActRow<'_>) -> f32 {
    check_row(ty, row.len(), x.quants.len());
    assert!(x.quants.len() == BLOCK * x.scales.len() && x.scales.len() == x.sums.len(), "a malformed activation row");
    match ty {
        TensorType::Q4_0 => q4_0::dot(row, x),
        TensorType::Q4_1 => q4_1::dot(row, x),
        TensorType::Q5_0 => q5_0::dot(row, x),
        TensorType::Q5_1 => q5_1::dot(row, x),
        TensorType::Q2K => q2_k::dot(row, x),
        TensorType::Q3K => q3_k::dot(row, x),
        TensorType::Q4K => q4_k::dot(row, x),
        TensorType::Q5K => q5_k::dot(row, x),
        TensorType::Q6K => q6_k::dot(row, x),
        TensorType::Q8_0 => q8_0::dot(row, x),
        TensorType::Iq4Nl => iq4_nl::dot(row, x),
        TensorType::Iq4Xs => iq4_xs::dot(row, x),
        TensorType::Mxfp4 => mxfp4::dot(row, x),
        TensorType::F32 | TensorType::F16 | TensorType::BF16 => panic!("{ty} has no Int8 dot"),
    }
}

/// The Float dot of a row of weights of any type and `f32` activations.
///
/// # Panics
/// If `row` is not exactly `x.len()` values of type `ty`.
pub fn dot_float(ty: TensorType, row: &[u8], x: &[f32]) -> f32 {
    check_row(ty, row.len(), x.len());
    let mut lanes = [0.0; float::LANES];
    let mut weights = [0.0; k::SUPER];
    let chunk_bytes = k::SUPER / ty.block_len() * ty.block_bytes();
    for (row, x) in row.chunks(chunk_bytes).zip(x.chunks(k::SUPER)) {
        let weights = &mut weights[..x.len()];
        dequantize_row(ty, row, weights);
        let ((w, w_tail), (x, x_tail)) = (weights.as_chunks(), x.as_chunks());
        w.iter().zip(x).for_each(|(w, x)| float::accumulate(w, x, &mut lanes));
        float::accumulate_tail(w_tail, x_tail, &mut lanes);
    }
    float::reduce(lanes)
}

/// The nibbles of 16 bytes: the low ones are values 0..16, the high ones 16..32.
#[inline(always)]
fn nibbles(bytes: &[u8; 16]) -> [u8; BLOCK] {
    let mut quants = [0; BLOCK];
    for i in 0..16 {
        quants[i] = bytes[i] & 15;
        quants[16 + i] = bytes[i] >> 4;
    }
    quants
}

/// The inverse of [`nibbles`].
pub(crate) fn put_nibbles(quants: [u8; BLOCK], bytes: &mut [u8]) {
    for i in 0..16 {
        bytes[i] = quants[i] & 15 | (quants[16 + i] & 15) << 4;
    }
}

/// The quants 0..32 of five bits of a block `{ u8 high[4]; u8 low[16] }`: nibbles, and a bit for each value.
#[inline(always)]
pub(crate) fn five_bits(bytes: &[u8; 20]) -> [u8; BLOCK] {
    let (high, low) = bytes.split_first_chunk().expect("4 bytes");
    let high = u32::from_le_bytes(*high);
    let mut quants = nibbles(low.first_chunk().expect("16 bytes"));
    for (i, quant) in quants.iter_mut().enumerate() {
        *quant |= ((high >> i & 1) << 4) as u8;
    }
    quants
}

/// The inverse of [`five_bits`].
fn put_five_bits(quants: [u8; BLOCK], bytes: &mut [u8]) {
    let mut high = 0;
    for i in 0..16 {
        high |= u32::from(quants[i] >> 4 & 1) << i | u32::from(quants[16 + i] >> 4 & 1) << (16 + i);
    }
    bytes[..4].copy_from_slice(&high.to_le_bytes());
    put_nibbles(quants, &mut bytes[4..]);
}

/// Σ q_w·q_x of a block.
fn dot_block(quants: &[u8; BLOCK], x: &[i8; BLOCK]) -> i32 {
    quants.iter().zip(x).map(|(w, x)| i32::from(*w) * i32::from(*x)).sum()
}

fn check_row(ty: TensorType, bytes: usize, values: usize) {
    assert!(ty.row_bytes(values) == Some(bytes), "{bytes} bytes are not a row of {values} {ty} values");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_a_round_trip_within_its_step() {
        let x: Vec<f32> = (0..512).map(|i| ((i * 37 % 64) as f32 - 31.5) / 16.0).collect();
        for (ty, step) in [
            (TensorType::F32, 0.0),
            (TensorType::F16, 0.001),
            (TensorType::BF16, 0.01),
            (TensorType::Q4_0, 0.26),
            (TensorType::Q4_1, 0.14),
            (TensorType::Q5_0, 0.13),
            (TensorType::Q5_1, 0.07),
            (TensorType::Q8_0, 0.009),
            (TensorType::Q2K, 0.8),
            (TensorType::Q3K, 0.32),
            (TensorType::Q4K, 0.16),
            (TensorType::Q5K, 0.08),
            (TensorType::Q6K, 0.08),
            (TensorType::Iq4Nl, 0.25),
            (TensorType::Iq4Xs, 0.25),
            (TensorType::Mxfp4, 0.34),
        ] {
            let mut bytes = vec![0; ty.row_bytes(x.len()).unwrap()];
            let mut back = vec![0.0; x.len()];
            encode(ty, &x, &mut bytes);
            dequantize(ty, &bytes, &mut back);
            for (a, b) in x.iter().zip(&back) {
                assert!((a - b).abs() <= step, "{ty}: {a} became {b}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "are not a row of 33 q4_0 values")]
    fn a_partial_block_is_refused() {
        dequantize(TensorType::Q4_0, &[0; 18], &mut [0.0; 33]);
    }

    #[test]
    #[should_panic(expected = "f16 has no Int8 dot")]
    fn a_float_row_has_no_int8_dot() {
        let x = act::Acts::new(1, 32);
        dot_int8(TensorType::F16, &[0; 64], x.row(0));
    }
}
