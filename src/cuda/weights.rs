//! Weights and low-rank terms in the layouts that the kernels read, which the heads of matvec.cu and expand.cuh
//! describe.

use super::Device;
use super::planes::Planes;
use crate::backend::Term;
use crate::error::{Error, Result};
use crate::quant;
use crate::tensor::{Tensor, TensorType};
use cudarc::driver::CudaSlice;
use std::borrow::Cow;

/// Values in a quantization block.
const BLOCK: usize = 32;
/// Outputs in a tile of B: a warp.
const TILE: usize = 32;
/// Most columns of u over all terms of a fan.
const MAX_RANKS: usize = 1 << 16;

/// One weight of a fan, in planes.
pub(super) struct Weight {
    pub ty: TensorType,
    pub n_out: usize,
    pub quants: CudaSlice<u8>,
    pub high: CudaSlice<u8>,
    pub scales: CudaSlice<u8>,
}

/// Weights `[n_in, n_out_i]` that read the same x.
pub struct Fan {
    pub(super) weights: Vec<Weight>,
    pub(super) n_in: usize,
}

/// B of every term on one output, side by side.
pub(super) struct Expansion {
    /// Empty where no term adds to this output.
    pub b: CudaSlice<u8>,
    pub b_is_f32: bool,
    /// `[rank]`: the column of u for each column of b.
    pub columns: CudaSlice<u32>,
    pub rank: usize,
    pub n_out: usize,
}

/// Every low-rank term on a fan.
pub struct Delta {
    /// A of all terms, one below the other: `[rank, n_in]`.
    pub(super) a: CudaSlice<u8>,
    pub(super) a_is_f32: bool,
    /// `[rank]` each.
    pub(super) scale: CudaSlice<f32>,
    pub(super) slot: CudaSlice<u32>,
    pub(super) rank: usize,
    pub(super) n_in: usize,
    /// One more than the highest slot.
    pub(super) slots: usize,
    /// By output of the fan; outputs past the end have no terms.
    pub(super) expansions: Vec<Option<Expansion>>,
}

impl Fan {
    pub(super) fn new(device: &Device, weights: &[&Tensor]) -> Result<Self> {
        let n_in = weights.first().map_or(0, |w| w.cols());
        if weights.is_empty() || weights.len() > super::args::MAX_PARTS || weights.iter().any(|w| w.cols() != n_in) {
            return Err(Error::argument("fan", "it takes one to four weights of one input width"));
        }
        let upload = |w: &&Tensor| {
            // A chunk of 16 bytes has 8 values of f16; the activations come in blocks.
            if !n_in.is_multiple_of(BLOCK) {
                return Err(device.unsupported(format_args!("weight {} of type {} and {n_in} inputs", w.name, w.ty)));
            }
            if w.rows() > i32::MAX as usize || n_in > i32::MAX as usize {
                return Err(device.unsupported(format_args!("weight {} of {} x {n_in}", w.name, w.rows())));
            }
            let Planes { quants, high, scales } = Planes::of(w.ty, &w.data);
            let [high, scales] = [device.upload(&high)?, device.upload(&scales)?];
            Ok(Weight { ty: w.ty, n_out: w.rows(), quants: device.upload(&quants)?, high, scales })
        };
        Ok(Self { weights: weights.iter().map(upload).collect::<Result<_>>()?, n_in })
    }
}

/// The elements of a matrix, little-endian: f16 as they are, else all as f32.
fn elements(t: &Tensor, as_f32: bool) -> Cow<'_, [u8]> {
    if !as_f32 {
        return Cow::Borrowed(&t.data);
    }
    let mut row = vec![0.0f32; t.cols()];
    let mut out = Vec::with_capacity(t.rows() * t.cols() * 4);
    for bytes in t.data.chunks_exact(t.row_bytes()) {
        quant::dequantize(t.ty, bytes, &mut row);
        out.extend(row.iter().flat_map(|v| v.to_le_bytes()));
    }
    Cow::Owned(out)
}

/// `[n_out, rank_t]` matrices side by side, in the tiles of expand.cuh.
fn tiles(matrices: &[(usize, Cow<'_, [u8]>)], n_out: usize, element_bytes: usize) -> Vec<u8> {
    let rank: usize = matrices.iter().map(|(r, _)| r).sum();
    let eighths = rank.div_ceil(8);
    let mut out = vec![0; n_out.div_ceil(TILE) * eighths * TILE * 8 * element_bytes];
    let mut first = 0;
    for (rank, bytes) in matrices {
        for (i, element) in bytes.chunks_exact(element_bytes).enumerate() {
            let (o, k) = (i / rank, first + i % rank);
            let at = (((o / TILE) * eighths + k / 8) * TILE + o % TILE) * 8 + k % 8;
            out[at * element_bytes..][..element_bytes].copy_from_slice(element);
        }
        first += rank;
    }
    out
}

impl Delta {
    pub(super) fn new(device: &Device, terms: &[Term<'_>]) -> Result<Self> {
        let rank: usize = terms.iter().map(|t| t.a.rows()).sum();
        let n_in = terms.first().map_or(0, |t| t.a.cols());
        for t in terms {
            if t.a.cols() != n_in || !n_in.is_multiple_of(BLOCK) || t.b.cols() != t.a.rows() {
                let shapes = format!("A {:?} and B {:?} of {} do not meet", t.a.dims, t.b.dims, t.a.name);
                return Err(Error::argument("delta", shapes));
            }
        }
        if rank > MAX_RANKS || terms.iter().any(|t| t.output >= super::args::MAX_PARTS) {
            return Err(Error::argument("delta", format!("{rank} ranks in all, or an output past the fourth")));
        }
        let a_is_f32 = terms.iter().any(|t| t.a.ty != TensorType::F16);
        let a: Vec<u8> = terms.iter().flat_map(|t| elements(t.a, a_is_f32).into_owned()).collect();
        let per_rank = |t: &Term<'_>| std::iter::repeat_n((t.scale, t.slot as u32), t.a.rows());
        let (scale, slot): (Vec<f32>, Vec<u32>) = terms.iter().flat_map(per_rank).unzip();
        let outputs = terms.iter().map(|t| t.output + 1).max().unwrap_or(0);
        let expansions = (0..outputs).map(|i| Expansion::new(device, terms, i)).collect::<Result<_>>()?;
        Ok(Self {
            a: device.copy(&a)?,
            a_is_f32,
            scale: device.copy(&scale)?,
            slot: device.copy(&slot)?,
            rank,
            n_in,
            slots: terms.iter().map(|t| t.slot + 1).max().unwrap_or(0),
            expansions,
        })
    }
}

impl Expansion {
    /// B of the terms on output `output`, or `None` where there are none.
    fn new(device: &Device, terms: &[Term<'_>], output: usize) -> Result<Option<Self>> {
        let mine = || terms.iter().filter(|t| t.output == output);
        let Some(n_out) = mine().next().map(|t| t.b.rows()) else { return Ok(None) };
        if mine().any(|t| t.b.rows() != n_out) {
            return Err(Error::argument("delta", format!("the terms of output {output} differ in size")));
        }
        let mut columns = Vec::new();
        let mut first = 0;
        for t in terms {
            let rank = t.a.rows();
            if t.output == output {
                columns.extend((first..first + rank).map(|c| c as u32));
            }
            first += rank;
        }
        let b_is_f32 = mine().any(|t| t.b.ty != TensorType::F16);
        let matrices: Vec<_> = mine().map(|t| (t.b.cols(), elements(t.b, b_is_f32))).collect();
        let b = tiles(&matrices, n_out, if b_is_f32 { 4 } else { 2 });
        let rank = columns.len();
        Ok(Some(Self { b: device.copy(&b)?, b_is_f32, columns: device.copy(&columns)?, rank, n_out }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::Bytes;

    #[test]
    fn tiles_put_each_element_where_the_kernel_looks_and_zero_the_rest() {
        let (n_out, ranks) = (33, [3, 7]);
        let value = |o: usize, k: usize| (100 * o + k + 1) as u16;
        let matrix = |first: usize, rank: usize| {
            let of = move |i: usize| value(i / rank, first + i % rank).to_le_bytes();
            (rank, Cow::Owned((0..n_out * rank).flat_map(of).collect::<Vec<u8>>()))
        };
        let out = tiles(&[matrix(0, ranks[0]), matrix(3, ranks[1])], n_out, 2);
        assert_eq!(out.len(), 2 * 2 * 32 * 8 * 2);
        for (at, bytes) in out.chunks(2).enumerate() {
            let (tile, eighth, lane, i) = (at / 512, at / 256 % 2, at / 8 % 32, at % 8);
            let (o, k) = (32 * tile + lane, 8 * eighth + i);
            let want = if o < n_out && k < 10 { value(o, k) } else { 0 };
            assert_eq!(u16::from_le_bytes([bytes[0], bytes[1]]), want, "output {o}, column {k}");
        }
    }

    #[test]
    fn a_matrix_that_is_not_f16_becomes_f32() {
        let data: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|v| v.to_bits().to_le_bytes()[2..].to_vec()).collect();
        let t = Tensor { name: "b".into(), ty: TensorType::BF16, dims: vec![2, 1], data: Bytes::from(data) };
        assert_eq!(*elements(&t, true), [1.5f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat());
    }
}
