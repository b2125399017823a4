//! Q4_K: `{ f16 d; f16 dmin; u8 scales[12]; u8 qs[128] }`, eight sub-blocks of 32; value = d·s·q − dmin·m.
//! Sub-block 2c has the low nibbles of bytes 32c..32c + 32 of `qs`, sub-block 2c + 1 their high nibbles.
//! Layout: ggml's `block_q4_K`.

use super::BLOCK;
use super::act::ActRow;
use super::k::{self, SUBS, SUPER};

/// Bytes of a block, and where its quants begin.
const BYTES: usize = 144;
const QUANTS: usize = 16;

/// The quants of values 32j..32j + 32, 0..16 each.
#[inline(always)]
pub(crate) fn quants(block: &[u8; BYTES], j: usize) -> [u8; BLOCK] {
    let bytes: &[u8; BLOCK] = block[QUANTS + BLOCK * (j / 2)..].first_chunk().expect("32 bytes");
    let shift = 4 * (j % 2);
    bytes.map(|b| b >> shift & 15)
}

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    k::dequantize::<BYTES>(src, dst, quants);
}

pub(super) fn encode(src: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
    k::encode_blocks::<BYTES>(src, importance, dst, |x, importance, block| {
        let quants = k::encode(x, importance, 15, block);
        for (i, byte) in block[QUANTS..].iter_mut().enumerate() {
            let low = i / BLOCK * 2 * BLOCK + i % BLOCK;
            *byte = quants[low] | quants[low + BLOCK] << 4;
        }
    });
}

/// As [`k::dot`] says.
pub(super) fn dot(row: &[u8], x: ActRow<'_>) -> f32 {
    k::dot::<BYTES>(row, x, quants)
}

const _: () = assert!(BYTES == QUANTS + SUPER / 2 && SUBS == 8);
