//! cotvalve: a GGUF inference engine whose low-rank *valve* sets how long a model thinks.

pub mod backend;
pub mod chat;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod engine;
pub mod error;
pub mod gguf;
mod kv;
pub mod map;
pub mod model;
pub mod quant;
pub mod rng;
pub mod sampler;
pub mod tensor;
pub mod tokenizer;
pub mod valve;
