//! What the types share whose nibbles are places in a table of sixteen levels: value = step·level. The low nibbles
//! of 16 bytes are values 0..16, the high ones 16..32.

use super::BLOCK;

/// Bytes of 32 nibbles.
pub(super) const BYTES: usize = BLOCK / 2;

/// The nibbles of a block that ends with them.
#[inline(always)]
pub(super) fn nibbles(block: &[u8]) -> &[u8; BYTES] {
    block.last_chunk().expect("a block holds its nibbles")
}

#[inline(always)]
fn level(levels: &[i8; 16], nibble: u8) -> i8 {
    levels[usize::from(nibble & 15)]
}

/// step·level of every value.
#[inline(always)]
pub(super) fn dequantize(levels: &[i8; 16], step: f32, bytes: &[u8; BYTES], out: &mut [f32; BLOCK]) {
    let values = levels.map(|level| f32::from(level) * step);
    for (i, byte) in bytes.iter().enumerate() {
        out[i] = values[usize::from(byte & 15)];
        out[BYTES + i] = values[usize::from(byte >> 4)];
    }
}

/// Σ level·q_x.
pub(super) fn dot(levels: &[i8; 16], bytes: &[u8; BYTES], x: &[i8; BLOCK]) -> i32 {
    let (first, second) = x.split_at(BYTES);
    let products = bytes.iter().zip(first).zip(second).map(|((byte, a), b)| {
        i32::from(level(levels, *byte)) * i32::from(*a) + i32::from(level(levels, byte >> 4)) * i32::from(*b)
    });
    products.sum()
}
