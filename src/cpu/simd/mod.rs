//! Kernels by instruction-set level, all with the bits of the scalar truth in [`crate::quant`].
//!
//! [`Kernels`] is the table of a level. The Int8 kernels are written once over an instruction set (`isa`) with
//! an output row in each lane, those of attention over vectors of floats (`lanes`); the Float kernels, and whatever
//! `multiversion!` compiles, are plain loops.
//!
//! # What the fixed order costs
//!
//! A row is summed in one `f32` accumulator, block by block, so that its bits depend on nothing but the row and
//! the activations. The usual order keeps eight partial sums a row instead. `cargo bench --bench kernels --
//! order` measures one against the other, in turns, one thread, with the same prefetch. Best of 101 rounds on
//! a 2-core Zen 4 VM shared with other work, in GB/s of weights, two runs (of which the ratios are given):
//!
//! | type | shape | fixed | free | fixed / free |
//! |---|---|---|---|---|
//! | q4_0 | 576×1536 | 29.9 | 14.9 | 2.01, 2.01 |
//! | q4_1 | 576×1536 | 31.2 | 15.9 | 1.97, 1.98 |
//! | q8_0 | 576×1536 | 47.2 | 37.7 | 1.24, 1.25 |
//! | q4_0 | 49152×576 | 28.4 | 13.9 | 2.04, 2.05 |
//! | q4_1 | 49152×576 | 28.9 | 14.6 | 1.98, 2.02 |
//! | q8_0 | 49152×576 | 30.6 | 32.5 | 0.92, 0.94 |
//!
//! Expected was a cost of at most 5 %: both orders read the same bytes, and summing the lanes of four vectors
//! into rows takes nine instructions. In fact rows in lanes are the faster way to compute, since scales are
//! converted and multiplied for all rows of a group at once. Only Q8_0 from beyond the second-level cache is
//! slower, by 6 to 8 %, as it reads eight rows side by side where the other order reads two. Decision: one order
//! for all kernels.

#[cfg(target_arch = "x86_64")]
mod amx;
pub(super) mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod dots;
mod expand;
mod float;
#[cfg(target_arch = "x86_64")]
mod format;
mod half;
#[cfg(target_arch = "x86_64")]
mod int8;
#[cfg(target_arch = "x86_64")]
mod isa;
mod kernels;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod level;
pub(super) mod limits;
mod line;
mod prefetch;
mod q8;
mod scalar;
mod vector;
mod view;

pub use expand::{Shrunk, Tiles};
pub use kernels::{Kernels, Scratch};
pub(crate) use level::multiversion;
pub use level::{LEVEL_VARIABLE, Level};
pub use line::{LINE, Line, lines};
pub use prefetch::prefetch;
pub use view::{Cell, Columns, Grid, Rows, Strided};
