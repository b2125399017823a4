//! Weights as the kernels read them: the planes that the heads of kernels/types*.cuh describe.

use super::BLOCK;
use crate::quant::k::{SUBS, scale_and_minimum, two_bits};
use crate::quant::{five_bits, iq4_xs, put_nibbles, q3_k, q4_k, q5_k, q6_k};
use crate::tensor::TensorType;
use std::borrow::Cow;

/// A weight's planes; one that its type has no use for is empty.
#[derive(Default)]
pub(super) struct Planes<'a> {
    pub quants: Cow<'a, [u8]>,
    pub high: Vec<u8>,
    pub scales: Vec<u8>,
}

impl<'a> Planes<'a> {
    /// Those of the blocks of a file.
    pub fn of(ty: TensorType, data: &'a [u8]) -> Self {
        let mut to = Made::default();
        let blocks = data.chunks_exact(ty.block_bytes());
        match ty {
            TensorType::F32 | TensorType::F16 | TensorType::BF16 => {
                return Self { quants: Cow::Borrowed(data), ..Self::default() };
            }
            TensorType::Q8_0 | TensorType::Q4_0 => blocks.for_each(|b| to.plain(b, 2)),
            TensorType::Q4_1 => blocks.for_each(|b| to.plain(b, 4)),
            TensorType::Q5_0 => blocks.for_each(|b| to.five_bits(b, 2)),
            TensorType::Q5_1 => blocks.for_each(|b| to.five_bits(b, 4)),
            TensorType::Q4K => blocks.for_each(|b| to.k(b, |j| q4_k::quants(whole(b), j), false)),
            TensorType::Q5K => blocks.for_each(|b| to.k(b, |j| q5_k::quants(whole(b), j), true)),
            TensorType::Q6K => blocks.for_each(|b| to.q6_k(whole(b))),
            TensorType::Iq4Nl => blocks.for_each(|b| to.table(b, 2)),
            TensorType::Mxfp4 => blocks.for_each(|b| to.table(b, 1)),
            TensorType::Iq4Xs => blocks.for_each(|b| to.iq4_xs(whole(b))),
            TensorType::Q2K => blocks.for_each(|b| to.q2_k(whole(b))),
            TensorType::Q3K => blocks.for_each(|b| to.q3_k(whole(b))),
        }
        to.scales.append(&mut to.steps);
        Self { quants: Cow::Owned(to.quants), high: to.high, scales: to.scales }
    }
}

/// Planes in the making.
#[derive(Default)]
struct Made {
    quants: Vec<u8>,
    high: Vec<u8>,
    scales: Vec<u8>,
    /// What comes behind the scales of all rows.
    steps: Vec<u8>,
}

/// A block whose length its type gives.
fn whole<const BYTES: usize>(block: &[u8]) -> &[u8; BYTES] {
    block.first_chunk().expect("a block of its type's length")
}

/// The fifth bit of 32 values: of value 4i + j at 8j + i, of value 16 + 4i + j at 8j + i + 4.
fn fifth_bits(values: &[u8; BLOCK]) -> u32 {
    let place = |v: usize| 8 * (v % 4) + v % 16 / 4 + v / 16 * 4;
    (0..BLOCK).map(|v| u32::from(values[v] >> 4 & 1) << place(v)).sum()
}

impl Made {
    /// `{ head; quants }`, both as they are.
    fn plain(&mut self, block: &[u8], head: usize) {
        self.scales.extend_from_slice(&block[..head]);
        self.quants.extend_from_slice(&block[head..]);
    }

    /// The low four bits of 32 values: value i in the low nibble of byte i, value i + 16 in its high one.
    fn nibbles(&mut self, values: [u8; BLOCK]) {
        let end = self.quants.len();
        self.quants.resize(end + BLOCK / 2, 0);
        put_nibbles(values, &mut self.quants[end..]);
    }

    /// `{ head; u32 fifth bits; nibbles }`
    fn five_bits(&mut self, block: &[u8], head: usize) {
        let values = five_bits(whole(&block[head..]));
        self.scales.extend_from_slice(&block[..head]);
        self.high.extend(fifth_bits(&values).to_le_bytes());
        self.nibbles(values);
    }

    /// `{ f16 d; f16 dmin; scales[12]; ... }`, whose sub-block j has the values `quants(j)`.
    fn k(&mut self, block: &[u8], quants: impl Fn(usize) -> [u8; BLOCK], fifth: bool) {
        self.scales.extend_from_slice(&block[..4]);
        let mut packed = 0u128;
        for j in 0..SUBS {
            let (scale, minimum) = scale_and_minimum(whole(&block[4..]), j);
            packed |= u128::from(u16::from(scale) | u16::from(minimum) << 6) << (12 * j);
            let values = quants(j);
            self.nibbles(values);
            if fifth {
                self.high.extend(fifth_bits(&values).to_le_bytes());
            }
        }
        self.scales.extend(&packed.to_le_bytes()[..12]);
    }

    /// `{ low[128]; high[64]; i8 scales[16]; f16 d }`
    fn q6_k(&mut self, block: &[u8; 210]) {
        for j in 0..SUBS {
            let values = q6_k::quants(block, j);
            self.nibbles(values);
            for half in values.as_chunks::<{ BLOCK / 2 }>().0 {
                let bits = |v: usize| u32::from(half[v] >> 4) << (8 * (v % 4) + v / 4 * 2);
                self.high.extend((0..BLOCK / 2).map(bits).sum::<u32>().to_le_bytes());
            }
        }
        self.scales.extend_from_slice(&block[192..208]);
        self.steps.extend_from_slice(&block[208..]);
    }

    /// The low two bits of 64 values: of value 16k + i at bits 2k of byte i.
    fn two_bits(&mut self, values: [[u8; BLOCK]; 2]) {
        let value = |k: usize, i: usize| values[k / 2][k % 2 * (BLOCK / 2) + i] & 3;
        let byte = |i: usize| (0..4).map(|k| value(k, i) << (2 * k)).sum::<u8>();
        self.quants.extend((0..BLOCK / 2).map(byte));
    }

    /// `{ u8 scales[16]; quants[64]; f16 d; f16 dmin }`
    fn q2_k(&mut self, block: &[u8; 84]) {
        for j in (0..SUBS).step_by(2) {
            self.two_bits([j, j + 1].map(|j| two_bits(&block[16..80], j)));
        }
        self.scales.extend_from_slice(&block[..16]);
        self.steps.extend_from_slice(&block[80..]);
    }

    /// `{ high[32]; quants[64]; scales[12]; f16 d }`
    fn q3_k(&mut self, block: &[u8; 110]) {
        self.steps.extend_from_slice(&block[108..]);
        for j in (0..SUBS).step_by(2) {
            let values = [j, j + 1].map(|j| q3_k::quants(block, j));
            self.two_bits(values);
            for values in values {
                self.high.extend(fifth_bits(&values.map(|q| q >> 2 << 4)).to_le_bytes());
            }
            let scale = |k: usize| q3_k::stored_scale(block, 2 * j + k);
            let low: u16 = (0..4).map(|k| u16::from(scale(k) & 15) << (4 * k)).sum();
            self.scales.extend(low.to_le_bytes());
            self.steps.push((0..4).map(|k| scale(k) >> 4 << (2 * k)).sum());
        }
    }

    /// `{ head; nibbles }` whose nibbles are places in a table.
    fn table(&mut self, block: &[u8], head: usize) {
        self.scales.extend_from_slice(&block[..head]);
        self.places(&block[head..]);
    }

    /// `{ f16 d; u16 high; u8 low[4]; nibbles[8][16] }`
    fn iq4_xs(&mut self, block: &[u8; 136]) {
        let scale = |j: usize| u64::from(iq4_xs::scale_index(block, j)) << (16 + 6 * j);
        let scales: u64 = (0..SUBS).map(scale).sum();
        let d = u64::from(u16::from_le_bytes([block[0], block[1]]));
        self.scales.extend((scales | d).to_le_bytes());
        block[8..].chunks_exact(BLOCK / 2).for_each(|nibbles| self.places(nibbles));
    }

    /// Sixteen bytes of nibbles, so that each word has four neighbouring values in each half.
    fn places(&mut self, nibbles: &[u8]) {
        for four in nibbles.chunks_exact(4) {
            let first: u32 = four.iter().enumerate().map(|(k, b)| u32::from(b & 15) << (4 * k)).sum();
            let last: u32 = four.iter().enumerate().map(|(k, b)| u32::from(b >> 4) << (4 * k)).sum();
            self.quants.extend((first | last << 16).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::project::types;

    /// That the values are the same is seen where the kernels read them (tests/cuda_device.rs).
    #[test]
    fn planes_take_the_bytes_of_the_file() {
        for ty in types() {
            let data: Vec<u8> = (0..6 * ty.block_bytes()).map(|i| (i * 7 % 251) as u8).collect();
            let Planes { quants, high, scales } = Planes::of(ty, &data);
            assert_eq!(quants.len() + high.len() + scales.len(), data.len(), "{ty}");
        }
    }

    #[test]
    fn fifth_bits_lie_where_one_shift_finds_four() {
        for v in 0..BLOCK {
            let mut values = [0; BLOCK];
            values[v] = 16;
            let word = fifth_bits(&values);
            let (i, j) = (v % 16 / 4, v % 4);
            let shift = if v < 16 { i } else { i + 4 };
            assert_eq!(word >> shift & 0x0101_0101, 1 << (8 * j), "value {v}");
        }
    }
}
