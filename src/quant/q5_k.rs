//! Q5_K: `{ f16 d; f16 dmin; u8 scales[12]; u8 qh[32]; u8 qs[128] }`: Q4_K with a fifth bit; bit j of `qh[i]` is
//! that of value i of sub-block j. Layout: ggml's `block_q5_K`.

use super::BLOCK;
use super::act::ActRow;
use super::k::{self, SUPER};

/// Bytes of a block, where its fifth bits begin, and where its quants do.
const BYTES: usize = 176;
const HIGH: usize = 16;
const QUANTS: usize = 48;

/// The quants of values 32j..32j + 32, 0..32 each.
#[inline(always)]
pub(crate) fn quants(block: &[u8; BYTES], j: usize) -> [u8; BLOCK] {
    let high: &[u8; BLOCK] = block[HIGH..].first_chunk().expect("32 bytes");
    let bytes: &[u8; BLOCK] = block[QUANTS + BLOCK * (j / 2)..].first_chunk().expect("32 bytes");
    let shift = 4 * (j % 2);
    std::array::from_fn(|i| bytes[i] >> shift & 15 | (high[i] >> j & 1) << 4)
}

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    k::dequantize::<BYTES>(src, dst, quants);
}

pub(super) fn encode(src: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
    k::encode_blocks::<BYTES>(src, importance, dst, |x, importance, block| {
        let quants = k::encode(x, importance, 31, block);
        block[HIGH..].fill(0);
        for (at, q) in quants.into_iter().enumerate() {
            let (j, i) = (at / BLOCK, at % BLOCK);
            block[HIGH + i] |= q >> 4 << j;
            block[QUANTS + j / 2 * BLOCK + i] |= (q & 15) << (4 * (j % 2));
        }
    });
}

/// As [`k::dot`] says.
pub(super) fn dot(row: &[u8], x: ActRow<'_>) -> f32 {
    k::dot::<BYTES>(row, x, quants)
}

const _: () = assert!(BYTES == QUANTS + SUPER / 2 && QUANTS == HIGH + SUPER / 8);
