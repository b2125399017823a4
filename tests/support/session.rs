//! Sessions of the tiny model.

use super::gguf_fixture::{tiny_adapter, tiny_llama};
use super::stage::parse;
use cotvalve::backend::Precision;
use cotvalve::engine::{Engine, EngineOptions, Generation, Session, Valve};
use cotvalve::error::Result;
use cotvalve::model::Model;
use cotvalve::tensor::TensorType;
use cotvalve::valve::{Adapter, Dial};

const MODEL_SEED: u64 = 3;

pub fn model() -> Vec<u8> {
    tiny_llama(MODEL_SEED, TensorType::F32)
}

/// An adapter on an attention and a feed-forward projection.
pub fn adapter(seed: u64) -> Vec<u8> {
    tiny_adapter(seed, 4, TensorType::F32, &["blk.0.attn_q.weight", "blk.1.ffn_down.weight"])
}

/// Steps of at most 8 rows.
pub fn engine(sessions: usize, context: usize) -> Engine {
    let precision = Precision::Float;
    engine_with(&EngineOptions { threads: 2, context, sessions, batch: 8, precision, ..EngineOptions::default() })
}

pub fn engine_with(options: &EngineOptions) -> Engine {
    Engine::new(Model::new(parse("tiny.gguf", model())).unwrap(), options).unwrap()
}

pub fn attach(engine: &Engine, seed: u64) -> Valve {
    let file = parse("tiny.gguf", adapter(seed));
    engine.attach_adapter(Adapter::read(&file, engine.model().config(), false).unwrap()).unwrap()
}

/// Ordinary tokens: none ends a generation.
pub fn text(n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32).map(|i| 3 + (i * 37 + seed * 101) % 250).collect()
}

pub fn dial(alpha: f32) -> Dial {
    Dial::constant(alpha).unwrap()
}

pub fn tokens(generation: &mut Generation<'_>) -> Result<Vec<u32>> {
    generation.map(|event| event.map(|e| e.token)).collect()
}

/// The bits of the logits after the last token of a prompt.
pub fn score(session: &mut Session, prompt: &[u32]) -> Vec<u32> {
    session.prompt(prompt).unwrap();
    let mut last = Vec::new();
    session
        .score(|_, logits| {
            last = logits.iter().map(|l| l.to_bits()).collect();
            Ok(())
        })
        .unwrap();
    last
}
