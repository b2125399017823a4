//! Damaged model and adapter files, taken as far as they go: to a forward pass and a decode step. Each gives an
//! error or a result; none panics, hangs, or asks for a memory its size does not explain.

#[path = "fuzz/bodies.rs"]
mod bodies;
mod support;

use cotvalve::error::Result;
use cotvalve::gguf::Gguf;
use cotvalve::map::Bytes;
use cotvalve::model::Model;
use cotvalve::quant;
use cotvalve::tensor::TensorType;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::alloc::Counting;
use support::gguf_fixture::{TinyLlama, tiny_adapter, tiny_adapter_encoded, tiny_llama};
use support::hostile::{byte_flips, every_truncation};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// The files have some 200 KB; nothing they say is worth more than this.
const LARGEST_REQUEST: usize = 64 << 20;
/// A case takes about a millisecond; one that takes this long is stuck.
const LONGEST_CASE: Duration = Duration::from_secs(20);

const TARGETS: [&str; 4] =
    ["blk.0.attn_q.weight", "blk.1.attn_k.weight", "blk.0.ffn_up.weight", "blk.1.ffn_down.weight"];

/// Runs a damaged model as far as it goes; counts those that think.
fn use_model(bytes: Bytes, sound: &AtomicUsize) -> Result<()> {
    let start = Instant::now();
    let result = bodies::use_model(bytes);
    sound.fetch_add(usize::from(result.is_ok()), Ordering::Relaxed);
    check_cost(start);
    result
}

fn use_adapter(model: &Arc<Model>, bytes: Bytes, sound: &AtomicUsize) -> Result<()> {
    let start = Instant::now();
    let result = bodies::use_adapter(model, bytes);
    sound.fetch_add(usize::from(result.is_ok()), Ordering::Relaxed);
    check_cost(start);
    result
}

fn check_cost(start: Instant) {
    assert!(start.elapsed() < LONGEST_CASE, "the case took {:?}", start.elapsed());
    assert!(ALLOCATOR.largest() < LARGEST_REQUEST, "{} bytes were asked for at once", ALLOCATOR.largest());
}

fn clean_model(file: Vec<u8>) -> Arc<Model> {
    Model::new(Gguf::parse(Path::new("clean.gguf"), Bytes::from(file)).unwrap()).unwrap()
}

fn encoded(ty: TensorType, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; ty.row_bytes(values.len()).unwrap()];
    quant::encode(ty, values, &mut bytes);
    bytes
}

/// A model with every part that is optional, quantized.
fn quantized_model() -> Vec<u8> {
    let ty = TensorType::Q4_1;
    TinyLlama { seed: 23, ty, separate_output: true, rope_freqs: true, encode: &encoded }.bytes()
}

#[test]
fn every_truncation_of_a_model_gives_an_error() {
    let sound = AtomicUsize::new(0);
    let outcome = every_truncation(tiny_llama(21, TensorType::BF16), |bytes| use_model(bytes, &sound));
    assert!(outcome.cases > 100_000 && outcome.refused == outcome.cases, "{outcome:?}");
}

#[test]
fn every_truncation_of_an_adapter_gives_an_error() {
    let (model, sound) = (clean_model(tiny_llama(21, TensorType::BF16)), AtomicUsize::new(0));
    let file = tiny_adapter(22, 4, TensorType::F16, &TARGETS);
    let outcome = every_truncation(file, |bytes| use_adapter(&model, bytes, &sound));
    assert!(outcome.cases > 4_000 && outcome.refused == outcome.cases, "{outcome:?}");
}

#[test]
fn ten_thousand_damaged_models_give_an_error_or_think() {
    let sound = AtomicUsize::new(0);
    let outcome = byte_flips(&tiny_llama(21, TensorType::BF16), 0x5eed, 10_000, |bytes| use_model(bytes, &sound));
    println!("{outcome:?}, {} think", sound.load(Ordering::Relaxed));
    assert!(sound.into_inner() > 1_000, "hardly a model got as far as thinking: {outcome:?}");
}

#[test]
fn ten_thousand_damaged_adapters_give_an_error_or_think() {
    let (model, sound) = (clean_model(tiny_llama(21, TensorType::BF16)), AtomicUsize::new(0));
    let file = tiny_adapter(22, 4, TensorType::F16, &TARGETS);
    let outcome = byte_flips(&file, 0xada9, 10_000, |bytes| use_adapter(&model, bytes, &sound));
    println!("{outcome:?}, {} think", sound.load(Ordering::Relaxed));
    assert!(sound.into_inner() > 1_000, "hardly an adapter got as far as thinking: {outcome:?}");
}

#[test]
fn damaged_quantized_models_and_adapters_give_an_error_or_think() {
    let sound = AtomicUsize::new(0);
    let file = quantized_model();
    let outcome = byte_flips(&file, 0x9417, 10_000, |bytes| use_model(bytes, &sound));
    println!("{outcome:?}, {} think", sound.load(Ordering::Relaxed));
    assert!(sound.swap(0, Ordering::Relaxed) > 1_000, "hardly a model got as far as thinking: {outcome:?}");
    let model = clean_model(file);
    let targets = ["output.weight", "blk.0.attn_output.weight", "blk.1.ffn_gate.weight"];
    let file = tiny_adapter_encoded(24, 32, TensorType::Q8_0, &targets, &encoded);
    let outcome = byte_flips(&file, 0x9418, 10_000, |bytes| use_adapter(&model, bytes, &sound));
    println!("{outcome:?}, {} think", sound.load(Ordering::Relaxed));
    assert!(sound.into_inner() > 1_000, "hardly an adapter got as far as thinking: {outcome:?}");
}
