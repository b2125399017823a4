//! Kernels by instruction-set level, all with the bits of the scalar truth in [`crate::quant`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod float;
#[cfg(target_arch = "x86_64")]
mod int8;
#[cfg(target_arch = "x86_64")]
mod isa;
mod kernels;
mod level;
mod scalar;
mod view;

pub use kernels::{Kernels, Scratch};
pub(crate) use level::multiversion;
pub use level::{LEVEL_VARIABLE, Level};
pub use view::{Columns, Rows, Strided};
