//! What the Int8 kernels ask of an instruction set, and what they need to know of a block format.

use super::int8::Outputs;
use super::view::{Rows, Strided};
use crate::quant::act::ActRow;

/// The instructions of a level, as far as the Int8 kernels in `int8` use them. A group of `LANES` weight rows
/// is computed at a time, an output row in each 32-bit lane.
///
/// # Safety
/// Every method needs the features of the level, and pointers that are valid for the bytes it says it reads
/// or writes; no alignment is asked for.
pub(super) trait Isa {
    /// 32-bit lanes of a vector: the weight rows of a group.
    const LANES: usize;
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
    /// The low and the high nibble of every byte.
    unsafe fn nibbles(v: Self::Bytes) -> [Self::Bytes; 2];
    /// Signed weights in the form in which the products below take them: each plus [`Isa::BIAS`].
    unsafe fn operand(v: Self::Bytes) -> Self::Bytes;
    /// 4 × 4 transpose of the dwords of four vectors, in every part: lane k of result j is lane j of `v[k]`.
    unsafe fn transpose(v: [Self::Bytes; 4]) -> [Self::Bytes; 4];

    /// Σ of four products in every lane, over both pairs of vectors.
    unsafe fn dot_pair<F: Format>(w: [Self::Bytes; 2], x: [Self::Bytes; 2]) -> Self::Ints;
    /// Lane k of part j of the result = Σ of the four lanes of part j of `v[k]`.
    unsafe fn sum_lanes(v: [Self::Ints; 4]) -> Self::Ints;

    /// Opens a sum over the eight quads of a block, which [`Isa::close`] turns into numbers.
    unsafe fn open<F: Format>(offset: i32) -> Self::Ints;
    /// Adds Σ of four products in every lane.
    unsafe fn dot_quad<F: Format>(sum: Self::Ints, w: Self::Bytes, x: Self::Bytes) -> Self::Ints;
    /// The sum with `offset`, which `open` was given too, in it once.
    unsafe fn close<F: Format>(sum: Self::Ints, offset: i32) -> Self::Ints;

    unsafe fn splat_i32(v: i32) -> Self::Ints;
    unsafe fn add_i32(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    unsafe fn to_f32(v: Self::Ints) -> Self::Floats;

    /// Two F16 values of every row as `f32`: lane k is read at `p + k·stride` and two bytes later.
    unsafe fn load_scales(p: *const u8, stride: usize) -> [Self::Floats; 2];
    unsafe fn load_f32(p: *const f32) -> Self::Floats;
    unsafe fn store_f32(p: *mut f32, v: Self::Floats);
    unsafe fn splat_f32(v: f32) -> Self::Floats;
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a·b + c, rounded once.
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// Asks for the cache line at `p`, which may be any address, to come to the first-level cache.
    unsafe fn prefetch_near(p: *const u8);
    /// Asks for the cache line at `p`, which may be any address, to come to the second-level cache.
    unsafe fn prefetch_far(p: *const u8);

    /// [`super::int8::few`], compiled for this level.
    unsafe fn few<F: Format, const M: usize>(w: &Rows<'_>, x: [ActRow<'_>; M], y: &mut Strided<'_>);
    /// [`super::int8::pack_weights`], compiled for this level.
    unsafe fn pack_weights<F: Format>(w: *const u8, stride: usize, blocks: usize, tile: *mut u8);
    /// [`super::int8::tile`], compiled for this level.
    unsafe fn tile<F: Format, const R: usize>(tile: *const u8, panel: *const u8, blocks: usize, out: Outputs);
}

/// What the kernels need to know of a block format of 32 values. Its scale is the F16 at its start.
pub(super) trait Format {
    /// Bytes of a block.
    const BYTES: usize;
    /// Where the quants begin.
    const QUANTS: usize;
    /// Whether quants are unsigned nibbles, two a byte (values 0..16 low, 16..32 high), or signed bytes.
    const NIBBLES: bool;
    /// Whether an F16 minimum follows the scale.
    const MINIMUM: bool;
    /// What the stored nibble exceeds the quant by.
    const EXCESS: i32;
}

pub(super) struct Q4_0;
pub(super) struct Q4_1;
pub(super) struct Q8_0;

impl Format for Q4_0 {
    const BYTES: usize = 18;
    const QUANTS: usize = 2;
    const NIBBLES: bool = true;
    const MINIMUM: bool = false;
    const EXCESS: i32 = 8;
}

impl Format for Q4_1 {
    const BYTES: usize = 20;
    const QUANTS: usize = 4;
    const NIBBLES: bool = true;
    const MINIMUM: bool = true;
    const EXCESS: i32 = 0;
}

impl Format for Q8_0 {
    const BYTES: usize = 34;
    const QUANTS: usize = 2;
    const NIBBLES: bool = false;
    const MINIMUM: bool = false;
    const EXCESS: i32 = 0;
}
