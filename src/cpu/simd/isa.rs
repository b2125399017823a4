//! What the Int8 kernels ask of an instruction set.

use super::format::Format;
use super::int8::{Buffers, Outputs, Panel};
use super::view::{Rows, Strided};
use crate::quant::act::{ActRow, Acts};

/// The instructions of a level, as far as the Int8 kernels in `int8` use them. A group of `LANES` weight rows
/// is computed at a time, an output row in each 32-bit lane.
///
/// # Safety
/// Every method needs the features of the level, and pointers that are valid for the bytes it says it reads
/// or writes; no alignment is asked for.
pub(super) trait Isa: Copy {
    /// 32-bit lanes of a vector: the weight rows of a group.
    const LANES: usize;
    /// Groups that many activation rows meet at a time, 1 or 2: as many as the registers hold sums for.
    const GROUPS: usize;
    /// What [`Isa::operand`] adds to a signed weight.
    const BIAS: i32;
    /// `4 · LANES` bytes; in terms of 16-byte parts, `LANES / 4` of them.
    type Bytes: Copy;
    /// `LANES` × `i32`, or sums on the way there.
    type Ints: Copy;
    /// `LANES` × `f32`.
    type Floats: Copy;

    /// 16 bytes of every fourth row: part j is read at `p + 4·j·stride`.
    unsafe fn load_rows(p: *const u8, stride: usize) -> Self::Bytes;
    /// `4 · LANES` bytes.
    unsafe fn load(p: *const u8) -> Self::Bytes;
    /// Stores `4 · LANES` bytes.
    unsafe fn store(p: *mut u8, v: Self::Bytes);
    /// The 16 bytes at `p` in every part.
    unsafe fn splat_16(p: *const i8) -> Self::Bytes;
    /// The 4 bytes at `p` in every lane.
    unsafe fn splat_4(p: *const i8) -> Self::Bytes;
    /// Of every byte the bits from `from` on, as many as `mask` has: `byte >> from & mask`.
    unsafe fn bits(v: Self::Bytes, from: usize, mask: u8) -> Self::Bytes;
    /// `low | high << at` for every byte; the bits of `high` stay inside it.
    unsafe fn join_bits(low: Self::Bytes, high: Self::Bytes, at: usize) -> Self::Bytes;
    /// The 16 bits at `p + 4·j·stride`, as the bytes 0 and 1 of part j.
    unsafe fn load_bits(p: *const u8, stride: usize) -> Self::Bytes;
    /// Signed weights in the form in which the products below take them: each plus [`Isa::BIAS`].
    unsafe fn operand(v: Self::Bytes) -> Self::Bytes;
    /// Byte `v` of the part of `table`, for every byte of a part; those of `v` are 0..16.
    unsafe fn lookup(table: Self::Bytes, v: Self::Bytes) -> Self::Bytes;
    /// 4 × 4 transpose of the dwords of four vectors, in every part: lane k of result j is lane j of `v[k]`.
    unsafe fn transpose(v: [Self::Bytes; 4]) -> [Self::Bytes; 4];

    /// Σ of four products in every lane.
    unsafe fn dot<F: Format>(w: Self::Bytes, x: Self::Bytes) -> Self::Ints;
    /// Σ of four products in every lane, over both pairs of vectors.
    unsafe fn dot_pair<F: Format>(w: [Self::Bytes; 2], x: [Self::Bytes; 2]) -> Self::Ints;
    /// Lane k of part j of the result = Σ of the four lanes of part j of `v[k]`.
    unsafe fn sum_lanes(v: [Self::Ints; 4]) -> Self::Ints;

    /// Opens a sum over the quads of a block or half of one, which [`Isa::close`] turns into numbers.
    unsafe fn open<F: Format>(offset: i32) -> Self::Ints;
    /// Adds Σ of four products in every lane.
    unsafe fn dot_quad<F: Format>(sum: Self::Ints, w: Self::Bytes, x: Self::Bytes) -> Self::Ints;
    /// The sum with `offset`, which `open` was given too, in it once.
    unsafe fn close<F: Format>(sum: Self::Ints, offset: i32) -> Self::Ints;

    unsafe fn splat_i32(v: i32) -> Self::Ints;
    unsafe fn add_i32(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    unsafe fn mul_i32(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// The low 16 bits of both, those of `low` in the low half of every lane.
    unsafe fn pair_i16(low: Self::Ints, high: Self::Ints) -> Self::Ints;
    /// Σ of two products of `i16` in every lane.
    unsafe fn dot_i16(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// The same, added to `sum`.
    unsafe fn add_dot_i16(sum: Self::Ints, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    unsafe fn or_i32(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// `v >> from & mask`, unsigned.
    unsafe fn bits_i32(v: Self::Ints, from: usize, mask: i32) -> Self::Ints;
    /// Byte `k` of every lane, signed.
    unsafe fn byte_i32(v: Self::Ints, k: usize) -> Self::Ints;
    /// The 4 bytes at `p + k·stride` in lane k.
    unsafe fn load_words(p: *const u8, stride: usize) -> Self::Ints;
    unsafe fn load_i32(p: *const i32) -> Self::Ints;
    unsafe fn store_i32(p: *mut i32, v: Self::Ints);
    unsafe fn to_f32(v: Self::Ints) -> Self::Floats;
    /// 2^(v − 128) for v in 0..=255, of which the two smallest are subnormal.
    unsafe fn power(v: Self::Ints) -> Self::Floats;

    /// Two F16 values of every row as `f32`: lane k is read at `p + k·stride` and two bytes later.
    unsafe fn load_scales(p: *const u8, stride: usize) -> [Self::Floats; 2];
    unsafe fn load_f32(p: *const f32) -> Self::Floats;
    unsafe fn store_f32(p: *mut f32, v: Self::Floats);
    unsafe fn splat_f32(v: f32) -> Self::Floats;
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a·b + c, rounded once.
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;

    /// [`super::int8::few`], compiled for this level.
    unsafe fn few<F: Format, const M: usize>(w: &Rows<'_>, x: [ActRow<'_>; M], y: &mut Strided<'_>);
    /// [`super::int8::many`], or what is faster at this level.
    unsafe fn many<F: Format>(w: &Rows<'_>, x: &Acts, y: &mut Strided<'_>, buffers: &mut Buffers);
    /// [`super::int8::pack_weights`], compiled for this level.
    unsafe fn pack_weights<F: Format>(w: [*const u8; 2], stride: usize, blocks: usize, tile: *mut u8);
    /// [`super::int8::tile`], compiled for this level.
    unsafe fn tile<F: Format, const G: usize>(
        tile: *const u8,
        panel: Panel,
        blocks: usize,
        out: Outputs,
        ahead: Option<[*const u8; G]>,
        first: bool,
    );
}
