//! Kernels by instruction-set level, all with the bits of the scalar truth in [`crate::quant`].

mod float;
mod kernels;
mod level;
mod scalar;
mod view;

pub use kernels::{Kernels, Scratch};
pub use level::{LEVEL_VARIABLE, Level, at_level};
pub use view::{Columns, Rows, Strided};
