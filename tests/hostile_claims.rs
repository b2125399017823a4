//! Model files whose keys claim more than the file holds, opened as a user opens a model: with the context it
//! states.

mod support;

use cotvalve::engine::{Engine, EngineOptions};
use cotvalve::error::{Error, Result};
use cotvalve::gguf::write::Writer;
use cotvalve::gguf::{Gguf, Value};
use cotvalve::map::Bytes;
use cotvalve::model::Model;
use cotvalve::sampler::Sampling;
use cotvalve::tensor::TensorType;
use std::path::Path;
use support::gguf_fixture::tiny_llama;

/// The tiny model with one key changed.
fn claim(key: &str, value: impl Into<Value>) -> Bytes {
    let path = Path::new("claim.gguf");
    let clean = Gguf::parse(path, Bytes::from(tiny_llama(31, TensorType::F16))).unwrap();
    let mut writer = Writer::new();
    writer.set_all(&clean).unwrap();
    writer.set(key, value).unwrap();
    for info in clean.tensors() {
        let tensor = clean.tensor(&info.name).unwrap().unwrap();
        writer.tensor(&info.name, tensor.ty as u32, &tensor.dims, tensor.data.to_vec()).unwrap();
    }
    Bytes::from(writer.to_bytes().unwrap())
}

fn think(file: Bytes, options: &EngineOptions) -> Result<()> {
    let model = Model::new(Gguf::parse(Path::new("claim.gguf"), file)?)?;
    let engine = Engine::new(model, options)?;
    let mut session = engine.session();
    session.prompt(&[7, 8, 9])?;
    session.generate(&Sampling::greedy(), 2)?.try_for_each(|event| event.map(drop))
}

fn one_thread() -> EngineOptions {
    EngineOptions { threads: 1, ..EngineOptions::default() }
}

#[test]
fn counts_that_the_tensors_contradict_are_refused() {
    for key in [
        "block_count",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "rope.dimension_count",
    ] {
        let key = format!("llama.{key}");
        for value in [0, 3, 4096, 1 << 16, 1 << 24, i32::MAX as u32, u32::MAX] {
            let error = think(claim(&key, value), &one_thread()).unwrap_err();
            assert!(matches!(error, Error::Malformed { .. }), "{key} = {value}: {error}");
        }
    }
}

#[test]
fn a_context_that_no_memory_holds_is_refused() {
    for value in [0, (1 << 28) + 1, u32::MAX] {
        let error = think(claim("llama.context_length", value), &one_thread()).unwrap_err();
        assert!(error.to_string().contains("context_length"), "{error}");
    }
    // A claim within the bounds is the user's to take or leave: it works where the system lends the memory.
    match think(claim("llama.context_length", 1_u32 << 28), &one_thread()) {
        Ok(()) | Err(Error::Argument { name: "context", .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn options_that_no_memory_holds_are_refused() {
    let file = || Bytes::from(tiny_llama(31, TensorType::F16));
    let huge = [1 << 36, usize::MAX / 128, usize::MAX - 1, usize::MAX];
    for size in huge {
        let context = EngineOptions { context: size, ..one_thread() };
        let sessions = EngineOptions { sessions: size, ..one_thread() };
        let batch = EngineOptions { context: size, batch: size, ..one_thread() };
        for options in [context, sessions, batch] {
            let error = think(file(), &options).unwrap_err();
            assert!(matches!(error, Error::Argument { .. }), "{options:?}: {error}");
        }
    }
    // More rows than the context has are as good as none.
    think(file(), &EngineOptions { batch: usize::MAX, ..one_thread() }).unwrap();
}

#[test]
fn constants_that_break_the_arithmetic_still_give_tokens() {
    for (key, value) in [
        ("rope.freq_base", f32::MIN_POSITIVE),
        ("rope.freq_base", f32::MAX),
        ("attention.layer_norm_rms_epsilon", f32::MAX),
        ("attention.layer_norm_rms_epsilon", f32::from_bits(1)),
    ] {
        think(claim(&format!("llama.{key}"), value), &one_thread()).unwrap();
    }
    for value in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let error = think(claim("llama.rope.freq_base", value), &one_thread()).unwrap_err();
        assert!(error.to_string().contains("llama.rope.freq_base"), "{error}");
    }
}
