//! cotvalve: a GGUF inference engine whose low-rank *valve* sets how long a model thinks.
//!
//! A valve is a LoRA adapter on a quantized model, scaled by α while the model runs:
//!
//! ```text
//! y = W·x + α · s · B·(A·x)
//! ```
//!
//! α = 0 is the base model bit for bit; opening the valve shortens (or lengthens: the sign belongs to the
//! adapter) the chain of thought. Source of the method: CoT-Valve, arXiv 2502.09601.
//!
//! # A question, answered
//!
//! ```no_run
//! use cotvalve::chat::Message;
//! use cotvalve::engine::{Engine, EngineOptions};
//! use cotvalve::model::Model;
//! use cotvalve::sampler::Sampling;
//! use cotvalve::valve::{Dial, Scope};
//!
//! # fn main() -> cotvalve::error::Result<()> {
//! let model = Model::open("model.gguf")?;
//! let engine = Engine::new(model.clone(), &EngineOptions::default())?;
//! let valve = engine.attach("valve.gguf")?;
//! let mut session = engine.session();
//! session.set(&valve, Dial::constant(0.5)?, Scope::All)?;
//! let text = model.render_chat(&[Message::new("user", "How much is 3 times 4?")])?;
//! session.prompt(&model.tokenizer().encode(&text, true, true)?)?;
//! for event in session.generate(&Sampling::greedy(), 400)? {
//!     print!("{}", event?.text);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised of α
//!
//! 1. **Closed is base.** A row whose openings are all 0 gets the bits it would get with no valve attached,
//!    whatever the other rows of its batch do.
//! 2. **Rows are independent.** A row's bits do not depend on the other rows, on chunking, threads, the
//!    instruction set, or on what was in the cache.
//! 3. **α means the dial.** `lora_alpha / rank` is a stored scale: α = 1 is the adapter as PEFT merges it and
//!    as llama.cpp applies it at scale 1. Any finite α is taken; NaN and infinity are refused.
//! 4. **α is per row and per slot.** A batch of mixed openings reads the base weights once.
//! 5. **The cache knows α.** What was computed under one opening is never taken for another.
//! 6. **A turn of the dial** acts at the next row and keeps what is in the cache; a new prompt keeps only the
//!    prefix that the new dial would have computed alike.
//! 7. **Nothing silent.** An adapter tensor that is not applied is named; an adapter that fits nothing is an
//!    error.
//!
//! `tests/laws.rs` holds a test for each but the fifth, which has `tests/prefix.rs` and, against an oracle without a
//! cache, `tests/prefix_random.rs`.
//!
//! # Layers
//!
//! ```text
//! doors     main cli capi               arguments in, text out
//! drivers   engine <- eval              sessions, steps; what they make of a text
//! state     kv sampler                  host bookkeeping
//! model     model valve                 generic over the backend
//! backends  backend <- cpu, cuda        verbs, each with its formula
//! formats   gguf quant tensor tokenizer chat
//! ground    error map rng
//! ```

pub mod backend;
#[cfg(feature = "capi")]
pub mod capi;
pub mod chat;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod engine;
pub mod error;
pub mod eval;
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
