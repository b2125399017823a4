//! cotvalve: a GGUF inference engine whose low-rank *valve* sets how long a model thinks.

pub mod cpu;
pub mod error;
pub mod gguf;
pub mod map;
pub mod quant;
pub mod tensor;
