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

pub mod act;
